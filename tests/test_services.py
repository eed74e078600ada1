"""The live registry: health by heartbeat, expiry, checks, picks, and what survives a restart."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from plumd.balance import LAZY, LEAST_LOADED, ROUND_ROBIN, Endpoint
from plumd.clock import Instant
from plumd.errors import NotFound, StorageDown
from plumd.executors.targets import Policy
from plumd.health import HOLD_TTLS
from plumd.lookout import SICK_MAX, WELL_MAX, Check, Lines, Lookout, Said, Terms, line_of
from plumd.services import SUSPECT_NS, Registry, Verdict
from plumd.store.events import Event
from plumd.store.store import Change, Store, Tx, Written

T = TypeVar("T")
TTL_S = 15.0
SOON_S = 0.1
"""After so long, in virtual time, looks that were due have been made."""


class TrioClock:
    """Trio's time, which jumps to the next thing to do."""

    def __init__(self, clock: MockClock) -> None:
        self.clock = clock

    def now(self) -> Instant:
        """The present moment."""
        ns = round(self.clock.current_time() * 1e9)
        return Instant(ns, ns)


class Rig:
    """A registry over a database, with the events that it wrote."""

    def __init__(self, path: Path, clock: MockClock) -> None:
        self.clock = TrioClock(clock)
        self.store = Store(path / "plum.db")
        self.commits = 0
        self.events: list[Event] = []
        self.down = False
        self.slow_s = 0.0       # so long a commit waits for its turn
        self.registry = self.reborn()
        self.nursery: trio.Nursery

    def look_by(self, check: Check) -> None:
        """Look at silent endpoints like this from now on."""
        ours, theirs = trio.testing.memory_stream_pair()
        self.nursery.start_soon(self.registry.start_looking().talk, ours, Policy())
        self.nursery.start_soon(self.look_out, check, theirs)

    async def look_out(self, check: Check, line: trio.abc.Stream) -> None:
        """Be the lookout at the other end."""
        asked = Lines(line)
        terms = msgspec.json.decode(await anext(asked), type=Terms)
        await Lookout(check, terms.every_s).serve(asked, line)

    def reborn(self) -> Registry:
        """A registry as after a restart."""
        registry = Registry(self.store, self.clock, self.write, TTL_S, draw=lambda: 0)
        registry.load()
        return registry

    async def write(self, fn: Callable[[Tx], T], /,
                    then: Callable[[Written], None] | None = None) -> T:
        """As the engine does it."""
        assert then is None
        await trio.sleep(self.slow_s)
        if self.down:
            raise StorageDown("no disk")
        done = self.store.commit_now(Change(1, events=[], calls=[fn]))
        self.commits += 1
        self.events += done.record.items
        value = done.values[0]
        if isinstance(value, Exception):
            raise value
        return value  # type: ignore[return-value]  # fn's own

    def healthy(self) -> list[str]:
        """Instances with a healthy endpoint of s."""
        return [seen.endpoint.instance_id for seen in self.registry.discover("s")]

    def told(self) -> list[tuple[object, object]]:
        """(what, instance) of the events since the last look."""
        news: list[tuple[object, object]] = [(event[2], event[3]) for event in self.events]
        self.events.clear()
        return news


@asynccontextmanager
async def rigged(path: Path, clock: MockClock, *,
                 run: bool = True) -> AsyncIterator[Rig]:
    """A registry, running or not."""
    rig = Rig(path, clock)
    async with trio.open_nursery() as nursery:
        rig.nursery = nursery
        if run:
            nursery.start_soon(rig.registry.run)
        yield rig
        nursery.cancel_scope.cancel()
    rig.store.close()


def endpoint(instance: str, port: int = 80, protocol: str = "http") -> Endpoint:
    """An endpoint of the service s."""
    return Endpoint("s", instance, "10.0.0.1", port, protocol)


