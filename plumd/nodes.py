"""The live nodes: who is known is the store's, who is there is known here.

Every word of a node (a beat, a look at its assignments, a report) is a sign of life and renews it
in memory for one TTL. What does change (its address, labels, that it is lost or back) is a row.
Expiries are one heap, so waiting costs nothing: a renewal only moves what is seen when the old
time comes. After a restart of the daemon each node gets one fresh TTL; one that was lost stays lost
until it is heard of. When the daemon itself was away (stopped, starved), silence says nothing of
the nodes, and all of them get a fresh TTL.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from heapq import heappop, heappush
from typing import Final, TypeVar

import msgspec
import trio

from plumd.clock import Clock
from plumd.errors import NodeTaken, NotFound, PlumError, TooMany, WrongState
from plumd.placement import NODE_DRAINED, NODE_LOST, SHAKY_MS, Node
from plumd.store import nodes
from plumd.store.nodes import Facts, NodeRow
from plumd.store.store import Store, Write

log = logging.getLogger("plumd.nodes")
T = TypeVar("T")

TTL_S: Final = 15.0
NODES_MAX: Final = 10_000
OFFLINE_TTLS: Final = 20
"""A node is Offline after so many TTLs of silence."""
LATE_S: Final = 0.001
AGAIN_S: Final = 1.0
AWAY_S: Final = 2.0
"""When the daemon looks so much later than it meant to, it was away."""
ALERT_MS: Final = 60_000
REPLACED_MAX: Final = 16
PLACES_MS: Final = 5_000
"""So long placement goes by what was measured on nodes before."""
HEALTHY, DRAINING, UNHEALTHY, OFFLINE = "Healthy", "Draining", "Unhealthy", "Offline"
HEALTHS: Final = (HEALTHY, DRAINING, UNHEALTHY, OFFLINE)


class Beat(msgspec.Struct, frozen=True):
    """What an agent says of its node. facts: None = it has none to tell.  key: its secret.  run:
    drawn at each of its starts, "" = it does not say."""

    node_id: str
    ip: str
    labels: dict[str, str] = {}
    facts: Facts | None = None
    agent_version: str = ""
    boot_id: str = ""
    key: str = ""
    run: str = ""


class Seen(msgspec.Struct, frozen=True):
    """A node and how it is. seen_ms: its last sign of life, 0 = none since our start.

    assignments: a name for what it shall run, another one whenever that changes; "" = look.
    """

    row: NodeRow
    facts: Facts
    health: str
    seen_ms: int
    assignments: str = ""


class Live:
    """What memory knows of a node."""

    def __init__(self, row: NodeRow, expires_ns: int) -> None:
        self.row = row
        self.facts = row.facts
        self.expires_ns = expires_ns
        self.offline_ns = 0         # when silence gets another name, while it is lost
        self.queued_ns = 0          # its place in the heap; others of it are out of date
        self.seen_ms = 0
        self.alerted_ms = 0
        self.run = ""               # of the agent that speaks for it
        self.replaced: deque[str] = deque(maxlen=REPLACED_MAX)      # of those before


class Bell:
    """Rung for a node's agent when there is news for it."""

    def __init__(self) -> None:
        self.count = 0
        self.waiting = 0
        self._event = trio.Event()

    def ring(self) -> None:
        """There is news."""
        self.count += 1
        self._event.set()
        self._event = trio.Event()

    async def wait_beyond(self, count: int) -> None:
        """Return when it was rung more often than this."""
        while self.count <= count:
            await self._event.wait()


