"""KV and AsyncKV: values that come back as they were, conditions, and a watch that misses nothing.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import httpx
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from plumd.sdk import (
    KV,
    AsyncClient,
    AsyncKV,
    Change,
    Client,
    Conflict,
    Delete,
    Entry,
    ProblemError,
    Put,
    UnreachableError,
)
from plumd.sdk.keys import GONE_MAX, Mirror, Told, Value, decoded, encoded, lost_pause_s
from tests.daemon.running import Running

VALUES: tuple[Value, ...] = (True, False, 0, -(1 << 63), (1 << 63) - 1, 1.5, -0.0, math.inf, 1e-310,
                             "", "21.5", "\0中\U0001f600", b"", b"\x00\xff")


# ---------------------------------------------------------------- values

@given(st.one_of(st.booleans(), st.integers(), st.floats(), st.text(), st.binary()))
def test_values_come_back_as_they_were(value: Value) -> None:
    back = decoded(*encoded(value))
    assert type(back) is type(value)
    assert back == value or (value != value and back != back)


@pytest.mark.parametrize(("kind", "text", "value"), [
    ("double", "-nan(0x7)", None), ("double", "0x1.8p+1", 3.0), ("double", "-INF", -math.inf),
    ("bool", "1", True), ("bool", "False", False), ("int", "+7", 7), ("int", "x", "x"),
    ("double", "1,5", "1,5"), ("bytes", "?", "?"), ("unheard", "x", "x")])
def test_what_others_write_is_read(kind: str, text: str, value: Value | None) -> None:
    back = decoded(kind, text)
    if value is None:
        assert isinstance(back, float)
        assert math.isnan(back)
    else:
        assert back == value


def test_what_is_no_value_is_refused() -> None:
    with pytest.raises(TypeError, match="list"):
        encoded([])  # type: ignore[arg-type]


# ---------------------------------------------------------------- the mirror, without a socket

def told(mirror: Mirror, key: str, version: int, value: str | None = "v") -> Told | Change:
    item: dict[str, object] = {"namespace": "n", "key": key, "value": value or "",
                               "type": "string", "version": version}
    if value is None:
        item["deleted"] = True
    return mirror.take("kv", json.dumps(item))


def test_a_mirror_drops_what_is_older_than_it_knows() -> None:
    mirror = Mirror("n", "")
    mirror.ask()
    assert mirror.take("ping", "init") is Told.LIST
    assert [one.key for one in mirror.listed([Entry("a", "1", 3), Entry("b", "1", 1)])] == [
        "a", "b"]
    assert told(mirror, "a", 3) is Told.NOTHING
    assert told(mirror, "a", 2) is Told.NOTHING
    assert told(mirror, "a", 4) == Change("a", Entry("a", "v", 4), 4)
    assert told(mirror, "a", 5, None) == Change("a", None, 5)
    assert told(mirror, "a", 4) is Told.NOTHING, "a deletion is remembered"
    assert told(mirror, "a", 5, None) is Told.NOTHING
    assert told(mirror, "never", 2, None) is Told.NOTHING
    assert told(mirror, "never", 1) is Told.NOTHING
    assert told(mirror, "a", 6) == Change("a", Entry("a", "v", 6), 6)
    assert mirror.take("new kind of frame", "?") is Told.NOTHING
    assert sorted(mirror.entries) == ["a", "b"]


def test_a_mirror_says_what_changed_while_it_was_away() -> None:
    mirror = Mirror("n", "")
    list(mirror.listed([Entry("same", "1", 1), Entry("gone", "1", 4), Entry("new", "1", 1)]))
    mirror.ask()
    changes = list(mirror.listed([Entry("same", "1", 1), Entry("new", "2", 2), Entry("x", "1", 1)]))
    assert changes == [Change("gone", None, 5), Change("new", Entry("new", "2", 2), 2),
                       Change("x", Entry("x", "1", 1), 1)]
    for nonsense in ("", "[]", "{"):
        with pytest.raises(UnreachableError):
            mirror.take("kv", nonsense)


def test_a_mirror_does_not_remember_every_key_that_ever_went() -> None:
    mirror = Mirror("n", "")
    for number in range(3 * GONE_MAX):
        told(mirror, str(number), 1)
        assert told(mirror, str(number), 2, None) == Change(str(number), None, 2)
    assert len(mirror._gone) == GONE_MAX
    assert mirror.entries == {}


@given(st.integers(0, 50), st.floats(0, 1))
def test_pauses_grow_have_jitter_and_a_bound(tries: int, chance: float) -> None:
    assert 0.05 <= lost_pause_s(tries, chance) <= 2.0


# ---------------------------------------------------------------- against a script

def test_requests_to_the_byte() -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json={"key": "k", "value": "AP8=", "type": "bytes",
                                         "version": 3, "updatedAt": 5, "expiresAt": 9})

    kv = KV("a/b ü", Client("http://plum.test", transport=httpx.MockTransport(answer)))
    assert kv.put("../x y%?#", b"\x00\xff", ttl_s=1.5, once="k1") == Entry(
        "k", b"\x00\xff", 3, 5, 9)
    assert asked[0].url.raw_path == b"/v1/kv/a%2Fb%20%C3%BC/%2E%2E%2Fx%20y%25%3F%23"
    assert json.loads(asked[0].content) == {"value": "AP8=", "type": "bytes", "ttlSec": 1.5}
    assert asked[0].headers["idempotency-key"] == "k1"
    assert "if-match" not in asked[0].headers
    kv.cas("k", 1, 7)
    assert asked[1].headers["if-match"] == '"7"'
    kv.cas("k", 1, 0)
    assert asked[2].headers["if-none-match"] == "*"


# ---------------------------------------------------------------- against the real daemon

pytest_daemon = pytest.mark.daemon


@pytest.fixture(name="kv")
def kv_of_the_test(shared_daemon: Running, request: pytest.FixtureRequest) -> Iterator[KV]:
    """A namespace of the test's own."""
    with KV(request.node.name[:90], shared_daemon.url) as kv:
        yield kv


