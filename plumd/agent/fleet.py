"""The instances of this node: kept as the controller wants them, found again after a restart.

What is wanted is asked for when the controller says that it changed, and every sync_s all the same.
A request that was answered also renews the leases of fenced instances, counted from when it was
sent; a controller that is away changes nothing for all others.
"""

from __future__ import annotations

import logging
import math
from typing import Final, final
from urllib.parse import quote, urlsplit

import msgspec
import trio

from plumd.agent.assigned import Assigned, Assignments, Named
from plumd.agent.beats import Beats
from plumd.agent.http import CallFailed, Http
from plumd.agent.instance import Instance, Kept, Surroundings, clear, read_kept, write_kept
from plumd.agent.settings import Settings
from plumd.executors import shim
from plumd.executors.trees import remove_tree

log = logging.getLogger("plumd.agent")
WAKE_AGAIN_S: Final = 1.0
WAKE_AGAIN_S_MAX: Final = 15.0
STATS_S: Final = 15.0
FIRST_BEAT_S: Final = 10.0
RENEW_AT: Final = 0.25
"""Of a lease: so often it is renewed."""
LINE_S_MAX: Final = 60.0
"""The stream of wake-ups has a comment every 15 s; silent for so long, it is dead."""
_DECODE: Final = msgspec.json.Decoder(Assignments).decode


