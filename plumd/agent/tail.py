"""Tells the controller what a process prints, while it prints: plum-shim says when there is more.

What waits for the line is bounded; the rest stays in the shim's files, whose middle goes when they
grow too long. So a process that prints a gigabyte costs neither memory nor time.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

import trio

from plumd.executors import process_log, shim
from plumd.sdk.log_lines import LogLines
from plumd.sdk.protocol import LOG_CHARS_MAX

PAGE_BYTES: Final = 64 << 10
WAITING_LINES_MAX: Final = 2_000
GATHER_S: Final = 0.05
"""So long output gathers before it is told: a word every so often, not one for each write."""
LOOK_S: Final = 0.02
BACKLOG_BYTES_MAX: Final = 1 << 20
"""Of what is left when the process is over no more than this delays the word of its end."""
TOLD: Final = "told"


class Teller(Protocol):
    """Where lines go."""

    lines: LogLines

    def wake(self) -> None: ...


async def tell_output(directory: Path, attempt_id: str, teller: Teller, ended: trio.Event) -> None:
    """Tell all output from where an earlier agent stopped, until the process is over.

    Cancel: anywhere; what was told is kept, and at most the last message is told again.
    """
    output = _Output(directory, attempt_id, teller)
    await trio.to_thread.run_sync(output.open)
    while not ended.is_set():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when, ended, nursery.cancel_scope)
            await output.tell()
            nursery.start_soon(output.note_when_sent)
            await _wait_more(directory, output.offset)
            await trio.sleep(GATHER_S)
            nursery.cancel_scope.cancel()
    await output.tell_rest()


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def _wait_more(directory: Path, offset: int) -> None:
    """Return when the log goes beyond offset; for ever when the process is over."""
    while True:
        try:
            line = shim.connect(directory)
        except OSError:                     # too many lines, or too many files: later
            line = None
        if line is None:                    # not started yet, or just over
            await trio.sleep(LOOK_S)
            continue
        with trio.socket.from_stdlib_socket(line) as asked, suppress(OSError):
            await asked.send(shim.tail_request(offset))
            if await asked.recv(64):
                return
        await trio.sleep(LOOK_S)


class _Output:
    """The output of one process, and how far it was told."""

    def __init__(self, directory: Path, attempt_id: str, teller: Teller) -> None:
        self.offset = 0
        self._directory = directory
        self._id = attempt_id
        self._teller = teller
        self._noted = 0

    def open(self) -> None:
        """Find out how much was told before."""
        with suppress(OSError, ValueError):
            self.offset = self._noted = int((self._directory / TOLD).read_text())

    async def tell(self) -> None:
        """Tell what there is, as fast as the line takes it."""
        while True:
            while len(self._teller.lines) > WAITING_LINES_MAX:  # noqa: ASYNC110 - many empty it
                await trio.sleep(GATHER_S)
            page = await trio.to_thread.run_sync(
                process_log.read_page, self._directory, self.offset, PAGE_BYTES)
            if page.left_out:
                self._say(f"[... {page.left_out} bytes left out ...]\n")
            for entry in page.entries:
                self._say(entry.data.decode(errors="replace"))
            self.offset = page.next_offset
            if not page.entries:
                return
            self._teller.wake()
            if self.offset - self._noted > BACKLOG_BYTES_MAX:
                await trio.to_thread.run_sync(self._note, self.offset)

    async def tell_rest(self) -> None:
        """Tell the end of it, when no more will come."""
        try:
            size = await trio.to_thread.run_sync(process_log.log_size, self._directory)
            if size - self.offset > BACKLOG_BYTES_MAX:
                self._say(f"[... {size - BACKLOG_BYTES_MAX - self.offset} bytes left out ...]\n")
                self.offset = size - BACKLOG_BYTES_MAX
            await self.tell()
        except FileNotFoundError:           # it never had a directory
            return
        await trio.to_thread.run_sync(self._note, self.offset)

    async def note_when_sent(self) -> None:
        """Keep how far it was told, once that is on its way: for an agent that comes after us."""
        offset = self.offset
        while self._teller.lines:   # noqa: ASYNC110 - nobody tells when they left
            await trio.sleep(GATHER_S)
        if self._noted < offset:
            await trio.to_thread.run_sync(self._note, offset)

    def _say(self, text: str) -> None:
        for at in range(0, len(text), LOG_CHARS_MAX):
            self._teller.lines.add(self._id, text[at:at + LOG_CHARS_MAX], part=True)

    def _note(self, offset: int) -> None:
        with suppress(OSError):             # a full disk costs a line told twice, no more
            (self._directory / TOLD).write_text(str(offset))
        self._noted = offset
