"""The live devices: who is registered and what they reported is the store's, who is well is known
here.

A heartbeat writes nothing. A device is believed to be well for three of its beats after it was
heard of, or while it waits for operations, and after a restart for one fresh time. Its states
change as often as it likes; that they did is told at most some times a second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

import msgspec
import trio

from plumd.clock import Clock
from plumd.errors import NotFound, OutcomeUnknown, PlumError
from plumd.store import devices
from plumd.store.devices import Device, Registered
from plumd.store.store import Store, Tx, Write, Written

BEATS: Final = 3
NEWS_S: Final = 0.25
"""Between two events that say that a device's states changed."""
AGAIN_S: Final = 1.0
LATE_S: Final = 0.001


class Seen(msgspec.Struct, frozen=True):
    """A device and how it is. seen_ms: its last sign of life, 0 = none since our start."""

    row: Registered
    healthy: bool
    seen_ms: int


class Live:
    """What memory knows of a device."""

    def __init__(self, row: Registered, now_ns: int) -> None:
        self.row = row
        self.seen_ms = 0
        self.waiting = 0            # requests of its that wait for operations
        self.told = True            # what the last event said of its health
        self.quiet_ns = 0           # until then no event says that its states changed
        self.untold = False         # they changed again since the last one
        self.doubtful = False       # the last ones may be on disk, and nobody was told of them
        self.gone = False
        self.expires_ns = now_ns + self.ttl_ns

    @property
    def ttl_ns(self) -> int:
        """How long it is believed to be well without a word."""
        return BEATS * self.row.device.beat_ms * 1_000_000

    def healthy(self, now_ns: int) -> bool:
        """Whether it is believed to be well."""
        return self.waiting > 0 or now_ns < self.expires_ns


