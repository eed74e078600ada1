"""What a device's states were over time, how long that is kept, and its states as they change."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Final

import msgspec
import trio
from msgspec import Meta

from plumd.api.context import Context, answer
from plumd.api.decode import strict
from plumd.api.openapi import EventStream
from plumd.api.params import query_int, query_text
from plumd.api.routes import Query, Request, Response, Route
from plumd.devices import Devices, Live
from plumd.errors import Invalid
from plumd.store import buckets, devices
from plumd.store.buckets import Keep
from plumd.store.devices import State

POINTS_MAX: Final = 10_000
POINTS_DEFAULT: Final = 300
DAY_MS: Final = 86_400_000
MS_MAX: Final = 1 << 53
KEEPALIVE_S: Final = 15.0
PAUSE_S: Final = 0.05
SSE: Final = "text/event-stream"
ENCODE: Final = msgspec.json.Encoder().encode

Days = Annotated[float, Meta(ge=0, le=36_500)]


class StatePoint(msgspec.Struct, frozen=True, rename="camel"):
    """The values of a stretch of time that begins at `at` (Unix ms)."""

    at: int
    count: int
    min: float
    mean: float
    max: float
    last: float


class StateHistory(msgspec.Struct, frozen=True, rename="camel"):
    """A state over time; stretches without a value are left out."""

    resource_id: str
    state: str
    bucket_sec: int
    points: list[StatePoint]


class KeepGiven(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """How long the minutes and the hours of a state are kept, in days; 0 = they are not."""

    minutes_days: Days = buckets.MINUTES_DAYS
    hours_days: Days = buckets.HOURS_DAYS


class RetentionGiven(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Of states by name; those that are not named are kept as every other."""

    states: Annotated[dict[Annotated[str, Meta(max_length=500)], KeepGiven],
                      Meta(max_length=2_000)]


class RetentionView(msgspec.Struct, frozen=True, rename="camel"):
    """How long states are kept; `others`: those that are not named."""

    resource_id: str
    states: dict[str, Keep]
    others: Keep


class StatesNews(msgspec.Struct, frozen=True, rename="camel"):
    """States that changed, or all of them where a stream begins."""

    resource_id: str
    states: dict[str, State]


class DeviceHistory:
    """The handlers."""

    def __init__(self, context: Context, registry: Devices) -> None:
        self.engine = context.engine
        self.store = context.store
        self.registry = registry

    async def history(self, request: Request) -> Response:
        """Least, mean and greatest of each stretch of time."""
        query = request.query
        device_id, state = query_text(query, "resourceId"), query_text(query, "state")
        to_ms = query_int(query, "to", self.engine.clock.now().wall_ms + 1, low=0, high=MS_MAX)
        from_ms = query_int(query, "from", max(0, to_ms - DAY_MS), low=0, high=MS_MAX)
        if from_ms >= to_ms:
            raise Invalid("from is not before to", field="from")
        width_s = query_int(query, "bucketSec", 0, low=1, high=366 * 86_400)
        if not width_s:
            share_s = -(-(to_ms - from_ms) // (1000 * POINTS_DEFAULT))
            width_s = share_s if share_s <= 30 else -(-share_s // 60) * 60
        if (to_ms - from_ms) // (width_s * 1000) > POINTS_MAX:
            raise Invalid(f"that would be more than {POINTS_MAX} points", field="bucketSec")
        live = self.registry.find(device_id)
        found = await self.store.read(buckets.history, live.row.number, state, from_ms, to_ms,
                                      width_s * 1000)
        return answer(200, StateHistory(live.row.device.device_id, state, width_s, [
            StatePoint(one.at_ms, one.count, one.low, one.total / one.count, one.high, one.last)
            for one in found]))

    async def retention(self, request: Request) -> Response:
        """How long buckets are kept."""
        return self.kept(self.registry.find(request.params["id"], None))

    async def set_retention(self, request: Request) -> Response:
        """Those that are not named are kept as every other."""
        live = self.registry.find(request.params["id"], None)
        body = strict(request.body, RetentionGiven)
        given = {name: Keep(one.minutes_days, one.hours_days)
                 for name, one in body.states.items()}
        await self.engine.write(
            lambda tx: buckets.set_retention(tx, live.row.number, given))
        return self.kept(live)

    def kept(self, live: Live) -> Response:
        """How long a device's buckets are kept."""
        return answer(200, RetentionView(
            live.row.device.device_id, self.store.peek(buckets.retention, live.row.number),
            Keep()))

    async def stream(self, request: Request) -> Response:
        """All states, and then those that change, as they do."""
        live = self.registry.find(request.params["id"], None)
        return Response(200, content_type=SSE, stream=self.states(live))

    async def states(self, live: Live) -> AsyncIterator[bytes]:
        """Frames until the device is removed. A reader that is slow is told the newest values."""
        journal, device_id = self.engine.journal, live.row.device.device_id
        known: dict[str, State] = {}
        seq, first = journal.next_seq, True
        quiet_at = trio.current_time() + KEEPALIVE_S
        while not live.gone:
            newest = self.store.peek(devices.latest, live.row.number)
            changed = {name: state for name, state in newest.items() if known.get(name) != state}
            if changed or first:
                yield b"event: states\ndata: %b\n\n" % ENCODE(StatesNews(device_id, changed))
                known, first = newest, False
                quiet_at = trio.current_time() + KEEPALIVE_S
            if not await self._news(device_id, seq, quiet_at):
                yield b": still here\n\n"
                quiet_at = trio.current_time() + KEEPALIVE_S
            await trio.sleep(PAUSE_S)       # what comes meanwhile shares the next look
            journal = self.engine.journal
            seq = journal.next_seq
        yield b"event: gone\ndata: {}\n\n"

    async def _news(self, device_id: str, seq: int, until: float) -> bool:
        """Wait for an event of this device from seq on; False when the time is over."""
        with trio.move_on_at(until):
            while True:
                journal = self.engine.journal
                await journal.wait_beyond(seq)
                records = journal.since(seq)
                if records is None:
                    return True         # it is far behind: look
                for record in records:
                    for index, event in enumerate(record.items):
                        if (record.first_seq + index >= seq and event[0] == "resource"
                                and event[1] == device_id):
                            return True
                seq = max(seq, journal.next_seq)
        return False


def routes(handlers: DeviceHistory) -> list[Route]:
    """The table's part about states over time."""
    base, tag, read = "/v1/resources", "devices", "devices:read"
    return [
        Route("GET", f"{base}/history", handlers.history,
              "A state over time: min, mean and max of each stretch", tag, read,
              answers={200: StateHistory},
              query=(Query("resourceId", str, "The device", required=True),
                     Query("state", str, "Which state", required=True),
                     Query("from", int, "Unix ms; default a day before `to`"),
                     Query("to", int, "Unix ms; default now"),
                     Query("bucketSec", int, "How long a stretch is; default so that there are at "
                           f"most about {POINTS_DEFAULT}"))),
        Route("GET", base + "/{id}/retention", handlers.retention,
              "How long a device's history is kept", tag, read, answers={200: RetentionView}),
        Route("PUT", base + "/{id}/retention", handlers.set_retention,
              "Say how long a device's history is kept", tag, "devices:write",
              body=RetentionGiven, answers={200: RetentionView}),
        Route("GET", base + "/{id}/stream", handlers.stream,
              "A device's states as they change (SSE)", tag, read, answers={200: EventStream}),
    ]
