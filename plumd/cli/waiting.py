"""Waiting for an end, with a line on the terminal that says how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from plumd.cli.screen import line, word
from plumd.cli.session import Session
from plumd.sdk.client import JsonObject

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


def run_words(run: JsonObject) -> str:
    """`Running, step 2 of 3: report`"""
    steps = run.get("steps")
    steps = steps if isinstance(steps, list) else []
    for index, step in enumerate(steps):
        if isinstance(step, dict) and step.get("state") not in ("Succeeded", "Waiting", "Skipped"):
            return (f"{word(run, 'state')}, step {index + 1} of {len(steps)}: "
                    f"{word(step, 'name')} {word(step, 'state')}")
    return word(run, "state")


def wait_task(session: Session, task_id: str, timeout_s: float | None) -> JsonObject:
    """The task when it is over. Raises: WaitTimeoutError."""
    with shown(session, task_words) as seen:
        return session.client.wait_task(task_id, timeout_s, seen)


def wait_run(session: Session, run_id: str, timeout_s: float | None) -> JsonObject:
    """The run when it is over. Raises: WaitTimeoutError."""
    with shown(session, run_words) as seen:
        return session.client.wait_run(run_id, timeout_s, seen)
