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

PAGE_BYTES: Final = 64 << 10
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

    Cancel: anywhere; what may not have come is told again, and harmlessly: see `_note`.
    """
    output = _Output(directory, attempt_id, teller)
    await trio.to_thread.run_sync(output.open)
    while not ended.is_set():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when, ended, nursery.cancel_scope)
            await output.tell()
            nursery.start_soon(output.note_when_told)
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
        self.id = attempt_id
        self.said_bytes = self.last_mark = 0    # of the attempt's log: see LogLines
        self._teller = teller
        self._noted = 0

    def open(self) -> None:
        """Find out how much was told before."""
        with suppress(OSError, ValueError):
            self.offset, self.said_bytes = map(int, (self._directory / TOLD).read_text().split())
            self._noted = self.offset

    async def tell(self) -> None:
        """Tell what there is, as fast as the line takes it."""
        while True:
            while self._teller.lines.half_full:
                await self._teller.lines.wait_fewer()
            page = await trio.to_thread.run_sync(
                process_log.read_page, self._directory, self.offset, PAGE_BYTES)
            if page.left_out:
                await self._leave_out(page.left_out)
            for entry in page.entries:
                self._say(entry.data.decode(errors="replace"))
            self.offset = page.next_offset
            if not page.entries:
                return
            self._teller.wake()
            if self.offset - self._noted > BACKLOG_BYTES_MAX:
                await self.note_when_told()

    async def tell_rest(self) -> None:
        """Tell the end of it, when no more will come."""
        try:
            size = await trio.to_thread.run_sync(process_log.log_size, self._directory)
            if size - self.offset > BACKLOG_BYTES_MAX:
                await self._leave_out(size - BACKLOG_BYTES_MAX - self.offset)
            await self.tell()
        except FileNotFoundError:           # it never had a directory
            return

    async def _leave_out(self, count: int) -> None:
        """Go on behind so many bytes, and never come back to them: another time there might be
        more of them, and what is told must be told again word for word.
        """
        await self.note_when_told()
        said = f"[... {count} bytes left out ...]\n"
        end_bytes = self.said_bytes + len(said)
        self._say(said)
        self.offset += count
        await trio.to_thread.run_sync(self._note, self.offset, end_bytes)

    async def note_when_told(self) -> None:
        """Keep how far it was told, once the controller has that: for an agent that comes after us.
        """
        offset, mark = self.offset, self._teller.lines.mark
        while not self._teller.lines.are_told(mark):
            await self._teller.lines.wait_fewer()
        if self._noted < offset:
            # Nothing of this process was said meanwhile, and what was dropped is not in its log.
            await trio.to_thread.run_sync(self._note, offset, self.said_bytes)

    def _say(self, text: str) -> None:
        self._teller.lines.add(self, text, part=True)

    def _note(self, offset: int, end_bytes: int) -> None:
        """Keep up to where it was told, and how long that made the attempt's log."""
        with suppress(OSError):             # a full disk costs time: more of it is told again
            (self._directory / TOLD).write_text(f"{offset} {end_bytes}")
        self._noted = offset
