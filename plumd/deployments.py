"""Deployments: what is wanted is brought about, copy by copy, through crashes of anything.

One task owns all of it. Whatever happens (somebody's wish, a report, a node lost or back, a time
that has come) waits in line; the task takes all that waits, lets each have its effect in memory,
asks rollout.py what follows for every deployment that was touched, and writes it in one commit.
Only then callers are answered, agents woken and services registered or taken away. When the disk
does not take it, memory is read anew from the rows. What follows is decided from the state alone,
so after a kill at any moment the next start goes on where the rows say.

Times are the wall's at our start plus what has gone by since, so that setting the clock neither
ends a deadline nor a wait.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, TypeVar

import msgspec
import trio

from plumd import artifacts, placement, rollout
from plumd.balance import Endpoint
from plumd.clock import Clock
from plumd.errors import NotFound, PlumError, TooMany, VersionMismatch, WrongState
from plumd.fleet import (
    FENCE_MARGIN_MS,
    OVER,
    PHASES,
    REPLICAS_MAX,
    Body,
    Copy,
    DeploymentEntry,
    Phase,
    Rollout,
    Slot,
    slots_of,
)
from plumd.model import id_text
from plumd.nodes import Nodes
from plumd.placement import Board, Need
from plumd.rollout import Moves, View
from plumd.services import Registry, Verdict
from plumd.store import deployments, instances, services
from plumd.store.apps import AppRow
from plumd.store.deployments import DeploymentRow
from plumd.store.store import Store, Tx, Write

log = logging.getLogger("plumd.deployments")
T = TypeVar("T")

DEPLOYMENTS_MAX: Final = 10_000
INSTANCES_MAX: Final = 50_000
AGAIN_S: Final = 1.0
BODIES_MAX: Final = 5_000
BACK_MAX: Final = 3
MESSAGE_CHARS_MAX: Final = 1_000


class Report(msgspec.Struct, frozen=True):
    """What an agent says of a copy. healthy: None = it does not say."""

    number: int
    phase: Phase
    healthy: bool | None = None
    exit_code: int | None = None
    signal: int | None = None
    restarts: int = 0
    pid: int = 0
    message: str = ""
    started_ms: int = 0


class Fence(msgspec.Struct, frozen=True, rename="camel"):
    """Why a copy must end by itself without a word of the controller: see docs/deployments.md."""

    token: int
    lease_ms: int
    away_ms: int


class Assigned(msgspec.Struct, frozen=True):
    """A copy as its node's agent is told of it."""

    copy: Copy
    entry: DeploymentEntry
    app: AppRow | None
    running: bool
    fence: Fence | None
    heard_ms: int


class Planned(msgspec.Struct, frozen=True):
    """What would become of a slot. node_id: "" = no place, and why says why."""

    entry: str
    ordinal: int
    pin: str
    node_id: str
    why: str


