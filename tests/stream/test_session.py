"""A session's mailbox: what is told in which message."""

from __future__ import annotations

from pathlib import Path

import pytest

from plumd.clock import SystemClock
from plumd.engine import Engine
from plumd.model import Join, Limits, WorkerKind, attempt_text
from plumd.outbox import Given, Outbox
from plumd.planner import Planner
from plumd.store.blobs import Blobs
from plumd.store.definitions import Catalog
from plumd.store.store import Store
from plumd.stream.session import Session

JOIN = Join("w", WorkerKind.SESSION, "s", ("t",), capacity=10)


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """A mailbox; its engine does nothing."""
    store = Store(tmp_path / "plum.db", clock=SystemClock(), threads=False)
    engine = Engine(store, SystemClock(), Outbox(store), Planner(Catalog(store)), Limits(), 1)
    return Session(engine, Blobs(tmp_path / "blobs"), JOIN)


def given(number: int) -> Given:
    return Given("w", number, 1, "t", 0, 0, b"1", "", resumed=False)


@pytest.mark.parametrize("reason", ["canceled", "timeout", "stale"])
def test_a_worker_hears_of_an_attempt_before_it_hears_that_it_is_over(
        session: Session, reason: str) -> None:
    """A notice of an attempt that it does not know it answers, and then would begin it."""
    session.give([given(1), given(2), given(3)])
    session.stop("w", 3, 1, reason)
    session.stop("w", 1, 1, reason)
    first = session.compose_nowait(2)
    assert first is not None
    assert [one.id for one in first.attempts] == [attempt_text(1, 1), attempt_text(2, 1)]
    assert [one.id for one in first.cancel] == [attempt_text(1, 1)]
    assert not session.idle
    second = session.compose_nowait(2)
    assert second is not None
    assert [one.id for one in second.attempts] == [attempt_text(3, 1)]
    assert [(one.id, one.reason) for one in second.cancel] == [(attempt_text(3, 1), reason)]
    assert session.idle


def test_of_what_was_not_fetched_only_the_notice_is_told(session: Session) -> None:
    session.give([given(1)])
    session.stop("w", 1, 1, "canceled")
    session.forget_given()
    down = session.compose_nowait(2)
    assert down is not None
    assert not down.attempts
    assert [one.id for one in down.cancel] == [attempt_text(1, 1)]
