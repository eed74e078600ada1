"""The worker process of a measurement: python -m bench.worker URL CAPACITY NAME MODE.

MODE: noop answers null, stamp answers the time at which it was called, block never answers, fib
finds the payload's Fibonacci number and answers how many milliseconds all that it found have taken
so far, sleep answers after 0.1 s.
"""

from __future__ import annotations

import os
import sys
import time

import trio

from plumd.sdk import Worker


def fib(n: int) -> int:
    """The n-th number of Fibonacci, the slow way."""
    return n if n < 2 else fib(n - 1) + fib(n - 2)


def main() -> None:
    """Serve until SIGTERM; prints a line when it is registered."""
    url, capacity, name, mode = sys.argv[1:5]
    poll = bool(os.environ.get("PLUM_BENCH_LONG_POLL"))
    worker = Worker(url, capacity=int(capacity),
                    transport="long-poll" if poll else "websocket")

    def noop(payload: object) -> None:
        del payload

    def stamp(payload: object) -> int:
        del payload
        return time.monotonic_ns()

    async def block(payload: object) -> None:
        del payload
        await trio.sleep_forever()

    spent_ms = 0.0

    def work(payload: object) -> float:
        nonlocal spent_ms
        begun = time.perf_counter()
        fib(int(str(payload)))
        spent_ms += (time.perf_counter() - begun) * 1000
        return spent_ms

    async def sleep(payload: object) -> None:
        del payload
        await trio.sleep(0.1)

    if mode in ("block", "sleep"):
        worker.task(name)(block if mode == "block" else sleep)
    elif mode == "fib":
        worker.task(name, inline=True)(work)
    else:
        worker.task(name, inline=True)(stamp if mode == "stamp" else noop)

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(worker.serve)
            print("registered", flush=True)

    trio.run(serve)


if __name__ == "__main__":
    main()
