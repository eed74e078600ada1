"""Lines that handlers say, on their way to the logs of their tasks. Any thread may add some."""

from __future__ import annotations

import threading
from collections import deque
from typing import Final, final

from plumd.sdk.protocol import LOG_CHARS_MAX, LOG_LINES_MAX, LogLine

WAITING_CHARS_MAX: Final = 4 << 20
"""What waits for the line, and for as long as there is none; beyond it the oldest lines go."""
MESSAGE_CHARS: Final = 80_000
"""So much in one message; JSON may make six bytes of a character."""
MESSAGE_BYTES: Final = 6 * (MESSAGE_CHARS + LOG_CHARS_MAX) + 64 * LOG_LINES_MAX


@final
class LogLines:
    """First in, first out, and bounded."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: deque[LogLine] = deque()
        self._chars = 0
        self._left_out = 0

    def __len__(self) -> int:
        return len(self._lines)

    @property
    def full_message(self) -> bool:
        """Whether there is enough for a message of its own."""
        return len(self._lines) >= LOG_LINES_MAX or self._chars >= MESSAGE_CHARS

    def add(self, attempt_id: str, text: str, *, part: bool = False) -> None:
        """One more text; a long one goes as several lines. part: its line ends where it says."""
        pieces = [text[at:at + LOG_CHARS_MAX] for at in range(0, len(text), LOG_CHARS_MAX)] or [""]
        with self._lock:
            for piece in pieces:
                self._lines.append(LogLine(attempt_id, piece, part))
                self._chars += len(piece) + 1
            while self._chars > WAITING_CHARS_MAX:
                self._chars -= len(self._lines.popleft().text) + 1
                self._left_out += 1

    def take(self) -> list[LogLine]:
        """As many as one message holds."""
        taken: list[LogLine] = []
        chars = 0
        with self._lock:
            if self._left_out and self._lines:
                taken.append(LogLine(self._lines[0].id, f"[... {self._left_out} lines left out: "
                                     "the line to the daemon was too slow ...]"))
                self._left_out = 0
            while self._lines and len(taken) < LOG_LINES_MAX and chars < MESSAGE_CHARS:
                line = self._lines.popleft()
                chars += len(line.text) + 1
                taken.append(line)
            self._chars -= chars
        return taken
