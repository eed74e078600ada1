"""A store that fails on order, and that knows what has really become durable."""

from __future__ import annotations

from pathlib import Path

import apsw

from plumd.clock import Clock
from plumd.model import TaskState
from plumd.store.store import Change, Done, Store


class Killed(Exception):
    """The process dies here."""


class Truth:
    """What the disk has, over all lives of the daemon. Raises AssertionError when it is broken."""

    def __init__(self) -> None:
        self.created: set[int] = set()
        self.over: dict[int, int] = {}
        self.attempts: dict[int, int] = {}
        self.runs: dict[int, int] = {}

    def note(self, change: Change) -> None:
        """A commit that landed."""
        for row in change.created:
            task_id, state = row[0].task_id, row[2]
            assert task_id not in self.created, f"task {task_id:x} was made twice"
            self.created.add(task_id)
            self.moved(task_id, state, row[3])
        for moved in change.changed:
            self.moved(moved[9], moved[0], moved[1])
        for end in change.runs.ended:
            assert end.run_id not in self.runs, "a run ended twice"
            self.runs[end.run_id] = end.state

    def moved(self, task_id: int, state: int, attempt: int) -> None:
        assert task_id in self.created, "a row without its task"
        assert task_id not in self.over, f"task {task_id:x} left its terminal state"
        assert attempt >= self.attempts.get(task_id, 0), "an attempt's number went back"
        self.attempts[task_id] = attempt
        if state >= TaskState.SUCCEEDED:
            self.over[task_id] = state


class FaultyStore(Store):
    """fault: what the next commit does instead of succeeding.

    error_before, error_after: it fails, and nothing or everything was written;
    die_before, die_after: the process ends there.
    """

    def __init__(self, path: Path, clock: Clock, truth: Truth) -> None:
        super().__init__(path, clock=clock, log_bytes=0, threads=False)
        self.db.execute("PRAGMA synchronous=OFF").fetchall()
        self.truth = truth
        self.fault = ""

    def commit_now(self, change: Change) -> Done:
        fault, self.fault = self.fault, ""
        if fault == "error_before":
            raise apsw.FullError("injected before the commit")
        if fault == "die_before":
            raise Killed
        done = super().commit_now(change)
        self.truth.note(change)
        if fault == "error_after":
            raise apsw.IOError("injected after the commit")
        if fault == "die_after":
            raise Killed
        return done

    def reopen(self) -> None:
        super().reopen()
        self.db.execute("PRAGMA synchronous=OFF").fetchall()
