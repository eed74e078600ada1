"""What memory holds of all deployments, their copies and what is to be written of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple, TypeVar

import msgspec
import trio

from plumd import artifacts
from plumd.clock import Clock
from plumd.errors import NotFound
from plumd.fleet import PHASES, Body, Copy, DeploymentEntry, Phase, Rollout, Slot, Used
from plumd.nodes import Nodes
from plumd.placement import Board, Need, Reason
from plumd.services import Registry, Verdict
from plumd.store import deployments, precondition
from plumd.store.apps import AppRow
from plumd.store.deployments import DeploymentRow
from plumd.store.store import Store, Tx, Write

T = TypeVar("T")
BODIES_MAX: Final = 5_000


class Ask:
    """Something that waits for its turn."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.act = act
        self.error: Exception | None = None
        self.done = trio.Event()


class Found(NamedTuple):
    """What discovery knows of a copy: that its ports are well, at this address."""

    verdicts: tuple[Verdict, ...]
    ip: str


class Book:
    """Deployments and copies, and how they change in memory. Who changes them is above."""

    def __init__(self, store: Store, clock: Clock, write: Write, new_id: Callable[[], int],
                 nodes: Nodes, registry: Registry) -> None:
        self.store = store
        self.clock = clock
        self.nodes = nodes
        self.registry = registry
        self._write = write
        self._new_id = new_id
        self._queue: list[Ask] = []
        self._wake = trio.Event()
        self._begun = clock.now()
        self._rows: dict[int, DeploymentRow] = {}
        self._shown: dict[int, DeploymentRow] = {}      # the same as it is on disk
        self._copies: dict[int, Copy] = {}
        self._of: dict[int, dict[int, Copy]] = {}       # deployment -> its copies
        self._on: dict[str, dict[int, Copy]] = {}       # node -> the copies on it
        self._heard: dict[int, int] = {}                # copy -> when its agent last spoke of it
        self._used: dict[int, Used] = {}                # copy -> what it uses
        self._found: dict[int, Found] = {}              # copies that discovery knows
        self._waits: dict[int, dict[Slot, Reason]] = {}
        self._looks: dict[int, int] = {}                # deployment -> when to look again
        self._stops: dict[int, int] = {}                # retired copy -> when it is told to stop
        self._bodies: OrderedDict[tuple[int, int], Body] = OrderedDict()
        self._apps: dict[str, AppRow | None] = {}
        self._touched: set[int] = set()
        self._dirty: dict[int, Copy] = {}
        self._gone: dict[int, Copy] = {}
        self._rewritten: dict[int, list[str]] = {}
        self._versions: list[tuple[DeploymentRow, str]] = []
        self._deleted: list[int] = []
        self._also: list[Callable[[Tx], None]] = []
        self._rung: set[str] = set()
        self._told: dict[int, tuple[str, str, str]] = {}
        self._unfound: set[int] = set()

    @property
    def now_ms(self) -> int:
        """Unix ms, but steady: see above."""
        return self._begun.wall_ms + (
            self.clock.now().mono_ns - self._begun.mono_ns) // 1_000_000

    def _adopt(self, copy: Copy) -> None:
        self._copies[copy.number] = copy
        self._of.setdefault(copy.deployment, {})[copy.number] = copy
        if copy.node_id:
            self._on.setdefault(copy.node_id, {})[copy.number] = copy
        if copy.retired:
            self._stops[copy.number] = copy.stop_ms

    def _remember(self, number: int, version: int, body: Body) -> None:
        self._bodies[number, version] = body
        if len(self._bodies) > BODIES_MAX:
            self._bodies.popitem(last=False)

    def body_of(self, number: int, version: int) -> Body | None:
        """What a version of a deployment says."""
        found = self._bodies.get((number, version))
        if found is None:
            found = self.store.peek(deployments.body, number, version)
            if found is not None:
                self._remember(number, version, found)
        return found

    def program(self, number: int, version: int, entry: str) -> DeploymentEntry | None:
        """What a version of a deployment says of an entry."""
        body = self.body_of(number, version)
        return None if body is None else next(
            (one for one in body.entries if one.name == entry), None)

    def fenced(self, number: int, version: int) -> bool:
        """Whether the copies of a version of a deployment have a fence."""
        body = self.body_of(number, version)
        return body is not None and body.fenced

    def app_of(self, url: str) -> AppRow | None:
        """The artifact behind an url, None when it is not ours."""
        if url not in self._apps:
            if len(self._apps) > BODIES_MAX:
                self._apps.clear()
            self._apps[url] = artifacts.by_url(self.store, url)
        return self._apps[url]

    def forget_app(self, url: str) -> None:
        """It was deleted."""
        self._apps.pop(url, None)

    def need(self, number: int, entry: DeploymentEntry) -> Need:
        """What a copy of an entry needs of its node."""
        app = self.app_of(entry.artifact_url)
        return Need((number, entry.name), entry.selector, entry.spread, entry.max_per_node,
                    entry.limits.memory_bytes, entry.limits.cpu_percent,
                    tuple(one.port for one in app.ports) if app is not None else ())

    # ------------------------------------------------------------ changes in memory

    async def ask(self, act: Callable[[], T]) -> T:
        """Let something have its effect, with all that follows; it is on disk when this returns.

        act: changes memory, or raises a PlumError before it changed anything.
        Cancel: it is carried out all the same.
        """
        value: list[T] = []
        ask = Ask(lambda: value.append(act()))
        self._queue.append(ask)
        self._wake.set()
        await ask.done.wait()
        if ask.error is not None:
            raise ask.error
        return value[0]

    def also(self, call: Callable[[Tx], None]) -> None:
        """Part of what is asked: a store command that cannot be refused, for the same commit."""
        self._also.append(call)

    def _row(self, number: int, if_version: int | None = None) -> DeploymentRow:
        row = self._rows.get(number)
        if row is None:
            raise NotFound("no such deployment")
        precondition.check(row.version, if_version)
        return row

    def _copy(self, number: int) -> Copy:
        copy = self._copies.get(number)
        if copy is None:
            raise NotFound("no such instance")
        return copy

    def _rewrite(self, row: DeploymentRow, what: str) -> None:
        self._rows[row.number] = msgspec.structs.replace(row, updated_ms=self.now_ms)
        said = self._rewritten.setdefault(row.number, [])
        if what:
            said.append(what)
        self._touched.add(row.number)

    def _new_version(self, row: DeploymentRow, body: Body, note: str,
                     under_way: Rollout | None = None) -> None:
        version = row.version + 1
        self._remember(row.number, version, body)
        new = msgspec.structs.replace(
            row, version=version, body=body,
            rollout=under_way or self._rollout_of(row, body, version))
        self._rewrite(new, "updated")
        self._versions.append((new, note))

    def _rollout_of(self, row: DeploymentRow, body: Body, version: int) -> Rollout | None:
        """The rollout that an edit begins, or goes on with."""
        old = row.rollout
        if not row.running:
            return None
        programs = {entry.name: entry.program for entry in body.entries}
        before = {entry.name: entry.program for entry in row.body.entries}
        if body.fenced == row.body.fenced and all(
                programs.get(name, program) == program for name, program in before.items()):
            return (old if old is None or not old.under_way
                    else msgspec.structs.replace(old, version=version))
        start = old.from_version if old is not None and old.under_way else row.version
        return Rollout(version, start, "rolling", self.now_ms)

    def _mark(self, copy: Copy) -> None:
        """It was changed, and its agent and its deployment should know."""
        self._dirty[copy.number] = copy
        self._touched.add(copy.deployment)
        self._rung.add(copy.node_id)

    def _begin(self, number: int, slot: Slot) -> Copy:
        row = self._rows[number]
        self._rows[number] = msgspec.structs.replace(row, next_token=row.next_token + 1)
        self._rewritten.setdefault(number, [])
        generation = 1 + max((one.generation for one in self._of[number].values()
                              if one.slot == slot), default=0)
        copy = Copy(self._new_id(), number, slot.entry, slot.pin, slot.ordinal, generation,
                    row.version, row.next_token, 0, "", "", 0, False, Phase.PENDING, 0, None,
                    None, 0, 0, "", 0, 0, 0, self.now_ms)
        self._adopt(copy)
        self._dirty[copy.number] = copy
        return copy

    def _drop(self, copy: Copy) -> None:
        self._copies.pop(copy.number, None)
        self._of[copy.deployment].pop(copy.number, None)
        if copy.node_id:
            self._on.get(copy.node_id, {}).pop(copy.number, None)
            self._rung.add(copy.node_id)
        for kept in (self._heard, self._used, self._stops, self._dirty):
            kept.pop(copy.number, None)
        self._gone[copy.number] = copy

    def _ring_all(self, number: int) -> None:
        self._rung.update(copy.node_id for copy in self._of[number].values())

    # ------------------------------------------------------------ questions

    def board(self) -> Board:
        """All nodes with all copies."""
        return Board(self.nodes.for_placement(), self._put_all)

    def _put_all(self, board: Board) -> None:
        needs: dict[tuple[int, int, str], Need | None] = {}
        for copy in self._copies.values():
            if not self._is_there(copy):
                continue
            key = copy.deployment, copy.version, copy.entry
            if key not in needs:
                entry = self.program(*key)
                needs[key] = None if entry is None else self.need(copy.deployment, entry)
            if (need := needs[key]) is not None:
                board.put(copy.node_id, need)

    def copies_of(self, number: int) -> list[Copy]:
        """A deployment's copies as they will be, for whoever is being asked."""
        return list(self._of[number].values())

    def _is_there(self, copy: Copy) -> bool:
        """Whether it takes room on a node."""
        return (bool(copy.node_id) and not (copy.retired and copy.gone)
                and self._rows[copy.deployment].running)

    def waits(self, number: int) -> Mapping[Slot, Reason]:
        """Why slots of a deployment have no copy that runs, or one that should have gone."""
        return self._waits.get(number, {})

    def heard_ms(self, copy: Copy) -> int:
        """When its agent spoke of it last."""
        return self._heard.get(copy.number, copy.reported_ms)

    def _moved(self, numbers: Iterable[int]) -> set[int]:
        """Those of copies that discovery knows whose node has another address by now."""
        return {number for number in numbers if number in self._found
                and self._found[number].ip != self.nodes.ip_of(self._copies[number].node_id)}

    def usage(self, number: int) -> Used | None:
        """What a copy uses, by its agent's last word since our start."""
        return self._used.get(number)

    def statistics(self) -> Mapping[str, int]:
        """How many copies there are in each phase."""
        found = dict.fromkeys(PHASES, 0)
        for copy in self._copies.values():
            found[PHASES[copy.phase]] += 1
        return found
