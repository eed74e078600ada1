"""One log in a file with many others: uint64 n; n times uint64 (offset, size, size of its index),
one for each of its segments; their indexes; their bytes.
"""

from __future__ import annotations

import os
from array import array
from pathlib import Path
from typing import Final, NamedTuple

from plumd.executors import process_log
from plumd.executors.process_log import Piece

COPY_BYTES: Final = 1 << 20


class Place(NamedTuple):
    """Where a log is in its file, in bytes."""

    at: int
    size: int


def write_log(target: int, directory: Path) -> int:
    """Copy the log of a directory to where the file stands; its size. Raises OSError.

    A directory that is not there has an empty log.
    """
    try:
        there = process_log.segments(directory)
    except FileNotFoundError:
        there = []
    heads, indexes = array("Q", [len(there)]), list[bytes]()
    for start, size in there:
        try:
            index = (directory / f"idx.{start:012x}").read_bytes()
        except FileNotFoundError:
            index = b""
        index = index[:len(index) // 16 * 16]
        heads.extend((start, size, len(index)))
        indexes.append(index)
    head = heads.tobytes() + b"".join(indexes)
    write(target, head)
    total = len(head)
    for start, size in there:
        with (directory / f"log.{start:012x}").open("rb", buffering=0) as source:
            left = size
            while left and (data := source.read(min(left, COPY_BYTES))):
                write(target, data)
                left -= len(data)
        if left:
            raise OSError(f"a segment of {directory} is shorter than it was")
        total += size
    return total


def write(target: int, data: bytes) -> None:
    if os.write(target, data) != len(data):
        raise OSError("the disk is full")


class PackedLog:
    """One log in a file that is open: see process_log.Source. Raises FileNotFoundError: it is cut.
    """

    def __init__(self, descriptor: int, place: Place) -> None:
        self._descriptor = descriptor
        self._place = place
        count = self._numbers(0, 1)[0]
        heads = self._numbers(8, 3 * count)
        self._starts, self._sizes, self._index_sizes = heads[0::3], heads[1::3], heads[2::3]
        self._indexes_at = 8 + 24 * count
        self._bytes_at = self._indexes_at + sum(self._index_sizes)

    def _read(self, at: int, size: int) -> bytes:
        size = min(size, self._place.size - at)
        return os.pread(self._descriptor, size, self._place.at + at) if size > 0 else b""

    def _numbers(self, at: int, count: int) -> array[int]:
        raw = self._read(at, 8 * count)
        if len(raw) != 8 * count:
            raise FileNotFoundError("the file of logs is cut")
        numbers = array("Q")
        numbers.frombytes(raw)
        return numbers

    def segments(self) -> list[tuple[int, int]]:
        """See Source."""
        return list(zip(self._starts, self._sizes, strict=True))

    def pieces(self, start: int, offset: int, limit: int) -> list[Piece]:
        """See Source."""
        number = self._starts.index(start)
        index = self._read(self._indexes_at + sum(self._index_sizes[:number]),
                           self._index_sizes[number])
        data = self._read(self._bytes_at + sum(self._sizes[:number]) + offset - start, limit)
        return process_log.split(index, data, offset)
