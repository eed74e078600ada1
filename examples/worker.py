"""A worker with three handlers. Start it beside a daemon, then submit tasks by their names:

    python examples/worker.py http://127.0.0.1:8080
    curl -d '{"name": "word-count", "payload": {"text": "one two"}}' \
         -H 'Content-Type: application/json' http://127.0.0.1:8080/v1/tasks

Ctrl-C or SIGTERM: the worker takes nothing new, finishes what runs, hands in the results, says
goodbye and exits with 0. A second signal stops it at once.
"""

import logging
import sys
import time

import msgspec
import trio

from plumd.sdk import Context, TaskFailed, Worker

worker = Worker(
    sys.argv[1] if len(sys.argv) > 1 else None,  # None: PLUM_SERVER, else 127.0.0.1:8080
    capacity=8,                                  # so many attempts at once
    labels={"example": "yes"},                   # tasks may ask for workers with these labels
    drain_timeout_s=20,                          # how long attempts may still run after SIGTERM
)


class Sleep(msgspec.Struct):
    """The payload of `sleep`. A payload that does not fit fails before the handler is called."""

    seconds: float = 1.0


# A plain function runs in a thread, so it may block. The payload is plain JSON: here a dict.
@worker.task("word-count")
def word_count(payload: dict[str, str]) -> dict[str, int]:
    """Count words, or say why that is impossible."""
    if "text" not in payload:
        # Advice for the daemon: the same payload would fail again, so do not retry.
        raise TaskFailed("the payload has no text", code="no_text", retry=False)
    return {"words": len(payload["text"].split())}


# An async function is a Trio task. When the task is canceled or times out, the await that it
# stands in raises trio.Cancelled, so cleanup goes into `finally` or `with`.
@worker.task("sleep", type=Sleep)
async def sleep(payload: Sleep, context: Context) -> str:
    """Sleep, and say how far it is."""
    steps = 20
    for step in range(steps):
        context.progress(step / steps, f"{step * payload.seconds / steps:.1f} s")
        await trio.sleep(payload.seconds / steps)
    return f"slept {payload.seconds} s in attempt {context.attempt}"


# A thread cannot be stopped from outside: a long one asks now and then whether it shall end.
@worker.task("crunch")
def crunch(payload: int, context: Context) -> int:
    """Add numbers in slices of a hundredth of a second."""
    total = 0
    for number in range(payload):
        context.check_canceled()
        total += number
        time.sleep(0.01)
        context.progress((number + 1) / payload)
    return total


# inline: called in the event loop itself, with no task and no thread. For what takes microseconds.
@worker.task("add", inline=True)
def add(payload: list[int]) -> int:
    """Add numbers."""
    return sum(payload)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    worker.run()
