"""Clients: they submit, repeat what was not answered, cancel, look, and listen."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import msgspec

from tests.soak.ledger import Ask, Ledger
from tests.soak.wire import TERMINAL, Answer, Caller, Frame, NoAnswerError, Run, Task, frames

OPEN_MAX = 2_500
BULK_MAX = 60
SILENCE_S = 20.0
PAUSE_S = 0.05
PATIENCE_S = 60.0
BODY = dict[str, object]


class BulkItem(msgspec.Struct, frozen=True, rename="camel"):
    """One item's answer."""

    task_id: str


class BulkAnswer(msgspec.Struct, frozen=True):
    """A bulk's answer."""

    results: list[BulkItem]


class Client(threading.Thread):
    """One client with a line and a chance of its own, until `enough`."""

    def __init__(self, number: int, seed: int, port: int, ledger: Ledger, workflow_id: str,
                 processes: Path) -> None:
        super().__init__(name=f"client-{number}", daemon=True)
        self.rng = Random(f"{seed}-{number}")
        self.caller = Caller(port)
        self.ledger = ledger
        self.workflow_id = workflow_id
        self.processes = processes
        self.enough = threading.Event()
        self.answered = self.unanswered = 0

    def run(self) -> None:
        """Do one thing after another; what was begun with a key is brought to its answer."""
        deeds: list[tuple[int, Callable[[], None]]] = [
            (46, self.work), (10, self.unkeyed), (10, self.delay), (4, self.process),
            (2, self.bulk), (8, self.begin_run), (8, self.cancel), (2, self.cancel_run),
            (12, self.look)]
        weights, choices = zip(*deeds, strict=True)
        while not self.enough.is_set():
            if self.ledger.open_count > OPEN_MAX:
                time.sleep(PAUSE_S)
                continue
            try:
                self.rng.choices(choices, weights)[0]()
            except NoAnswerError:
                self.unanswered += 1
                time.sleep(PAUSE_S)
            except Exception as error:
                self.ledger.trouble(f"{self.name} broke: {error!r}")
                raise
            time.sleep(self.rng.uniform(0, 0.012))

    # ---- asking for work

    def insist(self, path: str, body: BODY, key: str) -> Answer:
        """Ask with the same key until it is answered. Raises: NoAnswerError after a minute."""
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                answer = self.caller.call("POST", path, body, {"Idempotency-Key": key})
            except NoAnswerError:
                self.unanswered += 1
                answer = None
            if answer is not None and answer.ok:
                self.answered += 1
                return answer
            if answer is not None and answer.status not in (429, 503):
                self.ledger.trouble(f"POST {path}: {answer.status} {answer.body[:300]!r}")
                raise NoAnswerError("refused")
            if time.monotonic() > until:
                self.ledger.trouble(f"POST {path} was not answered in {PATIENCE_S} s")
                raise NoAnswerError("too long")
            time.sleep(self.rng.uniform(0, PAUSE_S))

    def submit(self, ask: Ask, body: BODY) -> None:
        """One task, with a key; a good answer is sometimes asked for once more."""
        body["labels"] = {"ask": ask.label}
        for _ in range(1 + (self.rng.random() < 0.1)):
            answer = self.insist("/v1/tasks", body, ask.label)
            task = msgspec.json.decode(answer.body, type=Task)
            self.ledger.acknowledge(ask, task.task_id)
            self.ledger.saw(task, answer.asked_at)

    def work_body(self, ask: Ask) -> BODY:
        """A task for the workers: most are quick, some fail once or for good."""
        name = self.rng.choice(("soak.async", "soak.async", "soak.thread", "soak.inline"))
        fails = self.rng.random()
        return {"name": name, "maxRetries": 2, "priority": self.rng.randint(0, 9),
                "payload": {"ask": ask.label, "ms": self.rng.choice((0, 5, 20, 200)),
                            "fail_until": 1 if fails < 0.1 else 0, "final": fails < 0.03}}

    def work(self) -> None:
        """A task for the workers."""
        ask = self.ledger.open("work", keyed=True)
        self.submit(ask, self.work_body(ask))

    def unkeyed(self) -> None:
        """The same without a key: unanswered, it may be or not be."""
        ask = self.ledger.open("work", keyed=False)
        answer = self.caller.call("POST", "/v1/tasks", {
            **self.work_body(ask), "labels": {"ask": ask.label}})
        if answer.ok:
            self.answered += 1
            task = msgspec.json.decode(answer.body, type=Task)
            self.ledger.acknowledge(ask, task.task_id)

    def delay(self) -> None:
        """A timer of the daemon's own."""
        seconds = self.rng.choice((0.0, 0.05, 0.5, 2.0))
        ask = self.ledger.open("delay", keyed=True, delay_s=seconds)
        self.submit(ask, {"name": "builtin.delay", "payload": {"seconds": seconds},
                          "delaySec": self.rng.choice((0, 0, 0.3))})

    def process(self) -> None:
        """A command that notes that it ran, and ends with a code of its own."""
        code = self.rng.choice((0, 0, 3))
        ask = self.ledger.open("process", keyed=True, exit_code=code)
        script = ('echo "$PLUM_TASK_ID.$PLUM_ATTEMPT" >> "$1"; sleep "$2"; echo "$3"; exit "$4"')
        self.submit(ask, {"name": "soak.process", "executor": "os_process", "payload": {
            "command": "/bin/sh", "args": [
                "-c", script, "sh", str(self.processes),
                self.rng.choice(("0", "0.1", "0.7", "1.5")), ask.label, str(code)]}})

    def bulk(self) -> None:
        """Many at once, all of them or none."""
        asks = [self.ledger.open("bulk", keyed=True)
                for _ in range(self.rng.randint(1, BULK_MAX))]
        body: BODY = {"tasks": [{"name": "soak.async", "payload": {"ask": ask.label},
                                 "maxRetries": 2, "labels": {"ask": ask.label}} for ask in asks]}
        answer = self.insist("/v1/tasks/bulk", body, asks[0].label)
        found = msgspec.json.decode(answer.body, type=BulkAnswer)
        for ask, item in zip(asks, found.results, strict=True):
            self.ledger.acknowledge(ask, item.task_id)

    def begin_run(self) -> None:
        """A workflow of three steps."""
        ask = self.ledger.open("run", keyed=True)
        answer = self.insist(f"/v1/workflows/{self.workflow_id}?action=run",
                             {"payload": {"ask": ask.label}}, ask.label)
        run = msgspec.json.decode(answer.body, type=Run)
        self.ledger.acknowledge(ask, run.run_id)

    # ---- changing and looking

    def cancel(self) -> None:
        """End a task that was asked for a moment ago."""
        task_id = self.ledger.some_task(self.rng, 40)
        if task_id is None:
            return
        answer = self.caller.call("POST", f"/v1/tasks/{task_id}?action=cancel")
        if answer.ok:
            self.ledger.canceled(task_id)
            self.ledger.saw(msgspec.json.decode(answer.body, type=Task), answer.asked_at)
        elif answer.status not in (409, 503):
            self.ledger.trouble(f"cancel {task_id}: {answer.status} {answer.body[:300]!r}")

    def cancel_run(self) -> None:
        """End a run."""
        run_id = self.ledger.some_run(self.rng)
        if run_id is None:
            return
        answer = self.caller.call("POST", f"/v1/workflow-runs/{run_id}?action=cancel")
        if answer.ok:
            self.ledger.canceled(run_id)
        elif answer.status not in (409, 503):
            self.ledger.trouble(f"cancel run {run_id}: {answer.status} {answer.body[:300]!r}")

    def look(self) -> None:
        """See how some acknowledged task or run is; it must be there."""
        run_id = self.ledger.some_run(self.rng) if self.rng.random() < 0.2 else None
        task_id = None if run_id else self.ledger.some_task(self.rng, self.rng.choice((0, 100)))
        if run_id is None and task_id is None:
            return
        path = f"/v1/workflow-runs/{run_id}" if run_id else f"/v1/tasks/{task_id}"
        answer = self.caller.call("GET", path)
        if not answer.ok:
            self.ledger.trouble(f"GET {path}: {answer.status} {answer.body[:300]!r}")
        elif run_id:
            self.ledger.saw_run(msgspec.json.decode(answer.body, type=Run), answer.asked_at)
        else:
            self.ledger.saw(msgspec.json.decode(answer.body, type=Task), answer.asked_at)


