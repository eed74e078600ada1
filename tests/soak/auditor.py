"""At the end, when nothing dies any more: does the daemon keep every promise that it gave?"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import apsw
import msgspec

from plumd.store import sql
from tests.soak.ledger import Ask, Ledger
from tests.soak.wire import Caller, Frame, Run, Task, frames

PAGE = 1000
SILENCE_S = 30.0
SHOWN = 5


class Done(msgspec.Struct, frozen=True):
    """What a worker's handler answered."""

    ask: str
    attempt: int
    by: str


class Exit(msgspec.Struct, frozen=True, rename="camel"):
    """What an os_process came to."""

    exit_code: int | None
    stdout: str = ""


class Auditor:
    """Checks with names; each one is passed or has findings. port: of the daemon at rest."""

    def __init__(self, ledger: Ledger, port: int) -> None:
        self.ledger = ledger
        self.caller = Caller(port)
        self.port = port
        self.tasks: dict[str, Task] = {}
        self.runs: dict[str, Run] = {}
        self.findings: dict[str, list[str]] = {}
        self.facts: dict[str, int] = {}
        self.by_ask: dict[str, list[str]] = defaultdict(list)

    def check(self, name: str, wrong: list[str]) -> None:
        """One check: passed when nothing was wrong."""
        self.findings[name] = wrong

    def read_all(self) -> None:
        """Everything that the API shows, page by page."""
        for page in self.caller.pages(f"/v1/tasks?limit={PAGE}"):
            for task in msgspec.json.decode(page, type=list[Task]):
                self.tasks[task.task_id] = task
                if "ask" in task.labels:
                    self.by_ask[task.labels["ask"]].append(task.task_id)
        for page in self.caller.pages(f"/v1/workflow-runs?limit={PAGE}"):
            for run in msgspec.json.decode(page, type=list[Run]):
                self.runs[run.run_id] = run
                self.by_ask[run.payload.ask if run.payload else ""].append(run.run_id)
        states = Counter(task.state for task in self.tasks.values())
        self.facts.update({"tasks": len(self.tasks), "runs": len(self.runs)} | states)

    # ---- what was acknowledged, once and for ever

    def acknowledged(self) -> None:
        """Nothing acknowledged is lost, nothing is there twice, and all has ended."""
        asks = self.ledger.asks.values()
        self.check("no acknowledged task or run is lost", [
            f"{ask.label}: {item}" for ask in asks for item in ask.ids
            if item not in self.tasks and item not in self.runs])
        self.check("each ask made exactly one task or run", [
            f"{ask.label} (keyed {ask.keyed}, acked {ask.acked}): {self.by_ask[ask.label]}"
            for ask in asks if not self.right_count(ask)])
        self.check("nobody has work that was never asked for", [
            label for label in self.by_ask if label not in self.ledger.asks])
        self.check("everything came to its end", [
            *(f"task {task.task_id} {task.state}" for task in self.tasks.values()
              if not task.over),
            *(f"run {run.run_id} {run.state}" for run in self.runs.values() if not run.over)])

    def right_count(self, ask: Ask) -> bool:
        """Whether an ask has as many tasks as it may: one, or at most one if nobody answered."""
        found = self.by_ask[ask.label]
        return found == list(ask.ids) if ask.acked else len(found) <= 1

    def ends(self) -> None:
        """What was seen as over is over in the same way."""
        for task in self.tasks.values():
            self.ledger.saw(task)
        for run in self.runs.values():
            self.ledger.saw_run(run)
        self.check("no terminal state or result changed, nothing broke on the way",
                   self.ledger.troubles)
        self.check("what was canceled is canceled", [
            f"{item} is {state}" for item in self.ledger.cancels
            if (state := self.state_of(item)) != "Canceled"])

    def state_of(self, item: str) -> str:
        """The state of a task or run."""
        found = self.tasks.get(item) or self.runs.get(item)
        return "not there" if found is None else found.state

    # ---- who did the work

    def workers(self, lines: list[str]) -> None:
        """The workers' own records against what the daemon says."""
        starts: Counter[str] = Counter()
        done: dict[str, str] = {}
        wrong_attempts: list[str] = []
        for line in lines:
            word, attempt_id, by, _ = line.split(" ")
            if word == "start":
                starts[attempt_id] += 1
                task_id, _, number = attempt_id.partition(".")
                task = self.tasks.get(task_id)
                if task is None or int(number or 1) > task.attempt:
                    wrong_attempts.append(attempt_id)
            elif word == "done":
                done[attempt_id] = by
        self.facts["attempts started"] = sum(starts.values())
        self.check("no attempt started twice", [one for one, n in starts.items() if n > 1])
        self.check("no attempt started that the daemon does not know", wrong_attempts)
        wrong = []
        for task in self.tasks.values():
            if task.state == "Succeeded" and task.name in (
                    "soak.async", "soak.thread", "soak.inline"):
                wrong += self.wrong_result(task, done)
        self.check("each result is that of the attempt and worker in the record", wrong)

    def wrong_result(self, task: Task, done: dict[str, str]) -> list[str]:
        """What is wrong with a success of a worker's task."""
        attempt_id = task.task_id if task.attempt == 1 else f"{task.task_id}.{task.attempt}"
        result = msgspec.json.decode(task.result, type=Done)
        if (result.attempt, result.by) != (task.attempt, task.worker):
            return [f"{attempt_id} of {task.worker} has the result {result}"]
        if done.get(attempt_id) != task.worker:
            return [f"{attempt_id} succeeded, but its worker never said so"]
        if "ask" in task.labels and result.ask != task.labels["ask"]:
            return [f"{attempt_id} has the result of {result.ask}"]
        return []

    def processes(self, record: Path) -> None:
        """Every command ran at most once an attempt, and its exit code is told."""
        ran = Counter(record.read_text().split()) if record.exists() else Counter[str]()
        self.facts["processes"] = sum(ran.values())
        self.check("no process ran twice", [one for one, n in ran.items() if n > 1])
        wrong = []
        for ask in self.ledger.asks.values():
            if ask.kind != "process":
                continue
            for item in self.by_ask[ask.label]:
                wrong += self.wrong_process(ask, self.tasks[item], ran)
        self.check("exit codes and output of processes are right", wrong)

    def wrong_process(self, ask: Ask, task: Task, ran: Counter[str]) -> list[str]:
        """What is wrong with a process that was not canceled."""
        if task.state == "Canceled":
            return []
        said = f"{task.task_id} exit {ask.exit_code}: {task.state} {task.error}"
        if f"{task.task_id}.{task.attempt}" not in ran or task.attempt != 1:
            return [f"{said}: attempt {task.attempt}, ran {ran[task.task_id + '.1']}"]
        if task.state != ("Failed" if ask.exit_code else "Succeeded"):
            return [said]
        if ask.exit_code:
            return [] if task.error is not None and task.error.exit_code == ask.exit_code else [
                said]
        result = msgspec.json.decode(task.result, type=Exit)
        return [] if (result.exit_code, result.stdout) == (0, f"{ask.label}\n") else [
            f"{said}: {result}"]

    def delays(self) -> None:
        """A delay ends by success or cancel, and not before its time."""
        wrong = []
        for ask in self.ledger.asks.values():
            if ask.kind != "delay":
                continue
            for task in (self.tasks[item] for item in self.by_ask[ask.label]):
                took_ms = (task.finished_at or 0) - (task.started_at or 0)
                if task.state not in ("Succeeded", "Canceled") or (
                        task.state == "Succeeded" and took_ms < ask.delay_s * 1000 - 1):
                    wrong.append(f"{task.task_id} {task.state} after {took_ms} ms, "
                                 f"not {ask.delay_s} s: {task.error}")
        self.check("delays end by themselves, in time", wrong)

    def steps(self) -> None:
        """A run's steps ran in order, each of them as one task, and gave the run its state."""
        of_run: dict[str, list[Task]] = defaultdict(list)
        for task in self.tasks.values():
            if task.run_id is not None:
                of_run[task.run_id].append(task)
        wrong = []
        for run in self.runs.values():
            found = sorted(of_run[run.run_id], key=lambda task: task.task_id)
            states = [task.state for task in found]
            if [task.step_id for task in found] != [str(n) for n in range(len(found))]:
                wrong.append(f"{run.run_id} has the steps {[task.step_id for task in found]}")
            elif run.state == "Succeeded" and states != ["Succeeded"] * 3:
                wrong.append(f"{run.run_id} succeeded with {states}")
            elif run.state == "Failed" and (not states or states[-1] not in (
                    "Failed", "Timeout")):
                wrong.append(f"{run.run_id} failed with {states}")
            elif any(after.started_at is not None and after.started_at < (before.finished_at or 0)
                     for before, after in pairwise(found)):
                wrong.append(f"{run.run_id}: a step began before the one before had ended")
        self.check("each run went step by step, each step once", wrong)

    # ---- the event log

    def events(self, heard: list[Frame]) -> None:
        """The reader that was cut off so often heard what the log holds, and ends come once."""
        truth = list(frames_at_rest(self.port, heard[-1].id if heard else 0))
        self.facts["events"] = len(truth)
        self.check("the event reader heard every number once, in order", [
            f"{before.id} then {after.id}"
            for before, after in pairwise(heard) if after.id <= before.id])
        self.check("the event reader missed nothing and heard nothing else", difference(
            heard, truth))
        ends: Counter[str] = Counter()
        for item in self.ledger_ends(truth):
            ends[item] += 1
        self.check("every end is in the event log once", [
            *(f"{item} {n} times" for item, n in ends.items() if n > 1),
            *(f"{item} never" for item in [*self.tasks, *self.runs] if item not in ends)])

    def ledger_ends(self, truth: list[Frame]) -> list[str]:
        """The ids whose end is in the log."""
        found = []
        for frame in truth:
            news = msgspec.json.decode(frame.data, type=dict[str, msgspec.Raw])
            key = {"task": "taskId", "run": "runId"}.get(frame.name)
            if key and bytes(news["state"]).strip(b'"').decode() in (
                    "Succeeded", "Failed", "Timeout", "Canceled"):
                found.append(msgspec.json.decode(news[key], type=str))
        return found

    # ---- the file and the log, when the daemon has left

    def database(self, path: Path) -> None:
        """SQLite finds the file whole, and the event records follow one another."""
        db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            said = [str(row[0]) for row in db.execute("PRAGMA integrity_check")]
            self.check("the database file is whole", [] if said == ["ok"] else said)
            rows: list[tuple[int, int]] = list(sql.rows(
                db, "SELECT first_seq, count FROM events ORDER BY first_seq"))
        finally:
            db.close()
        self.check("event numbers have no holes", [
            f"{a} + {n} then {b}" for (a, n), (b, _) in pairwise(rows) if a + n != b])

    def log(self, text: str) -> None:
        """The daemon had nothing to complain of."""
        self.check("the daemon's log has no error", [
            line for line in text.splitlines()
            if line.startswith("Traceback") or " ERROR " in line or "level=error" in line])

    def report(self, say: Callable[[str], None]) -> int:
        """Say what every check came to; answers how many failed."""
        failed = 0
        for name, wrong in self.findings.items():
            say(f"{'FAILED' if wrong else 'passed'}  {name}")
            for one in wrong[:SHOWN]:
                say(f"        {one[:400]}")
            if len(wrong) > SHOWN:
                say(f"        and {len(wrong) - SHOWN} more")
            failed += bool(wrong)
        say(f"{len(self.findings) - failed} passed, {failed} failed")
        return failed


def frames_at_rest(port: int, last_id: int) -> list[Frame]:
    """The whole event log up to a number, read at one go; nothing happens meanwhile."""
    found = []
    for frame in frames(port, 0, SILENCE_S):
        found.append(frame)
        if frame.id >= last_id:
            break
    return found


def difference(heard: list[Frame], truth: list[Frame]) -> list[str]:
    """Where two readings of the log differ."""
    if heard == truth:
        return []
    mine, theirs = set(heard), set(truth)
    return [*(f"missed {one}" for one in truth if one not in mine),
            *(f"heard {one}" for one in heard if one not in theirs)] or ["the order differs"]