class Devices:
    """All devices. `load` first; `run` in a nursery of the daemon's."""

    def __init__(self, store: Store, clock: Clock, write: Write) -> None:
        self.store = store
        self.clock = clock
        self._write = write
        self._live: dict[str, Live] = {}
        self._stirred = True
        self._due_ns: int | None = None
        self._wake = trio.Event()
        self._untold: list[Live] = []
        self._changed = trio.Event()
        self.dropped: Callable[[Live], None] | None = None
        """Told of each device that was removed."""
        self.forgotten: Callable[[Live], None] = nobody_cares
        """Told the same."""
        self.reported: Callable[[Live, Mapping[str, str]], None] = nobody_listens
        """Told of states once they are on disk, in the order in which they are there."""

    def load(self) -> None:
        """Read what is registered."""
        now_ns = self.clock.now().mono_ns
        for row in self.store.peek(devices.every):
            self._live[row.device.device_id] = Live(row, now_ns)

    # ------------------------------------------------------------ from devices

    async def register(self, device: Device) -> Live:
        """Add a device, or change it: the last registration counts.

        One that says nothing new only shows that the device is alive.
        Raises: TooMany, and as Engine.write.
        """
        known = self._live.get(device.device_id)
        if known is None or known.row.device != device:
            await self._change(device.device_id, lambda tx: devices.register(tx, device))
        live = self.find(device.device_id)
        self.renew(live)
        return live

    async def remove(self, device_id: str) -> None:
        """Forget a device. Raises: NotFound, and as Engine.write."""
        await self._change(device_id, lambda tx: devices.remove(tx, device_id))

    async def _change(self, device_id: str, fn: Callable[[Tx], None]) -> None:
        # Whoever asked may be gone before the commit; memory must follow it all the same.
        with trio.CancelScope(shield=True):
            try:
                await self._write(fn)
            finally:
                self._read_back(device_id)

    def _read_back(self, device_id: str) -> None:
        row = self.store.peek(devices.get, device_id)
        live = self._live.get(device_id)
        if live is not None and (row is None or row.number != live.row.number):
            del self._live[device_id]
            live.gone = True
            if self.dropped is not None:
                self.dropped(live)
            self.forgotten(live)
            live = None
        if row is not None and live is not None:
            live.row = row
        elif row is not None:
            self._live[device_id] = Live(row, self.clock.now().mono_ns)
        self._stir()        # there may be a nearer deadline now

    def find(self, device_id: str, field: str | None = "resourceId") -> Live:
        """A device that is registered. field: where its id stands, None = in the path.

        Raises: NotFound.
        """
        live = self._live.get(device_id)
        if live is None:
            raise NotFound("no such device; register it first", field=field)
        return live

    def renew(self, live: Live) -> None:
        """It was heard of. Writes nothing."""
        now = self.clock.now()
        live.expires_ns, live.seen_ms = now.mono_ns + live.ttl_ns, now.wall_ms
        if not live.told:
            self._stir()

    async def report(self, live: Live, states: Mapping[str, str], at_ms: int | None) -> None:
        """Its states; on disk when this returns. at_ms: when, by its own clock; None = now.

        Raises: NotFound, Invalid, and as Engine.write.
        """
        self.renew(live)
        now = self.clock.now()
        told = now.mono_ns >= live.quiet_ns
        if told:
            live.quiet_ns = now.mono_ns + round(NEWS_S * 1e9)
        when_ms = now.wall_ms if at_ms is None else at_ms

        def then(done: Written) -> None:
            if done.error is None:
                self.reported(live, states)
            live.doubtful |= isinstance(done.error, OutcomeUnknown)
            if (live.doubtful or (done.value and not told)) and not live.untold:
                live.untold = True
                self._untold.append(live)
                self._changed.set()

        await self._write(lambda tx: devices.report(tx, live.row, states, when_ms, told=told),
                          then=then)

    # ------------------------------------------------------------ in the background

    def _stir(self) -> None:
        self._stirred = True
        self._wake.set()

    async def run(self) -> None:
        """Tell of health and of states that changed. Sleeps until there is something to tell."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_news)
            await self._run_health()

    async def _run_news(self) -> None:
        """What changed within a short while is told in one commit."""
        while True:
            if not self._untold:
                self._changed = trio.Event()
                await self._changed.wait()
            await trio.sleep(NEWS_S)
            news, self._untold = self._untold, []
            try:
                await self._write(partial(self._tell_of,
                                          news=[(live, "state") for live in news]))
            except PlumError:
                self._untold += news        # the disk is down; again a little later
                continue
            quiet_ns = self.clock.now().mono_ns + round(NEWS_S * 1e9)
            for live in news:
                live.untold, live.quiet_ns = False, quiet_ns
                if live.doubtful:
                    live.doubtful = False
                    newest = self.store.peek(devices.latest, live.row.number)
                    self.reported(live, {name: state.value for name, state in newest.items()})

    async def _run_health(self) -> None:
        while True:
            self._wake = trio.Event()
            due_ns = await self._tell()
            if due_ns is None:
                await self._wake.wait()
                continue
            left_s = (due_ns - self.clock.now().mono_ns) / 1e9
            with trio.move_on_after(max(left_s, 0) + LATE_S) as waiting:
                await self._wake.wait()
            self._stirred = self._stirred or waiting.cancelled_caught

    async def _tell(self) -> int | None:
        """Events for what changed; answers when to look again, mono ns, or None."""
        if not self._stirred:
            return self._due_ns     # renewals only make it later, and that is seen when it comes
        self._stirred = False
        now_ns = self.clock.now().mono_ns
        healths = [(live, live.healthy(now_ns)) for live in self._live.values()
                   if live.healthy(now_ns) != live.told]
        if healths:
            try:
                await self._write(lambda tx: self._tell_of(tx, [
                    (live, "online" if healthy else "offline") for live, healthy in healths]))
            except PlumError:
                self._stirred = True        # the disk is down; again a little later
                return now_ns + round(AGAIN_S * 1e9)
            for live, healthy in healths:
                live.told = healthy
        self._due_ns = min((live.expires_ns for live in self._live.values()
                            if live.told and not live.waiting), default=None)
        return self._due_ns

    def _tell_of(self, tx: Tx, news: Sequence[tuple[Live, str]]) -> None:
        for live, what in news:
            if not live.gone:
                devices.tell(tx, live.row.device.device_id, what)

    def settle(self, live: Live) -> None:
        """It does not wait any more: from now on its time runs."""
        self.renew(live)
        if self._due_ns is None or live.expires_ns < self._due_ns:
            self._stir()

    # ------------------------------------------------------------ questions

    def every(self, node_id: str = "", kind: str = "") -> list[Seen]:
        """Devices, by id; of a node, of a type if one is named."""
        return [self.seen(live) for _, live in sorted(self._live.items())
                if node_id in ("", live.row.device.node_id) and kind in ("", live.row.device.type)]

    def seen(self, live: Live) -> Seen:
        """How a device is now."""
        return Seen(live.row, live.healthy(self.clock.now().mono_ns), live.seen_ms)


def nobody_cares(live: Live) -> None:
    """Where no alarms are."""
    del live


def nobody_listens(live: Live, states: Mapping[str, str]) -> None:
    """Where no alarms are."""
    del live, states
