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
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import msgspec
import trio

from plumd import rollout
from plumd.balance import Endpoint
from plumd.clock import Clock
from plumd.deployments.book import Ask, Found
from plumd.deployments.discovery import Discovery
from plumd.deployments.reports import Reports
from plumd.deployments.wishes import Wishes
from plumd.errors import PlumError, TooMany
from plumd.fleet import Copy
from plumd.model import id_text
from plumd.nodes import Nodes
from plumd.placement import Board
from plumd.rollout import Moves, View
from plumd.services import Registry
from plumd.store import deployments, instances, services
from plumd.store.deployments import DeploymentRow
from plumd.store.store import Store, Tx, Write

log = logging.getLogger("plumd.deployments")

AGAIN_S: Final = 1.0
BACK_MAX: Final = 3


class Deployments(Wishes, Reports, Discovery):
    """All deployments. `load` first; `run` in a nursery of the daemon's."""

    def __init__(self, store: Store, clock: Clock, write: Write, new_id: Callable[[], int],
                 nodes: Nodes, registry: Registry) -> None:
        super().__init__(store, clock, write, new_id, nodes, registry)
        nodes.changed = self.node_changed
        nodes.heard = self.node_heard
        nodes.users = self.users

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
        self._found = {number: known for number in self._copies
                       if (known := self._known(number)) is not None}
        self._unfound = self._moved(self._found)
        self._touched.update(self._rows)
        self._wake.set()

    # ------------------------------------------------------------ the loop

    async def run(self) -> None:
        """Serve until canceled."""
        while True:
            await self._wait()
            batch, self._queue = self._queue, []
            if (defect := self._act(batch)) is not None:
                self._give_up(batch, defect)
                continue
            self._ring_stops()
            try:
                await self._follow()
            except PlumError as error:
                log.warning("deployments cannot be written", extra={"reason": error.detail})
                self._give_up(batch, error)
                await trio.sleep(AGAIN_S)
                continue
            for ask in batch:
                ask.done.set()

    def _act(self, batch: Sequence[Ask]) -> Exception | None:
        """Let each have its effect in memory. Answers a defect of ours: then nobody knows what is
        in memory, and nothing of the batch may be written."""
        for ask in batch:
            try:
                ask.act()
            except PlumError as error:
                ask.error = error
            except Exception as error:  # one question that meets a defect must not end the daemon
                log.exception("a defect; what was asked for is given up")
                return error
        return None

    def _give_up(self, batch: Sequence[Ask], error: Exception) -> None:
        """Nothing of it came to pass: memory is what the rows say, and those who asked are told."""
        self.load()
        for ask in batch:
            ask.error = ask.error or error
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

    # ------------------------------------------------------------ what follows

    def _settle(self, number: int, board: Board) -> None:
        """What follows for a deployment."""
        for _ in range(BACK_MAX):
            row = self._rows[number]
            view = View(number, row.version, row.body, row.running, row.rollout,
                        list(self._of[number].values()),
                        lambda version, entry: self.program(number, version, entry),
                        lambda version: self.fenced(number, version), self.need,
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
        body = msgspec.structs.replace(
            row.body, entries=tuple(entries),
            on_partition=row.body.on_partition if old is None else old.on_partition)
        log.warning("a rollout failed and goes back", extra={
            "deployment_id": id_text(row.number), "reason": moves.rollout.why})
        self._new_version(row, body, f"back to version {moves.back_to}: {moves.rollout.why}",
                          msgspec.structs.replace(moves.rollout, version=row.version + 1,
                                                  from_version=moves.back_to))
        self._rewritten[row.number].append("rollout returning")

    # ------------------------------------------------------------ to the disk

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
            services.remove(tx, self._left(number, endpoints))
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
            self._found[number] = Found(self._verdicts(self._copies[number]), found[number][0].ip)
            self.registry.read_back(id_text(number))
            self.registry.beat_known(id_text(number), self._found[number].verdicts)
        for kept in (self._dirty, self._gone, self._rewritten, self._versions, self._deleted,
                     self._also):
            kept.clear()


def news_of(copy: Copy) -> tuple[str, str, str]:
    """(state, node, why it ends): what events tell of a copy."""
    return copy.state, copy.node_id, copy.retired