@pytest_daemon
def test_the_store_keeps_types(kv: KV) -> None:
    for index, value in enumerate(VALUES):
        entry = kv.put(f"v/{index}", value)
        assert (entry.value, type(entry.value), entry.version) == (value, type(value), 1)
        assert kv.get(f"v/{index}") == value
    assert [entry.value for entry in kv.list("v/")] == [
        kv.get(key) for key in sorted(f"v/{index}" for index in range(len(VALUES)))]
    assert kv.keys("v/1") == ["v/1", "v/10", "v/11", "v/12", "v/13"]
    assert kv.get("nothing") is None
    with pytest.raises(ProblemError) as refused:
        kv.put("too large", 1 << 63)
    assert refused.value.field == "value"


@pytest_daemon
def test_keys_that_look_like_something_else(kv: KV) -> None:
    for key in ("keys", "batch", "keys/", "/keys", ".", "..", "a/../b", "a//b", "?#%", "%6Beys",
                " ", "ключ"):
        assert kv.get(key) is None
        entry = kv.put(key, "it")
        assert (kv.get(key), kv.keys()) == ("it", [key])
        kv.cas(key, "again", entry.version)
        kv.delete(key)
        assert kv.keys() == []


def test_conditions_say_what_is_there(kv: KV) -> None:
    kv.cas("k", "mine", 0)
    with pytest.raises(Conflict) as faster:
        kv.cas("k", "other", 0)
    assert faster.value.current is not None
    assert (faster.value.current.value, faster.value.current.version) == ("mine", 1)
    with pytest.raises(Conflict) as missing:
        kv.cas("nothing", 1, 3)
    assert missing.value.current is None
    with pytest.raises(Conflict):
        kv.delete("k", version=2)
    with pytest.raises(Conflict) as spoiled:
        kv.batch([Put("x", 1), Delete("k", if_version=9)])
    assert spoiled.value.field == "items[1].ifVersion"
    assert kv.keys() == ["k"]
    assert kv.batch([Put("x", 1, if_version=0), Delete("k", if_version=1), Put("y", b"")]) == {
        "x": 1, "k": 2, "y": 1}
    kv.delete("x")
    kv.delete("x")
    assert kv.keys() == ["y"]


