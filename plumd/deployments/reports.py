"""What agents and nodes say of copies, and what agents are told of theirs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from plumd import rollout
from plumd.deployments.book import Ask, Book
from plumd.errors import NotFound
from plumd.fleet import OVER, Copy, DeploymentEntry, Phase, Usage, Used, lease_ms
from plumd.model import id_text
from plumd.store import instances
from plumd.store.apps import AppRow

MESSAGE_CHARS_MAX: Final = 1_000


class Report(msgspec.Struct, frozen=True):
    """What an agent says of a copy. healthy: None = it does not say.  node_id: the agent's, ""
    when it does not say, as old ones."""

    number: int
    phase: Phase
    healthy: bool | None = None
    exit_code: int | None = None
    signal: int | None = None
    restarts: int = 0
    pid: int = 0
    message: str = ""
    started_ms: int = 0
    usage: Usage | None = None
    node_id: str = ""


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


class Reports(Book):
    """The side of the book that agents and nodes speak to."""

    async def report(self, reports: Sequence[Report], *, strict: bool) -> None:
        """What agents say of copies; what they said before costs nothing.

        strict: raises NotFound for a copy that is not known, or cannot run where it is said to.
        Raises: as Engine.write.
        """
        now_ms, told = self.now_ms, []
        for one in reports:
            try:
                told.append((self._reported(one), one))
            except NotFound:
                if strict:
                    raise
        for node_id in {copy.node_id for copy, _ in told}:
            await self.nodes.alive(node_id)
        news = []
        for copy, one in told:
            self._heard[copy.number] = now_ms
            if one.usage is not None:
                self._used[copy.number] = used(self._used.get(copy.number), one.usage, now_ms)
            if self._is_news(copy, one):
                news.append(one)
        if news:
            await self.ask(lambda: self._take(news))

    def _reported(self, one: Report) -> Copy:
        """The copy that a report is about. Raises: NotFound.

        One that has no node yet was given to no agent, so nothing can be known of it: a word of it
        must not make its deployment ready.
        """
        copy = self._copies.get(one.number)
        if copy is None:
            raise NotFound("no such instance; end it", field="instanceId")
        if not copy.node_id:
            raise NotFound("this instance is on no node yet; end it", field="instanceId")
        if one.node_id not in ("", copy.node_id):
            raise NotFound(f"this instance is on {copy.node_id}; end it", field="nodeId")
        return copy

    def _phase(self, copy: Copy, one: Report) -> Phase:
        """What a report means: one that was told to stop has stopped, however it ended. Under a
        fence it must say so, for an agent that did not hear of it yet starts again what failed."""
        row = self._rows.get(copy.deployment)
        told = (copy.held or row is None or not row.running
                or (copy.retired and copy.stop_ms <= self.now_ms))
        again = one.phase is Phase.FAILED and self.fenced(copy.deployment, copy.version)
        return Phase.STOPPED if told and one.phase in OVER and not again else one.phase

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
        was_lost = self.nodes.is_lost(node_id)
        await self.nodes.alive(node_id)
        if was_lost:        # what was decided while it was lost is written before it is told
            await self.ask(nothing)
        found, now_ms = [], self.now_ms
        for copy in self.store.peek(instances.of_node, node_id):
            row = self._shown.get(copy.deployment)
            entry = self.program(copy.deployment, copy.version, copy.entry)
            if row is None or not row.running or entry is None:
                continue
            fence = None
            if self.fenced(copy.deployment, copy.version):
                fence = Fence(copy.token, lease_ms(self.nodes.ttl_s),
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
        self._unfound |= self._moved(self._on.get(node_id, ()))
        self._rung.add(node_id)

    def node_heard(self, node_id: str) -> None:
        """A node's word keeps the endpoints of its healthy copies well."""
        for number in self._on.get(node_id, ()):
            known = self._found.get(number)
            if known is not None:
                try:
                    self.registry.beat(id_text(number), known.verdicts)
                except NotFound:        # somebody took them away; they come back with the next look
                    self._unfound.add(number)

    def users(self, node_id: str) -> int:
        """How many copies keep a node from being deleted: a lost node's retired ones do not. One
        that failed does, while its agent may start it again."""
        lost = self.nodes.is_lost(node_id)
        return sum(1 for copy in self._on.get(node_id, {}).values()
                   if not (copy.gone or copy.retired if lost else rollout.is_finished(copy)))


def used(before: Used | None, now: Usage, now_ms: int) -> Used:
    """What is known after a word of an agent."""
    if before is None or now_ms <= before.at_ms or now.cpu_sec < before.now.cpu_sec:
        return Used(now, 0.0, now_ms)
    spent_s = now.cpu_sec - before.now.cpu_sec
    return Used(now, round(spent_s * 100_000 / (now_ms - before.at_ms), 1), now_ms)


def nothing() -> None:
    """Asked only to wait for what is under way."""