@final
class Fleet:
    """All instances, by their ids."""

    def __init__(self, settings: Settings, around: Surroundings, http: Http, beats: Beats) -> None:
        self.instances: dict[str, Instance] = {}
        self._settings = settings
        self._around = around
        self._http = http
        self._beats = beats
        self._root = settings.data_dir / "instances"
        self._wake = trio.Event()
        self._answered_ms = 0       # when the last request was sent that was answered
        self._said = ""
        self._listening = trio.CancelScope()
        self._revision = ""         # of the assignments that are carried out
        self._leases: dict[str, int] = {}       # of fenced instances that shall run, in ms
        self._looked_s = -math.inf
        beats.owns = around.reports.owns
        beats.heard_again = self.heard_again
        beats.confirmed = self.confirmed

    def heard_again(self) -> None:
        """The controller is heard after it was not: look at once, over new connections."""
        self._http.hang_up()
        self._listening.cancel()
        self._around.reports.heard_again()
        self._wake.set()

    def confirmed(self, sent_ms: int, revision: str) -> None:
        """A beat was answered: the assignments are those of that revision. Where we carry them out
        that is worth as much as a look at them."""
        self._around.reports.together = bool(revision)
        if not self._revision or revision != self._revision:
            if self._revision:
                self._wake.set()
            return
        self._answered_ms = sent_ms
        self._looked_s = trio.current_time()
        for instance_id, lease_ms in self._leases.items():
            if instance_id in self.instances:
                self.instances[instance_id].lease_until(sent_ms + lease_ms)

    def recover(self) -> None:
        """Find what an earlier agent kept running. Reads files."""
        if not self._root.exists():
            return
        for folder in self._root.iterdir():
            try:
                kept = read_kept(folder)
            except OSError as error:        # it may be there again, so it stays as it is
                log.warning("what was kept of an instance cannot be read", extra={
                    "folder": folder.name, "reason": str(error)})
                continue
            if kept is not None:
                self.instances[kept.assigned.instance_id] = Instance(folder, kept, self._around)
            else:
                log.warning("what nobody knows of is removed", extra={"folder": folder.name})
                clear(folder)

    async def run(self) -> None:
        """Keep them, until canceled; what runs is left running."""
        async with trio.open_nursery() as nursery:
            for instance in self.instances.values():
                nursery.start_soon(self._carry, instance)
            nursery.start_soon(self._listen)
            nursery.start_soon(self._around.reports.run)
            nursery.start_soon(self._measure)
            while True:
                self._looked_s = trio.current_time()
                await self.sync(nursery)
                while not self._wake.is_set() and (left_s := self._left_s()) > 0:
                    with trio.move_on_after(left_s):
                        await self._wake.wait()
                self._wake = trio.Event()

    async def _measure(self) -> None:
        """Tell every now and then what instances use, of all at once."""
        while True:
            await trio.sleep(STATS_S)
            for instance in list(self.instances.values()):
                await instance.measure()

    def _left_s(self) -> float:
        """How soon to ask again: a lease that is to be renewed does not wait for its end."""
        soon_s = min((self._settings.sync_s, *(
            lease_ms * RENEW_AT / 1000 for lease_ms in self._leases.values())))
        return self._looked_s + soon_s - trio.current_time()

    async def _carry(self, instance: Instance) -> None:
        await instance.run()
        await trio.to_thread.run_sync(remove_tree, instance.folder)
        if self.instances.get(instance.assigned.instance_id) is instance:
            del self.instances[instance.assigned.instance_id]
        self._wake.set()        # it may be wanted again meanwhile

    async def sync(self, nursery: trio.Nursery) -> None:
        """Ask once, and do what the answer says. To ask is a sign of life, so where the node is
        another agent's it asks nothing, and ends what it has: that is nobody's any more."""
        if not await self._ours():
            self._apply({}, shim.boot_ms(), nursery)
            return
        sent_ms = shim.boot_ms()
        path = f"v1/assignments?nodeId={quote(self._settings.node_id, safe='')}"
        try:
            answer = await self._http.call("GET", path)
            wanted, revision = self._read(answer.body) if answer.ok else (None, "")
        except CallFailed as error:
            self._say(f"the assignments cannot be had: {error}")
            if error.refused:
                self._renew_away(sent_ms)
            return
        except msgspec.DecodeError as error:
            self._say(f"the assignments cannot be read: {error}")
            return
        self._say("" if wanted is not None else
                  f"the assignments cannot be had: {answer.problem}")
        if wanted is None or self._beats.taken.is_set():
            return
        self._answered_ms = sent_ms
        self._apply(wanted, sent_ms, nursery)
        self._revision = revision

    async def _ours(self) -> bool:
        """Whether the node is this agent's: before it knows, it waits for the answer to a beat."""
        with trio.move_on_after(FIRST_BEAT_S):
            await self._beats.answered.wait()
        return not self._beats.taken.is_set()

    def _read(self, body: bytes) -> tuple[dict[str, Assigned], str]:
        """What is wanted, by the ids, and its revision. An item that this agent does not understand
        spoils no other, and what runs of it stays as it is.  Raises msgspec.DecodeError."""
        found: dict[str, Assigned] = {}
        said = _DECODE(body)
        for raw in said.items:
            try:
                one = msgspec.json.decode(raw, type=Assigned)
            except msgspec.ValidationError as error:
                instance_id = msgspec.json.decode(raw, type=Named).instance_id
                log.warning("an assignment is not understood", extra={
                    "instance_id": instance_id, "reason": str(error)})
                if instance_id in self.instances:
                    found[instance_id] = self.instances[instance_id].assigned
            else:
                found[one.instance_id] = one
        return found, said.revision

    def _apply(self, wanted: dict[str, Assigned], sent_ms: int, nursery: trio.Nursery) -> None:
        """Want what is listed, and nothing else."""
        self._leases = {one.instance_id: one.fence.lease_ms for one in wanted.values()
                        if one.fence is not None and one.wanted}
        for instance_id, instance in self.instances.items():
            if instance_id not in wanted:
                instance.want(None)
        for instance_id, assigned in wanted.items():
            known = self.instances.get(instance_id)
            if known is None:
                known = self._enter(assigned, nursery)
            if known is None:
                continue
            if assigned.fence is not None and assigned.wanted:
                known.lease_until(sent_ms + assigned.fence.lease_ms)
            known.want(assigned)
            if assigned.wanted and assigned.phase in (None, "Pending", "Lost"):
                known.told_again()

    def _enter(self, assigned: Assigned, nursery: trio.Nursery) -> Instance | None:
        """A new one. None: its directory cannot be made; the next look tries again."""
        folder, kept = self._root / assigned.folder, Kept(assigned)
        try:
            remove_tree(folder)
            write_kept(folder, kept)
        except OSError as error:
            self._say(f"no room for the instance {assigned.instance_id}: {error}")
            return None
        instance = self.instances[assigned.instance_id] = Instance(folder, kept, self._around)
        nursery.start_soon(self._carry, instance)
        return instance

    def _renew_away(self, sent_ms: int) -> None:
        """Nobody listens at the controller's: it is down, not cut off, so it moves nothing yet."""
        for instance in self.instances.values():
            fence = instance.assigned.fence
            if fence is not None and sent_ms <= self._answered_ms + fence.away_ms:
                instance.lease_until(sent_ms + fence.lease_ms)

    async def _listen(self) -> None:
        """Be woken when something changed."""
        url = f"v1/stream?nodeId={quote(self._settings.node_id, safe='')}"
        pause_s = WAKE_AGAIN_S
        while True:
            with trio.CancelScope() as self._listening:
                try:
                    async with self._http.stream(url) as stream:
                        if stream.status == 200:
                            pause_s = WAKE_AGAIN_S
                            async for piece in stream.chunks(LINE_S_MAX):
                                if b"data:" in piece:
                                    self._wake.set()
                except CallFailed as error:
                    log.debug("no wake-ups", extra={"reason": str(error)})
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, WAKE_AGAIN_S_MAX)
            if self._listening.cancelled_caught:
                pause_s = WAKE_AGAIN_S

    def _say(self, what: str) -> None:
        """Log what is new."""
        if what and what != self._said:
            log.warning("%s", what)
        self._said = what


def environment(settings: Settings) -> dict[str, str]:
    """How instances find the controller. One port takes all protocols, so it is named for gRPC."""
    parts = urlsplit(settings.controller)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return {"CONTROLLER_BASE": settings.controller.rstrip("/"),
            "CONTROLLER_GRPC_ADDR": f"{host}:{port}"}
