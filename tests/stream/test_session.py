"""A session's mailbox: what is told in which message."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import trio
import trio.testing

from plumd.clock import SystemClock
from plumd.engine import Engine
from plumd.model import Join, Limits, WorkerKind, attempt_text
from plumd.outbox import Given, Outbox
from plumd.planner import Planner
from plumd.sdk.protocol import LogLine, Result, Up
from plumd.store.blobs import Blobs
from plumd.store.definitions import Catalog
from plumd.store.store import Store
from plumd.stream.session import LEASE_S_MIN, Session, line_pieces

JOIN = Join("w", WorkerKind.SESSION, "s", ("t",), capacity=10)


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """A mailbox; its engine does nothing."""
    store = Store(tmp_path / "plum.db", clock=SystemClock(), threads=False)
    engine = Engine(store, SystemClock(), Outbox(store), Planner(Catalog(store)), Limits(), 1)
    return Session(engine, Blobs(tmp_path / "blobs"), JOIN)


class SlowDisk:
    """Lines are written when a test says so."""

    def __init__(self) -> None:
        self.noted: list[tuple[tuple[int, int], str, int | None]] = []
        self.written = trio.Event()
        self.then: list[Callable[[], None]] = []

    def note(self, pair: tuple[int, int], time_ms: int, texts: Sequence[str],
             at: int | None) -> None:
        del time_ms
        self.noted.append((pair, "".join(texts), at))

    def when_written(self, then: Callable[[], None]) -> None:
        self.then.append(then)

    def write(self) -> None:
        for each in self.then:
            each()
        self.then.clear()


async def test_an_attempt_ends_when_its_lines_are_written(
        session: Session, mock_clock: trio.testing.MockClock) -> None:
    """Else a daemon that dies in between has its end and not its lines, and takes them no more."""
    del mock_clock      # it stands still
    session.engine.lines = disk = SlowDisk()
    first = Up(log_seq=3, logs=[LogLine("1", "one", at=0)])
    await session.hand_in(first)
    assert session.idle
    ended = Up(seq=1, results=[Result("1")])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.hand_in, ended)
        await trio.testing.wait_all_tasks_blocked()
        assert session.in_hand == 1, "the result waits"
        disk.write()
    assert session.in_hand == 2
    down = session.compose_nowait(2)
    assert down is not None
    assert down.log_ack == 3
    assert session.idle


async def test_a_slow_disk_keeps_no_beat_from_being_heard(
        session: Session, autojump_clock: trio.testing.MockClock) -> None:
    session.engine.lines = SlowDisk()
    await session.hand_in(Up(seq=1, log_seq=1, logs=[LogLine("1", "one", at=0)],
                             results=[Result("1")]))
    assert autojump_clock.current_time() < LEASE_S_MIN
    assert session.idle, "the line is not acknowledged before it is written"


def test_lines_of_an_attempt_that_follow_each_other_go_together() -> None:
    assert line_pieces([
        LogLine("1", "a", at=0), LogLine("2", "x", True, 7), LogLine("1", "\u00e9\n", at=2),
        LogLine("2", "y", at=8), LogLine("1", "later", at=9), LogLine("3", "p"),
        LogLine("1", "c", at=15), LogLine("3", "q\n")]) == [
            ((1, 1), ["a\n", "\u00e9\n"], 0), ((2, 1), ["x", "y\n"], 7),
            ((1, 1), ["later\n", "c\n"], 9), ((3, 1), ["p\n", "q\n"], None)]


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