class News(msgspec.Struct, frozen=True, rename="camel"):
    """The data of a task's or run's event."""

    state: str = ""
    task_id: str | None = None
    run_id: str | None = None
    attempt: int = 0


class Listener(threading.Thread):
    """One reader of the event log: whenever its line breaks it goes on behind the last event."""

    def __init__(self, port: int, ledger: Ledger) -> None:
        super().__init__(name="listener", daemon=True)
        self.port = port
        self.ledger = ledger
        self.enough = threading.Event()
        self.heard: list[Frame] = []
        self.lines = 0

    @property
    def last_id(self) -> int:
        """The number of the last event that was read."""
        return self.heard[-1].id if self.heard else 0

    def run(self) -> None:
        """Read on until `enough`, which is looked at with every event and every break."""
        while not self.enough.is_set():
            try:
                self.lines += 1
                for frame in frames(self.port, self.last_id, SILENCE_S):
                    self.take(frame)
                    if self.enough.is_set():
                        return
            except NoAnswerError:
                time.sleep(PAUSE_S)

    def take(self, frame: Frame) -> None:
        """Keep it, and note what came to its end by it."""
        self.heard.append(frame)
        if frame.name == "task":
            news = msgspec.json.decode(frame.data, type=News)
            if news.state in TERMINAL and news.task_id is not None:
                self.ledger.heard_end(news.task_id, news.state, news.attempt)
        elif frame.name == "run":
            news = msgspec.json.decode(frame.data, type=News)
            if news.state in TERMINAL and news.run_id is not None:
                self.ledger.heard_end(news.run_id, news.state, 0)
