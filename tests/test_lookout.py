"""The lookout, and how the daemon lets it look: what it says, and what becomes of it."""

from __future__ import annotations

import ipaddress
import os
import signal
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path

import msgspec
import psutil
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from plumd import companion
from plumd.balance import Endpoint, Key
from plumd.clock import SystemClock
from plumd.executors.targets import Policy
from plumd.health import HOLD_TTLS, LINE_MAX, LOOKOUT, NOBODY, SILENT_S, START_S, Health, Vouch
from plumd.lookout import (
    BEATS,
    CHECK_S,
    EARLY_S,
    SICK_MAX,
    WELL_MAX,
    WHY_CHARS_MAX,
    Check,
    Lines,
    Lookout,
    Orders,
    Said,
    Terms,
    Watch,
    line_of,
    make_way,
)
from tests.executors.farside import Call, answer, certified, far_side, refusing_port, replying
from tests.executors.test_grpc_calls import serving
from tests.test_services import TrioClock

PATIENCE_S = 30.0
TTL_S = 15.0
EVERY_S = TTL_S / 3
SOON_S = 0.1
"""After so long, in virtual time, looks that were due have been made, and told."""


def asking(port: int, kind: str = "http", ip: str = "127.0.0.1", name: str = "i") -> Endpoint:
    """An endpoint that is looked at like this."""
    return Endpoint("s", name, ip, port, "http", labels={"healthCheck": kind})


async def hangs(_: Endpoint) -> str:
    """A look that is given up."""
    await trio.sleep_forever()
    raise AssertionError("nobody wakes it")


