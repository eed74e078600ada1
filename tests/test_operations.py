"""Operations on their way: who gets them, who is told what, and that nobody waits for another.

Time is virtual, so that five seconds of silence take none.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from plumd import operations as module
from plumd.devices import Devices, Live
from plumd.engine import Engine
from plumd.errors import (
    DeviceRefused,
    DeviceTimeout,
    DeviceUnreachable,
    Invalid,
    NotFound,
    PlumError,
    SessionReplaced,
    TooMany,
)
from plumd.executors.outgoing import Answer, Client, Headers
from plumd.executors.targets import CallFailed
from plumd.leases import Leases
from plumd.model import Limits
from plumd.operations import Operation, Operations, Order, check
from plumd.outbox import Outbox
from plumd.planner import Planner
from plumd.store import events
from plumd.store.definitions import Catalog
from plumd.store.devices import Device, OpDesc
from plumd.store.events import Event
from plumd.store.store import Store
from tests.test_expiry import TrioClock

ON = [Operation("power", "on")]


class Away(Client):
    """Calls that end as a test says, or never."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, bytes]] = []
        self.answers: dict[str, Answer | CallFailed] = {}

    async def post(self, url: str, body: bytes, headers: Headers = ()) -> Answer:
        del headers
        self.calls.append((url, body))
        answer = self.answers.get(url)
        if answer is None:
            await trio.sleep_forever()
        if isinstance(answer, CallFailed):
            raise answer
        assert answer is not None
        return answer


class Plant:
    """Devices and who asks them."""

    def __init__(self, path: Path) -> None:
        self.store = Store(path / "plum.db", log_bytes=0)
        self.store.threads = False      # a virtual clock would run away while a thread works
        self.engine = Engine(self.store, TrioClock(), Outbox(self.store),
                             Planner(Catalog(self.store)), Limits(), seed=1)
        self.devices = Devices(self.store, TrioClock(), self.engine.write)
        self.devices.load()
        self.client = Away()
        self.numbers = iter(range(1, 1000))
        self.leases = Leases(self.store, TrioClock(), self.engine.write)
        self.operations = Operations(self.devices, self.client, lambda: str(next(self.numbers)),
                                     self.leases)

    async def poller(self, name: str = "d", beat_ms: int = 5_000) -> Live:
        """A device that fetches its operations."""
        return await self.devices.register(Device(name, "n", "t", "", True, beat_ms))

    async def called(self, url: str, name: str = "c") -> Live:
        """A device that is called."""
        return await self.devices.register(Device(name, "n", "t", url, False, 5_000))

    def events(self) -> list[Event]:
        """Of devices, in order."""
        found = self.store.peek(events.since, 1, 10_000)
        return [event for record in found for event in record.items if event[0] == "resource"]

    def words(self, name: str = "d") -> list[str]:
        """What was told of a device."""
        return [str(event[2]) for event in self.events() if event[1] == name]


