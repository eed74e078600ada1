"""Keys in the database: versions, conditions, bounds of prefixes, what deletion leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plumd.errors import PlumError, PreconditionFailed
from plumd.store import kv
from plumd.store.events import Event
from plumd.store.kv import Write
from plumd.store.precondition import ANY
from plumd.store.store import Change, Store, Tx

T = TypeVar("T")
HUGE = 1 << 60
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=4)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A fresh database."""
    opened = Store(tmp_path / "plum.db", log_bytes=0)
    yield opened
    opened.close()


def run(store: Store, fn: Callable[[Tx], T], now_ms: int = 5) -> tuple[object, list[Event]]:
    """Commit a store command; answers its value and its events. Raises what it refused with."""
    done = store.commit_now(Change(now_ms, events=[], calls=[fn]))
    if isinstance(done.values[0], PlumError):
        raise done.values[0]
    return done.values[0], list(done.record.items)


def write(store: Store, *writes: Write, now_ms: int = 5) -> object:
    return run(store, lambda tx: kv.write(tx, "n", writes), now_ms)[0]


def test_what_is_told(store: Store) -> None:
    _, told = run(store, lambda tx: kv.write(tx, "n", [
        Write("a", "1"), Write("a", "2"), Write("a", None), Write("b", None)]))
    assert told == [("kv", "n", "set", "a", 1, 5), ("kv", "n", "set", "a", 2, 5),
                    ("kv", "n", "deleted", "a", 3, 5)]


def test_a_refused_condition_undoes_the_whole(store: Store) -> None:
    write(store, Write("a", "1"))
    with pytest.raises(PreconditionFailed) as caught:
        write(store, Write("b", "1"), Write("a", "2", if_version=7, field="f"))
    assert caught.value.field == "f"
    assert caught.value.more == {"current": store.peek(kv.get, "n", "a", 0)}
    assert store.peek(kv.keys, "n", "", 0) == ["a"]
    for wish in (0, 2):
        with pytest.raises(PreconditionFailed):
            write(store, Write("a", "2", if_version=wish))
    with pytest.raises(PreconditionFailed):
        write(store, Write("b", None, if_version=ANY))
    assert write(store, Write("a", "2", if_version=ANY), Write("b", "1", if_version=0)) == [2, 1]


def test_an_expired_key_is_not_there_but_its_version_counts(store: Store) -> None:
    write(store, Write("a", "1", ttl_ms=10), now_ms=100)
    assert store.peek(kv.get, "n", "a", 109) is not None
    assert store.peek(kv.get, "n", "a", 110) is None
    assert store.peek(kv.keys, "n", "", 110) == []
    assert store.peek(kv.page, "n", "", None, 9, HUGE, 110) == ([], False)
    assert store.peek(kv.namespaces, 110) == []
    assert store.peek(kv.namespaces, 109) == ["n"]
    assert store.peek(kv.next_expiry) == 110
    assert write(store, Write("a", "2", if_version=0), now_ms=110) == [2]


def test_expiry_takes_slices_and_leaves_marks(store: Store) -> None:
    write(store, *(Write(str(number), "v", ttl_ms=10) for number in range(5)), now_ms=100)
    assert run(store, lambda tx: kv.expire(tx, 3), 109) == (0, [])
    counts = [run(store, lambda tx: kv.expire(tx, 3), 110)[0] for _ in range(3)]
    assert counts == [3, 2, 0]
    assert store.peek(kv.next_expiry) is None
    assert write(store, Write("0", "v")) == [3]


def test_marks_are_forgotten_and_versions_never_go_back(store: Store) -> None:
    write(store, *(Write("a", str(number)) for number in range(9)), Write("a", None), now_ms=100)
    write(store, Write("b", "1"), Write("b", None), now_ms=200)
    assert run(store, lambda tx: kv.forget(tx, 100, 9))[0] == 0
    assert run(store, lambda tx: kv.forget(tx, 150, 9))[0] == 1
    assert write(store, Write("a", "x")) == [11], "above what it was when it was deleted"
    assert write(store, Write("b", "x")) == [3], "its mark is still there"
    assert write(store, Write("new", "x")) == [11], "it may be one that was forgotten"
    assert run(store, lambda tx: kv.write(tx, "other", [Write("a", "x")]))[0] == [1]


def test_pages(store: Store) -> None:
    write(store, *(Write(key, "v" * 10) for key in ("a", "a\x01", "ab", "b", "\U0010ffff")))

    def page(prefix: str, after: str | None, count: int, size: int) -> tuple[list[str], bool]:
        found, more = store.peek(kv.page, "n", prefix, after, count, size, 0)
        return [one.key for one in found], more

    assert page("", None, 9, HUGE) == (["a", "a\x01", "ab", "b", "\U0010ffff"], False)
    assert page("", "a", 2, HUGE) == (["a\x01", "ab"], True)
    assert page("a", "a\x01", 9, HUGE) == (["ab"], False)
    assert page("", None, 9, 1) == (["a"], True)
    assert page("", None, 9, 24) == (["a", "a\x01"], True)
    assert page("b", "a", 9, HUGE) == (["b"], False)
    assert page("\U0010ffff", None, 9, HUGE) == (["\U0010ffff"], False)


def test_any_prefix_finds_what_begins_with_it(store: Store) -> None:
    @given(keys=st.sets(TEXT.filter(bool), max_size=8), prefix=TEXT,
           tail=st.sampled_from(["", "\ud7ff", "\U0010ffff", "\uffff"]))
    @settings(max_examples=200, database=None, deadline=None,
              suppress_health_check=list(HealthCheck))
    def check(keys: set[str], prefix: str, tail: str) -> None:
        prefix += tail
        there = sorted({*keys, prefix + "x", *({prefix} if prefix else ())}, key=str.encode)
        store.db.execute("DELETE FROM kv")
        store.db.execute("DELETE FROM kv_gone")
        write(store, *(Write(key, "v") for key in there))
        assert store.peek(kv.keys, "n", prefix, 0) == [
            key for key in there if key.startswith(prefix)]

    check()


def test_namespaces_in_order(store: Store) -> None:
    for name in ("b", "a", "中", "B"):
        run(store, lambda tx, name=name: kv.write(  # type: ignore[misc]  # its default is a str
            tx, name, [Write(str(number), "v") for number in range(50)]))
    assert store.peek(kv.namespaces, 0) == ["B", "a", "b", "中"]
