"""What a process wrote: pages of its log by offset, and both streams' ends for the result.

plum-shim keeps the plain bytes of both streams, in the order in which they came, in segments
`log.<offset>`; beside each one `idx.<offset>` says who wrote what and when. Of a log over its cap
the middle segments are gone, so offsets have a gap there. A page is right while the process
still writes, since a segment only grows, and its index is written before its bytes.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import msgspec

STREAMS: Final = ("", "stdout", "stderr")
STDOUT: Final = 1
STDERR: Final = 2
STATUS: Final = "status"
CLOSED: Final = "closed"


class LogEntry(msgspec.Struct, frozen=True):
    """Bytes that one stream wrote without a break. The text is hostile: escape it where shown.

    offset: of the first byte in the log.  time_ms: when they came, at most 1 s too early.
    """

    stream: str
    offset: int
    time_ms: int
    data: bytes


class LogPage(msgspec.Struct, frozen=True):
    """A part of a log. finished: no more will come, and this page reaches the end.

    next_offset: where the next page starts.  size: bytes written so far.
    left_out: bytes between the wanted offset and the page that are kept no longer.
    """

    entries: tuple[LogEntry, ...]
    next_offset: int
    size: int
    left_out: int
    finished: bool


class Ends(NamedTuple):
    """A stream's beginning and end as kept; left_out bytes are missing between them."""

    head: bytes
    tail: bytes
    left_out: int


def index_entry(offset: int, time_ms: int, stream: int) -> bytes:
    """An entry of a segment's index: from offset on, this stream wrote, at this time."""
    return array("Q", (offset, time_ms << 8 | stream)).tobytes()


class Piece(NamedTuple):
    """Bytes that one stream wrote without a break; stream: a place in STREAMS."""

    offset: int
    stream: int
    time_ms: int
    data: bytes


class Source(Protocol):
    """Where the segments of a log are."""

    def segments(self) -> list[tuple[int, int]]:
        """(offset, size) of every segment that is there, in order."""

    def pieces(self, start: int, offset: int, limit: int) -> list[Piece]:
        """What the segment that starts there has from offset on, at most limit bytes."""


def segments(directory: Path) -> list[tuple[int, int]]:
    """(offset, size) of every segment that is there, in order."""
    found: list[tuple[int, int]] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            kind, _, start = entry.name.partition(".")
            if kind == "log":
                try:
                    found.append((int(start, 16), entry.stat().st_size))
                except FileNotFoundError:   # rolled away between the two looks
                    continue
    return sorted(found)


def _pieces(directory: Path, start: int, offset: int, limit: int) -> list[Piece]:
    """The pieces of one segment from offset on, at most limit bytes; empty when it is gone."""
    try:
        with (directory / f"log.{start:012x}").open("rb") as log:
            log.seek(offset - start)
            data = log.read(limit)          # before the index, which then knows all of it
        marks = (directory / f"idx.{start:012x}").read_bytes()
    except FileNotFoundError:
        return []
    return split(marks, data, offset)


