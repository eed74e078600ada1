"""How a program of the SDK ends: the first signal asks it to finish, a second one stops it."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable

import trio


async def serve_until_signaled(serve: Callable[[], Awaitable[None]], ending: trio.Event) -> None:
    """Serve until it is done; SIGTERM or SIGINT sets `ending`, or cancels when that is set already.
    """
    async def obey(scope: trio.CancelScope) -> None:
        async for _ in signals:
            if ending.is_set():
                scope.cancel()
            ending.set()

    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(obey, nursery.cancel_scope)
            await serve()
            nursery.cancel_scope.cancel()
