"""Lines that handlers say, on their way to the logs of their tasks. Any thread may add some."""

from __future__ import annotations

import threading
from collections import deque
from typing import Final, NamedTuple, Protocol, final

import trio

from plumd.sdk.protocol import LOG_CHARS_MAX, LOG_LINES_MAX, LogLine

WAITING_CHARS_MAX: Final = 4 << 20
"""What waits for the line, for its acknowledgement, and for as long as there is no line; beyond it
the oldest that were never sent go."""
LINE_CHARS: Final = 64
"""What a line takes beside its text, so that a million empty ones are not for nothing."""
MESSAGE_CHARS: Final = 80_000
"""So much in one message; JSON may make six bytes of a character."""
MESSAGE_BYTES: Final = 6 * (MESSAGE_CHARS + LOG_CHARS_MAX) + 128 * LOG_LINES_MAX


class Source(Protocol):
    """An attempt, how many bytes of its log were said, and the mark of its last line."""

    id: str
    said_bytes: int
    last_mark: int


class Batch(NamedTuple):
    """Lines that go in one message, however often. chars: what they count of WAITING_CHARS_MAX.
    mark: see LogLines.
    """

    lines: list[LogLine]
    chars: int
    mark: int


@final
class LogLines:
    """First in, first out, and bounded. A batch that was sent is kept until it is acknowledged, if
    the daemon does that (acked); where in their logs its lines stand makes it harmless to send it
    again.  mark: how many were ever added.
    """

    def __init__(self) -> None:
        self.acked = False
        self.mark = 0
        self.said = 0           # the mark up to which all were sent on this line, or before
        self._told = 0
        self._fewer = trio.lowlevel.ParkingLot()
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Source, str, bool]] = deque()
        self._again: deque[Batch] = deque()             # sent on a line that is gone
        self._sent: deque[tuple[int, Batch]] = deque()
        self._seq = 0
        self._chars = 0                                 # of all
        self._waiting_chars = 0
        self._left_out = 0

    def __bool__(self) -> bool:
        """Whether there is something to send."""
        return bool(self._waiting or self._again)

    @property
    def full_message(self) -> bool:
        """Whether there is enough for a message of its own."""
        return bool(self._again) or (len(self._waiting) >= LOG_LINES_MAX
                                     or self._waiting_chars >= MESSAGE_CHARS)

    @property
    def half_full(self) -> bool:
        """Whether who can wait should say no more for now."""
        return self._chars > WAITING_CHARS_MAX // 2

    def are_told(self, mark: int) -> bool:
        """Whether the daemon has all that were added before this mark, as far as it says so."""
        return self._told >= mark

    async def wait_fewer(self) -> None:
        """Return when some need not be kept any more. In the worker's Trio thread only."""
        await self._fewer.park()

    def add(self, source: Source, text: str, *, part: bool = False) -> None:
        """One more text; a long one goes as several lines. part: its line ends where it says."""
        pieces = [text[at:at + LOG_CHARS_MAX] for at in range(0, len(text), LOG_CHARS_MAX)] or [""]
        with self._lock:
            for piece in pieces:
                self._waiting.append((source, piece, part))
                self.mark += 1
                self._count(len(piece) + LINE_CHARS)
            source.last_mark = self.mark
            # The newest stays: with it goes the word of those that were left out.
            while self._chars > WAITING_CHARS_MAX and len(self._waiting) > 1:
                self._count(-len(self._waiting.popleft()[1]) - LINE_CHARS)
                self._left_out += 1

    def _count(self, chars: int) -> None:
        self._chars += chars
        self._waiting_chars += chars

    def take(self) -> tuple[int, list[LogLine]]:
        """(number, lines) of as many as one message holds; (0, []) when there are none."""
        with self._lock:
            batch = self._again.popleft() if self._again else self._next()
            if not batch.lines:
                return 0, []
            self._seq += 1
            self.said = batch.mark
            if self.acked:
                self._sent.append((self._seq, batch))
            else:
                self._over(batch)
            return self._seq, batch.lines

    def _next(self) -> Batch:
        """What waits, as much as one message holds."""
        lines: list[LogLine] = []
        chars = 0
        if self._left_out and self._waiting:
            lines.append(placed(self._waiting[0][0], f"[... {self._left_out} lines left out: "
                                "the line to the daemon was too slow ...]", part=False))
            self._left_out = 0
        while self._waiting and len(lines) < LOG_LINES_MAX and chars < MESSAGE_CHARS:
            source, text, part = self._waiting.popleft()
            chars += len(text) + LINE_CHARS
            lines.append(placed(source, text, part=part))
        self._waiting_chars -= chars
        return Batch(lines, chars, self.mark - len(self._waiting))

    def _over(self, batch: Batch) -> None:
        self._chars -= batch.chars
        self._told = batch.mark
        self._fewer.unpark_all()

    def acknowledged(self, seq: int) -> None:
        """All batches up to this number need not be said again."""
        with self._lock:
            while self._sent and self._sent[0][0] <= seq:
                self._over(self._sent.popleft()[1])

    def rewind(self) -> None:
        """The line is gone: what was in flight must be sent again, in the old order."""
        with self._lock:
            self._again.extendleft(batch for _, batch in reversed(self._sent))
            self._sent.clear()
            self.said = self._told


def placed(source: Source, text: str, *, part: bool) -> LogLine:
    """The next line of this log."""
    at = source.said_bytes
    source.said_bytes = at + len(text.encode()) + (not part and not text.endswith("\n"))
    return LogLine(source.id, text, part, at)