class Nodes:
    """All nodes. `load` first; `run` in a nursery of the daemon's."""

    def __init__(self, store: Store, clock: Clock, write: Write, ttl_s: float = TTL_S) -> None:
        self.store = store
        self.clock = clock
        self.ttl_ns = round(ttl_s * 1e9)
        self.changed: Callable[[str], None] = no_one
        """Told of each node that came, went, or takes other copies than before."""
        self.heard: Callable[[str], None] = no_one
        """Told of each sign of life."""
        self.users: Callable[[str], int] = no_users
        """How many copies a node has that keep it from being deleted."""
        self.drain_worker: Callable[[str, bool], None] = no_worker
        """Lets the node's agent take no tasks, or take them again."""
        self._write = write
        self._live: dict[str, Live] = {}
        self._due: list[tuple[int, str]] = []
        self._saving = trio.Lock()
        self._wake = trio.Event()
        self._bells: dict[str, Bell] = {}
        self._places: list[Node] = []
        self._placed_ms = 0
        self._rings: Counter[str] = Counter()
        self._epoch = f"{clock.now().wall_ms:x}"

    def load(self) -> None:
        """Read who is known."""
        for row in self.store.peek(nodes.every):
            self._add(row)

    @property
    def ttl_s(self) -> float:
        """How long a node counts as there without a word."""
        return self.ttl_ns / 1e9

    # ------------------------------------------------------------ from agents

    async def beat(self, beat: Beat, peer: str) -> Seen:
        """A sign of life, with all that the agent knows of its node. Most beats write nothing.

        peer: where it came from.  Raises: NodeTaken, TooMany, and as Engine.write.
        """
        digest = hashlib.sha256(beat.key.encode()).digest() if beat.key else None
        live = self._live.get(beat.node_id)
        if live is not None:
            await self._check_owner(live, digest, peer)
            await self._check_run(live, beat.run, peer)
        was_away = live is None or live.row.lost_ms > 0     # then it may have been replaced
        if live is None or live.row.lost_ms or self._told(live.row, beat, digest) != live.row:
            await self._change(beat.node_id, lambda row: self._met(row, beat, digest))
            live = self._live.get(beat.node_id)
            if live is None:
                raise NotFound("the node was deleted", field="nodeId")
        if beat.facts is not None:
            live.facts = beat.facts
        self._renew(live)
        return msgspec.structs.replace(
            self.seen(live), assignments="" if was_away else self.revision(beat.node_id))

    async def _check_owner(self, live: Live, digest: bytes | None, peer: str) -> None:
        """The first key owns the name."""
        if live.row.key_hash is None or digest == live.row.key_hash:
            return
        await self._alert(live, peer)
        raise NodeTaken(f"the node {live.row.node_id!r} is another machine, or was one: delete the "
                        "node to give its name away", field="nodeId")

    async def _check_run(self, live: Live, run: str, peer: str) -> None:
        """An agent that was started anew does not come back: who speaks again, while another one
        does that began after it, is a machine of its own that has the same key."""
        if run in ("", live.run):
            return
        heard = not live.row.lost_ms and self.clock.now().mono_ns < live.expires_ns
        if heard and run in live.replaced:
            await self._alert(live, peer)
            raise NodeTaken(f"another agent speaks for the node {live.row.node_id!r}, with a copy "
                            "of this one's data directory: let one of the two have an empty one, "
                            "and a name of its own", field="nodeId")
        if live.run:
            live.replaced.append(live.run)
        live.run = run

    async def _alert(self, live: Live, peer: str) -> None:
        """Say, once in a while, that two machines have one name."""
        now_ms, node_id = self.clock.now().wall_ms, live.row.node_id
        if now_ms - live.alerted_ms >= ALERT_MS:
            live.alerted_ms = now_ms
            log.warning("another machine calls itself by a node's name", extra={
                "node_id": node_id, "peer": peer})
            await self._write(lambda tx: nodes.alert(tx, node_id, peer))

    def _told(self, row: NodeRow, beat: Beat, digest: bytes | None) -> NodeRow:
        """The row as the agent says."""
        return msgspec.structs.replace(
            row, ip=beat.ip, labels=beat.labels, key_hash=row.key_hash or digest,
            agent_version=beat.agent_version, boot_id=beat.boot_id,
            facts=row.facts if beat.facts is None else beat.facts.lasting)

    def _met(self, row: NodeRow | None, beat: Beat,
             digest: bytes | None) -> tuple[NodeRow, list[str]]:
        now_ms = self.clock.now().wall_ms
        if row is None:
            if len(self._live) >= NODES_MAX:
                raise TooMany(f"there are {NODES_MAX} nodes already", retry_after_s=60)
            row = NodeRow(beat.node_id, "", {}, {}, Facts(), None, "", "", False, 0, 0, 0, now_ms,
                          now_ms)
            return self._told(row, beat, digest), ["registered"]
        new = msgspec.structs.replace(self._told(row, beat, digest), lost_ms=0, seen_ms=now_ms)
        return new, ["healthy" if row.lost_ms else "changed"]

    async def alive(self, node_id: str) -> Live | None:
        """A sign of life without more to say; None when no such node is known.

        One that was lost is back when this returns: what it is told next is told to a node that
        counts as there. Raises: as Engine.write.
        """
        live = self._live.get(node_id)
        if live is None:
            return None
        if live.row.lost_ms:
            await self._change(node_id, self._back)
        self._renew(live)
        return live

    def _back(self, row: NodeRow | None) -> tuple[NodeRow, list[str]] | None:
        if row is None or not row.lost_ms:
            return None
        return msgspec.structs.replace(
            row, lost_ms=0, seen_ms=self.clock.now().wall_ms), ["healthy"]

    def _renew(self, live: Live) -> None:
        now = self.clock.now()
        live.expires_ns, live.seen_ms = now.mono_ns + self.ttl_ns, now.wall_ms
        self.heard(live.row.node_id)

    # ------------------------------------------------------------ from people

    async def drain(self, node_id: str, *, on: bool) -> Seen:
        """Its copies move away, and it gets no others; off: it takes them again.

        Raises: NotFound, and as Engine.write.
        """
        def change(row: NodeRow | None) -> tuple[NodeRow, list[str]] | None:
            if row is None:
                raise NotFound("no such node")
            if row.draining == on:
                return None
            return (msgspec.structs.replace(row, draining=on),
                    ["draining" if on else "resumed"])

        await self._change(node_id, change)
        self.drain_worker(node_id, on)
        return self.get(node_id)

    async def configure(self, node_id: str, labels: dict[str, str] | None,
                        instances_max: int | None) -> Seen:
        """What an operator says of a node; None leaves it. Raises: as `drain`."""
        def change(row: NodeRow | None) -> tuple[NodeRow, list[str]] | None:
            if row is None:
                raise NotFound("no such node")
            new = msgspec.structs.replace(
                row, own_labels=row.own_labels if labels is None else labels,
                instances_max=row.instances_max if instances_max is None else instances_max)
            return None if new == row else (new, ["changed"])

        await self._change(node_id, change)
        return self.get(node_id)

    async def remove(self, node_id: str) -> None:
        """Forget a node; its name is free for another machine.

        Raises: NotFound; WrongState while copies are on it; and as Engine.write.
        """
        async with self._saving:
            if node_id not in self._live:
                raise NotFound("no such node")
            if count := self.users(node_id):
                raise WrongState(f"{count} instance{'s' * (count > 1)} on this node: drain it, or "
                                 "wait until it is lost")
            with trio.CancelScope(shield=True):
                await self._write(lambda tx: nodes.delete(tx, node_id))
                del self._live[node_id]
                self._places = []
        self.drain_worker(node_id, False)
        self._tell(node_id)

    async def _change(self, node_id: str, decide: Callable[
            [NodeRow | None], tuple[NodeRow, list[str]] | None]) -> None:
        """Write what is decided on a node's row, one after the other; memory follows the disk."""
        async with self._saving:
            live = self._live.get(node_id)
            decided = decide(None if live is None else live.row)
            if decided is None:
                return
            row, what = decided
            with trio.CancelScope(shield=True):
                await self._write(lambda tx: nodes.put(tx, row, *what))
                if live is None:
                    self._add(row)
                else:
                    returned = live.row.lost_ms and not row.lost_ms
                    live.row = row
                    self._places = []
                    if returned:
                        live.expires_ns = self.clock.now().mono_ns + self.ttl_ns
                        self._watch(live)
        self._tell(node_id)

    def _tell(self, node_id: str) -> None:
        self.changed(node_id)

    def _add(self, row: NodeRow) -> None:
        live = Live(row, self.clock.now().mono_ns + self.ttl_ns)
        self._live[row.node_id] = live
        self._places = []
        if row.lost_ms:
            now = self.clock.now()
            silent_ns = (now.wall_ms - row.lost_ms) * 1_000_000
            live.offline_ns = now.mono_ns + max(0, OFFLINE_TTLS * self.ttl_ns - silent_ns)
        self._watch(live)

    # ------------------------------------------------------------ who falls silent

    def _watch(self, live: Live) -> None:
        live.queued_ns = live.offline_ns if live.row.lost_ms else live.expires_ns
        heappush(self._due, (live.queued_ns, live.row.node_id))
        self._wake.set()

    async def run(self) -> None:
        """Mark nodes as lost when their time is over. Sleeps until the next one's is."""
        while True:
            self._wake = trio.Event()
            if not self._due:
                await self._wake.wait()
                continue
            planned_ns = self._due[0][0]
            left_s = (planned_ns - self.clock.now().mono_ns) / 1e9
            if left_s > 0:
                with trio.move_on_after(left_s + LATE_S):
                    await self._wake.wait()
                now_ns = self.clock.now().mono_ns
                if now_ns - planned_ns > AWAY_S * 1e9:
                    self._forgive()
                if now_ns < planned_ns:
                    continue        # there is a nearer one, or none any more
            if not await self._lose(self._overdue()):
                await trio.sleep(AGAIN_S)

    def _forgive(self) -> None:
        """The daemon was away, so nobody's silence counts."""
        log.warning("the daemon was away; every node gets a fresh time")
        fresh_ns = self.clock.now().mono_ns + self.ttl_ns
        for live in self._live.values():
            if not live.row.lost_ms:
                live.expires_ns = max(live.expires_ns, fresh_ns)

    def _overdue(self) -> list[Live]:
        """Whose time is over now; of the others the heap learns the new times."""
        now_ns, found = self.clock.now().mono_ns, []
        while self._due and self._due[0][0] <= now_ns:
            queued_ns, node_id = heappop(self._due)
            live = self._live.get(node_id)
            if live is None or live.queued_ns != queued_ns:
                continue
            due_ns = live.offline_ns if live.row.lost_ms else live.expires_ns
            if due_ns > now_ns:
                self._watch(live)
            elif due_ns and live not in found:
                found.append(live)
        return found

    async def _lose(self, overdue: list[Live]) -> bool:
        """Write down who is lost, and who is for long; False when the disk did not take it."""
        if not overdue:
            return True
        async with self._saving:
            now = self.clock.now()
            silent = [live for live in overdue if self._live.get(live.row.node_id) is live
                      and (live.offline_ns if live.row.lost_ms else live.expires_ns)
                      <= now.mono_ns]
            changes = [(live.row, "offline") if live.row.lost_ms else (msgspec.structs.replace(
                live.row, lost_ms=now.wall_ms, shaky_ms=now.wall_ms,
                seen_ms=live.seen_ms or live.row.seen_ms), "unhealthy") for live in silent]
            try:
                await self._write(lambda tx: nodes.put_all(tx, changes))
            except PlumError as error:
                log.warning("lost nodes cannot be written down", extra={"reason": error.detail})
                for live in overdue:
                    self._watch(live)
                return False
            for live, (row, what) in zip(silent, changes, strict=True):
                live.row = row
                self._places = []
                live.offline_ns = 0
                if what == "unhealthy":
                    log.warning("a node is lost", extra={"node_id": row.node_id})
                    live.offline_ns = now.mono_ns + OFFLINE_TTLS * self.ttl_ns
                    self._watch(live)
            for live in overdue:
                if live not in silent:      # it was heard of while others were written down
                    self._watch(live)
        for live in silent:
            self._tell(live.row.node_id)
        return True

    # ------------------------------------------------------------ questions

    def get(self, node_id: str) -> Seen:
        """One node. Raises: NotFound."""
        live = self._live.get(node_id)
        if live is None:
            raise NotFound("no such node")
        return self.seen(live)

    def every(self) -> list[Seen]:
        """All nodes, by id."""
        return [self.seen(live) for _, live in sorted(self._live.items())]

    def seen(self, live: Live) -> Seen:
        """How a node is now."""
        row = live.row
        if row.lost_ms:
            health = UNHEALTHY if live.offline_ns > self.clock.now().mono_ns else OFFLINE
        else:
            health = DRAINING if row.draining else HEALTHY
        return Seen(row, live.facts, health, live.seen_ms or row.seen_ms)

    def ip_of(self, node_id: str) -> str:
        """Where it is, "" when it is not known."""
        live = self._live.get(node_id)
        return "" if live is None else live.row.ip

    def is_lost(self, node_id: str) -> bool:
        """Whether it is silent, or not known."""
        live = self._live.get(node_id)
        return live is None or live.row.lost_ms > 0

    def for_placement(self) -> Sequence[Node]:
        """All nodes as placement sees them, by id."""
        now_ms = self.clock.now().wall_ms
        if not self._places or abs(now_ms - self._placed_ms) > PLACES_MS:
            self._placed_ms = now_ms
            self._places = [as_place(live.row, live.facts, now_ms)
                            for _, live in sorted(self._live.items())]
        return self._places

    # ------------------------------------------------------------ wake-ups

    def revision(self, node_id: str) -> str:
        """A name for what a node shall run, another one whenever that changes."""
        return f"{self._epoch}.{self._rings[node_id]}"

    def ring(self, node_id: str) -> None:
        """There is something new for a node's agent to look at."""
        self._rings[node_id] += 1
        for name in (node_id, ""):
            bell = self._bells.get(name)
            if bell is not None:
                bell.ring()

    @contextmanager
    def watch(self, node_id: str) -> Iterator[Bell]:
        """The bell of a node, "" = of all of them."""
        bell = self._bells.setdefault(node_id, Bell())
        bell.waiting += 1
        try:
            yield bell
        finally:
            bell.waiting -= 1
            if not bell.waiting:
                del self._bells[node_id]

    def statistics(self) -> Mapping[str, int]:
        """How many nodes there are in each state."""
        found = dict.fromkeys(HEALTHS, 0)
        for live in self._live.values():
            found[self.seen(live).health] += 1
        return found


def as_place(row: NodeRow, facts: Facts, now_ms: int) -> Node:
    """A node as placement sees it."""
    why_not = ""
    if row.lost_ms:
        why_not = NODE_LOST
    elif row.draining:
        why_not = NODE_DRAINED
    return Node(row.node_id, row.all_labels, why_not,
                bool(row.shaky_ms) and now_ms - row.shaky_ms < SHAKY_MS, row.instances_max,
                facts.mem_total, 100.0 * facts.cpus)


def no_one(node_id: str) -> None:
    """Nobody is told."""
    del node_id


def no_users(node_id: str) -> int:
    """Nothing is on it."""
    del node_id
    return 0


def no_worker(node_id: str, on: bool) -> None:
    """No agent takes tasks."""
    del node_id, on