@pytest_daemon
def test_updates_by_many_lose_nothing(kv: KV) -> None:
    def plus_one(value: Value | None) -> Value:
        return (value if isinstance(value, int) else 0) + 1

    def work() -> None:
        with KV(kv.namespace, kv.client.url) as mine:
            for _ in range(20):
                mine.update("count", plus_one)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert kv.get("count") == 80


@pytest_daemon
def test_a_watch_begins_with_what_is_there(kv: KV) -> None:
    kv.put("a/1", 1)
    kv.put("b", 1)
    changes = kv.watch("a/")
    assert next(changes) == Change("a/1", kv.entry("a/1"), 1)
    kv.put("b", 2)
    entry = kv.put("a/2", b"x")
    assert next(changes) == Change("a/2", entry, 1)
    kv.delete("a/1")
    assert next(changes) == Change("a/1", None, 2)


def wait_for(condition: Callable[[], bool]) -> None:
    """Until it holds; a test that hangs here has found something."""
    while not condition():
        threading.Event().wait(0.005)


@pytest_daemon
def test_a_cache_is_kept_true(kv: KV) -> None:
    kv.put("a", 1)
    with kv.cached() as cache:
        assert dict(cache) == {"a": 1}
        assert cache.fresh
        kv.put("b", "x")
        wait_for(lambda: cache.get("b") == "x")
        kv.delete("a")
        wait_for(lambda: "a" not in cache)
        assert list(cache) == ["b"]
        entry = cache.entry("b")
        assert entry is not None
        assert entry.version == 1
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("kv ")]


@pytest_daemon
def test_a_cache_that_is_refused_says_so(shared_daemon: Running) -> None:
    with KV("no/namespace", shared_daemon.url) as kv, \
            pytest.raises(ProblemError, match="namespace"), kv.cached():
        pass


@pytest_daemon
async def test_the_form_for_trio(shared_daemon: Running) -> None:
    async with AsyncClient(shared_daemon.url) as client:
        kv = AsyncKV("trio", client)
        assert (await kv.put("a", 1)).version == 1
        assert (await kv.cas("a", 2, 1)).version == 2
        with pytest.raises(Conflict):
            await kv.cas("a", 3, 1)
        assert await kv.get("a") == 2
        assert (await kv.update("a", lambda value: f"{value!r}!")).value == "2!"
        assert await kv.batch([Put("b", b"x"), Delete("zz")]) == {"b": 1, "zz": 0}
        assert await kv.keys() == ["a", "b"]
        assert [one.key for one in await kv.list("b")] == ["b"]
        async with kv.watch() as changes, kv.cached("b") as cache:
            assert [(await anext(changes)).key for _ in range(2)] == ["a", "b"]
            assert dict(cache) == {"b": b"x"}
            await kv.delete("b")
            assert (await anext(changes)).entry is None
            while cache:        # noqa: ASYNC110 - the daemon's word sets no event of ours
                await trio.sleep(0.005)
        assert await kv.get("b") is None
    async with AsyncKV("trio", shared_daemon.url) as own:
        assert await own.get("a") == "2!"


@pytest_daemon
def test_a_watch_outlives_the_daemon(tmp_path: Path) -> None:
    """kill -9; what changes meanwhile is told when the line stands again."""
    with Running(tmp_path / "data") as daemon, KV("n", daemon.url) as kv:
        kv.put("stays", 1)
        kv.put("goes", 1)
        changes = kv.watch()
        assert {change.key for change in islice(changes, 2)} == {"stays", "goes"}
        with kv.cached() as cache:
            daemon.kill()
            wait_for(lambda: not cache.fresh)
            assert cache["goes"] == 1
            daemon.start()
            with KV("n", daemon.url) as other:
                other.delete("goes")
                other.put("new", 2)
            seen = list(islice(changes, 2))
            assert {(change.key, change.entry is None) for change in seen} == {
                ("goes", True), ("new", False)}
            wait_for(lambda: dict(cache) == {"stays": 1, "new": 2})


@pytest_daemon
def test_a_watch_that_is_refused_ends(shared_daemon: Running) -> None:
    with KV("no/namespace", shared_daemon.url) as kv, pytest.raises(ProblemError):
        next(kv.watch())
