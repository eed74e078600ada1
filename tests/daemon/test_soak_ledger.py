"""The soak's ledger: what it takes for a broken promise, and what is only an older answer."""

from __future__ import annotations

import time

import msgspec
import pytest

from tests.soak.ledger import Ledger
from tests.soak.wire import Run, Task


def task(state: str, attempt: int = 1) -> Task:
    """A task as it was shown."""
    return Task("t", "n", "embedded", state, attempt, msgspec.Raw(b"null"))


def test_an_answer_that_was_asked_for_before_the_end_was_known_may_be_older() -> None:
    ledger = Ledger()
    asked_at = time.monotonic()
    ledger.saw(task("Canceled"), asked_at)
    ledger.saw(task("Pending"), asked_at)
    ledger.heard_end("r", "Succeeded", 0)
    ledger.saw_run(Run("r", "Running"), asked_at)
    assert ledger.troubles == []


@pytest.mark.parametrize("learn", ["saw", "heard"])
def test_what_was_over_when_it_was_asked_for_must_be_over(learn: str) -> None:
    ledger = Ledger()
    if learn == "saw":
        ledger.saw(task("Canceled"), time.monotonic())
        ledger.saw_run(Run("r", "Canceled"), time.monotonic())
    else:
        ledger.heard_end("t", "Canceled", 1)
        ledger.heard_end("r", "Canceled", 0)
    learned_at = time.monotonic()
    while (asked_at := time.monotonic()) <= learned_at:
        pass
    ledger.saw(task("Pending"), asked_at)
    ledger.saw_run(Run("r", "Running"), asked_at)
    assert ledger.troubles == ["t was over and is Pending", "r was over and is Running"]


def test_an_end_never_changes_whenever_it_was_asked_for() -> None:
    ledger = Ledger()
    asked_at = time.monotonic()
    ledger.saw(task("Succeeded"), asked_at)
    ledger.saw(task("Succeeded", 2), asked_at)
    ledger.saw(task("Failed"), asked_at)
    assert len(ledger.troubles) == 4