class Book:
    """Endpoints, and what is told of them."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self.endpoints = list(endpoints)
        self.found: dict[Key, list[str]] = {one.key: [] for one in self.endpoints}
        self.vouch: dict[Key, Vouch] = {}
        self.news = trio.Event()
        self.revived = 0

    def judge(self, endpoint: Endpoint, why: str, vouch: Vouch) -> None:
        """As the registry does it."""
        self.found[endpoint.key].append(why)
        self.vouch[endpoint.key] = vouch
        self.news.set()
        self.news = trio.Event()

    def revive(self) -> None:
        """As the registry does it."""
        self.revived += 1

    async def wait(self, count: int = 1, patience_s: float = PATIENCE_S) -> None:
        """Until so much was told of each."""
        with trio.fail_after(patience_s):
            while any(len(found) < count for found in self.found.values()):
                await self.news.wait()

    def health(self, clock: SystemClock | TrioClock) -> Health:
        """Somebody who has all of them looked at once."""
        health = Health(clock, round(TTL_S * 1e9), self.judge, self.revive)
        for one in self.endpoints:
            health.look(one, well=True)
        return health


@asynccontextmanager
async def looking(health: Health, check: Check) -> AsyncIterator[None]:
    """A lookout that looks like this, inside our own process."""
    ours, theirs = trio.testing.memory_stream_pair()
    lines = Lines(theirs)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(health.talk, ours, Policy())
        terms = msgspec.json.decode(await anext(lines), type=Terms)
        nursery.start_soon(Lookout(check, terms.every_s).serve, lines, theirs)
        yield
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def program(book: Book, policy: Policy | None = None) -> AsyncIterator[Health]:
    """The real one, kept by Health."""
    health = book.health(SystemClock())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(health.run, policy or Policy())
        yield health
        nursery.cancel_scope.cancel()
    assert lookouts() == [], "it is gone"


def lookouts() -> list[psutil.Process]:
    """Ours that run."""
    return [one for one in psutil.Process().children() if "plumd.lookout" in one.cmdline()]


# ---------------------------------------------------------------- what it says


@given(st.lists(st.binary().map(lambda data: data.replace(b"\n", b""))), st.integers(1, 50))
def test_lines_are_whole_however_they_come(lines: list[bytes], size: int) -> None:
    async def read() -> None:
        ours, theirs = trio.testing.memory_stream_one_way_pair()
        data = b"".join(line + b"\n" for line in lines) + b"no line yet"
        for at in range(0, len(data), size):
            await ours.send_all(data[at:at + size])
        await ours.aclose()
        assert [line async for line in Lines(theirs)] == lines

    trio.run(read)


def test_where_calls_may_go_is_said_whole() -> None:
    policy = Policy(tuple(map(ipaddress.ip_network, ("10.0.0.0/8", "fd00::/8"))),
                    frozenset({("0.0.0.0", 80), ("::1", 81)}))
    assert Terms.by(policy, 5, 0).policy == policy


async def test_all_kinds_of_looks_by_the_real_program() -> None:
    with serving() as grpc:
        async with far_side(replying(200)) as well, far_side(replying(503)) as sick:
            refusing = await refusing_port()
            well_ones = (asking(well.port), asking(well.port, "tcp", name="t"),
                         asking(grpc, "grpc"), asking(well.port, ip="localhost"))
            bad = ((asking(sick.port), "503"), (asking(refusing, "tcp"), "refused"),
                   (asking(80, ip="169.254.169.254"), "metadata"),
                   (asking(well.port, ip="nobody.invalid"), "cannot be resolved"),
                   (asking(1234), "this daemon's own"))
            every = Book((*well_ones, *(one for one, _ in bad)))
            async with program(every, Policy(listeners=frozenset({("0.0.0.0", 1234)}))):
                await every.wait()
    for one in well_ones:
        assert every.found[one.key] == [""]
    for one, why in bad:
        assert every.found[one.key] != [""]
        assert why in every.found[one.key][0].replace("Refused", "refused")


async def test_tls_is_looked_at_by_the_certificates_that_the_daemon_trusts(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cert, key = certified(tmp_path)
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served.load_cert_chain(cert, key)

    async def serve(stream: trio.SocketStream) -> None:
        secured = trio.SSLStream(stream, served, server_side=True, https_compatible=True)
        with suppress(trio.BrokenResourceError):
            await secured.receive_some()
            await secured.send_all(answer(204))

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        one = asking(listeners[0].socket.getsockname()[1], "https")
        for trusted, why in ((False, "certificate"), (True, "")):
            if trusted:
                monkeypatch.setenv("SSL_CERT_FILE", str(cert))
            book = Book((one,))
            async with program(book):
                await book.wait()
            assert why in book.found[one.key][0]
            assert bool(book.found[one.key][0]) is not trusted
        nursery.cancel_scope.cancel()


async def test_networks_bound_its_looks() -> None:
    async with far_side(replying(200)) as side:
        book = Book((asking(side.port),))
        async with program(book, Policy((ipaddress.ip_network("10.0.0.0/8"),))):
            await book.wait()
        assert "outside outgoing_networks" in book.found[asking(side.port).key][0]
        assert side.connections == 0


# ---------------------------------------------------------------- what becomes of it


async def test_it_is_started_when_there_is_somebody_to_look_at() -> None:
    async with far_side(replying(200)) as side, trio.open_nursery() as nursery:
        one, gone = asking(side.port), asking(side.port, name="gone")
        book = Book([one])
        health = Health(SystemClock(), round(TTL_S * 1e9), book.judge, book.revive)
        nursery.start_soon(health.run, Policy())
        health.look(gone, well=True)
        health.leave(gone.key)
        await trio.testing.wait_all_tasks_blocked()
        assert lookouts() == []
        health.look(one, well=True)
        await book.wait()
        assert len(lookouts()) == 1
        nursery.cancel_scope.cancel()
    assert lookouts() == []


async def test_one_that_is_killed_has_a_successor_who_looks_again() -> None:
    killed = trio.Event()

    async def behave(stream: trio.SocketStream, call: Call) -> bool:
        if not killed.is_set():
            await killed.wait()
            return False
        return await replying(200)(stream, call)

    async with far_side(behave) as side:
        book = Book((asking(side.port), asking(side.port, "tcp", name="t")))
        async with program(book):
            await side.asked.wait()
            lookouts()[0].kill()
            killed.set()
            await book.wait()
            assert set(map(tuple, book.found.values())) == {("",)}


async def test_one_that_hangs_is_ended(autojump_clock: MockClock) -> None:
    book = Book([asking(80)])
    health = book.health(TrioClock(autojump_clock))
    ours, theirs = trio.testing.memory_stream_pair()
    await health.talk(ours, Policy())
    assert trio.current_time() == pytest.approx(START_S), "it never said a word"

    begun_s = trio.current_time()
    await theirs.send_all(line_of(Said([], 0)))
    await health.talk(ours, Policy())
    assert trio.current_time() - begun_s == pytest.approx(SILENT_S)

    async def check(_: Endpoint) -> str:
        await trio.sleep(CHECK_S / 2)
        return ""

    async with looking(health, check):
        await book.wait()
        await trio.sleep(10 * SILENT_S)     # nobody is looked at, so there is nothing to say
        health.look(asking(80), well=True)
        await book.wait(2)
        health.watch(asking(80), well=True)
        await book.wait(3)
        await trio.sleep(10 * SILENT_S)     # one is looked at, so there are beats


@pytest.mark.parametrize("ttl_s", [1, 150, 3_600])
async def test_one_that_has_little_to_do_is_not_taken_for_one_that_hangs(
        autojump_clock: MockClock, ttl_s: int) -> None:
    async def check(_: Endpoint) -> str:
        await trio.lowlevel.checkpoint()
        return ""

    book = Book([asking(80)])
    health = Health(TrioClock(autojump_clock), round(ttl_s * 1e9), book.judge, book.revive)
    health.watch(asking(80), well=True)
    async with looking(health, check):
        await book.wait(patience_s=ttl_s)
        await trio.sleep(2 * ttl_s)
        vouch = book.vouch[asking(80).key]
        assert vouch.until_ns / 1e9 >= trio.current_time() + (HOLD_TTLS - 1) * ttl_s


async def test_one_that_ends_early_is_no_error(autojump_clock: MockClock) -> None:
    book = Book([asking(80)])
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.aclose()
    await book.health(TrioClock(autojump_clock)).talk(ours, Policy())


@pytest.mark.parametrize("said", [
    b"no JSON", b"\xff", b'{"found":[[1,"\xff"]],"late_ms":0}', b"{}", b"[1]", b"[" * 100_000,
    b'{"found":[["1",""]],"late_ms":0}', b'{"found":[],"late_ms":1e999}',
    b'{"found":[],"late_ms":NaN}'])
async def test_one_that_is_not_understood_is_ended(autojump_clock: MockClock, said: bytes) -> None:
    book = Book([asking(80)])
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(said + b"\n")
    await book.health(TrioClock(autojump_clock)).talk(ours, Policy())
    assert trio.current_time() == 0
    assert book.found == {asking(80).key: []}


async def test_each_successor_takes_its_share_of_time_for_longer(
        autojump_clock: MockClock) -> None:
    health = Book([asking(80)]).health(TrioClock(autojump_clock))
    told = []
    for _ in range(9):
        ours, theirs = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(health.talk, ours, Policy())
            told.append(msgspec.json.decode(await anext(Lines(theirs)), type=Terms).idle_after_s)
            await theirs.aclose()
    assert told == [0, 60, 120, 240, 480, 960, 1920, 3600, 3600]


async def test_one_that_has_no_time_behind_everything_else_ends(
        autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, int]] = []
    monkeypatch.setattr(os, "sched_setscheduler", lambda _pid, policy, _param: asked.append(
        (autojump_clock.current_time(), policy)))

    ours, theirs = trio.testing.memory_stream_pair()
    lookout = Lookout(hangs, EVERY_S)
    with trio.CancelScope() as ended:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(make_way, 60.0, lookout, ended)
            nursery.start_soon(lookout.serve, Lines(theirs), theirs)
            await trio.sleep(100)
            await ours.send_all(line_of(Orders([
                Watch(number, asking(80, name=str(number)), again=False, well=True)
                for number in range(1, 10 * WELL_MAX)], [])))
    assert asked == [(60, os.SCHED_IDLE)]
    assert 100 + EVERY_S < trio.current_time() <= 100 + 2 * EVERY_S


async def test_one_that_may_not_give_way_goes_on(
        autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("the filter")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    with trio.CancelScope() as ended:
        await make_way(0, Lookout(hangs, EVERY_S), ended)
        await trio.sleep(10 * EVERY_S)
    assert not ended.cancel_called
    assert "the filter" in caplog.text
    assert autojump_clock.current_time() >= 10 * EVERY_S


async def test_the_real_program_takes_time_that_nobody_else_wants() -> None:
    async with far_side(replying(200)) as side:
        book = Book((asking(side.port),))
        async with program(book) as health:
            await book.wait()
            assert os.sched_getscheduler(lookouts()[0].pid) == os.SCHED_IDLE
            lookouts()[0].kill()
            health.look(asking(side.port), well=True)
            await book.wait(2)
            assert os.sched_getscheduler(lookouts()[0].pid) == os.SCHED_OTHER


async def test_what_nobody_asked_for_is_passed_over(autojump_clock: MockClock) -> None:
    one, left = asking(80), asking(81)
    book = Book([one, left])
    ours, theirs = trio.testing.memory_stream_pair()
    health = book.health(TrioClock(autojump_clock))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(health.talk, ours, Policy())
        lines = Lines(theirs)
        await anext(lines)
        first, second = msgspec.json.decode(await anext(lines), type=Orders).watch
        health.leave(left.key)
        assert msgspec.json.decode(await anext(lines), type=Orders).leave == [second.number]
        await theirs.send_all(line_of(Said([
            (0, ""), (1 << 70, "unknown"), (second.number, "left"), (first.number, ""),
            (first.number, "twice")], 0)))
        await trio.testing.wait_all_tasks_blocked()
        assert book.found == {one.key: [""], left.key: []}
        assert health.asked == 0
        nursery.cancel_scope.cancel()


async def test_what_was_found_of_an_endpoint_is_not_said_of_its_successor(
        autojump_clock: MockClock) -> None:
    """It died while it was looked at, and came again at the same place, or looks otherwise."""
    old, new = asking(80, "http"), asking(80, "tcp")

    async def check(one: Endpoint) -> str:
        if one == old:
            health.look(new, well=True)
        await trio.sleep(1)
        return one.labels["healthCheck"]

    book = Book([old])
    health = book.health(TrioClock(autojump_clock))
    async with looking(health, check):
        await trio.sleep(EVERY_S)
        assert book.found[old.key] == ["tcp"]


async def test_only_news_are_told_and_beats_vouch_for_the_others(
        autojump_clock: MockClock) -> None:
    sick: set[str] = set()
    looks: dict[str, list[float]] = {}

    async def check(one: Endpoint) -> str:
        looks.setdefault(one.instance_id, []).append(trio.current_time())
        await trio.sleep(0.01)
        return "refused" if one.instance_id in sick else ""

    names = [f"i{number}" for number in range(20)]
    book = Book([])
    book.found = {asking(80, name=name).key: [] for name in names}
    clock = TrioClock(autojump_clock)
    health = book.health(clock)
    async with looking(health, check):
        for name in names:
            health.watch(asking(80, name=name), well=True)
        await trio.sleep(EVERY_S + SOON_S)
        assert all(found == [""] for found in book.found.values())
        assert NOBODY not in book.vouch.values()
        begun_s = trio.current_time()
        await trio.sleep(20 * EVERY_S)
        assert all(len(found) == 1 for found in book.found.values()), "nothing is new"
        for at_s in looks.values():
            assert sum(one >= begun_s for one in at_s) == pytest.approx(20, abs=1)
        vouch, = set(book.vouch.values())
        beat_s = trio.current_time() - EVERY_S / BEATS - SOON_S
        assert vouch.until_ns / 1e9 > beat_s + HOLD_TTLS * TTL_S
        assert vouch.seen_ms / 1e3 > beat_s

        sick.add("i3")
        await trio.sleep(EVERY_S + SOON_S)
        assert book.found[asking(80, name="i3").key] == ["", "refused"]
        assert book.vouch[asking(80, name="i3").key] is NOBODY
        sick.clear()
        await trio.sleep(EVERY_S + SOON_S)
        assert book.found[asking(80, name="i3").key] == ["", "refused", ""]
        assert set(book.vouch.values()) == {vouch}

        health.leave(asking(80, name="i4").key)
        before = len(looks["i4"])
        await trio.sleep(5 * EVERY_S)
        assert len(looks["i4"]) == before


async def test_long_orders_are_many_lines_and_nobody_is_left_before_being_watched(
        autojump_clock: MockClock) -> None:
    count = 3 * LINE_MAX + 1
    health = Book(asking(port) for port in range(1, count + 1)).health(TrioClock(autojump_clock))
    ours, theirs = trio.testing.memory_stream_pair()
    watched: set[int] = set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(health.talk, ours, Policy())
        lines = Lines(theirs)
        await anext(lines)
        for port in range(1, count):
            health.leave(asking(port).key)
        while len(watched) != 1 or health.asked != 1:
            orders = msgspec.json.decode(await anext(lines), type=Orders)
            assert len(orders.watch) <= LINE_MAX
            watched.update(one.number for one in orders.watch)
            assert watched.issuperset(orders.leave)
            watched.difference_update(orders.leave)
        nursery.cancel_scope.cancel()


async def test_beats_say_how_late_looks_are(autojump_clock: MockClock) -> None:
    """So nobody is vouched for who was not looked at for as long as an endpoint may be silent."""
    ours, theirs = trio.testing.memory_stream_pair()
    late = [0]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Lookout(hangs, EVERY_S).serve, Lines(theirs), theirs)
        await ours.send_all(line_of(Orders([
            Watch(number, asking(80, name=str(number)), again=False, well=True)
            for number in range(1, 4 * WELL_MAX + 1)], [])))
        told = 0
        async for line in Lines(ours):
            said = msgspec.json.decode(line, type=Said)
            told += len(said.found)
            late.append(said.late_ms)
            if told == 4 * WELL_MAX:
                break
        nursery.cancel_scope.cancel()
    assert 3 * CHECK_S <= max(late) / 1e3 <= 4 * CHECK_S <= autojump_clock.current_time()
    assert late[-1] == 0


async def test_who_was_well_is_believed_to_be_for_four_ttls_after_a_look(
        autojump_clock: MockClock) -> None:
    one = asking(80)
    book = Book([])
    book.found[one.key] = []
    health = book.health(TrioClock(autojump_clock))
    health.watch(one, well=True)
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(health.talk, ours, Policy())
        await theirs.send_all(line_of(Said([(1, "")], 0)))
        await book.wait()
        for late_s in (0, TTL_S, 3 * TTL_S, 5 * TTL_S):
            await theirs.send_all(line_of(Said([], round(late_s * 1e3))))
            await trio.testing.wait_all_tasks_blocked()
            vouch, looked_s = book.vouch[one.key], trio.current_time() - late_s
            assert vouch.until_ns / 1e9 == pytest.approx(looked_s + HOLD_TTLS * TTL_S)
            assert vouch.seen_ms / 1e3 == pytest.approx(looked_s, abs=0.001)
        nursery.cancel_scope.cancel()


async def test_the_word_of_one_that_ended_holds_no_longer_than_it_said(
        autojump_clock: MockClock) -> None:
    async def check(_: Endpoint) -> str:
        await trio.lowlevel.checkpoint()
        return ""

    book = Book([])
    one = asking(80)
    book.found[one.key] = []
    health = book.health(TrioClock(autojump_clock))
    health.watch(one, well=True)
    async with looking(health, check):
        await book.wait()
    first = book.vouch[one.key]
    until_ns = first.until_ns
    async with looking(health, check):
        await book.wait(2)
    assert first.until_ns == until_ns
    assert book.vouch[one.key] is not first
    assert book.vouch[one.key].until_ns > until_ns


async def test_an_answer_that_lies_there_while_the_lookout_does_not_run_is_not_late(
        mock_clock: MockClock) -> None:
    async def check(_one: Endpoint) -> str:
        mock_clock.jump(3 * CHECK_S)        # others had the machine for so long
        for _ in range(5):
            await trio.lowlevel.checkpoint()
        return ""

    book = Book([asking(80)])
    async with looking(book.health(TrioClock(mock_clock)), check):
        while not book.found[asking(80).key]:
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(0.01)
    assert book.found[asking(80).key] == [""]


async def test_a_look_that_meets_a_defect_ends_no_other(
        autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    async def check(one: Endpoint) -> str:
        await trio.lowlevel.checkpoint()
        if one.port == 80:
            raise ZeroDivisionError("a defect")
        return ""

    book = Book([asking(80), asking(81)])
    async with looking(book.health(TrioClock(autojump_clock)), check):
        await book.wait()
    assert "a defect" in book.found[asking(80).key][0]
    assert book.found[asking(81).key] == [""]
    assert "a look failed" in caplog.text


async def test_a_far_side_that_says_much_is_cut_short(autojump_clock: MockClock) -> None:
    async def check(_: Endpoint) -> str:
        await trio.lowlevel.checkpoint()
        return "UNAVAILABLE: " + "lorem ipsum " * 5_000

    book = Book([asking(80)])
    async with looking(book.health(TrioClock(autojump_clock)), check):
        await book.wait()
    assert len(book.found[asking(80).key][0]) == WHY_CHARS_MAX


async def test_ten_thousand_that_never_answer(autojump_clock: MockClock) -> None:
    """Few at a time are asked, and who is well is seen all the while."""
    hanging = most = 0
    well = asking(1, name="well")
    looks: list[float] = []

    async def check(one: Endpoint) -> str:
        nonlocal hanging, most
        if one == well:
            looks.append(trio.current_time())
            return ""
        hanging += 1
        most = max(most, hanging)
        try:
            await trio.sleep_forever()
        finally:
            hanging -= 1

    book = Book([])
    book.endpoints = [well, *(asking(port) for port in range(10_001, 20_001))]
    book.found = {one.key: [] for one in book.endpoints}
    health = book.health(TrioClock(autojump_clock))
    health.watch(well, well=True)
    async with looking(health, check):
        await book.wait(patience_s=100)
        assert (most, hanging) == (WELL_MAX, 0)
        most = 0
        for one in book.endpoints[1:]:
            health.watch(one, well=False)
        looks.clear()
        await trio.sleep(100)
        assert [later - at for at, later in pairwise(looks)] == pytest.approx(
            [EVERY_S] * (len(looks) - 1), abs=EARLY_S), "each time at once"
        assert len(looks) == 100 / EVERY_S
        assert most == SICK_MAX


async def test_it_has_no_more_files_open_than_looks() -> None:
    asked, full = 0, trio.Event()

    async def behave(_stream: trio.SocketStream, _call: Call) -> bool:
        nonlocal asked
        asked += 1
        if asked == WELL_MAX:
            full.set()
        await trio.sleep_forever()

    async with far_side(behave) as side:
        book = Book([asking(side.port, name=f"i{number}") for number in range(400)])
        async with program(book):
            await full.wait()
            assert WELL_MAX <= lookouts()[0].num_fds() <= WELL_MAX + 20


async def test_it_reads_no_code_where_the_daemon_was_begun(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trio.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    async with far_side(replying(200)) as side:
        book = Book([asking(side.port)])
        async with program(book):
            await book.wait()


async def test_one_that_hangs_holds_up_nobody_who_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(companion, "LEAVE_S", PATIENCE_S)
    async with far_side(replying(200)) as side:
        book = Book([asking(side.port)])
        async with program(book):
            await book.wait()
            lookouts()[0].suspend()
            begun_s = trio.current_time()
        assert trio.current_time() - begun_s < PATIENCE_S


async def test_it_ends_with_its_stdin_and_heeds_no_ctrl_c() -> None:
    async with far_side(replying(200)) as side:
        process = await trio.lowlevel.open_process(
            list(LOOKOUT), stdin=-1, stdout=-1)
        assert process.stdin is not None
        assert process.stdout is not None
        await process.stdin.send_all(line_of(Terms.by(Policy(), EVERY_S, 0)))
        lines = Lines(process.stdout)
        for number, kind in ((1, "http"), (2, "tcp")):
            await process.stdin.send_all(line_of(Orders([
                Watch(number, asking(side.port, kind), again=False, well=True)], [])))
            while not (found := msgspec.json.decode(await anext(lines), type=Said).found):
                pass
            assert found == [(number, "")]
            for sign in (signal.SIGINT, signal.SIGHUP):
                process.send_signal(sign)
        await process.stdin.aclose()
        assert await process.wait() == 0
        await process.stdout.aclose()
