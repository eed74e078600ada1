"""A worker whose tasks run until a file exists: `python -m tests.ui.worker URL NAME...`."""

from __future__ import annotations

import sys

import trio

from plumd.sdk import Worker

LOOK_S = 0.02


async def hold(payload: dict[str, str]) -> dict[str, str]:
    """Run until payload["until"] is a file; its text is the result."""
    path = trio.Path(payload["until"])
    while not await path.exists():      # noqa: ASYNC110 - a file
        await trio.sleep(LOOK_S)
    return {"read": await path.read_text()}


def main() -> None:
    """Serve until SIGTERM."""
    worker = Worker(sys.argv[1], capacity=8, labels={"kind": "test"})
    for name in sys.argv[2:]:
        worker.task(name)(hold)
    worker.run()


if __name__ == "__main__":
    main()
