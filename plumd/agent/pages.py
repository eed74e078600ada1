"""Shows the controller what instances print, as it asks for it."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final, final

import trio

from plumd.agent.instance import owner_of, run_numbers
from plumd.executors import shim
from plumd.executors.hour_logs import HourLogs, read_log
from plumd.sdk.protocol import PAGE_BYTES_MAX, Look, Page

WAIT_S_MAX: Final = 60.0
LOOK_S: Final = 0.1
AT_ONCE_MAX: Final = 64
CROWD_S: Final = 1.0
"""So many looks wait for long at a time; more wait so long, and are then asked again."""


@final
class Pages:
    """The answers that wait to be told."""

    def __init__(self, data_dir: Path, logs: HourLogs) -> None:
        self._data_dir = data_dir
        self._logs = logs
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
            longest_s = WAIT_S_MAX if self._waiting <= AT_ONCE_MAX else CROWD_S
            with trio.move_on_after(min(look.wait_sec, longest_s)):
                await self._wait_more(look, folder)
            page = await trio.to_thread.run_sync(self._page, look, folder)
        finally:
            self._waiting -= 1
        self._answers.append(page)

    def _page(self, look: Look, folder: str) -> Page:
        place, owner = self._data_dir / "instances" / folder, owner_of(folder)
        living = run_numbers(place)
        last = living[-1] if living else self._logs.last(owner)
        number = look.run or last
        found = read_log(self._logs, (owner, number), place / "runs" / str(number), look.offset,
                         min(look.limit, PAGE_BYTES_MAX)) if number else None
        if found is None:
            return Page(look.ref)
        return Page(look.ref, number, last, b"".join(one.data for one in found.entries),
                    found.next_offset, found.size, found.left_out, found.finished)

    async def _wait_more(self, look: Look, folder: str) -> None:
        """Return when there is something behind the offset, or nothing more can come."""
        while True:
            page = await trio.to_thread.run_sync(self._page, look, folder)
            if page.data or page.next_offset < page.size or look.offset < 0:
                return
            if page.finished and page.run < page.last_run:
                return
            line = None
            with suppress(OSError):
                line = shim.connect(
                    self._data_dir / "instances" / folder / "runs" / str(page.run))
            if line is None:
                await trio.sleep(LOOK_S)
                continue
            heard = b""
            with trio.socket.from_stdlib_socket(line) as asked, suppress(OSError):
                await asked.send(shim.tail_request(max(look.offset, 0)))
                heard = await asked.recv(64)
            if not heard:           # it is just over, or hung up: too many ask
                await trio.sleep(LOOK_S)