def split(index: bytes, data: bytes, offset: int) -> list[Piece]:
    """The pieces of data, which begins there in the log, by the index of its segment."""
    marks = array("Q")
    marks.frombytes(index[:len(index) // 16 * 16])
    offsets, owners = marks[0::2], marks[1::2]
    end = offset + len(data)
    found: list[Piece] = []
    at = bisect_right(offsets, offset) - 1
    if at < 0:                              # a power cut took the index
        return [Piece(offset, STDOUT, 0, data)] if data else []
    while offset < end:
        until = min(end, offsets[at + 1]) if at + 1 < len(offsets) else end
        if until > offset:
            part = data[len(data) - (end - offset):len(data) - (end - until)]
            stream = STDERR if owners[at] & 0xff == STDERR else STDOUT
            found.append(Piece(offset, stream, owners[at] >> 8, part))
        offset = until
        at += 1
    return found


class Files:
    """The segments that plum-shim writes into a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def segments(self) -> list[tuple[int, int]]:
        """See Source. Raises FileNotFoundError when there is no such directory."""
        return segments(self._directory)

    def pieces(self, start: int, offset: int, limit: int) -> list[Piece]:
        """See Source; empty when the segment is gone."""
        return _pieces(self._directory, start, offset, limit)


def log_size(directory: Path) -> int:
    """How many bytes the process wrote to its log so far, those not kept any more included."""
    found = segments(directory)
    return sum(found[-1]) if found else 0


def is_finished(directory: Path) -> bool:
    """Whether no more output can come."""
    return (directory / STATUS).exists() or (directory / CLOSED).exists()


def read_page(directory: Path, offset: int, limit: int) -> LogPage:
    """A page of the log in a directory, see page_of.

    Raises FileNotFoundError when there is no such directory.
    """
    finished = is_finished(directory)       # before the sizes, so that the end is really the end
    return page_of(Files(directory), offset, limit, finished=finished)


def page_of(source: Source, offset: int, limit: int, *, finished: bool) -> LogPage:
    """At most limit bytes of a log from offset on; a negative offset counts from its end.

    finished: no more will come. A character is not cut at the page's end while the rest of it may
    still come.
    """
    there = source.segments()
    size = sum(there[-1]) if there else 0
    if offset < 0:
        offset = max(0, size + offset)
    at, left_out, room, pieces = offset, 0, limit, list[Piece]()
    for start, length in there:
        if start + length <= at or room <= 0:
            continue
        if start > at:
            left_out += start - at
            at = start
        found = source.pieces(start, at, min(room, start + length - at))
        pieces += found
        taken = sum(len(piece.data) for piece in found)
        at += taken
        room -= taken
    if pieces and not (finished and at >= size):
        kept = _whole_characters(pieces[-1].data)
        if kept or len(pieces) > 1:
            at -= len(pieces[-1].data) - kept
            pieces[-1] = pieces[-1]._replace(data=pieces[-1].data[:kept])
    entries = tuple(LogEntry(STREAMS[piece.stream], piece.offset, piece.time_ms, piece.data)
                    for piece in pieces if piece.data)
    return LogPage(entries, at, size, left_out, finished and at >= size)


def _whole_characters(data: bytes) -> int:
    """How many of these bytes end before a UTF-8 character that is not all there."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte & 0xc0 == 0x80:
            continue
        need = 4 if byte >= 0xf0 else 3 if byte >= 0xe0 else 2 if byte >= 0xc0 else 1
        return len(data) - back if need > back else len(data)
    return len(data)


def _forward(directory: Path) -> Iterator[Piece]:
    """All pieces from the start to the first gap."""
    at = 0
    for start, length in segments(directory):
        if start != at:
            return
        yield from _pieces(directory, start, start, length)
        at = start + length


def _backward(directory: Path) -> Iterator[Piece]:
    """All pieces from the end to the last gap."""
    at = log_size(directory)
    for start, length in reversed(segments(directory)):
        if start + length != at:
            return
        yield from reversed(_pieces(directory, start, start, length))
        at = start


def _heads(directory: Path, wanted: list[int]) -> tuple[list[bytes], list[int]]:
    """The first wanted bytes of each stream, and the offsets where these end in the log."""
    parts: list[list[bytes]] = [[], [], []]
    left, floors = list(wanted), [0, 0, 0]
    for run in _forward(directory):
        if not any(left):
            break
        piece = run.data[:left[run.stream]]
        if piece:
            parts[run.stream].append(piece)
            left[run.stream] -= len(piece)
            floors[run.stream] = run.offset + len(piece)
    return [b"".join(part) for part in parts], floors


def _tails(directory: Path, wanted: list[int], floors: list[int]) -> list[bytes]:
    """The last wanted bytes of each stream, none from before its floor."""
    parts: list[list[bytes]] = [[], [], []]
    left = list(wanted)
    for run in _backward(directory):
        if not any(left) or run.offset + len(run.data) <= min(floors[STDOUT:]):
            break
        fresh = run.data[max(0, floors[run.stream] - run.offset):]
        if left[run.stream] and fresh:
            piece = fresh[-left[run.stream]:]
            parts[run.stream].append(piece)
            left[run.stream] -= len(piece)
    return [b"".join(reversed(part)) for part in parts]


def stream_ends(directory: Path, stdout_bytes: int, stderr_bytes: int,
                keep: int) -> tuple[Ends, Ends]:
    """Beginning and end of stdout and of stderr, at most keep bytes of each in all.

    stdout_bytes, stderr_bytes: what the process wrote, by its status.
    """
    totals = [0, stdout_bytes, stderr_bytes]
    share = [keep if total <= keep else keep // 2 for total in totals]
    heads, floors = _heads(directory, [min(pair) for pair in zip(totals, share, strict=True)])
    rest = [min(total - len(head), part) for total, head, part
            in zip(totals, heads, share, strict=True)]
    tails = _tails(directory, rest, floors)
    ends = [Ends(head, tail, total - len(head) - len(tail)) for total, head, tail
            in zip(totals, heads, tails, strict=True)]
    return ends[STDOUT], ends[STDERR]
