"""How a program of the SDK ends: the first signal asks it to finish, a second one stops it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Awaitable, Callable

import trio


def first_error(group: BaseExceptionGroup[BaseException]) -> Exception:
    """The first plain error in a group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Exception)
    return error


def unwrapped(error: Exception | SystemExit) -> Exception | SystemExit:
    """The error itself where a nursery has wrapped up one alone."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


async def serve_until_signaled(serve: Callable[[], Awaitable[None]], ending: trio.Event) -> None:
    """Serve until it is done; SIGTERM or SIGINT sets `ending`, or cancels when that is set already.
    What `serve` raises comes out as it is. In a thread that is not the main one signals are left to
    the program, which ends it by other means.
    """
    if threading.current_thread() is not threading.main_thread():
        await serve()
        return

    async def obey(scope: trio.CancelScope) -> None:
        async for _ in signals:
            if ending.is_set():
                scope.cancel()
            ending.set()

    trouble: Exception | None = None
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(obey, nursery.cancel_scope)
            try:
                await serve()
            except Exception as error:  # outside the nursery, which would wrap it up
                trouble = error
            nursery.cancel_scope.cancel()
    if trouble is not None:
        raise trouble
