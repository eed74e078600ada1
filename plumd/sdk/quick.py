"""A plain TCP stream with fewer turns of the scheduler, for lines that carry small messages.

Trio's own stream tries to receive before it waits, and lets others run after every call that went
through. A line that waits for a message and answers it pays for each with a system call or a turn
of the loop. This one waits first where nothing can be there, and lets others run when it waits,
or after a while of not waiting.
"""

from __future__ import annotations

import os
from typing import Final, final

import trio

RECEIVE_BYTES: Final = 64 * 1024
BUSY_MAX: Final = 16


@final
class QuickStream(trio.abc.Stream):
    """Around a connected trio.SocketStream; one task receives, one sends at a time."""

    __slots__ = ("_busy", "_drained", "_fd", "_stream")

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._fd = stream.socket.fileno()
        self._drained = False       # the last read took all that was there
        self._busy = 0              # calls since others could run

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Some bytes, b"" at the end. Raises trio.BrokenResourceError, trio.ClosedResourceError.

        Cancel: nothing was received.
        """
        size = max_bytes or RECEIVE_BYTES
        await self._turn()
        while True:
            self._check_open()
            if self._drained:
                await trio.lowlevel.wait_readable(self._stream.socket)
                self._busy = 0
                self._drained = False
                self._check_open()
            try:
                data = os.read(self._fd, size)
            except BlockingIOError:
                self._drained = True
                continue
            except OSError as error:
                raise trio.BrokenResourceError(str(error)) from error
            self._drained = len(data) < size
            return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send everything. Raises and Cancel: as trio.SocketStream."""
        await self._turn()
        self._check_open()
        try:
            sent = os.write(self._fd, data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise trio.BrokenResourceError(str(error)) from error
        if sent < len(data):
            self._busy = 0
            await self._stream.send_all(memoryview(data)[sent:])

    def send_nowait(self, data: bytes) -> int:
        """Send what goes out at once; answers how many bytes. Raises as `send_all`."""
        self._check_open()
        try:
            return os.write(self._fd, data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise trio.BrokenResourceError(str(error)) from error

    def _check_open(self) -> None:
        """Its number may belong to another file once the socket is closed."""
        if self._stream.socket.fileno() < 0:
            raise trio.ClosedResourceError

    async def _turn(self) -> None:
        """A checkpoint, now and then a whole one."""
        self._busy += 1
        if self._busy > BUSY_MAX:
            self._busy = 0
            await trio.lowlevel.checkpoint()
        else:
            await trio.lowlevel.checkpoint_if_cancelled()

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


def quick(stream: trio.abc.Stream) -> trio.abc.Stream:
    """The quick form of a plain TCP stream; any other stream as it is."""
    return QuickStream(stream) if isinstance(stream, trio.SocketStream) else stream