async def test_a_heartbeat_keeps_an_endpoint_and_writes_nothing(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with rigged(tmp_path, autojump_clock) as rig:
        await rig.registry.register("i", [endpoint("i")])
        assert rig.told() == [("registered", "i")]
        for _ in range(10):
            await trio.sleep(TTL_S - 1)
            assert rig.healthy() == ["i"]
            rig.registry.beat("i", None)
        assert rig.commits == 1
        assert rig.registry.every()[0].seen_ms == round(trio.current_time() * 1000)


async def test_silence_ends_health_and_is_told_once(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with rigged(tmp_path, autojump_clock) as rig:
        await rig.registry.register("i", [endpoint("i"), endpoint("i", 81)])
        await rig.registry.register("j", [endpoint("j")])
        rig.told()
        await trio.sleep(TTL_S - 0.001)
        rig.registry.beat("j", None)
        await trio.sleep(0.002)
        await trio.testing.wait_all_tasks_blocked()
        assert rig.healthy() == ["j"]
        assert rig.told() == [("unhealthy", "i"), ("unhealthy", "i")]
        assert rig.commits == 3
        rig.registry.beat("i", None)
        await trio.testing.wait_all_tasks_blocked()
        assert rig.told() == [("healthy", "i"), ("healthy", "i")]
        assert rig.healthy() == ["i", "i", "j"]


async def test_expiry_is_seen_even_when_nothing_runs(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with rigged(tmp_path, autojump_clock, run=False) as rig:
        await rig.registry.register("i", [endpoint("i")])
        await trio.sleep(TTL_S)
        assert rig.healthy() == []
        assert [seen.healthy for seen in rig.registry.every()] == [False]


async def test_nothing_is_registered_and_nothing_wakes(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with rigged(tmp_path, autojump_clock) as rig:
        autojump_clock.autojump_threshold = float("inf")
        await trio.testing.wait_all_tasks_blocked()
        deadline = trio.lowlevel.current_statistics().seconds_to_next_deadline
        assert deadline == float("inf")
        autojump_clock.autojump_threshold = 0
        await rig.registry.register("i", [endpoint("i")])
        await trio.sleep(TTL_S * 2)
        autojump_clock.autojump_threshold = float("inf")
        await trio.testing.wait_all_tasks_blocked()
        deadline = trio.lowlevel.current_statistics().seconds_to_next_deadline
        assert deadline == float("inf"), "a dead endpoint needs no timer"


async def test_an_instance_says_how_its_endpoints_are(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with rigged(tmp_path, autojump_clock) as rig:
        await rig.registry.register("i", [endpoint("i", 80), endpoint("i", 81)])
        rig.told()
        rig.registry.beat("i", [Verdict("s", "10.0.0.1", 80, "HTTP", healthy=False),
                                Verdict("s", "10.0.0.1", 81, "http", healthy=True),
                                Verdict("other", "", 0, "", healthy=False)])
        await trio.testing.wait_all_tasks_blocked()
        assert [seen.healthy for seen in rig.registry.every()] == [False, True]
        assert rig.told() == [("unhealthy", "i")]
        rig.registry.beat("i", [Verdict("s", "", 0, "", healthy=True)])
        await trio.testing.wait_all_tasks_blocked()
        assert rig.told() == [("healthy", "i")]


async def test_only_named_endpoints_are_renewed_by_a_list(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with rigged(tmp_path, autojump_clock) as rig:
        await rig.registry.register("i", [endpoint("i", 80), endpoint("i", 81)])
        await trio.sleep(10)
        rig.registry.beat("i", [Verdict("s", "", 81, "", healthy=True)])
        await trio.sleep(10)
        assert [seen.endpoint.port for seen in rig.registry.discover("s")] == [81]


async def test_a_heartbeat_of_nobody_is_refused(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with rigged(tmp_path, autojump_clock) as rig:
        with pytest.raises(NotFound):
            rig.registry.beat("i", None)


async def test_registering_again_as_before_writes_nothing_but_revives(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with rigged(tmp_path, autojump_clock) as rig:
        for _ in range(3):
            await rig.registry.register("i", [endpoint("i")], replace=True)
        assert rig.commits == 1
        await trio.sleep(TTL_S + 1)
        assert rig.healthy() == []
        await rig.registry.register("i", [endpoint("i")], replace=True)
        assert rig.healthy() == ["i"]
        await rig.registry.register("i", [endpoint("i", 81)])
        await rig.registry.register("i", [endpoint("i", 82)], replace=True)
        assert [seen.endpoint.port for seen in rig.registry.every("s")] == [82]


async def test_after_a_restart_everyone_has_one_fresh_ttl(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with rigged(tmp_path, autojump_clock) as rig:
        await rig.registry.register("i", [endpoint("i")])
        await trio.sleep(TTL_S * 3)
        rig.registry = rig.reborn()
        assert rig.healthy() == ["i"]
        assert rig.registry.every()[0].seen_ms == 0
        await trio.sleep(TTL_S)
        assert rig.healthy() == []


async def test_removals_are_complete(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with rigged(tmp_path, autojump_clock) as rig:
        await rig.registry.register("i", [endpoint("i", 80), endpoint("i", 81)])
        assert rig.registry.pick("s", LAZY) is not None
        await rig.registry.remove(endpoint("i", 80).key)
        assert [seen.endpoint.port for seen in rig.registry.every("", "i")] == [81]
        await rig.registry.remove_instance("i")
        assert rig.registry.names() == []
        assert rig.registry.pick("s", LAZY) is None
        for again in (rig.registry.remove(endpoint("i", 80).key),
                      rig.registry.remove_instance("i")):
            with pytest.raises(NotFound):
                await again
        assert rig.registry._picks == {}
        assert rig.registry._of_instance == {}


async def test_a_caller_that_leaves_early_leaves_memory_right(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with rigged(tmp_path, autojump_clock) as rig:
        with trio.move_on_after(0):
            await rig.registry.register("i", [endpoint("i")])
        assert len(rig.store.peek(lambda db: list(db.execute("SELECT * FROM endpoints")))) == 1
        assert rig.healthy() == ["i"]


async def test_a_refused_write_changes_nothing(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with rigged(tmp_path, autojump_clock) as rig:
        await rig.registry.register("i", [endpoint("i")])
        rig.down = True
        with pytest.raises(StorageDown):
            await rig.registry.remove_instance("i")
        with pytest.raises(StorageDown):
            await rig.registry.register("j", [endpoint("j")])
        assert rig.healthy() == ["i"]


async def test_news_that_could_not_be_written_are_told_later(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with rigged(tmp_path, autojump_clock) as rig:
        await rig.registry.register("i", [endpoint("i")])
        rig.told()
        rig.down = True
        await trio.sleep(TTL_S + 5)
        assert rig.told() == []
        rig.down = False
        await trio.sleep(2)
        assert rig.told() == [("unhealthy", "i")]


# ---------------------------------------------------------------- checks of our own


async def test_a_silent_instance_is_looked_at_in_the_background(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    looks: list[str] = []
    sick = {"i"}

    async def check(one: Endpoint) -> str:
        await trio.lowlevel.checkpoint()
        looks.append(one.instance_id)
        return "refused" if one.instance_id in sick else ""

    async with rigged(tmp_path, autojump_clock) as rig:
        rig.look_by(check)
        for instance in ("i", "j"):
            await rig.registry.register(instance, [endpoint(instance)])
            rig.registry.beat(instance, None)
        assert looks == [], "never on the request's path"
        await trio.sleep(SOON_S)
        assert sorted(looks) == ["i", "j"]
        assert rig.healthy() == ["j"]
        for _ in range(3):
            rig.registry.beat("i", None)
        await trio.sleep(SOON_S)
        assert len(looks) == 2, "not more often than each third of a TTL"
        sick.clear()
        await trio.sleep(TTL_S / 3)
        rig.registry.beat("i", None)
        await trio.sleep(SOON_S)
        assert rig.healthy() == ["i", "j"]
        await trio.sleep(TTL_S * 2)
        assert len(looks) == 3, "only heartbeats bring checks"


async def test_an_instance_that_speaks_for_itself_is_not_looked_at(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async def check(one: Endpoint) -> str:
        raise AssertionError(f"{one} was looked at")

    async with rigged(tmp_path, autojump_clock) as rig:
        rig.look_by(check)
        await rig.registry.register("i", [endpoint("i"), endpoint("i", 9, "udp")])
        rig.registry.beat("i", [Verdict("s", "", 0, "", healthy=True)])
        await trio.testing.wait_all_tasks_blocked()
        await rig.registry.register("u", [endpoint("u", 9, "UDP")])
        rig.registry.beat("u", None)
        await trio.testing.wait_all_tasks_blocked()
        assert len(rig.healthy()) == 3


async def test_checks_that_hang_are_bounded_in_number_and_time(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    hanging = most = 0

    async def check(_: Endpoint) -> str:
        nonlocal hanging, most
        hanging += 1
        most = max(most, hanging)
        try:
            await trio.sleep_forever()
        finally:
            hanging -= 1

    async with rigged(tmp_path, autojump_clock) as rig:
        rig.look_by(check)
        await rig.registry.register("i", [endpoint("i", port) for port in range(1, 601)])
        rig.registry.beat("i", None)
        await trio.sleep(7)
        assert most == WELL_MAX
        assert hanging == 0
        assert rig.healthy() == []
        most = 0
        rig.registry.beat("i", None)
        await trio.sleep(1)
        assert most == SICK_MAX, "the dead have a narrower lane"


async def test_two_thousand_endpoints_are_looked_at_by_themselves(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    dead: set[int] = set()
    looks = 0

    async def check(one: Endpoint) -> str:
        nonlocal looks
        looks += 1
        await trio.sleep(5 if one.port in dead else 0.01)
        return ""

    async with rigged(tmp_path, autojump_clock) as rig:
        rig.look_by(check)
        await rig.registry.register("i", [Endpoint(
            "s", "i", "10.0.0.1", port, "http", labels={"healthCheck": "tcp"})
            for port in range(1, 2_001)])
        await trio.sleep(10 * TTL_S)
        assert len(rig.healthy()) == 2_000, "nobody beats for them"
        assert 2_000 * 25 <= looks <= 2_000 * 35
        dead.update(range(1, 1_001))
        await trio.sleep(2 * TTL_S)
        assert len(rig.healthy()) == 1_000, "a crowd of dead ones takes nobody with it"
        assert "no answer" in rig.registry.every("s")[0].why
        dead.clear()
        await trio.sleep(6 * TTL_S)
        assert len(rig.healthy()) == 2_000
        await rig.registry.remove_instance("i")
        await trio.sleep(TTL_S)
        health = rig.registry.health
        assert health is not None
        assert health.asked == 0


def watched(instance: str, port: int = 80, version: str = "") -> Endpoint:
    """An endpoint of the service s that is looked at by itself."""
    return Endpoint("s", instance, "10.0.0.1", port, "http", version=version,
                    labels={"healthCheck": "tcp"})


async def test_endpoints_that_stay_well_are_well_for_as_long_as_somebody_looks(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async def check(_: Endpoint) -> str:
        await trio.lowlevel.checkpoint()
        return ""

    async with rigged(tmp_path, autojump_clock) as rig:
        with trio.CancelScope() as looking:
            async with trio.open_nursery() as rig.nursery:
                rig.look_by(check)
                await rig.registry.register("i", [watched("i", port) for port in (80, 81)])
                rig.told()
                for _ in range(5):
                    await trio.sleep(TTL_S)
                    assert rig.healthy() == ["i", "i"]
                    seen = rig.registry.every()
                    assert all(one.seen_ms > (trio.current_time() - TTL_S / 10) * 1e3
                               for one in seen)
                looking.cancel()
        await trio.sleep(TTL_S * (HOLD_TTLS - 0.1))
        assert rig.healthy() == ["i", "i"]
        assert rig.told() == []
        seen_ms = rig.registry.every()[0].seen_ms
        await trio.sleep(TTL_S * 0.2)
        assert rig.healthy() == []
        assert rig.told() == [("unhealthy", "i")] * 2
        assert rig.registry.every()[0].seen_ms == seen_ms


async def test_looks_that_come_late_after_a_restart_make_nobody_sick(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async def check(_: Endpoint) -> str:
        await trio.lowlevel.checkpoint()
        return ""

    async with rigged(tmp_path, autojump_clock, run=False) as rig:
        await rig.registry.register("i", [watched("i")])
        await rig.registry.register("j", [endpoint("j")])
        rig.told()
        rig.registry = rig.reborn()
        rig.nursery.start_soon(rig.registry.run)
        await trio.sleep(TTL_S * (HOLD_TTLS - 1))   # as long as who looks may take to be there
        assert rig.told() == [("unhealthy", "j")]
        assert rig.healthy() == ["i"]
        rig.look_by(check)
        await trio.sleep(2 * TTL_S)
        assert rig.healthy() == ["i"]


async def test_who_speaks_for_itself_and_is_looked_at_is_well_if_both_say_so(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    sick = False

    async def check(_: Endpoint) -> str:
        await trio.lowlevel.checkpoint()
        return "refused" if sick else ""

    async with rigged(tmp_path, autojump_clock) as rig:
        rig.look_by(check)
        await rig.registry.register("i", [watched("i")])
        await trio.sleep(TTL_S)
        rig.told()
        for sick, healthy in ((False, False), (False, True), (True, True), (True, False),
                              (False, False), (False, True)):
            for _ in range(3):
                rig.registry.beat("i", [Verdict("s", "", 0, "", healthy=healthy)])
                await trio.sleep(TTL_S / 3 + SOON_S)
                assert bool(rig.healthy()) is (healthy and not sick)
                assert rig.registry.every()[0].why == ("refused" if sick else "")
        assert [what for what, _ in rig.told()] == [
            "unhealthy", "healthy", "unhealthy", "healthy"], "it does not flap"

        sick = True
        await trio.sleep(TTL_S)
        seen_ms = rig.registry.every()[0].seen_ms
        assert seen_ms > 0
        await rig.registry.register("i", [watched("i")])
        assert rig.healthy() == [], "who registers it has not looked at it"
        await trio.sleep(TTL_S)
        seen = rig.registry.every()[0]
        assert (seen.why, seen.seen_ms) == ("refused", round(
            (trio.current_time() - TTL_S) * 1e3)), "one that is sick gives no sign of life"


async def test_what_an_endpoint_becomes_is_looked_at_as_that(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    looks: list[str] = []

    async def check(one: Endpoint) -> str:
        await trio.lowlevel.checkpoint()
        looks.append(one.version)
        return "not this" if one.version == "2" else ""

    async with rigged(tmp_path, autojump_clock) as rig:
        rig.look_by(check)
        await rig.registry.register("i", [watched("i")])
        await trio.sleep(TTL_S)
        await rig.registry.register("i", [watched("i", version="2")])
        looks.clear()
        await trio.sleep(TTL_S / 3 + SOON_S)
        assert set(looks) == {"2"}
        assert rig.healthy() == []
        await rig.registry.register("i", [watched("i", version="3")])
        await trio.sleep(TTL_S / 3 + SOON_S)
        assert rig.healthy() == ["i"]
        looks.clear()
        await rig.registry.move(watched("i").key, endpoint("i"), create=False)
        await trio.sleep(TTL_S * 0.9)
        assert rig.healthy() == ["i"]
        await trio.sleep(TTL_S * 0.2)
        assert rig.healthy() == [], "it is to speak for itself now"
        assert looks == [""], "once, for what it was may have been looked at just then"
        assert rig.registry.health is not None
        assert rig.registry.health.asked == 0


async def test_health_that_changes_while_news_of_it_are_written_is_told_too(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with rigged(tmp_path, autojump_clock) as rig:
        await rig.registry.register("i", [endpoint("i")])
        key = endpoint("i").key
        for well, words in ((True, ["unhealthy", "healthy"]), (False, ["healthy", "unhealthy"])):
            rig.registry.report(key, healthy=well)
            await trio.testing.wait_all_tasks_blocked()
            rig.told()
            rig.slow_s = 1.0
            rig.registry.report(key, healthy=not well)
            await trio.sleep(0.5)
            rig.registry.report(key, healthy=well)
            await trio.sleep(2)
            assert [what for what, _ in rig.told()] == words
            rig.slow_s = 0.0


async def test_one_whose_label_was_wrong_is_well_again_where_it_cannot_be_looked_at(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async def check(_: Endpoint) -> str:
        await trio.lowlevel.checkpoint()
        return "refused"

    async with rigged(tmp_path, autojump_clock) as rig:
        rig.look_by(check)
        wrong = msgspec.structs.replace(watched("i"), protocol="UDP")
        await rig.registry.register("i", [wrong])
        await trio.sleep(TTL_S)
        assert rig.healthy() == []
        await rig.registry.move(wrong.key, endpoint("i", 80, "UDP"), create=False)
        await trio.sleep(SOON_S)
        rig.registry.beat("i", None)
        await trio.sleep(SOON_S)
        assert rig.healthy() == ["i"]
        assert rig.registry.every()[0].why == ""


async def test_one_that_is_mended_is_looked_at_before_a_crowd_of_sick_ones(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async def check(one: Endpoint) -> str:
        if one.version == "":
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        return "broken" if one.version == "1" else ""

    async with rigged(tmp_path, autojump_clock) as rig:
        rig.look_by(check)
        await rig.registry.register("i", [watched("i", port) for port in range(1, 1_001)])
        await rig.registry.register("j", [watched("j", version="1")])
        await rig.registry.register("k", [endpoint("k")])
        rig.registry.beat("k", None)
        await trio.sleep(2 * TTL_S)
        rig.registry.beat("k", None)
        await trio.sleep(2 * TTL_S)
        assert rig.healthy() == []
        await rig.registry.register("j", [watched("j", version="2")])
        await rig.registry.move(endpoint("k").key, msgspec.structs.replace(
            endpoint("k"), version="2"), create=False)
        await trio.sleep(TTL_S / 3 + SOON_S)
        assert rig.healthy() == ["j", "k"]


async def test_a_word_that_had_lapsed_and_is_given_again_is_told(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with rigged(tmp_path, autojump_clock) as rig:
        ours, theirs = trio.testing.memory_stream_pair()
        rig.nursery.start_soon(rig.registry.start_looking().talk, ours, Policy())
        await rig.registry.register("i", [watched("i")])
        await theirs.send_all(line_of(Said([(1, "")], 0)))
        await trio.sleep(SOON_S)
        rig.told()
        for _ in range(2):
            late_ms = 0     # it has less and less time for looks
            while rig.healthy():
                await trio.sleep(5)
                late_ms += 5_000
                await theirs.send_all(line_of(Said([], late_ms)))
            assert late_ms >= HOLD_TTLS * TTL_S * 1e3
            await trio.sleep(SOON_S)
            assert rig.told() == [("unhealthy", "i")]
            await theirs.send_all(line_of(Said([], 0)))
            await trio.sleep(SOON_S)
            assert rig.healthy() == ["i"]
            assert rig.told() == [("healthy", "i")]


# ---------------------------------------------------------------- picks


async def test_picks_by_strategy(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with rigged(tmp_path, autojump_clock) as rig:
        registry = rig.registry
        for instance in ("a", "b", "c"):
            await registry.register(instance, [endpoint(instance)])

        def picks(strategy: str, count: int) -> list[str]:
            found = [registry.pick("s", strategy) for _ in range(count)]
            return [seen.endpoint.instance_id for seen in found if seen is not None]

        assert picks(ROUND_ROBIN, 4) == ["a", "b", "c", "a"]
        assert sorted(picks(LEAST_LOADED, 2)) == ["b", "c"]
        assert picks(LAZY, 3) == ["a", "a", "a"]
        registry.beat("a", [Verdict("s", "", 0, "", healthy=False)])
        assert picks(LAZY, 3) == ["b", "b", "b"]
        assert "a" not in picks(ROUND_ROBIN, 6)
        registry.beat("a", [Verdict("s", "", 0, "", healthy=True)])
        assert picks(LAZY, 2) == ["b", "b"], "sticky, even when the first one is back"
        assert registry.pick("s", LAZY, version="9") is None
        assert registry.pick("nobody", LAZY) is None


async def test_one_that_comes_late_has_its_share_and_no_more(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with rigged(tmp_path, autojump_clock) as rig:
        registry = rig.registry
        for instance in ("a", "b"):
            await registry.register(instance, [endpoint(instance)])

        def calls(count: int) -> Counter[str]:
            found = Counter[str]()
            for _ in range(count):
                chosen = registry.preferred("s", registry.known("s"), ())
                assert chosen is not None
                with registry.calling(chosen):
                    found[chosen.instance_id] += 1
            return found

        assert calls(100) == {"a": 50, "b": 50}
        await registry.register("c", [endpoint("c")])
        assert calls(90)["c"] in (30, 31)
        registry.beat("a", [Verdict("s", "", 0, "", healthy=False)])
        calls(100)
        registry.beat("a", [Verdict("s", "", 0, "", healthy=True)])
        assert calls(90)["a"] in (30, 31), "it was away, and has nothing to catch up with"


async def test_calls_go_to_the_idlest_and_suspects_wait(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with rigged(tmp_path, autojump_clock) as rig:
        registry = rig.registry
        a, b = endpoint("a"), endpoint("b")
        await registry.register("a", [a])
        await registry.register("b", [b])
        with registry.calling(a):
            assert registry.preferred("s", [a, b], ()) == b
            with registry.calling(b), registry.calling(b):
                assert registry.preferred("s", [a, b], ()) == a
            registry.suspect(b)
            assert registry.preferred("s", [a, b], ()) == a
            assert registry.preferred("s", [a, b], {a.key}) == b, "better than nobody"
            assert registry.preferred("s", [b], ()) == b
            await trio.sleep(SUSPECT_NS / 1e9)
            assert registry.preferred("s", [a, b], ()) == b
        assert registry.preferred("s", [a, b], {a.key, b.key}) is None
        registry.beat("b", [Verdict("s", "", 0, "", healthy=False)])
        assert registry.preferred("s", [b], ()) is None
