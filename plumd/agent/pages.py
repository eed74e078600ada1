"""Shows the controller what instances print, as it asks for it."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final, final

import trio

from plumd.agent.instance import run_numbers
from plumd.executors import process_log, shim
from plumd.executors.process_log import LogPage
from plumd.sdk.protocol import PAGE_BYTES_MAX, Look, Page

WAIT_S_MAX: Final = 60.0
LOOK_S: Final = 0.1
AT_ONCE_MAX: Final = 64
"""So many looks wait at a time; more are answered at once, with what there is."""


@final
class Pages:
    """The answers that wait to be told."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._answers: deque[Page] = deque()
        self._waiting = 0

    def take(self) -> Page | None:
        """The next answer."""
        return self._answers.popleft() if self._answers else None

    async def answer(self, look: Look, folder: str) -> None:
        """Find the answer to one look; folder: the name of the instance's directory.

        Cancel: it is not answered.
        """
        self._waiting += 1
        try:
            waits = self._waiting <= AT_ONCE_MAX
            with trio.move_on_after(min(look.wait_sec, WAIT_S_MAX) if waits else 0):
                await self._wait_more(look, folder)
            page = await trio.to_thread.run_sync(self._page, look, folder)
        finally:
            self._waiting -= 1
        self._answers.append(page)

    def _runs(self, folder: str) -> tuple[Path, list[int]]:
        for parent in ("instances", "old"):
            place = self._data_dir / parent / folder
            if numbers := run_numbers(place):
                return place / "runs", numbers
        return self._data_dir, []

    def _page(self, look: Look, folder: str) -> Page:
        runs, numbers = self._runs(folder)
        number = look.run or (numbers[-1] if numbers else 0)
        if number not in numbers:
            return Page(look.ref)
        try:
            found = process_log.read_page(runs / str(number), look.offset,
                                          min(look.limit, PAGE_BYTES_MAX))
        except OSError:
            found = LogPage((), 0, 0, 0, finished=True)
        return Page(look.ref, number, numbers[-1], b"".join(one.data for one in found.entries),
                    found.next_offset, found.size, found.left_out, found.finished)

    async def _wait_more(self, look: Look, folder: str) -> None:
        """Return when there is something behind the offset, or nothing more can come."""
        while True:
            page = await trio.to_thread.run_sync(self._page, look, folder)
            if page.data or page.next_offset < page.size or look.offset < 0:
                return
            if page.finished and page.run < page.last_run:
                return
            runs, _ = self._runs(folder)
            line = None
            with suppress(OSError):
                line = shim.connect(runs / str(page.run)) if page.run else None
            if line is None:
                await trio.sleep(LOOK_S)
                continue
            with trio.socket.from_stdlib_socket(line) as asked, suppress(OSError):
                await asked.send(shim.tail_request(max(look.offset, 0)))
                await asked.recv(64)