class Ask:
    """Something that waits for its turn."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.act = act
        self.value: object = None
        self.error: PlumError | None = None
        self.done = trio.Event()


class Deployments:
    """All deployments. `load` first; `run` in a nursery of the daemon's."""

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
        self._found: dict[int, tuple[Verdict, ...]] = {}    # copies that discovery knows
        self._waits: dict[int, dict[Slot, str]] = {}
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
        nodes.changed = self.node_changed
        nodes.heard = self.node_heard
        nodes.users = self.users

    @property
    def now_ms(self) -> int:
        """Unix ms, but steady: see above."""
        return self._begun.wall_ms + (
            self.clock.now().mono_ns - self._begun.mono_ns) // 1_000_000

    # ------------------------------------------------------------ from the rows

    def load(self) -> None:
        """Read everything, and look at everything."""
        for kept in (self._copies, self._of, self._on, self._looks, self._stops, self._bodies,
                     self._touched, self._dirty, self._gone, self._rewritten, self._told,
                     self._rung, self._versions, self._deleted, self._also):
            kept.clear()
        self._rows = {row.number: row for row in self.store.peek(deployments.every)}
        self._shown = dict(self._rows)
        for row in self._rows.values():
            self._remember(row.number, row.version, row.body)
            self._of[row.number] = {}
        for copy in self.store.peek(instances.every):
            self._adopt(copy)
            self._told[copy.number] = news_of(copy)
        self._found = {number: verdicts for number, copy in self._copies.items()
                       if (verdicts := self._verdicts(copy))
                       and self.registry.every(instance_id=id_text(number))}
        self._touched.update(self._rows)
        self._wake.set()

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

    def app_of(self, url: str) -> AppRow | None:
        """The artifact behind an url, None when it is not ours."""
        if url not in self._apps:
            if len(self._apps) > BODIES_MAX:
                self._apps.clear()
            self._apps[url] = artifacts.by_url(self.store, url)
        return self._apps[url]

    def forget_app(self, url: str) -> None:
        """It was deleted, or came."""
        self._apps.pop(url, None)

    def need(self, number: int, entry: DeploymentEntry) -> Need:
        """What a copy of an entry needs of its node."""
        app = self.app_of(entry.artifact_url)
        return Need((number, entry.name), entry.selector, entry.spread, entry.max_per_node,
                    entry.limits.memory_bytes, entry.limits.cpu_percent,
                    tuple(one.port for one in app.ports) if app is not None else ())

    # ------------------------------------------------------------ wishes

    async def ask(self, act: Callable[[], T]) -> T:
        """Let something have its effect, with all that follows; it is on disk when this returns.

        act: changes memory, or raises a PlumError before it changed anything.
        Cancel: it is carried out all the same.
        """
        ask = Ask(act)
        self._queue.append(ask)
        self._wake.set()
        await ask.done.wait()
        if ask.error is not None:
            raise ask.error
        return ask.value  # type: ignore[return-value]  # it is what act returned, a T

    def _row(self, number: int, if_version: int | None = None) -> DeploymentRow:
        row = self._rows.get(number)
        if row is None:
            raise NotFound("no such deployment")
        if if_version is not None and if_version != row.version:
            raise VersionMismatch(f"the current version is {row.version}, not {if_version}")
        return row

    def _rewrite(self, row: DeploymentRow, what: str) -> None:
        self._rows[row.number] = msgspec.structs.replace(row, updated_ms=self.now_ms)
        said = self._rewritten.setdefault(row.number, [])
        if what:
            said.append(what)
        self._touched.add(row.number)

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

    def also(self, call: Callable[[Tx], None]) -> None:
        """Part of what is asked: a store command that cannot be refused, for the same commit."""
        self._also.append(call)

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
        if all(programs.get(name, program) == program for name, program in before.items()):
            return (old if old is None or not old.under_way
                    else msgspec.structs.replace(old, version=version))
        start = old.from_version if old is not None and old.under_way else row.version
        return Rollout(version, start, "rolling", self.now_ms)

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

    def start(self, number: int) -> None:
        """Let it run. Raises: NotFound."""
        row = self._row(number)
        if row.running:
            return
        for copy in list(self._of[number].values()):
            outdated = self.program(number, copy.version, copy.entry) != self.program(
                number, row.version, copy.entry)
            if copy.retired or (outdated and rollout.is_finished(copy)):
                self._drop(copy)
            elif copy.phase in (Phase.STOPPED, Phase.FAILED, Phase.COMPLETED):
                copy.phase, copy.exit_code, copy.signal = Phase.PENDING, None, None
                copy.placed_ms, copy.restarts, copy.healthy_ms = self.now_ms, 0, 0
                copy.message = ""
                self._dirty[copy.number] = copy
        self._rewrite(msgspec.structs.replace(row, running=True, rollout=None), "started")
        self._ring_all(number)

    def stop(self, number: int) -> None:
        """Let it run no more; its copies keep their names. Raises: NotFound."""
        row = self._row(number)
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
        return self.edit(number, body, None, f"back to version {wanted}")

    def delete(self, number: int) -> None:
        """Forget it; its copies end. Raises: NotFound."""
        self._row(number)
        for copy in list(self._of[number].values()):
            self._drop(copy)
        del self._rows[number], self._of[number]
        self._waits.pop(number, None)
        self._looks.pop(number, None)
        self._rewritten.pop(number, None)
        self._deleted.append(number)

    def _copy(self, number: int) -> Copy:
        copy = self._copies.get(number)
        if copy is None:
            raise NotFound("no such instance")
        return copy

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
        last = max((one.ordinal for one in self._of[row.number].values()
                    if one.slot[:2] == copy.slot[:2] and not one.retired), default=copy.ordinal)
        for one in self._of[row.number].values():       # the last slot goes, so it moves into this
            if one.slot == Slot(copy.entry, copy.pin, last) and one is not copy:
                one.ordinal = copy.ordinal
                self._dirty[one.number] = one
        self._drop(copy)
        if body != row.body:
            self._new_version(row, body, f"without instance {id_text(number)}")

    # ------------------------------------------------------------ from agents

    async def report(self, reports: Sequence[Report], *, strict: bool) -> None:
        """What agents say of copies; what they said before costs nothing.

        strict: raises NotFound for a copy that is not known.  Raises: as Engine.write.
        """
        now_ms, news = self.now_ms, []
        for one in reports:
            copy = self._copies.get(one.number)
            if copy is None:
                if strict:
                    raise NotFound("no such instance; end it", field="instanceId")
                continue
            self._heard[one.number] = now_ms
            if copy.node_id:
                await self.nodes.alive(copy.node_id)
            if self._is_news(copy, one):
                news.append(one)
        if news:
            await self.ask(lambda: self._take(news))

    def _phase(self, copy: Copy, one: Report) -> Phase:
        """What a report means: one that was told to stop has stopped, however it ended."""
        row = self._rows.get(copy.deployment)
        told = (copy.held or row is None or not row.running
                or (copy.retired and copy.stop_ms <= self.now_ms))
        return Phase.STOPPED if told and one.phase in OVER else one.phase

    def _is_news(self, copy: Copy, one: Report) -> bool:
        """Whether a report says something that is not known."""
        phase = self._phase(copy, one)
        healthy = phase is Phase.RUNNING and one.healthy is not False
        return (phase is not copy.phase or healthy != bool(copy.healthy_ms)
                or one.exit_code != copy.exit_code or one.signal != copy.signal
                or one.restarts != copy.restarts or one.pid != copy.pid
                or one.message[:MESSAGE_CHARS_MAX] != copy.message
                or (one.started_ms or copy.started_ms) != copy.started_ms)

    def _take(self, reports: Iterable[Report]) -> None:
        now_ms = self.now_ms
        for one in reports:
            copy = self._copies.get(one.number)
            if copy is None:
                continue
            copy.phase = self._phase(copy, one)
            if copy.phase is not Phase.RUNNING or one.healthy is False:
                copy.healthy_ms = 0
            elif not copy.healthy_ms or one.restarts != copy.restarts:
                copy.healthy_ms = now_ms
            copy.exit_code, copy.signal, copy.restarts, copy.pid = (
                one.exit_code, one.signal, one.restarts, one.pid)
            copy.message = one.message[:MESSAGE_CHARS_MAX]
            if one.started_ms or not copy.started_ms:
                copy.started_ms = one.started_ms or (
                    now_ms if copy.phase is Phase.RUNNING else 0)
            copy.reported_ms = now_ms
            self._dirty[copy.number] = copy
            self._touched.add(copy.deployment)

    async def assignments(self, node_id: str) -> list[Assigned]:
        """The copies of a node, of deployments that run. It is a sign of life of the node.

        Raises: as Engine.write, when the node was lost and cannot be written down as back.
        """
        await self.nodes.alive(node_id)
        found, now_ms = [], self.now_ms
        for copy in self.store.peek(instances.of_node, node_id):
            row = self._shown.get(copy.deployment)
            entry = self.program(copy.deployment, copy.version, copy.entry)
            if row is None or not row.running or entry is None:
                continue
            fence = None
            if row.body.fenced:
                fence = Fence(copy.token, round(self.nodes.ttl_s * 1000) - FENCE_MARGIN_MS,
                              round(row.body.fence_after_sec * 1000))
            ends = copy.held or (copy.retired and copy.stop_ms <= now_ms)
            found.append(Assigned(copy, entry, self.app_of(entry.artifact_url), not ends, fence,
                                  self._heard.get(copy.number, copy.reported_ms)))
        return found

    def node_changed(self, node_id: str) -> None:
        """A node came, went, or takes other copies than before."""
        self._queue.append(Ask(lambda: self._look_at_node(node_id)))
        self._wake.set()

    def _look_at_node(self, node_id: str) -> None:
        self._touched.update(copy.deployment for copy in self._on.get(node_id, {}).values())
        self._touched.update(number for number, waits in self._waits.items() if waits)
        self._rung.add(node_id)

    def node_heard(self, node_id: str) -> None:
        """A node's word keeps the endpoints of its healthy copies well."""
        for number in self._on.get(node_id, ()):
            verdicts = self._found.get(number)
            if verdicts:
                try:
                    self.registry.beat(id_text(number), verdicts)
                except NotFound:        # somebody took them away; they come back with the next look
                    self._unfound.add(number)

    def users(self, node_id: str) -> int:
        """How many copies keep a node from being deleted: a lost node's retired ones do not."""
        lost = self.nodes.is_lost(node_id)
        return sum(1 for copy in self._on.get(node_id, {}).values()
                   if not copy.gone and not (lost and copy.retired))

    # ------------------------------------------------------------ changes in memory

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
        for kept in (self._heard, self._stops, self._dirty):
            kept.pop(copy.number, None)
        self._gone[copy.number] = copy

    def _ring_all(self, number: int) -> None:
        self._rung.update(copy.node_id for copy in self._of[number].values())

    def _settle(self, number: int, board: Board) -> None:
        """What follows for a deployment."""
        for _ in range(BACK_MAX):
            row = self._rows[number]
            view = View(number, row.version, row.body, row.running, row.rollout,
                        list(self._of[number].values()),
                        lambda version, entry: self.program(number, version, entry), self.need,
                        lambda slot: self._begin(number, slot), self.now_ms)
            moves = rollout.settle(view, board)
            self._carry_out(number, moves)
            if not moves.back_to:
                return
            self._go_back(self._rows[number], moves)

    def _carry_out(self, number: int, moves: Moves) -> None:
        for copy in moves.changed.values():
            self._mark(copy)
            if copy.node_id:
                self._on.setdefault(copy.node_id, {})[copy.number] = copy
            if copy.retired:
                self._stops[copy.number] = copy.stop_ms
        for gone in moves.gone:
            if gone in self._copies:
                self._drop(self._copies[gone])
        row = self._rows[number]
        if moves.rollout != row.rollout and not moves.back_to:
            what = "" if moves.rollout is None else f"rollout {moves.rollout.state}"
            self._rewrite(msgspec.structs.replace(row, rollout=moves.rollout), what)
        self._waits[number] = moves.waits
        self._looks.pop(number, None)
        if moves.look_ms:
            self._looks[number] = moves.look_ms

    def _go_back(self, row: DeploymentRow, moves: Moves) -> None:
        """A rollout failed: the programs from before come back, as a version of their own."""
        assert moves.rollout is not None
        old = self.body_of(row.number, moves.back_to)
        before = {entry.name: entry for entry in (() if old is None else old.entries)}
        entries = []
        for entry in row.body.entries:
            program = before.get(entry.name, entry)
            entries.append(msgspec.structs.replace(
                program, replicas=entry.replicas, selector=entry.selector, spread=entry.spread,
                max_per_node=entry.max_per_node, failover=entry.failover))
        body = msgspec.structs.replace(row.body, entries=tuple(entries))
        log.warning("a rollout failed and goes back", extra={
            "deployment_id": id_text(row.number), "reason": moves.rollout.why})
        self._new_version(row, body, f"back to version {moves.back_to}: {moves.rollout.why}",
                          msgspec.structs.replace(moves.rollout, version=row.version + 1,
                                                  from_version=moves.back_to))
        self._rewritten[row.number].append("rollout returning")

    # ------------------------------------------------------------ the loop

    async def run(self) -> None:
        """Serve until canceled."""
        while True:
            await self._wait()
            batch, self._queue = self._queue, []
            for ask in batch:
                try:
                    ask.value = ask.act()
                except PlumError as error:
                    ask.error = error
            self._ring_stops()
            try:
                await self._follow()
            except PlumError as error:
                log.warning("deployments cannot be written", extra={"reason": error.detail})
                for ask in batch:
                    ask.error = ask.error or error
                    ask.done.set()
                self.load()
                await trio.sleep(AGAIN_S)
                continue
            for ask in batch:
                ask.done.set()

    async def _wait(self) -> None:
        """Until something waits, or a time has come."""
        self._wake = trio.Event()
        if self._queue or self._touched or self._unfound:
            await trio.lowlevel.checkpoint()
            return
        due_ms = min((*self._looks.values(), *self._stops.values()), default=None)
        if due_ms is None:
            await self._wake.wait()
            return
        with trio.move_on_after(max(0, due_ms - self.now_ms + 1) / 1000):
            await self._wake.wait()

    def _ring_stops(self) -> None:
        """Copies whose time to stop has come, and deployments to look at again."""
        now_ms = self.now_ms
        for number in [one for one, at_ms in self._stops.items() if at_ms <= now_ms]:
            del self._stops[number]
            if number in self._copies:
                self._rung.add(self._copies[number].node_id)
        due = [number for number, at_ms in self._looks.items() if at_ms <= now_ms]
        self._touched.update(due)
        for number in due:
            del self._looks[number]

    async def _follow(self) -> None:
        """Decide what follows, write it, and let it out."""
        touched, self._touched = self._touched & self._rows.keys(), set()
        if touched:
            board = self.board()
            for number in sorted(touched):
                self._settle(number, board)
            self._touched.clear()       # what was touched by settling has been settled
        found, lost = self._discovery()
        if self._dirty or self._gone or self._rewritten or self._deleted or found or lost:
            with trio.CancelScope(shield=True):
                await self._write(lambda tx: self._store(tx, found, lost))
                self._written(found, lost)
        for node_id in self._rung:
            self.nodes.ring(node_id)
        self._rung.clear()

    def board(self) -> Board:
        """All nodes with all copies."""
        board = Board(self.nodes.for_placement())
        for copy in self._copies.values():
            entry = self.program(copy.deployment, copy.version, copy.entry)
            if entry is not None and self._is_there(copy):
                board.put(copy.node_id, self.need(copy.deployment, entry))
        return board

    def copies_of(self, number: int) -> list[Copy]:
        """A deployment's copies as they will be, for whoever is being asked."""
        return list(self._of[number].values())

    def _is_there(self, copy: Copy) -> bool:
        """Whether it takes room on a node."""
        return (bool(copy.node_id) and not (copy.retired and copy.gone)
                and self._rows[copy.deployment].running)

    def _store(self, tx: Tx, found: Mapping[int, Sequence[Endpoint]],
               lost: Iterable[int]) -> None:
        for row, note in self._versions:
            deployments.add_version(tx, row, note)
        for number, said in self._rewritten.items():
            row = self._rows[number]
            deployments.write(tx, row)
            for what in said:
                tx.emit("deployment", id_text(number), what, row.body.name, tx.now_ms)
        instances.write(tx, self._dirty.values(), self._gone)
        for copy in self._dirty.values():
            news = news_of(copy)
            if self._told.get(copy.number) != news:
                tx.emit("instance", id_text(copy.number), *news, id_text(copy.deployment),
                        tx.now_ms)
        for copy in self._gone.values():
            tx.emit("instance", id_text(copy.number), "gone", copy.node_id, copy.retired,
                    id_text(copy.deployment), tx.now_ms)
        for call in self._also:
            call(tx)
        for number in self._deleted:
            deployments.delete(tx, number)
            tx.emit("deployment", id_text(number), "deleted", "", tx.now_ms)
        for number in lost:
            services.remove_instance(tx, id_text(number))
        for number, endpoints in found.items():
            try:
                services.register(tx, id_text(number), endpoints, replace=False)
            except TooMany as error:
                log.warning("a service cannot be registered", extra={
                    "instance_id": id_text(number), "reason": error.detail})

    def _written(self, found: Mapping[int, Sequence[Endpoint]], lost: Iterable[int]) -> None:
        """It is true now."""
        self._shown = dict(self._rows)
        for copy in self._dirty.values():
            self._told[copy.number] = news_of(copy)
        for number in self._gone:
            self._told.pop(number, None)
        for number in lost:
            self._found.pop(number, None)
            self.registry.read_back(id_text(number))
        for number in found:
            self._found[number] = self._verdicts(self._copies[number])
            self.registry.read_back(id_text(number))
            self.registry.beat_known(id_text(number), self._found[number])
        for kept in (self._dirty, self._gone, self._rewritten, self._versions, self._deleted,
                     self._also):
            kept.clear()

    # ------------------------------------------------------------ discovery

    def _discovery(self) -> tuple[dict[int, Sequence[Endpoint]], list[int]]:
        """Copies whose endpoints are to be registered, and those whose are to be taken away."""
        found: dict[int, Sequence[Endpoint]] = {}
        lost = [number for number in self._gone if number in self._found]
        for number in {*self._dirty, *self._unfound}:
            copy = self._copies.get(number)
            wanted = copy is not None and bool(self._verdicts(copy))
            if wanted and copy is not None and (
                    number not in self._found or number in self._unfound):
                found[number] = self._endpoints(copy)
            elif not wanted and number in self._found:
                lost.append(number)
        lost += [number for number in self._found if number not in lost
                 and not self._rows[self._copies[number].deployment].running]
        self._unfound.clear()
        return found, lost

    def _ports(self, copy: Copy) -> AppRow | None:
        """The app of a copy that others may find, None when they may not."""
        row = self._rows.get(copy.deployment)
        if (row is None or not row.running or copy.retired or copy.held
                or copy.phase is not Phase.RUNNING or not copy.healthy_ms):
            return None
        entry = self.program(copy.deployment, copy.version, copy.entry)
        return None if entry is None else self.app_of(entry.artifact_url)

    def _verdicts(self, copy: Copy) -> tuple[Verdict, ...]:
        app = self._ports(copy)
        return () if app is None else tuple(
            Verdict(one.service, "", one.port, one.protocol, True) for one in app.ports)

    def _endpoints(self, copy: Copy) -> list[Endpoint]:
        app = self._ports(copy)
        assert app is not None, "only copies with ports are found"
        labels = {"deploymentId": id_text(copy.deployment), "appName": app.name}
        return [Endpoint(one.service, id_text(copy.number), self.nodes.ip_of(copy.node_id),
                         one.port, one.protocol, copy.node_id, app.version, labels)
                for one in app.ports]

    # ------------------------------------------------------------ questions

    def waits(self, number: int) -> Mapping[Slot, str]:
        """Why slots of a deployment have no copy that runs, or one that should have gone."""
        return self._waits.get(number, {})

    def heard_ms(self, copy: Copy) -> int:
        """When its agent spoke of it last."""
        return self._heard.get(copy.number, copy.reported_ms)

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
                    choice = placement.Choice(node.node_id, "it is there already")
                else:
                    choice = asked.choose(slot, entry, "")
                if choice.node_id:
                    board.put(choice.node_id, self.need(number, entry))
                found.append(Planned(entry.name, slot.ordinal, slot.pin, choice.node_id,
                                     choice.why))
        return found

    def _planner(self, number: int, body: Body, board: Board) -> rollout.Settling:
        return rollout.Settling(View(
            number, 0, body, True, None, [], lambda _version, _entry: None, self.need,
            never_begun, self.now_ms), board)

    def statistics(self) -> Mapping[str, int]:
        """How many copies there are in each phase."""
        found = dict.fromkeys(PHASES, 0)
        for copy in self._copies.values():
            found[PHASES[copy.phase]] += 1
        return found


def one_less(entry: DeploymentEntry, copy: Copy) -> DeploymentEntry:
    """The entry without the slot of a copy, if that is one of its own."""
    if entry.name != copy.entry or copy.retired or copy.slot not in slots_of(entry):
        return entry
    count = (entry.replicas - 1 if isinstance(entry.replicas, int)
             else {**entry.replicas, copy.pin: entry.replicas[copy.pin] - 1})
    return msgspec.structs.replace(entry, replicas=count)


def news_of(copy: Copy) -> tuple[str, str, str]:
    """(state, node, why it ends): what events tell of a copy."""
    return copy.state, copy.node_id, copy.retired


def never_begun(slot: Slot) -> Copy:
    """A plan begins nothing."""
    raise AssertionError(slot)
