"""One run of an instance, under a plum-shim of its own: start it, watch it, stop it.

The shim is nobody's child, so a run that an earlier agent started is watched like one's own.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, final

import trio

from plumd.executors import shim

LOOK_S: Final = 0.05
ANSWER_S: Final = 2.0
_CROWDED: Final = frozenset({errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM})


class NotStarted(Exception):
    """It could not be started; the text is for people."""


class Seen(NamedTuple):
    """A run as its keeper sees it. pid: 0 = not known.  lease_at_ms: until when its lease is, 0:
    it has none.  unheld: the limits that nothing holds on this machine."""

    pid: int
    lease_at_ms: int
    unheld: str


NOT_SEEN: Final = Seen(0, 0, "")


@final
class Process:
    """A run in its directory."""

    def __init__(self, directory: Path, shim_path: Path = shim.SHIM_PATH) -> None:
        self.directory = directory
        self._shim = shim_path
        self._line: trio.socket.SocketType | None = None

    def was_started(self) -> bool:
        """Whether it may have run, some time."""
        return shim.was_claimed(self.directory)

    async def start(self, spec: shim.Spec) -> None:
        """Start it. Raises NotStarted.  Cancel: it may have been started."""
        try:
            await trio.to_thread.run_sync(partial(shim.prepare, self.directory, spec))
            if not await trio.to_thread.run_sync(shim.launch, self._shim, self.directory):
                raise NotStarted("this run was started before")
        except (OSError, shim.NotStarted) as error:
            raise NotStarted(str(error)) from None

    async def wait(self) -> shim.Status | None:
        """How it ended; None when nobody knows, because its keeper died, or the directory was
        removed. Cancel: it runs on."""
        while True:
            try:
                line = self._connect()
            except OSError as error:
                if error.errno not in _CROWDED:
                    raise
                await trio.sleep(LOOK_S)
                continue
            if line is not None:
                self._line = line
                try:
                    with line, suppress(OSError):
                        while await line.recv(256):
                            pass
                finally:
                    self._line = None
            status = await trio.to_thread.run_sync(shim.read_status, self.directory)
            if status is not None:
                await trio.to_thread.run_sync(shim.bury, self.directory)
                return status
            if line is None:        # it was claimed before, so its keeper was there
                await trio.to_thread.run_sync(shim.end_leftovers, self.directory)
                shim.bury(self.directory)
                shim.close_log(self.directory)
                return None
            await trio.sleep(LOOK_S)

    def _connect(self) -> trio.socket.SocketType | None:
        """A line to the keeper; None: there is none. Raises OSError."""
        line = shim.connect(self.directory)
        return None if line is None else trio.socket.from_stdlib_socket(line)

    async def tell(self, request: bytes) -> bool:
        """Say something to its keeper; False: there is none any more."""
        line = self._line
        try:
            if line is not None:
                await line.send(request)
                return True
            line = self._connect()
            if line is None:
                return False
            with line:
                await line.send(request)
                await line.recv(256)        # so that it is heard before the line ends
            return True
        except OSError:
            return False

    async def stop(self, grace_ms: int, reason: str) -> bool:
        """Ask for its end: TERM, and KILL after the grace; False: it has ended."""
        return await self.tell(shim.stop_request(grace_ms, reason))

    async def look(self) -> Seen:
        """How it is; as NOT_SEEN when it has ended."""
        with suppress(OSError, ValueError, IndexError):
            line = self._connect()
            if line is None:
                return NOT_SEEN
            with line, trio.move_on_after(ANSWER_S):
                await line.send(b"status")
                words = (await line.recv(256)).decode().split()
                unheld = words[4].strip("-") if len(words) > 4 else ""  # older keepers do not say
                return Seen(int(words[2]), int(words[3]), unheld.replace(",", ", "))
        return NOT_SEEN

    async def usage(self) -> shim.Usage | None:
        """What its tree uses now; None when it has ended."""
        with suppress(OSError):
            line = self._connect()
            if line is None:
                return None
            with line, trio.move_on_after(ANSWER_S):
                await line.send(shim.STATS_REQUEST)
                return shim.parse_usage(await line.recv(256))
        return None
