"""Devices in the database: the newest states, a history that stays bounded, what pruning takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from plumd.errors import Invalid, NotFound, PlumError, TooMany
from plumd.store import devices
from plumd.store.devices import FOR_EVER, Device, OpDesc, Registered, State, StateDesc
from plumd.store.events import Event
from plumd.store.store import Change, Store, Tx

T = TypeVar("T")
RADAR = Device("r", "n", "radar", "http://h/", False, 5_000, (StateDesc("a", "int", "", "C"),),
               (OpDesc("o", "int", "", "", "0", "9"),))


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


def registered(store: Store, device: Device = RADAR) -> Registered:
    run(store, lambda tx: devices.register(tx, device))
    row = store.peek(devices.get, device.device_id)
    assert row is not None
    return row


def report(store: Store, row: Registered, now_ms: int = 5, *, told: bool = True,
           **states: str) -> tuple[object, list[Event]]:
    return run(store, lambda tx: devices.report(tx, row, states, now_ms, told=told), now_ms)


def test_what_is_registered_is_found_again(store: Store) -> None:
    row = registered(store)
    assert row.device == RADAR
    assert store.peek(devices.every) == [row]
    _, told = run(store, lambda tx: devices.register(tx, Device("r", "m", "", "", True, 1)), 9)
    assert told == [("resource", "r", "changed", 9)]
    again = store.peek(devices.get, "r")
    assert again is not None
    assert (again.number, again.registered_ms, again.device.polls) == (row.number, 5, True)


def test_the_bound_undoes_the_registration_that_passes_it(
        store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "DEVICES_MAX", 1)
    registered(store)
    registered(store)
    with pytest.raises(TooMany):
        registered(store, Device("s", "", "", "", True, 1))
    assert len(store.peek(devices.every)) == 1


def test_states_and_what_is_told_of_them(store: Store) -> None:
    row = registered(store)
    assert report(store, row, 1, a="1", b="2") == (True, [("resource", "r", "state", 1)])
    assert report(store, row, 2, a="1") == (False, [])
    assert report(store, row, 3, told=False, a="3") == (True, [])
    assert store.peek(devices.latest, row.number) == {"a": State("3", 3), "b": State("2", 1)}
    found = store.peek(devices.history, row.number, FOR_EVER, 9)
    assert [(one.seq, one.states) for one in found] == [
        (3, {"a": "3"}), (2, {"a": "1"}), (1, {"a": "1", "b": "2"})]
    assert [one.seq for one in store.peek(devices.history, row.number, 3, 1)] == [2]


def test_too_many_states_undo_the_report(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "STATES_MAX", 2)
    row = registered(store)
    report(store, row, a="1", b="2")
    with pytest.raises(Invalid):
        report(store, row, a="9", c="3")
    assert store.peek(devices.latest, row.number)["a"].value == "1"
    assert len(store.peek(devices.history, row.number, FOR_EVER, 9)) == 1


def test_the_history_of_a_device_is_bounded_at_each_report(
        store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "HISTORY_MAX", 3)
    monkeypatch.setattr(devices, "FOLD", 1)
    row, other = registered(store), registered(store, Device("s", "", "", "", True, 1))
    report(store, other, a="x")
    for number in range(10):
        report(store, row, a=str(number))
        assert len(store.peek(devices.history, row.number, FOR_EVER, 99)) == min(number + 1, 3)
    assert [one.states["a"] for one in store.peek(
        devices.history, row.number, FOR_EVER, 99)] == ["9", "8", "7"]
    assert len(store.peek(devices.history, other.number, FOR_EVER, 99)) == 1


def test_pruning_takes_what_is_old_in_slices(store: Store) -> None:
    row = registered(store)
    for number in range(10):
        report(store, row, 100 + number, a="1")
    counts = [run(store, lambda tx: devices.prune(tx, row.number, 105, 3))[0] for _ in range(3)]
    assert counts == [3, 2, 0]
    assert [one.received_ms for one in store.peek(
        devices.history, row.number, FOR_EVER, 99)] == [109, 108, 107, 106, 105]
    report(store, row, 200, a="2")
    assert store.peek(devices.history, row.number, FOR_EVER, 1)[0].seq == 11


def test_what_a_removed_device_left_goes_and_is_nobodys(store: Store) -> None:
    old = registered(store)
    for _ in range(4):
        report(store, old, a="1")
    assert run(store, lambda tx: devices.remove(tx, "r"), 7)[1] == [
        ("resource", "r", "removed", 7)]
    with pytest.raises(NotFound):
        run(store, lambda tx: devices.remove(tx, "r"))
    with pytest.raises(NotFound):
        report(store, old, a="2")
    new = registered(store)
    assert new.number != old.number
    assert store.peek(devices.latest, new.number) == {}
    report(store, new, a="9")
    assert store.peek(devices.reporting) == [old.number, new.number]
    counts = [run(store, lambda tx: devices.prune(tx, old.number, 0, 3))[0] for _ in range(3)]
    assert counts == [3, 1, 0]
    assert run(store, lambda tx: devices.prune(tx, new.number, 0, 3))[0] == 0
    assert store.peek(devices.reporting) == [new.number]
