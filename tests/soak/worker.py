"""A worker that writes down every start and every end before anybody else hears of it.

python -m tests.soak.worker URL WORKER_ID FILE [CAPACITY]
"""

from __future__ import annotations

import os
import sys
import time

import msgspec
import trio

from plumd.sdk import Context, TaskFailed, Worker

BEAT_S = 1.0
CAPACITY = 16


class Work(msgspec.Struct, frozen=True):
    """What a handler shall do. fail_until: attempts up to this number fail."""

    ask: str = ""
    ms: int = 0
    fail_until: int = 0
    final: bool = False
    seconds: float = 0


class Done(msgspec.Struct, frozen=True):
    """What a handler answers: who it was."""

    ask: str
    attempt: int
    by: str


def main() -> None:
    """Serve until SIGTERM."""
    url, worker_id, path = sys.argv[1:4]
    capacity = int(sys.argv[4]) if len(sys.argv) > 4 else CAPACITY
    record = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    worker = Worker(url, worker_id=worker_id, capacity=capacity, beat_s=BEAT_S,
                    drain_timeout_s=5)

    def note(word: str, context: Context) -> None:
        os.write(record, f"{word} {context.id} {worker_id} {time.monotonic()}\n".encode())

    def end(work: Work, context: Context) -> Done:
        if context.attempt <= work.fail_until:
            note("failed", context)
            raise TaskFailed("as it was asked to", retry=not work.final, retry_after_s=0.05)
        note("done", context)
        return Done(work.ask, context.attempt, worker_id)

    @worker.task("soak.async", type=Work)
    async def pause(work: Work, context: Context) -> Done:
        note("start", context)
        try:
            await trio.sleep(work.ms / 1000)
        except trio.Cancelled:
            note("cut", context)
            raise
        return end(work, context)

    @worker.task("soak.thread", type=Work)
    def block(work: Work, context: Context) -> Done:
        note("start", context)
        time.sleep(work.ms / 1000)
        return end(work, context)

    @worker.task("soak.inline", inline=True, type=Work)
    def inline(work: Work, context: Context) -> Done:
        note("start", context)
        return end(work, context)

    worker.run()


if __name__ == "__main__":
    main()
