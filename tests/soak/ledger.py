"""What the world was told: every acknowledgement, and every end that anybody ever saw."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass, field
from random import Random

from tests.soak.wire import Run, Task

TROUBLES_KEPT = 50


@dataclass
class Ask:
    """One request for one task or run, however often it was sent.

    keyed: with an Idempotency-Key.  exit_code: what its process ends with.
    """

    label: str
    kind: str
    keyed: bool
    exit_code: int = 0
    delay_s: float = 0
    acked: bool = False
    ids: set[str] = field(default_factory=set)


class Ledger:
    """Shared by all threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.asks: dict[str, Ask] = {}
        self.task_ids: list[str] = []
        self.run_ids: list[str] = []
        self.ends: dict[str, bytes] = {}
        self.states: dict[str, tuple[str, int]] = {}
        self.known_at: dict[str, float] = {}
        self.cancels: set[str] = set()
        self.ended = 0
        self.troubles: list[str] = []
        """Promises that were seen broken on the way."""
        self._number = 0

    def open(self, kind: str, *, keyed: bool, exit_code: int = 0, delay_s: float = 0) -> Ask:
        """A new ask, noted before anything is sent."""
        with self.lock:
            self._number += 1
            ask = Ask(f"a{self._number}", kind, keyed, exit_code, delay_s)
            self.asks[ask.label] = ask
            return ask

    def acknowledge(self, ask: Ask, item_id: str) -> None:
        """A 2xx answer that named the task or run was received whole."""
        with self.lock:
            if not ask.acked:
                (self.run_ids if ask.kind == "run" else self.task_ids).append(item_id)
            ask.acked = True
            ask.ids.add(item_id)
            if len(ask.ids) > 1:
                self._trouble(f"ask {ask.label} was answered with {sorted(ask.ids)}")

    def saw(self, task: Task, asked_at: float = math.inf) -> None:
        """A task as it was shown; what is over must be over in the same way for ever.

        asked_at: when it was asked for. What was known by then holds; what another thread learned
        while this answer was on its way may be newer than the answer.
        """
        with self.lock:
            if task.over:
                known = self.ends.setdefault(task.task_id, task.ending)
                if known != task.ending:
                    self._trouble(f"{task.task_id} was {known!r} and is {task.ending!r}")
                self._state(task.task_id, task.state, task.attempt)
            else:
                self._live(task.task_id, task.state, asked_at)

    def saw_run(self, run: Run, asked_at: float = math.inf) -> None:
        """The same for a run."""
        with self.lock:
            if run.over:
                self._state(run.run_id, run.state, 0)
            else:
                self._live(run.run_id, run.state, asked_at)

    def heard_end(self, item_id: str, state: str, attempt: int) -> None:
        """A terminal state in the event log, of a task or (attempt 0) a run."""
        with self.lock:
            self._state(item_id, state, attempt)
            self.ended += 1

    def _live(self, item_id: str, state: str, asked_at: float) -> None:
        if self.known_at.get(item_id, math.inf) < asked_at:
            self._trouble(f"{item_id} was over and is {state}")

    def _state(self, item_id: str, state: str, attempt: int) -> None:
        self.known_at.setdefault(item_id, time.monotonic())
        known = self.states.setdefault(item_id, (state, attempt))
        if known != (state, attempt):
            self._trouble(f"{item_id} ended {known} and then {(state, attempt)}")

    def canceled(self, task_id: str) -> None:
        """A cancel was acknowledged."""
        with self.lock:
            self.cancels.add(task_id)

    def trouble(self, text: str) -> None:
        """Something that must not happen happened."""
        with self.lock:
            self._trouble(text)

    def _trouble(self, text: str) -> None:
        if len(self.troubles) < TROUBLES_KEPT:
            self.troubles.append(text)

    def some_task(self, rng: Random, newest: int) -> str | None:
        """A task that was acknowledged, one of the newest or any (newest = 0)."""
        with self.lock:
            among = self.task_ids[-newest:]
            return rng.choice(among) if among else None

    def some_run(self, rng: Random) -> str | None:
        """A run that was acknowledged."""
        with self.lock:
            return rng.choice(self.run_ids[-50:]) if self.run_ids else None

    @property
    def open_count(self) -> int:
        """About how much was acknowledged and is not known to be over."""
        with self.lock:
            return len(self.task_ids) + len(self.run_ids) - self.ended
