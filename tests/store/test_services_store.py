"""Endpoints in the database: what is written, what is told, and what is undone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import apsw.ext
import pytest

from plumd.balance import Endpoint
from plumd.errors import NotFound, PlumError, TooMany
from plumd.store import services
from plumd.store.events import Event
from plumd.store.store import Change, Store, Tx

T = TypeVar("T")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A fresh database."""
    opened = Store(tmp_path / "plum.db")
    yield opened
    opened.close()


def write(store: Store, fn: Callable[[Tx], T]) -> list[Event]:
    """Commit a store command; answers its events. Raises what it refused with."""
    done = store.commit_now(Change(5, events=[], calls=[fn]))
    if isinstance(done.values[0], PlumError):
        raise done.values[0]
    return list(done.record.items)


def endpoint(instance: str, port: int, version: str = "1") -> Endpoint:
    """An endpoint of the service s."""
    return Endpoint("s", instance, "10.0.0.1", port, "http", "n", version, {"b": "2", "a": "1"})


def register(store: Store, instance: str, *endpoints: Endpoint,
             replace: bool = False) -> list[str]:
    """What a registration tells."""
    events = write(store, lambda tx: services.register(tx, instance, endpoints, replace=replace))
    return [str(event[2]) for event in events]


def test_what_is_registered_is_found_again(store: Store) -> None:
    events = write(store, lambda tx: services.register(tx, "i", [endpoint("i", 1)], replace=False))
    assert events == [("service", "s", "registered", "i", 5)]
    assert store.peek(services.every) == [endpoint("i", 1)]
    assert store.peek(services.of_instance, "i") == [endpoint("i", 1)]
    assert store.peek(services.of_instance, "j") == []


def test_only_what_differs_is_told(store: Store) -> None:
    assert register(store, "i", endpoint("i", 1), endpoint("i", 2)) == ["registered"] * 2
    assert register(store, "i", endpoint("i", 1), endpoint("i", 2, "2")) == ["changed"]
    assert register(store, "i", endpoint("i", 1)) == []


def test_replace_forgets_the_instances_others_and_nobody_elses(store: Store) -> None:
    register(store, "i", endpoint("i", 1), endpoint("i", 2))
    register(store, "j", endpoint("j", 1))
    assert sorted(register(store, "i", endpoint("i", 3), replace=True)) == [
        "registered", "removed", "removed"]
    assert store.peek(services.every) == [endpoint("i", 3), endpoint("j", 1)]
    assert register(store, "i", replace=True) == ["removed"]


def test_the_bound_undoes_the_registration_that_passes_it(
        store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "ENDPOINTS_MAX", 2)
    register(store, "i", endpoint("i", 1), endpoint("i", 2))
    with pytest.raises(TooMany):
        register(store, "j", endpoint("j", 1))
    assert len(store.peek(services.every)) == 2
    assert register(store, "i", endpoint("i", 2, "2")) == ["changed"]


def test_an_endpoint_changes_with_or_without_its_key(store: Store) -> None:
    register(store, "i", endpoint("i", 1))
    old = endpoint("i", 1).key
    events = write(store, lambda tx: services.move(tx, old, endpoint("i", 1, "9"), create=False))
    assert [event[2] for event in events] == ["changed"]
    events = write(store, lambda tx: services.move(tx, old, endpoint("i", 7), create=False))
    assert [event[2] for event in events] == ["removed", "changed"]
    assert store.peek(services.every) == [endpoint("i", 7)]
    with pytest.raises(NotFound):
        write(store, lambda tx: services.move(tx, old, endpoint("i", 8), create=False))
    events = write(store, lambda tx: services.move(tx, old, endpoint("i", 8), create=True))
    assert [event[2] for event in events] == ["registered"]


def test_removals_say_how_many_there_were(store: Store) -> None:
    register(store, "i", endpoint("i", 1), endpoint("i", 2))
    counts: list[int] = []
    write(store, lambda tx: counts.append(services.remove(tx, [endpoint("i", 1).key])))
    write(store, lambda tx: counts.append(services.remove(tx, [endpoint("i", 1).key])))
    write(store, lambda tx: counts.append(services.remove_instance(tx, "i")))
    assert counts == [1, 0, 1]
    assert store.peek(services.every) == []


def test_health_is_told_and_not_written(store: Store) -> None:
    register(store, "i", endpoint("i", 1))
    events = write(store, lambda tx: services.tell(
        tx, [(endpoint("i", 1).key, "unhealthy"), (endpoint("i", 1).key, "healthy")]))
    assert events == [("service", "s", "unhealthy", "i", 5), ("service", "s", "healthy", "i", 5)]


@pytest.mark.parametrize("name", ["of_instance", "delete"])
def test_hot_statements_use_an_index(store: Store, name: str) -> None:
    info = apsw.ext.query_info(store.db, services.SQL[name], explain_query_plan=True)
    assert info.query_plan is not None
    plans = [step.detail for step in info.query_plan.sub or ()]
    assert plans
    assert all("SEARCH" in plan or "TEMP B-TREE" in plan for plan in plans), plans