@asynccontextmanager
async def opened(path: Path, clock: MockClock) -> AsyncIterator[Plant]:
    """A plant that runs, in virtual time."""
    assert clock.autojump_threshold == 0
    plant = Plant(path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(plant.engine.run)
        nursery.start_soon(plant.devices.run)
        yield plant
        nursery.cancel_scope.cancel()
    plant.store.close()


async def caught(plant: Plant, name: str, into: list[PlumError | None]) -> None:
    """Ask and note how it ended."""
    try:
        await plant.operations.operate(name, ON)
    except PlumError as error:
        into.append(error)
    else:
        into.append(None)


async def fetch(plant: Plant, live: Live, session: str, wait_s: float) -> list[Order]:
    plant.operations.enter(live, session)
    return list(await plant.operations.fetch(live, session, wait_s))


# ---------------------------------------------------------------- by poll

async def test_an_operation_is_fetched_and_answered(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with opened(tmp_path, autojump_clock) as plant, trio.open_nursery() as nursery:
        live = await plant.poller()
        ends: list[PlumError | None] = []
        nursery.start_soon(caught, plant, "d", ends)
        [order] = await fetch(plant, live, "s", 30)
        assert order.operations == ON
        assert await fetch(plant, live, "s", 0) == [], "it goes out once"
        plant.operations.answered(live, order.order_id, 200, "")
        plant.operations.answered(live, order.order_id, 500, "too late")
        plant.operations.answered(live, "no such order", 200, "")
        await trio.testing.wait_all_tasks_blocked()
        assert ends == [None]


async def test_a_device_that_says_no(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with opened(tmp_path, autojump_clock) as plant, trio.open_nursery() as nursery:
        live = await plant.poller()
        ends: list[PlumError | None] = []
        nursery.start_soon(caught, plant, "d", ends)
        [order] = await fetch(plant, live, "s", 30)
        plant.operations.answered(live, order.order_id, 418, "a teapot")
        await trio.testing.wait_all_tasks_blocked()
        [end] = ends
        assert isinstance(end, DeviceRefused)
        assert end.more == {
            "deviceStatus": 418, "deviceBody": "a teapot", "reason": {
                "code": "device_answered", "values": {"status": 418, "said": ": a teapot"}}}


async def test_who_does_not_poll_or_answer_is_given_up(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with opened(tmp_path, autojump_clock) as plant, trio.open_nursery() as nursery:
        live = await plant.poller()
        begun = trio.current_time()
        with pytest.raises(DeviceTimeout, match="did not ask"):
            await plant.operations.operate("d", ON)
        assert trio.current_time() - begun == pytest.approx(5)
        assert await fetch(plant, live, "s", 0) == [], "nobody waits for it any more"
        ends: list[PlumError | None] = []
        nursery.start_soon(caught, plant, "d", ends)
        await trio.sleep(4)
        [order] = await fetch(plant, live, "s", 0)
        await trio.sleep(4)
        assert ends == [], "five seconds from when it was fetched"
        await trio.sleep(2)
        assert isinstance(ends[0], DeviceTimeout)
        assert ends[0].more["reason"] == {"code": "device_silent", "values": {"seconds": 5}}
        plant.operations.answered(live, order.order_id, 200, "")


async def test_a_caller_who_leaves_takes_its_operation_along(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with opened(tmp_path, autojump_clock) as plant:
        live = await plant.poller()
        with trio.move_on_after(1):
            await plant.operations.operate("d", ON)
        assert await fetch(plant, live, "s", 0) == []


async def test_waiting_ends_when_its_time_is_over(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with opened(tmp_path, autojump_clock) as plant:
        live = await plant.poller()
        begun = trio.current_time()
        assert await fetch(plant, live, "s", 30) == []
        assert trio.current_time() - begun == pytest.approx(30)


async def test_another_session_takes_over(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with opened(tmp_path, autojump_clock) as plant, trio.open_nursery() as nursery:
        live = await plant.poller()
        ended: list[str] = []

        async def old() -> None:
            with pytest.raises(SessionReplaced):
                await fetch(plant, live, "old", 60)
            ended.append("old")

        nursery.start_soon(old)
        await trio.testing.wait_all_tasks_blocked()
        ends: list[PlumError | None] = []
        new = await fetch(plant, live, "new", 0)
        await trio.testing.wait_all_tasks_blocked()
        assert (new, ended) == ([], ["old"])
        with pytest.raises(SessionReplaced):
            await fetch(plant, live, "old", 0)
        nursery.start_soon(caught, plant, "d", ends)
        [order] = await fetch(plant, live, "new", 30)
        plant.operations.answered(live, order.order_id, 200, "")
        await trio.sleep(15.1)
        assert await fetch(plant, live, "old", 0) == [], "the newer one fell silent"
        assert ends == [None]


async def test_a_session_that_asks_anew_is_not_turned_away(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    """Its first request may hang on a line that is dead; the second one gets the operation."""
    async with opened(tmp_path, autojump_clock) as plant, trio.open_nursery() as nursery:
        live = await plant.poller()
        first: list[list[Order]] = []

        async def lost() -> None:
            first.append(await fetch(plant, live, "s", 60))

        nursery.start_soon(lost)
        await trio.testing.wait_all_tasks_blocked()
        ends: list[PlumError | None] = []

        async def second() -> None:
            [order] = await fetch(plant, live, "s", 60)
            plant.operations.answered(live, order.order_id, 200, "")

        nursery.start_soon(second)
        await trio.testing.wait_all_tasks_blocked()
        assert first == [[]]
        await caught(plant, "d", ends)
        assert ends == [None]


async def test_a_device_has_its_bound(
        tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ORDERS_MAX", 2)
    monkeypatch.setattr(module, "CALLS_MAX", 2)
    async with opened(tmp_path, autojump_clock) as plant, trio.open_nursery() as nursery:
        await plant.poller()
        await plant.called("http://10.0.0.1/op")
        ends: list[PlumError | None] = []
        for name in ("d", "c"):
            for _ in range(2):
                nursery.start_soon(caught, plant, name, ends)
        await trio.testing.wait_all_tasks_blocked()
        for name in ("d", "c"):
            with pytest.raises(TooMany):
                await plant.operations.operate(name, ON)
        await trio.sleep(6)
        assert len(ends) == 4
        await plant.poller("other")


async def test_a_removed_device_ends_what_waits_for_it(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with opened(tmp_path, autojump_clock) as plant, trio.open_nursery() as nursery:
        live = await plant.poller()
        ends: list[PlumError | None] = []
        gone: list[bool] = []

        async def poll() -> None:
            with pytest.raises(NotFound):
                await fetch(plant, live, "s", 60)
            gone.append(True)

        nursery.start_soon(poll)
        await trio.testing.wait_all_tasks_blocked()
        await plant.devices.remove("d")
        await trio.testing.wait_all_tasks_blocked()
        assert gone == [True]
        live = await plant.poller()
        nursery.start_soon(caught, plant, "d", ends)
        await trio.testing.wait_all_tasks_blocked()
        await plant.devices.remove("d")
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(ends[0], NotFound)
        with pytest.raises(NotFound):
            await plant.operations.operate("d", ON)


async def test_leaving_answers_who_waits(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with opened(tmp_path, autojump_clock) as plant, trio.open_nursery() as nursery:
        live = await plant.poller()
        found: list[list[Order]] = []

        async def poll() -> None:
            found.append(await fetch(plant, live, "s", 60))

        nursery.start_soon(poll)
        await trio.testing.wait_all_tasks_blocked()
        begun = trio.current_time()
        plant.operations.drain()
        await trio.testing.wait_all_tasks_blocked()
        assert found == [[]]
        assert await fetch(plant, live, "s", 60) == []
        assert trio.current_time() == begun


# ---------------------------------------------------------------- by call

async def test_a_call_and_its_ends(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with opened(tmp_path, autojump_clock) as plant:
        url = "http://10.0.0.1:9/op"
        await plant.called(url)
        plant.client.answers[url] = Answer(200, "OK", {}, b"")
        await plant.operations.operate("c", [Operation("set", "1"), Operation("ü", "")])
        assert plant.client.calls == [(url, '{"operations":[{"name":"set","value":"1"},'
                                       '{"name":"ü","value":""}]}'.encode())]
        plant.client.answers[url] = Answer(500, "No", {}, b"broken \xff" + b"x" * 100_000)
        with pytest.raises(DeviceRefused) as refused:
            await plant.operations.operate("c", ON)
        assert refused.value.more["deviceStatus"] == 500
        body = str(refused.value.more["deviceBody"])
        assert body.startswith("broken \ufffdxxx")
        assert len(body) == 64 << 10
        assert len(refused.value.detail) < 600
        plant.client.answers[url] = CallFailed("unreachable", "nobody listens")
        with pytest.raises(DeviceUnreachable, match="nobody listens"):
            await plant.operations.operate("c", ON)
        del plant.client.answers[url]
        begun = trio.current_time()
        with pytest.raises(DeviceUnreachable, match="within 5 s"):
            await plant.operations.operate("c", ON)
        assert trio.current_time() - begun == pytest.approx(5)


async def test_a_slow_device_delays_no_other(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with opened(tmp_path, autojump_clock) as plant, trio.open_nursery() as nursery:
        await plant.called("http://10.0.0.1/slow", "slow")
        await plant.called("http://10.0.0.1/quick", "quick")
        plant.client.answers["http://10.0.0.1/quick"] = Answer(200, "OK", {}, b"")
        ends: list[PlumError | None] = []
        for _ in range(16):
            nursery.start_soon(caught, plant, "slow", ends)
        await trio.testing.wait_all_tasks_blocked()
        begun = trio.current_time()
        await plant.operations.operate("quick", ON)
        assert trio.current_time() == begun
        assert ends == []


# ---------------------------------------------------------------- health and states

async def test_health_by_beats_and_by_waiting(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with opened(tmp_path, autojump_clock) as plant:
        live = await plant.poller(beat_ms=2_000)

        def healthy() -> bool:
            return plant.devices.seen(live).healthy

        await trio.sleep(5.9)
        assert healthy()
        await trio.sleep(0.2)
        assert not healthy()
        await trio.testing.wait_all_tasks_blocked()
        assert plant.words() == ["registered", "offline"]
        plant.devices.renew(live)
        await trio.testing.wait_all_tasks_blocked()
        assert healthy()
        assert plant.words() == ["registered", "offline", "online"]
        await fetch(plant, live, "s", 60)       # ten times as long as it is believed without
        assert healthy()
        assert plant.words() == ["registered", "offline", "online"]
        await trio.sleep(6.1)
        assert plant.words()[3:] == ["offline"]


async def test_beats_write_nothing(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with opened(tmp_path, autojump_clock) as plant:
        live = await plant.poller()
        commits = plant.store.commits
        for _ in range(100):
            await trio.sleep(5)
            plant.devices.renew(live)
        await plant.poller()        # says nothing new
        assert plant.store.commits == commits


async def test_states_that_change_all_the_time_are_told_some_times_a_second(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with opened(tmp_path, autojump_clock) as plant:
        live = await plant.poller()
        for number in range(1_000):
            await plant.devices.report(live, {"n": str(number)}, None)
            await trio.sleep(0.001)
        reports = plant.words().count("state")
        assert 3 <= reports <= 10
        last = plant.engine.journal.next_seq
        await trio.sleep(1)
        assert plant.words().count("state") <= reports + 1
        assert plant.engine.journal.next_seq <= last + 1, "and then it is quiet"
        await plant.devices.report(live, {"n": "999"}, None)
        assert plant.words().count("state") <= reports + 1, "nothing changed"


async def test_after_a_restart_each_device_has_its_time_anew(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with opened(tmp_path, autojump_clock) as plant:
        await plant.poller()
    await trio.sleep(3_600)
    async with opened(tmp_path, autojump_clock) as plant:
        live = plant.devices.find("d")
        assert plant.devices.seen(live).healthy
        assert plant.devices.seen(live).seen_ms == 0
        await trio.sleep(15.1)
        assert not plant.devices.seen(live).healthy
        assert plant.words()[-1] == "offline"


# ---------------------------------------------------------------- what a device takes

POWER = OpDesc("power", "int", "", "kW", "-10", "10.5")


@pytest.mark.parametrize(("desc", "value", "fits"), [
    (POWER, "10", True), (POWER, "-10", True), (POWER, "11", False), (POWER, "-11", False),
    (POWER, "1.5", False), (POWER, "", False), (OpDesc("p", "Integer", max="3"), "4", False),
    (OpDesc("p", "double", min="0"), "nan", False), (OpDesc("p", "double", min="0"), "-0.1", False),
    (OpDesc("p", "double"), "inf", True), (OpDesc("p", "float", max="1e3"), "0x1p4", True),
    (OpDesc("p", "double", min="low", max=""), "5", True),
    (OpDesc("p", "bool"), "true", True), (OpDesc("p", "bool"), "on", False),
    (OpDesc("p", "string", min="5"), "x", True), (OpDesc("p", "enum"), "anything", True),
    (OpDesc("p", ""), "x", True), (OpDesc("p", "of its own"), "x", True),
])
def test_values_by_their_description(desc: OpDesc, value: str, fits: bool) -> None:
    if fits:
        check([desc], [Operation(desc.name, value)])
        return
    with pytest.raises(Invalid) as refused:
        check([desc], [Operation(desc.name, value)])
    assert refused.value.field == "operations[0].value"


def test_operations_that_a_device_does_not_have() -> None:
    with pytest.raises(Invalid) as refused:
        check([POWER], [Operation("power", "1"), Operation("explode", "1")])
    assert refused.value.field == "operations[1].name"
    check([], [Operation("explode", "1")])
