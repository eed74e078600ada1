"""What people wish of deployments and copies, as changes of the book; the room writes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from plumd import artifacts, placement, rollout
from plumd.deployments.book import Book
from plumd.errors import NotFound, TooMany, WrongState
from plumd.fleet import REPLICAS_MAX, Body, Copy, DeploymentEntry, Phase, Slot, slots_of
from plumd.model import id_text
from plumd.placement import Board, Reason
from plumd.rollout import View
from plumd.store.deployments import DeploymentRow

DEPLOYMENTS_MAX: Final = 10_000
INSTANCES_MAX: Final = 50_000


class Planned(msgspec.Struct, frozen=True):
    """What would become of a slot. node_id: "" = no place, and why says why;
    else None, or that it is there already."""

    entry: str
    ordinal: int
    pin: str
    node_id: str
    why: Reason | None


class Wishes(Book):
    """To be called inside `ask`; only `plan` changes nothing."""

    def create(self, body: Body) -> int:
        """A new deployment, which does not run yet. Raises: TooMany."""
        if len(self._rows) >= DEPLOYMENTS_MAX:
            raise TooMany(f"there are {DEPLOYMENTS_MAX} deployments already", retry_after_s=60)
        self._check_room(body)
        number, now_ms = self._new_id(), self.now_ms
        row = DeploymentRow(number, 1, False, 1, None, now_ms, now_ms, body)
        self._of[number] = {}
        self._remember(number, 1, body)
        self._rewrite(row, "created")
        self._versions.append((row, "created"))
        for entry in body.entries:
            for slot in slots_of(entry):
                self._begin(number, slot)
        return number

    def _check_room(self, body: Body, but: int = 0) -> None:
        wanted = sum(len(slots_of(entry)) for entry in body.entries)
        if wanted > 10 * REPLICAS_MAX or (
                len(self._copies) - len(self._of.get(but, ())) + wanted > INSTANCES_MAX):
            raise TooMany(f"there would be more than {INSTANCES_MAX} instances, or "
                          f"{10 * REPLICAS_MAX} of this deployment", retry_after_s=60)

    def edit(self, number: int, body: Body, if_version: int | None, note: str) -> int:
        """A new version of what it says; its number. Raises: NotFound, VersionMismatch, TooMany."""
        row = self._row(number, if_version)
        if body == row.body:
            return row.version
        self._check_room(body, number)
        self._new_version(row, body, note)
        if not row.running:
            self._follow_edit(number, body)
        return row.version + 1

    def change(self, number: int, change: Callable[[Body], Body], if_version: int | None,
               note: str) -> int:
        """The same, of what it says when its turn comes: of two who change it at once none undoes
        what the other did. Raises: as `edit` and change."""
        return self.edit(number, change(self._row(number, if_version).body), None, note)

    def _follow_edit(self, number: int, body: Body) -> None:
        """While nothing runs, copies that were never placed follow at once."""
        wanted = {slot for entry in body.entries for slot in slots_of(entry)}
        have = set()
        for copy in list(self._of[number].values()):
            if not copy.node_id:
                if copy.slot in wanted and copy.slot not in have:
                    have.add(copy.slot)
                else:
                    self._drop(copy)
            elif not copy.retired:
                have.add(copy.slot)
        for slot in sorted(wanted - have):
            self._begin(number, slot)

    def start(self, number: int, if_version: int | None = None) -> None:
        """Let it run. Raises: NotFound, VersionMismatch."""
        row = self._row(number, if_version)
        if row.running:
            return
        for copy in list(self._of[number].values()):
            outdated = (rollout.is_another(self.program(number, copy.version, copy.entry),
                                           self.program(number, row.version, copy.entry))
                        or self.fenced(number, copy.version) != row.body.fenced)
            if copy.retired:
                continue
            if outdated and rollout.is_finished(copy):
                self._drop(copy)
            elif copy.phase in (Phase.STOPPED, Phase.FAILED, Phase.COMPLETED):
                copy.phase, copy.exit_code, copy.signal = Phase.PENDING, None, None
                copy.placed_ms, copy.restarts, copy.healthy_ms = self.now_ms, 0, 0
                copy.message = ""
                self._dirty[copy.number] = copy
        self._rewrite(msgspec.structs.replace(row, running=True, rollout=None), "started")
        self._ring_all(number)

    def stop(self, number: int, if_version: int | None = None) -> None:
        """Let it run no more; its copies keep their names. Raises: NotFound, VersionMismatch."""
        row = self._row(number, if_version)
        if row.running:
            self._rewrite(msgspec.structs.replace(row, running=False, rollout=None), "stopped")
            self._ring_all(number)

    def roll_back(self, number: int, version: int, if_version: int | None) -> int:
        """Make what an older version says the newest one; 0 = the one before.

        Raises: NotFound, WrongState, VersionMismatch.
        """
        row = self._row(number, if_version)
        wanted = version or row.version - 1
        body = self.body_of(number, wanted) if wanted else None
        if body is None:
            if version:
                raise NotFound(f"there is no version {version}", field="version")
            raise WrongState("there is no version before this one")
        for entry in body.entries:
            if artifacts.is_ours(entry.artifact_url) and self.app_of(entry.artifact_url) is None:
                raise WrongState(f"the app of version {wanted}'s entry {entry.name!r} was deleted: "
                                 f"{entry.artifact_url}", field="version")
        return self.edit(number, body, None, f"back to version {wanted}")

    def delete(self, number: int, if_version: int | None = None) -> None:
        """Forget it; its copies end. Raises: NotFound, VersionMismatch."""
        self._row(number, if_version)
        for copy in list(self._of[number].values()):
            self._drop(copy)
        del self._rows[number], self._of[number]
        self._waits.pop(number, None)
        self._looks.pop(number, None)
        self._rewritten.pop(number, None)
        self._deleted.append(number)

    def hold(self, number: int, *, held: bool) -> None:
        """Stop one copy alone, or let it run again. Raises: NotFound, WrongState."""
        copy = self._copy(number)
        if copy.retired:
            raise WrongState("this instance ends for good; another one has its place")
        if copy.held != held:
            copy.held = held
            if not held and copy.phase in (Phase.STOPPED, Phase.FAILED, Phase.COMPLETED):
                copy.phase, copy.placed_ms = Phase.PENDING, self.now_ms
            self._mark(copy)

    def remove(self, number: int) -> None:
        """Take one copy away for good: its entry is scaled down by it. Raises: NotFound."""
        copy = self._copy(number)
        row = self._row(copy.deployment)
        body = msgspec.structs.replace(row.body, entries=tuple(
            one_less(entry, copy) for entry in row.body.entries))
        if not copy.retired:
            self._fill_gap(copy)
        if (row.body.fenced and not rollout.is_finished(copy)
                and not self.nodes.is_lost(copy.node_id)):
            copy.retired, copy.stop_ms = copy.retired or rollout.SCALED, self.now_ms
            self._mark(copy)        # until it is over no other one may begin
        else:
            self._drop(copy)
            self._touched.add(row.number)       # another one may have waited for its end
        if body != row.body:
            self._new_version(row, body, f"without instance {id_text(number)}")

    def _fill_gap(self, copy: Copy) -> None:
        """A copy goes, and with it the last slot: what is there changes places with it."""
        last = max(one.ordinal for one in self._of[copy.deployment].values()
                   if one.slot[:2] == copy.slot[:2] and not one.retired)
        for one in self._of[copy.deployment].values():
            if one.slot == Slot(copy.entry, copy.pin, last):
                one.ordinal = copy.ordinal
                self._dirty[one.number] = one
        copy.ordinal = last

    # ------------------------------------------------------------ without carrying it out

    def plan(self, body: Body, number: int = 0) -> list[Planned]:
        """What would go where if this body ran: of deployment `number`, 0 = of a new one."""
        board = self.board()
        for old in self._of.get(number, {}).values():
            program = self.program(number, old.version, old.entry)
            if program is not None and self._is_there(old):
                board.put(old.node_id, self.need(number, program), -1)
        kept = {one.slot: one for one in self._of.get(number, {}).values()
                if not one.retired and one.node_id}
        found = []
        asked = self._planner(number, body, board)
        for entry in body.entries:
            for slot in slots_of(entry):
                copy = kept.get(slot)
                node = board.nodes.get(copy.node_id) if copy is not None else None
                if copy is not None and node is not None and not board.why_not(
                        node, self.need(number, entry), ports=False):
                    choice = placement.Choice(node.node_id, Reason("already_there"))
                else:
                    choice = asked.choose(slot, entry, "")
                if choice.node_id:
                    board.put(choice.node_id, self.need(number, entry))
                found.append(Planned(entry.name, slot.ordinal, slot.pin, choice.node_id,
                                     choice.why))
        return found

    def _planner(self, number: int, body: Body, board: Board) -> rollout.Settling:
        return rollout.Settling(View(
            number, 0, body, True, None, [], lambda _version, _entry: None,
            lambda _version: body.fenced, self.need, never_begun, self.now_ms), board)


def one_less(entry: DeploymentEntry, copy: Copy) -> DeploymentEntry:
    """The entry without the slot of a copy, if that is one of its own."""
    if entry.name != copy.entry or copy.retired or copy.slot not in slots_of(entry):
        return entry
    count = (entry.replicas - 1 if isinstance(entry.replicas, int)
             else {**entry.replicas, copy.pin: entry.replicas[copy.pin] - 1})
    return msgspec.structs.replace(entry, replicas=count)


def never_begun(slot: Slot) -> Copy:
    """A plan begins nothing."""
    raise AssertionError(slot)
