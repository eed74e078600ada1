"""What is kept of states: whatever was folded when, a question counts each value once."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plumd.store import buckets, devices
from plumd.store.buckets import Bucket, Keep
from plumd.store.devices import Device
from plumd.store.store import Change, Store, Tx

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
BASE = 1_700_000_040_000 // HOUR * HOUR


def write(store: Store, fn: object, now_ms: int) -> object:
    [value] = store.commit_now(Change(now_ms, events=[], calls=[fn])).values  # type: ignore[list-item]  # a store command
    if isinstance(value, Exception):
        raise value
    return value


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "plum.db", log_bytes=0)
    write(made, lambda tx: devices.register(tx, Device("d", "", "", "", True, 1_000)), BASE)
    return made


def report(store: Store, value: object, at_ms: int, received_ms: int | None = None) -> None:
    known = store.peek(devices.get, "d")
    assert known is not None
    write(store, lambda tx: devices.report(tx, known, {"x": str(value), "text": "on"}, at_ms,
                                           told=False), received_ms or at_ms)


def asked(store: Store, width_ms: int, from_ms: int = 0, to_ms: int = 1 << 60) -> list[Bucket]:
    known = store.peek(devices.get, "d")
    assert known is not None
    return store.peek(buckets.history, known.number, "x", from_ms, to_ms, width_ms)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 20 * MINUTE), st.integers(-50, 50)), min_size=1,
                max_size=60), st.integers(1, 20), st.integers(1, 6))
def test_folded_or_not_the_answer_is_the_same(
        tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int]], most: int,
        fold: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "HISTORY_MAX", most)
        patch.setattr(devices, "FOLD", fold)
        made = Store(tmp_path_factory.mktemp("buckets") / "plum.db", log_bytes=0)
        write(made, lambda tx: devices.register(tx, Device("d", "", "", "", True, 1_000)), BASE)
        now, plain = BASE, dict[int, list[int]]()
        for step, value in steps:
            now += step
            report(made, value, now)
            plain.setdefault(now // MINUTE, []).append(value)
        found = asked(made, MINUTE)
        assert [(one.at_ms // MINUTE, one.count, one.low, one.high, one.total, one.last)
                for one in found] == [
            (minute, len(values), min(values), max(values), sum(values), values[-1])
            for minute, values in sorted(plain.items())]
        hours = asked(made, HOUR)
        assert sum(one.count for one in hours) == len(steps)
        assert all(one.at_ms % HOUR == 0 for one in hours)
        made.close()


def test_a_range_is_from_and_before(store: Store) -> None:
    for minute in range(5):
        report(store, minute, BASE + minute * MINUTE)
    found = asked(store, MINUTE, BASE + MINUTE, BASE + 3 * MINUTE)
    assert [one.last for one in found] == [1, 2]


def test_a_clock_that_cannot_be_is_not_believed(store: Store) -> None:
    report(store, 1, 0, BASE)
    report(store, 2, 1 << 50, BASE)
    report(store, 3, BASE - HOUR, BASE)
    assert [(one.at_ms, one.count) for one in asked(store, HOUR)] == [(BASE - HOUR, 1), (BASE, 2)]


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999", "on", "", "1e300"])
def test_what_is_no_number_is_left_out(store: Store, value: str) -> None:
    report(store, value, BASE)
    assert asked(store, MINUTE) == []


def test_minutes_and_hours_are_kept_as_long_as_it_is_said(
        store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "HISTORY_MAX", 1)
    monkeypatch.setattr(devices, "FOLD", 1)
    known = store.peek(devices.get, "d")
    assert known is not None
    for day in range(12):
        report(store, day, BASE + day * DAY)
    now = BASE + 12 * DAY

    def prune(tx: Tx) -> None:
        buckets.prune(tx, known.number, now, gone=False)

    write(store, prune, now)
    assert sum(one.count for one in asked(store, HOUR)) == 12, "the hours are there"
    write(store, lambda tx: buckets.set_retention(tx, known.number, {"x": Keep(1, 3)}), now)
    write(store, prune, now)
    assert [one.last for one in asked(store, HOUR)] == [9, 10, 11]
    assert store.peek(buckets.retention, known.number) == {"x": Keep(1, 3)}
    write(store, lambda tx: buckets.prune(tx, known.number, now, gone=True), now)
    assert store.peek(buckets.devices) == []


def test_pruning_by_age_folds_what_it_takes(store: Store) -> None:
    known = store.peek(devices.get, "d")
    assert known is not None
    for minute in range(10):
        report(store, minute, BASE + minute * MINUTE)
    gone = write(store, lambda tx: devices.prune(tx, known.number, BASE + 6 * MINUTE, 300), BASE)
    assert gone == 6
    assert [one.last for one in asked(store, MINUTE)] == list(range(10))
