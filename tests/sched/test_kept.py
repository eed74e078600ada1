"""What a mutant of the core once survived, or must never again: one promise a test."""

from __future__ import annotations

import pytest

from plumd._sched import Scheduler
from plumd.clock import Instant
from plumd.model import (
    Ahead,
    Cancel,
    CoreCommand,
    Detach,
    Drain,
    Ended,
    Ending,
    Finish,
    Join,
    Leave,
    Limits,
    OnLost,
    Reply,
    Row,
    Start,
    Submit,
    TaskState,
    WorkerKind,
)

MS = 10**6
EPOCH_MS = 1_700_000_000_000
LEASE_MS = 3_000
LIMITS = Limits(backoff_base_ms=100, backoff_cap_ms=100, lost_extra=1, stop_grace_ms=500,
                age_ms_per_priority=1_000)


class Room:
    """A core with a clock, and everything that it has told so far."""

    def __init__(self) -> None:
        self.ms = EPOCH_MS
        self.set_ms = 0         # how far the wall clock was set
        self.core = Scheduler(LIMITS, 1)
        self.starts: list[tuple[str, int, int]] = []
        self.stops: list[tuple[str, int, int, str]] = []
        self.ended: list[Ended] = []

    @property
    def now(self) -> Instant:
        return Instant(self.ms * MS, self.wall_ms * MS)

    @property
    def wall_ms(self) -> int:
        return self.ms + self.set_ms

    def do(self, command: CoreCommand) -> Reply:
        reply = self.core.apply(command, self.now)
        self.settle()
        return reply

    def settle(self) -> None:
        self.core.tick(self.now)
        _, _, ended, _, starts, stops, _, _, _ = self.core.take()
        self.starts += [(one[0], one[2], one[3]) for one in starts]
        self.stops += stops
        self.ended += ended
        self.core.check()

    def wait(self, ms: int) -> None:
        """Time passes; whatever is due on the way is done when it is due."""
        until_ms = self.ms + ms
        while (due_ns := self.core.next_due_ns()) is not None and due_ns <= until_ms * MS:
            self.ms = max(self.ms, -(-due_ns // MS))
            self.settle()
        self.ms = until_ms
        self.settle()

    def join(self, worker_id: str = "w", session: str = "s1", capacity: int = 1,
             holding: tuple[tuple[int, int], ...] = ()) -> Reply:
        return self.do(Join(worker_id, WorkerKind.SESSION, session, ("t",), capacity=capacity,
                            lease_ms=LEASE_MS, holding=holding))

    def state(self, task_id: int) -> TaskState | None:
        """Of a live task; None when it is over."""
        known = self.core.knows(task_id)
        return None if known is None else TaskState(known[0])

    def end_of(self, task_id: int) -> TaskState:
        return next(TaskState(one.state) for one in reversed(self.ended)
                    if one.task_id == task_id)


@pytest.fixture
def room() -> Room:
    return Room()


def row(task_id: int, state: TaskState, *, started_ms: int = 0, timeout_ms: int = 0,
        cancel_ms: int = 0, worker_id: str | None = "w", due_ms: int = 0, attempt: int = 1,
        queue_timeout_ms: int = 0) -> Row:
    """A committed row as the store gives it."""
    return (task_id, state, "t", 0, "", "", 5, timeout_ms, queue_timeout_ms, 0, 0, EPOCH_MS,
            due_ms, started_ms, cancel_ms, attempt, 0, 0, worker_id, 0, -1, 0, "", 0)


def test_a_report_of_an_older_attempt_changes_nothing(room: Room) -> None:
    room.join()
    room.do(Submit(1, "t", max_retries=1))
    room.do(Finish(1, 1, "w", Ending.FAILED))
    room.wait(200)
    assert room.starts == [("w", 1, 1), ("w", 1, 2)]
    reply = room.do(Finish(1, 1, "w", Ending.SUCCEEDED))
    assert (reply.code, reply.attempt) == ("stale_attempt", 2)
    assert room.state(1) == TaskState.RUNNING


def test_only_the_holder_reports(room: Room) -> None:
    room.join("w")
    room.do(Submit(1, "t"))
    room.join("other")
    assert room.do(Finish(1, 1, "other")).code == "stale_attempt"
    assert room.do(Finish(1, 1, "w")).ok
    assert room.end_of(1) == TaskState.SUCCEEDED


def test_a_retry_comes_by_itself(room: Room) -> None:
    room.join()
    room.do(Submit(1, "t", max_retries=1))
    room.do(Finish(1, 1, "w", Ending.FAILED))
    assert room.state(1) == TaskState.RETRYING
    room.core.beat("w", "s1", room.now)
    room.wait(200)
    assert room.starts[-1] == ("w", 1, 2)


def test_a_slot_is_free_when_its_attempt_has_ended(room: Room) -> None:
    room.join(capacity=1)
    room.do(Submit(1, "t"))
    room.do(Submit(2, "t"))
    assert room.starts == [("w", 1, 1)]
    room.do(Finish(1, 1, "w"))
    assert room.starts == [("w", 1, 1), ("w", 2, 1)]


def test_a_silent_worker_loses_its_work_after_its_lease(room: Room) -> None:
    room.join("w", capacity=50)
    for task_id in range(1, 51):
        room.do(Submit(task_id, "t"))
    room.join("spare", "s2", capacity=50)
    room.wait(LEASE_MS // 2)
    room.core.beat("spare", "s2", room.now)
    room.wait(LEASE_MS // 2)
    again = [start for start in room.starts if start[2] == 2]
    assert sorted(again) == [("spare", task_id, 2) for task_id in range(1, 51)]


def test_a_beat_keeps_the_lease(room: Room) -> None:
    room.join()
    room.do(Submit(1, "t"))
    for _ in range(8):
        room.wait(LEASE_MS // 2)
        assert room.core.beat("w", "s1", room.now)
    assert room.starts == [("w", 1, 1)]
    assert room.state(1) == TaskState.RUNNING


def test_a_timeout_stops_the_work_and_then_ends_it(room: Room) -> None:
    room.join()
    room.do(Submit(1, "t", timeout_ms=400))
    room.wait(400)
    assert room.stops == [("w", 1, 1, "timeout")]
    assert room.state(1) == TaskState.RUNNING, "it may still run there"
    room.do(Finish(1, 1, "w", Ending.CANCELED))
    assert room.end_of(1) == TaskState.TIMEOUT


def test_a_timeout_goes_on_after_a_restart(room: Room) -> None:
    room.core.load_worker(Join("w", WorkerKind.SESSION, "s1", ("t",), lease_ms=LEASE_MS), room.now)
    room.core.load([row(1, TaskState.RUNNING, started_ms=EPOCH_MS - 100, timeout_ms=400)],
                   room.now)
    room.wait(300)
    assert room.stops == [("w", 1, 1, "timeout")]


def test_a_queue_timeout_ends_what_nobody_took(room: Room) -> None:
    room.do(Submit(1, "t", queue_timeout_ms=500))
    room.wait(500)
    assert room.end_of(1) == TaskState.TIMEOUT


@pytest.mark.parametrize("set_ms", [3_600_000, -3_600_000])
def test_a_queue_timeout_counts_elapsed_time_whatever_the_wall_clock_says(
        room: Room, set_ms: int) -> None:
    room.do(Submit(1, "t", due_ms=room.wall_ms + 700, queue_timeout_ms=500))
    room.join()
    room.do(Submit(2, "t", max_retries=1, queue_timeout_ms=500))
    room.do(Finish(2, 1, "w", Ending.FAILED, retry_after_ms=700))
    room.do(Leave("w"))
    room.set_ms = set_ms
    room.settle()
    due = [cause.until_ms for task_id in (1, 2) for cause in room.core.why(task_id) or ()]
    assert due == [room.wall_ms + 700] * 2
    room.wait(1_199)
    assert [room.state(1), room.state(2)] == [TaskState.PENDING] * 2
    room.wait(1)
    assert [room.end_of(1), room.end_of(2)] == [TaskState.TIMEOUT] * 2


def test_a_queue_timeout_begins_with_the_start(room: Room) -> None:
    room.do(Submit(1, "t", auto_start=False, queue_timeout_ms=500))
    room.wait(2_000)
    room.do(Start(1))
    room.wait(499)
    assert room.state(1) == TaskState.PENDING
    room.wait(1)
    assert room.end_of(1) == TaskState.TIMEOUT


def test_a_queue_timeout_goes_on_after_a_restart(room: Room) -> None:
    room.wait(1_000)
    room.core.load([row(1, TaskState.PENDING, attempt=0, queue_timeout_ms=1_500),
                    row(2, TaskState.PENDING, due_ms=EPOCH_MS + 700, queue_timeout_ms=1_500)],
                   room.now)
    room.wait(499)
    assert room.state(1) == TaskState.PENDING
    room.wait(1)
    assert room.end_of(1) == TaskState.TIMEOUT
    room.wait(699)
    assert room.state(2) == TaskState.PENDING
    room.wait(1)
    assert room.end_of(2) == TaskState.TIMEOUT


def test_a_clock_that_was_set_back_before_a_restart_makes_nothing_wait_longer(room: Room) -> None:
    room.set_ms = -3_600_000
    room.core.load([
        row(1, TaskState.PENDING, attempt=0, queue_timeout_ms=500),
        row(2, TaskState.PENDING, attempt=0, due_ms=EPOCH_MS + 700),
        row(3, TaskState.PENDING, due_ms=EPOCH_MS),                 # it was lost then
        row(4, TaskState.RETRYING, due_ms=EPOCH_MS + 1_700, started_ms=EPOCH_MS + 1_000),
    ], room.now)
    room.wait(500)
    assert room.end_of(1) == TaskState.TIMEOUT
    room.join(capacity=3)
    assert room.starts == [("w", 3, 2)]
    room.wait(199)
    assert room.state(4) == TaskState.RETRYING
    room.wait(1)
    assert sorted(room.starts[1:]) == [("w", 2, 1), ("w", 4, 2)]


def test_cancel_ends_what_waits_for_its_retry(room: Room) -> None:
    room.join(capacity=2)
    room.do(Submit(1, "t", max_retries=5))
    room.do(Finish(1, 1, "w", Ending.FAILED))
    assert room.do(Cancel(1)).state == TaskState.CANCELED
    room.wait(1_000)
    assert room.end_of(1) == TaskState.CANCELED
    assert room.starts == [("w", 1, 1)]


def test_a_cancel_outlives_the_daemon(room: Room) -> None:
    room.core.load_worker(Join("w", WorkerKind.SESSION, "s1", ("t",), lease_ms=LEASE_MS), room.now)
    room.core.load([row(1, TaskState.RUNNING, started_ms=EPOCH_MS, cancel_ms=EPOCH_MS)], room.now)
    room.join("w", "s1", holding=((1, 1),))
    assert ("w", 1, 1, "canceled") in room.stops
    room.do(Finish(1, 1, "w", Ending.SUCCEEDED))
    assert room.end_of(1) == TaskState.CANCELED


def test_a_new_process_of_a_worker_holds_nothing(room: Room) -> None:
    room.join("w", "s1")
    room.do(Submit(1, "t"))
    room.join("w", "s2")
    assert room.starts == [("w", 1, 1), ("w", 1, 2)]
    assert room.do(Finish(1, 1, "w")).code == "stale_attempt"


def test_a_claim_that_never_arrived_is_sent_again_and_one_that_did_is_not(room: Room) -> None:
    room.join("w", "s1", capacity=2)
    room.do(Submit(1, "t"))
    room.do(Submit(2, "t"))
    room.starts.clear()
    room.join("w", "s1", capacity=2, holding=((2, 1),))
    assert room.starts == [("w", 1, 1)]


@pytest.mark.parametrize("known", [True, False])
def test_a_worker_is_told_what_is_not_its_any_more(room: Room, known: bool) -> None:
    room.join("w", "s1")
    room.do(Submit(1, "t"))
    room.do(Finish(1, 1, "w"))
    if not known:
        room.wait(LEASE_MS)
    room.join("w", "s1", holding=((1, 1),))
    assert room.stops == [("w", 1, 1, "stale")]


def test_who_leaves_gives_back_what_it_held(room: Room) -> None:
    room.join("w")
    room.do(Submit(1, "t"))
    room.join("next", "s2")
    room.do(Leave("w"))
    assert room.starts == [("w", 1, 1), ("next", 1, 2)]


def test_the_more_urgent_task_goes_first(room: Room) -> None:
    room.do(Submit(1, "t", priority=2))
    room.do(Submit(2, "t", priority=9))
    room.join()
    assert room.starts == [("w", 2, 1)]


def test_waiting_makes_urgent(room: Room) -> None:
    """One step of priority is worth one second of waiting here."""
    room.do(Submit(1, "t", priority=0))
    room.wait(9_500)
    room.do(Submit(2, "t", priority=9))
    room.join()
    assert room.starts == [("w", 1, 1)]


def test_a_delayed_task_waits_for_its_time(room: Room) -> None:
    room.join(capacity=2)
    room.do(Submit(1, "t", due_ms=room.ms + 700))
    room.wait(699)
    assert not room.starts
    room.wait(1)
    assert room.starts == [("w", 1, 1)]


def test_on_lost_fail_runs_once(room: Room) -> None:
    room.join("w")
    room.do(Submit(1, "t", on_lost=OnLost.FAIL, max_retries=5))
    room.do(Leave("w"))
    assert room.end_of(1) == TaskState.FAILED


def test_a_task_that_loses_its_workers_ends_at_last(room: Room) -> None:
    for number in range(LIMITS.lost_extra + 1):
        room.join("w", f"s{number}")
        if number == 0:
            room.do(Submit(1, "t"))
    room.do(Leave("w"))
    assert [one.ending for one in room.ended] == [Ending.LOST] * (LIMITS.lost_extra + 1)
    assert room.end_of(1) == TaskState.FAILED


def test_a_draining_worker_gets_nothing_more(room: Room) -> None:
    room.join("w", capacity=5)
    room.do(Drain("w"))
    room.do(Submit(1, "t"))
    assert not room.starts
    room.do(Drain("w", on=False))
    assert room.starts == [("w", 1, 1)]


@pytest.mark.parametrize("own", [False, True])
def test_what_a_worker_says_of_itself_ends_with_its_session(room: Room, own: bool) -> None:
    room.join("w", "one")
    room.do(Drain("w", own=own))
    room.do(Submit(1, "t"))
    room.join("w", "one")
    assert not room.starts
    room.join("w", "two")
    assert room.starts == ([("w", 1, 1)] if own else [])
    room.do(Drain("w", own=True))
    room.do(Drain("w", on=False))
    assert room.starts == [("w", 1, 1)]


def test_who_was_drained_stays_so_until_it_leaves(room: Room) -> None:
    room.join("w", "one")
    room.do(Drain("w"))
    room.do(Submit(1, "t"))
    room.wait(2 * LEASE_MS)
    room.join("w", "two")
    assert not room.starts
    room.do(Leave("w"))
    room.join("w", "three")
    assert room.starts == [("w", 1, 1)]


def test_an_agent_stays_drained_until_its_node_is_not(room: Room) -> None:
    room.join("node:n", "one")
    room.do(Drain("node:n"))
    room.do(Submit(1, "t"))
    room.do(Leave("node:n"))
    room.join("node:n", "two")
    assert not room.starts
    room.do(Leave("node:n"))
    room.do(Drain("node:n", on=False))
    room.join("node:n", "three")
    assert room.starts == [("node:n", 1, 1)]


def callback(worker_id: str, capacity: int = 1) -> Join:
    return Join(worker_id, WorkerKind.CALLBACK, "", ("t",), capacity=capacity, lease_ms=LEASE_MS,
                url="http://x")


@pytest.mark.parametrize("on_lost", list(OnLost))
def test_a_call_that_never_came_there_goes_to_another_worker(room: Room, on_lost: OnLost) -> None:
    room.do(callback("a"))
    room.do(Submit(1, "t", on_lost=on_lost))
    room.do(callback("b"))
    room.do(Finish(1, 1, "a", Ending.FAILED, reached=False))
    assert room.starts == [("a", 1, 1), ("b", 1, 2)]
    [ended] = room.ended
    assert (ended.ending, ended.code, ended.state) == (
        Ending.LOST, "unreached", TaskState.PENDING)
    room.do(Submit(2, "t"))
    assert room.state(2) == TaskState.PENDING, "the one that was not reached gets nothing new"
    room.do(callback("a"))
    assert room.starts[-1] == ("a", 2, 1), "until it is heard of"
    assert room.do(Finish(1, 2, "b")).ok
    assert room.end_of(1) == TaskState.SUCCEEDED


def test_where_there_is_no_other_worker_an_unreached_call_is_a_failure(room: Room) -> None:
    room.do(callback("a"))
    room.do(callback("b"))
    room.do(Drain("b"))
    room.do(Submit(1, "t", max_retries=1))
    room.do(Finish(1, 1, "a", Ending.FAILED, reached=False))
    assert room.ended[-1].ending == Ending.FAILED
    assert room.state(1) == TaskState.RETRYING
    room.wait(200)
    assert room.state(1) == TaskState.PENDING
    room.do(callback("a"))
    room.do(Finish(1, 2, "a", Ending.FAILED, reached=False))
    assert room.end_of(1) == TaskState.FAILED


def test_unreached_workers_do_not_pass_a_task_round_for_ever(room: Room) -> None:
    room.do(callback("a"))
    room.do(callback("b"))
    room.do(Submit(1, "t"))
    for number in range(1, 10):
        if room.state(1) is None:
            break
        holder = room.starts[-1][0]
        room.do(Finish(1, number, holder, Ending.FAILED, reached=False))
        room.do(callback("a"))
        room.do(callback("b"))
    assert room.end_of(1) == TaskState.FAILED
    assert len(room.ended) == LIMITS.lost_extra + 1


def test_a_canceled_call_that_was_not_reached_is_canceled(room: Room) -> None:
    room.do(callback("a"))
    room.do(Submit(1, "t"))
    room.do(callback("b"))
    room.do(Cancel(1))
    room.do(Finish(1, 1, "a", Ending.FAILED, reached=False))
    assert room.end_of(1) == TaskState.CANCELED


def test_what_a_session_gives_back_counts_for_nothing(room: Room) -> None:
    room.join()
    room.do(Submit(1, "t", on_lost=1))
    for number in range(1, 20):
        room.do(Finish(1, number, "w", Ending.FAILED, reached=False))
        assert room.starts[-1] == ("w", 1, number + 1), "it goes out again at once"
    room.do(Finish(1, 20, "w"))
    assert room.end_of(1) == TaskState.SUCCEEDED


def test_what_was_given_back_is_no_loss_when_a_real_one_follows(room: Room) -> None:
    room.join()
    room.do(Submit(1, "t"))
    for attempt in range(1, 5):
        assert room.do(Finish(1, attempt, "w", Ending.LOST, reached=False)).ok
    assert room.starts[-1] == ("w", 1, 5)
    room.wait(LEASE_MS + 1)
    assert room.state(1) == TaskState.PENDING, "its first loss, and it may be lost once"
    room.join(session="s2")
    assert room.starts[-1] == ("w", 1, 6)


def test_a_session_has_as_much_in_hand_as_it_asks_for(room: Room) -> None:
    room.join("w", "s1", capacity=2)
    for number in range(1, 10):
        room.do(Submit(number, "t"))
    assert len(room.starts) == 2
    room.do(Ahead("w", "s1", 3))
    assert len(room.starts) == 5
    assert room.core.slots() == (2, 2), "what waits at the worker takes no slot"
    room.do(Ahead("w", "another", 5))
    assert len(room.starts) == 5
    room.do(Ahead("w", "s1", 0))
    room.do(Finish(5, 1, "w", reached=False))
    assert len(room.starts) == 5, "it is full, so nobody has the task that it gave back"
    room.join("v", "s2", capacity=1)
    assert room.starts[-1] == ("v", 5, 2), "which goes first, for it is the oldest"


def test_a_line_that_drops_wants_nothing_ahead(room: Room) -> None:
    room.join("w", "s1", capacity=1)
    room.do(Ahead("w", "s1", 5))
    room.do(Detach("w", "s1"))
    room.join("w", "s1", capacity=1)
    for number in range(1, 4):
        room.do(Submit(number, "t"))
    assert [start for start in room.starts if start[0] == "w"] == [("w", 1, 1)]
