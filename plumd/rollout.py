"""Pure: what follows for one deployment, given its copies, the nodes and the time.

It is asked again whenever something happened to the deployment or to a node, and gives what is to
be done now: copies to begin, to move, to retire, to forget. What it gives is carried out in one
commit, and its next answer begins there; so a crash between two answers loses nothing.

A slot is renewed when its program changed, its node is drained, or its node has not the labels any
more. By surge the new copy comes first, and the old one is retired when the new one was well for
minHealthySec. In place (fenced deployments, ports that only one of them can have, surge: false) the
old one stops first. Under a fence every new copy of an entry waits for those that end, also where
their own places are gone. At most maxParallel slots are renewed at once. A copy whose node is lost
is replaced at once, if there is a place for another; if there is none it stays, for its node may
come back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec

from plumd.fleet import Body, Copy, DeploymentEntry, Phase, Rollout, Slot, slots_of
from plumd.placement import NODE_DRAINED, NODE_LOST, Board, Choice, Need, Reason

FORGET_MS: Final = 7 * 86_400_000
"""So long a copy that was replaced is known while its node is away."""
LOST: Final = "lost"
UPDATED: Final = "updated"
DRAINED: Final = "drained"
MOVED: Final = "moved"
SCALED: Final = "scaled"
RENEWALS: Final = frozenset({UPDATED, DRAINED, MOVED})
GONE: Final = -1
"""The ordinal under which copies end whose slot is gone."""


class View(msgspec.Struct):
    """A deployment as it is. Its copies are changed by `settle`.

    program: (version, entry) -> what that version of the deployment said of that entry.  fenced:
    whether its copies have a fence.
    need: what a copy of an entry needs of a node.  begin: makes a copy, without a node.
    """

    number: int
    version: int
    body: Body
    running: bool
    rollout: Rollout | None
    copies: list[Copy]
    program: Callable[[int, str], DeploymentEntry | None]
    fenced: Callable[[int], bool]
    need: Callable[[int, DeploymentEntry], Need]
    begin: Callable[[Slot], Copy]
    now_ms: int


class Moves(msgspec.Struct):
    """What is to be done. look_ms: when to ask again at the latest, 0 = when something happens.

    back_to: the version whose programs come back, for the newer ones failed, 0 = none.
    waits: why slots have no copy that runs, or keep one that shall go.
    """

    changed: dict[int, Copy] = {}
    begun: list[Copy] = []
    gone: list[int] = []
    rollout: Rollout | None = None
    back_to: int = 0
    look_ms: int = 0
    waits: dict[Slot, Reason] = {}


def settle(view: View, board: Board) -> Moves:
    """What follows for a deployment. board: with all copies of all deployments on it."""
    return Settling(view, board).run()


class Settling:
    """One answer in the making."""

    def __init__(self, view: View, board: Board) -> None:
        self.view = view
        self.board = board
        self.now_ms = view.now_ms
        self.update = view.body.update
        self.moves = Moves(rollout=view.rollout)
        self.entries: Mapping[Slot, DeploymentEntry] = {
            slot: entry for entry in view.body.entries for slot in slots_of(entry)}
        self.live: dict[Slot, list[Copy]] = {slot: [] for slot in self.entries}
        self.ending: dict[Slot, list[Copy]] = {}
        self.stopped: dict[Slot, int] = {}      # the copies that just made room for new ones
        self.busy = 0                           # slots that are being renewed

    def run(self) -> Moves:
        """The answer."""
        if not self.view.running:
            self.forget(copy for copy in self.view.copies if copy.retired and (
                not self.view.body.fenced or is_finished(copy) or self.is_lost(copy)))
            for copy in self.view.copies:
                if not copy.retired and not copy.gone and self.is_lost(copy):
                    self.lose(copy)     # its agent did not hear that it shall stop
            return self.moves
        self.sort()
        self.judge()
        if self.moves.back_to:
            return self.moves
        self.busy = sum(map(self.is_renewed, self.entries))
        slots = sorted(self.entries, key=lambda slot: (self.is_well(slot), slot))
        for slot in slots:
            self.fill(slot, self.entries[slot])
        self.finish()
        return self.moves

    # ------------------------------------------------------------ what there is

    def sort(self) -> None:
        """Every copy to its slot; those whose slot is gone take an empty one or are retired."""
        orphans = []
        for copy in sorted(self.view.copies, key=lambda one: one.number):
            if copy.retired:
                if is_finished(copy) or self.is_forgotten(copy):
                    self.forget([copy])
                    if copy.retired in RENEWALS:
                        self.stopped[copy.slot] = copy.number
                else:
                    self.end(copy)
                    if self.is_lost(copy):
                        self.look(copy.stop_ms + FORGET_MS)
            elif copy.slot in self.live:
                self.live[copy.slot].append(copy)
            else:
                orphans.append(copy)
        for copy in orphans:
            slot = self.adopter(copy)
            if slot is None:
                self.retire(copy, SCALED)
            else:
                copy.pin, copy.ordinal = slot.pin, slot.ordinal
                self.live[slot].append(copy)
                self.touch(copy)

    def adopter(self, copy: Copy) -> Slot | None:
        """An empty slot of the copy's entry that it can fill where it is."""
        for slot, entry in self.entries.items():
            if (slot.entry == copy.entry and not self.live[slot] and copy.node_id
                    and slot.pin in ("", copy.node_id) and self.fits(copy, entry)):
                return slot
        return None

    def fits(self, copy: Copy, entry: DeploymentEntry) -> bool:
        """Whether its node has the labels."""
        node = self.board.nodes.get(copy.node_id)
        return node is None or all(node.labels.get(key) == value
                                   for key, value in entry.selector.items())

    def is_lost(self, copy: Copy) -> bool:
        """Whether its node is silent, or gone."""
        node = self.board.nodes.get(copy.node_id)
        return bool(copy.node_id) and (node is None or node.why_not == NODE_LOST)

    def is_forgotten(self, copy: Copy) -> bool:
        """Whether it was replaced on a node that has been away ever since; should the node come
        back, its agent ends what is not known any more."""
        return self.is_lost(copy) and self.now_ms >= copy.stop_ms + FORGET_MS

    def is_outdated(self, copy: Copy) -> bool:
        """Whether its program, or its fence, is not the one that its entry has now."""
        if copy.version == self.view.version:
            return False
        return (is_another(self.view.program(copy.version, copy.entry),
                           self.view.program(self.view.version, copy.entry))
                or self.view.fenced(copy.version) != self.view.body.fenced)

    def is_proven(self, copy: Copy) -> bool:
        """Whether it was well for long enough."""
        if copy.phase is Phase.COMPLETED or copy.held:
            return True
        if copy.phase is not Phase.RUNNING or not copy.healthy_ms:
            return False
        since_ms = copy.healthy_ms + round(self.update.min_healthy_sec * 1000)
        self.look(since_ms)
        return self.now_ms >= since_ms

    def is_well(self, slot: Slot) -> bool:
        """Whether a copy of a slot runs; those that have none are seen to first."""
        return any(copy.phase is Phase.RUNNING and copy.healthy_ms for copy in self.live[slot])

    def is_renewed(self, slot: Slot) -> bool:
        """Whether it is being renewed: the new copy is not proven, or not even begun."""
        live = self.live[slot]
        if not live:
            return slot in self.stopped or any(
                copy.retired in RENEWALS for copy in self.ending.get(slot, ()))
        return any(copy.replaces and not self.is_proven(copy) for copy in live)

    # ------------------------------------------------------------ small moves

    def touch(self, copy: Copy) -> None:
        """It was changed."""
        self.moves.changed[copy.number] = copy

    def look(self, at_ms: int) -> None:
        """Ask again at a time that lies ahead."""
        if at_ms > self.now_ms and not 0 < self.moves.look_ms <= at_ms:
            self.moves.look_ms = at_ms

    def forget(self, copies: Iterable[Copy]) -> None:
        """They are over for good."""
        for copy in copies:
            self.moves.gone.append(copy.number)
            self.moves.changed.pop(copy.number, None)

    def retire(self, copy: Copy, why: str) -> None:
        """It shall end, after a while in which nobody finds it any more."""
        live = self.live.get(copy.slot, [])
        if copy in live:
            live.remove(copy)
        if is_finished(copy):
            self.forget([copy])
            if why in RENEWALS:
                self.stopped[copy.slot] = copy.number
            return
        found = copy.healthy_ms and why != LOST
        copy.retired, copy.replaces = why, 0
        copy.stop_ms = self.now_ms + (round(self.update.drain_sec * 1000) if found else 0)
        self.end(copy)
        self.touch(copy)

    def end(self, copy: Copy) -> None:
        """It is retired, and perhaps not yet over."""
        slot = copy.slot if copy.slot in self.entries else Slot(copy.entry, "", GONE)
        self.ending.setdefault(slot, []).append(copy)
        self.look(copy.stop_ms)

    def begin(self, slot: Slot, node_id: str, replaces: int = 0) -> Copy:
        """A new copy of a slot, on a node or, with "", waiting for one."""
        copy = self.view.begin(slot)
        copy.replaces = replaces
        self.moves.begun.append(copy)
        self.live[slot].append(copy)
        self.place(copy, node_id)
        return copy

    def place(self, copy: Copy, node_id: str) -> None:
        """Give a copy its node."""
        if not node_id:
            return
        copy.node_id, copy.version, copy.placed_ms = node_id, self.view.version, self.now_ms
        self.board.put(node_id, self.need(self.entries[copy.slot]))
        self.touch(copy)

    def need(self, entry: DeploymentEntry) -> Need:
        """What a copy of an entry needs."""
        return self.view.need(self.view.number, entry)

    # ------------------------------------------------------------ a slot

    def fill(self, slot: Slot, entry: DeploymentEntry) -> None:
        """What a slot needs now."""
        self.settle_pair(slot)
        live = self.live[slot]
        if not live:
            self.refill(slot, entry)
            return
        copy = live[0]
        if copy.replaces and self.is_proven(copy) and len(live) == 1:
            copy.replaces = 0
            self.touch(copy)
        if not copy.node_id:
            if not self.must_wait(slot):
                self.place(copy, self.room(slot, entry))
        elif copy.held or len(live) > 1:
            return
        elif self.is_lost(copy):
            self.fail_over(copy, entry)
        elif why := self.why_renew(copy, entry):
            self.renew(copy, entry, why)

    def settle_pair(self, slot: Slot) -> None:
        """Of an old copy and its successor one goes when it is clear which."""
        live = self.live[slot]
        while len(live) > 1:
            old, new = live[0], live[-1]
            if self.is_lost(new) or self.is_outdated(new):
                self.retire(new, LOST if self.is_lost(new) else UPDATED)
            elif self.is_lost(old):
                new.replaces = 0
                self.touch(new)
                self.lose(old)
                self.retire(old, LOST)
            elif self.is_proven(new):
                new.replaces = 0
                self.touch(new)
                self.retire(old, self.why_renew(old, self.entries[slot]) or MOVED)
            else:
                self.moves.waits[slot] = Reason("new_not_well", {"node": new.node_id})
                return

    def refill(self, slot: Slot, entry: DeploymentEntry) -> None:
        """An empty slot gets a copy, once the last one has surely stopped where that counts."""
        if not self.must_wait(slot):
            self.begin(slot, self.room(slot, entry), self.stopped.get(slot, 0))

    def must_wait(self, slot: Slot) -> bool:
        """Whether a copy that ends must be over before another one of a slot may begin."""
        fenced = self.view.body.fenced
        homeless = self.ending.get(Slot(slot.entry, "", GONE), ()) if fenced else ()
        for old in (*self.ending.get(slot, ()), *homeless):
            if old.phase is Phase.LOST or self.is_lost(old):
                continue
            if fenced or (old.retired in RENEWALS and not old.gone):
                self.moves.waits[slot] = Reason("old_not_stopped", {"node": old.node_id})
                return True
        return False

    def room(self, slot: Slot, entry: DeploymentEntry, avoid: str = "") -> str:
        """A node for a copy of a slot, "" when there is none; then it waits, and that is why."""
        choice = self.choose(slot, entry, avoid)
        if choice.why is not None:
            self.moves.waits[slot] = choice.why
        return choice.node_id

    def choose(self, slot: Slot, entry: DeploymentEntry, avoid: str) -> Choice:
        """The node that a slot names if it takes copies, else another."""
        need = self.need(entry)
        if not slot.pin:
            return self.board.choose(need, avoid)
        node = self.board.nodes.get(slot.pin)
        if node is None:
            return Choice("", Reason("node_unknown", {"node": slot.pin}))
        why = self.board.why_not(node, need, ports=False)
        if slot.pin != avoid and not why:
            return Choice(slot.pin)
        if not entry.failover:
            return Choice("", Reason("waits_for_node", {"node": slot.pin},
                                     (why or Reason("node_left"),)))
        return self.board.choose(need, avoid or slot.pin)

    def lose(self, copy: Copy) -> None:
        """Nobody knows what it does."""
        if copy.phase is not Phase.LOST:
            copy.phase, copy.healthy_ms = Phase.LOST, 0
            self.touch(copy)

    def fail_over(self, copy: Copy, entry: DeploymentEntry) -> None:
        """Its node is lost: another copy, if there is a place for one."""
        if copy.phase is Phase.COMPLETED:
            return
        self.lose(copy)
        if not entry.failover:
            self.moves.waits[copy.slot] = Reason("waits_for_lost_node", {"node": copy.node_id})
            return
        if node_id := self.room(copy.slot, entry, copy.node_id):
            slot = copy.slot
            self.retire(copy, LOST)
            self.begin(slot, node_id)

    def why_renew(self, copy: Copy, entry: DeploymentEntry) -> str:
        """Why a copy shall be replaced although its node is there, "" when it shall not."""
        if self.is_outdated(copy):
            return UPDATED
        node = self.board.nodes.get(copy.node_id)
        if node is not None and node.why_not == NODE_DRAINED and copy.phase is not Phase.COMPLETED:
            return DRAINED
        return "" if self.fits(copy, entry) else MOVED

    def renew(self, copy: Copy, entry: DeploymentEntry, why: str) -> None:
        """Replace a copy, by surge if possible."""
        slot, rollout = copy.slot, self.view.rollout
        if why == UPDATED and rollout is not None and rollout.state == "failed":
            self.moves.waits[slot] = Reason("rollout_failed", {"why": rollout.why})
            return
        counted = self.is_renewed(slot)     # it is renewed again, for its new copy is outdated too
        if self.busy >= self.update.max_parallel and not counted:
            self.moves.waits[slot] = Reason("others_first")
            return
        choice = self.choose(slot, entry, "" if why == UPDATED else copy.node_id)
        if choice.why is not None and not (why == UPDATED and self.could_stay(copy, entry)):
            self.moves.waits[slot] = choice.why         # it is of use where it is
            return
        self.busy += not counted
        crowded = choice.node_id == copy.node_id and self.need(entry).ports
        if choice.node_id and self.update.surge and not self.view.body.fenced and not crowded:
            self.begin(slot, choice.node_id, copy.number)
            return
        self.retire(copy, why)
        if slot in self.stopped:
            self.refill(slot, entry)                    # there was nothing to stop

    def could_stay(self, copy: Copy, entry: DeploymentEntry) -> bool:
        """Whether another copy would fit in its place once it is gone."""
        node, before = self.board.nodes[copy.node_id], self.need(entry)
        old = self.view.program(copy.version, copy.entry)
        if old is not None:
            before = self.need(old)
        self.board.put(copy.node_id, before, -1)
        try:
            return not self.board.why_not(node, self.need(entry), ports=not copy.pin)
        finally:
            self.board.put(copy.node_id, before)

    # ------------------------------------------------------------ the rollout

    def judge(self) -> None:
        """Whether a copy that was renewed shows that the rollout failed."""
        rollout = self.view.rollout
        if rollout is None or rollout.state != "rolling":
            return
        for copies in self.live.values():
            for copy in copies:
                if (not copy.replaces or not copy.node_id or self.is_outdated(copy)
                        or self.is_lost(copy)):
                    continue
                if why := self.why_failed(copy):
                    self.fail(rollout, f"{copy.entry} on {copy.node_id}: {why}")
                    return

    def why_failed(self, copy: Copy) -> str:
        """Why a renewed copy is no good, "" when it is or may still become it."""
        if copy.phase is Phase.FAILED or (copy.restarts and not self.is_proven(copy)):
            return copy.message or (f"it ended with {copy.exit_code}"
                                    if copy.exit_code is not None else "it failed")
        deadline_ms = copy.placed_ms + round(self.update.deadline_sec * 1000)
        if self.is_proven(copy):
            return ""
        self.look(deadline_ms)
        if self.now_ms >= deadline_ms:
            return f"it was not well for long enough within {self.update.deadline_sec:g} s"
        return ""

    def fail(self, rollout: Rollout, why: str) -> None:
        """Go back, or stop here."""
        if self.update.auto_return and rollout.from_version:
            self.moves.back_to = rollout.from_version
            self.moves.rollout = msgspec.structs.replace(rollout, state="returning", why=why)
        else:
            self.moves.rollout = self.view.rollout = msgspec.structs.replace(
                rollout, state="failed", why=why, ended=self.now_ms)

    def finish(self) -> None:
        """The rollout is over when nothing is left to renew, but what somebody stopped alone: that
        is renewed when it may run again."""
        rollout = self.view.rollout
        if rollout is None or not rollout.under_way:
            return
        for slot, copies in self.live.items():
            if self.is_renewed(slot) or any(
                    self.is_outdated(copy) for copy in copies
                    if copy.node_id and not copy.held):
                return
        self.moves.rollout = msgspec.structs.replace(
            rollout, state="done" if rollout.state == "rolling" else "returned",
            ended=self.now_ms)


def is_another(before: DeploymentEntry | None, wanted: DeploymentEntry | None) -> bool:
    """Whether a copy that runs what an entry said before is no copy of it any more."""
    return before is None or wanted is None or before.program != wanted.program


def is_finished(copy: Copy) -> bool:
    """Whether nothing of it is left that could run, or be started again by its agent."""
    return not copy.node_id or copy.phase in (Phase.STOPPED, Phase.COMPLETED)
