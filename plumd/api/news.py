"""Recorded events as frames of server-sent events."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from plumd.news import TOPICS, KeyNews, OtherNews, RunNews, StepNews, TaskNews, news_of, topic_of
from plumd.store.events import Record

__all__ = ["ENCODE", "TOPICS", "KeyNews", "OtherNews", "RunNews", "StepNews", "TaskNews", "frames",
           "gap_before", "news_of", "topic_of"]
ENCODE: Final = msgspec.json.Encoder().encode


def frames(record: Record, seq: int, topics: frozenset[str]) -> Iterator[bytes]:
    """The SSE frames of a record's events from seq on, for these topics."""
    for index, event in enumerate(record.items):
        number = record.first_seq + index
        if number >= seq and topic_of(event) in topics:
            _, name, data = news_of(event)
            yield b"id: %d\nevent: %s\ndata: %s\n\n" % (number, name.encode(), ENCODE(data))


def gap_before(seq: int) -> bytes:
    """The frame that tells a reader to look at everything anew; its next event is seq."""
    return b"id: %d\nevent: gap\ndata: {}\n\n" % (seq - 1)
