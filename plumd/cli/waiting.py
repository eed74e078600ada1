"""Waiting for an end, with a line on the terminal that says how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from plumd.cli.screen import line, word
from plumd.cli.session import Session
from plumd.sdk.client import ClientError, JsonObject, part

Seen = Callable[[JsonObject], None]


@contextmanager
def shown(session: Session, words: Callable[[JsonObject], str]) -> Iterator[Seen | None]:
    """Told how the thing is, shows it on stderr; None when nobody looks there."""
    if not session.screen.err.is_terminal:
        yield None
        return
    with session.screen.err.status("waiting") as status:
        yield lambda item: status.update(words(item))


def task_words(task: JsonObject) -> str:
    """`Running, attempt 2, 40 % halfway`"""
    text = word(task, "state")
    attempt = task.get("attempt")
    if isinstance(attempt, int) and attempt > 1:
        text += f", attempt {attempt}"
    progress = task.get("progress")
    if isinstance(progress, dict):
        ratio = progress.get("ratio")
        if isinstance(ratio, int | float):
            text += f", {ratio:.0%}"
        text += " " + line(str(progress.get("text") or ""))
    return text


def steps_of(run: JsonObject) -> list[JsonObject]:
    """A run's steps."""
    steps = run.get("steps")
    return [step for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []


def telling_why(session: Session, seen: Seen | None,
                tasks_of: Callable[[JsonObject], list[JsonObject]]) -> Seen:
    """What `seen` does, and once a line on stderr where a task waits and nobody can take it."""
    looks = 0
    told = False

    def look(item: JsonObject) -> None:
        nonlocal looks, told
        looks += 1
        if seen is not None:
            seen(item)
        waiting = [one for one in tasks_of(item) if one.get("state") == "Pending"]
        if looks > 1 and not told and waiting:     # a worker may be on its way
            told = True
            for text in causes(session, str(waiting[0].get("taskId"))):
                session.screen.complain(f"it waits: {text}")

    return look


def causes(session: Session, task_id: str) -> list[str]:
    """Why a task waits, in sentences; none where it is not known just now."""
    try:
        answer = session.client.get_object(f"/v1/tasks/{part(task_id)}/why")
    except ClientError:
        return []
    found = answer.get("causes")
    return [str(cause.get("message")) for cause in found
            if isinstance(cause, dict)] if isinstance(found, list) else []


def run_words(run: JsonObject) -> str:
    """`Running, step 2 of 3: report`"""
    steps = steps_of(run)
    for index, step in enumerate(steps):
        if step.get("state") not in ("Succeeded", "Waiting", "Skipped"):
            return (f"{word(run, 'state')}, step {index + 1} of {len(steps)}: "
                    f"{word(step, 'name')} {word(step, 'state')}")
    return word(run, "state")


def wait_task(session: Session, task_id: str, timeout_s: float | None) -> JsonObject:
    """The task when it is over. Raises: WaitTimeoutError."""
    with shown(session, task_words) as seen:
        return session.client.wait_task(
            task_id, timeout_s, telling_why(session, seen, lambda task: [task]))


def wait_run(session: Session, run_id: str, timeout_s: float | None) -> JsonObject:
    """The run when it is over. Raises: WaitTimeoutError."""
    with shown(session, run_words) as seen:
        return session.client.wait_run(
            run_id, timeout_s, telling_why(session, seen, steps_of))
