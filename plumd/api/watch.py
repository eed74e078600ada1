"""A namespace's changes as server-sent events, in the form that older SDKs read.

A watcher holds nothing but the number of the next event that it wants. What is sent is what the
store holds, so one that falls behind is told the newest value of each key and nothing between.
After it has connected it lists the namespace once, and then follows; what it is told with a
version below the one that it knows is old. A stream ends when its reader has fallen behind what is
kept: the reader connects and lists again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Final

import msgspec
import trio
from msgspec import UNSET, UnsetType

from plumd.engine import Engine
from plumd.store import events, kv
from plumd.store.events import Record
from plumd.store.kv import Type

KEEPALIVE_S: Final = 15.0
WAKE_S_MIN: Final = 0.03
RECORDS_PER_READ: Final = 200
PAUSE_S: Final = 0.01
CHUNK_BYTES: Final = 64 << 10
STILL_HERE: Final = b": still here\n\n"
HELLO: Final = b"event: ping\ndata: init\n\n"
ENCODE: Final = msgspec.json.Encoder().encode


class Change(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A key's new value; of a deleted key the value is empty."""

    namespace: str
    key: str
    value: str
    type: Type
    version: int
    updated_at: int | UnsetType = UNSET
    expires_at: int | UnsetType = UNSET
    deleted: bool = False


async def changes(engine: Engine, namespace: str, prefix: str) -> AsyncIterator[bytes]:
    """Frames without end, but for a reader that fell behind what is kept."""
    seq = engine.journal.next_seq       # from before the reader lists for the first time
    yield HELLO
    quiet_at = trio.current_time() + KEEPALIVE_S
    while True:
        records = engine.journal.since(seq)
        if records is None:
            records = await engine.store.read(events.since, seq, RECORDS_PER_READ)
            if records and records[0].first_seq > seq:
                return
        for chunk in chunks(engine, changed(records, seq, namespace, prefix), namespace):
            yield chunk
            quiet_at = trio.current_time() + KEEPALIVE_S
        if trio.current_time() >= quiet_at:
            yield STILL_HERE
            quiet_at = trio.current_time() + KEEPALIVE_S
        if records:
            seq = records[-1].first_seq + records[-1].count
            await trio.sleep(PAUSE_S)           # what comes meanwhile shares the next look
            continue
        with trio.move_on_at(quiet_at):
            await engine.journal.wait_beyond(seq)


def changed(records: Iterable[Record], seq: int, namespace: str,
            prefix: str) -> dict[str, tuple[int, bool]]:
    """key -> (version, deleted) of the last change of each key among events from seq on."""
    found: dict[str, tuple[int, bool]] = {}
    for record in records:
        for index, event in enumerate(record.items):
            if (event[0] == "kv" and event[1] == namespace and record.first_seq + index >= seq
                    and str(event[3]).startswith(prefix)):
                key = str(event[3])
                found.pop(key, None)        # the order is that of the last changes
                found[key] = int(event[4]), event[2] == "deleted"
    return found


def chunks(engine: Engine, news: dict[str, tuple[int, bool]],
           namespace: str) -> Iterator[bytes]:
    """The frames of these changes, some at a time."""
    out = b""
    for key, (version, deleted) in news.items():
        change = Change(namespace, key, "", "string", version, deleted=True)
        if not deleted:
            entry = engine.store.peek(kv.get, namespace, key, engine.clock.now().wall_ms)
            if entry is None or entry.version != version:
                continue        # it was changed again, and that is told next
            change = Change(namespace, key, entry.value, entry.type, version,
                            entry.updated_at, entry.expires_at)
        out += b"event: kv\ndata: %b\n\n" % ENCODE(change)
        if len(out) > CHUNK_BYTES:
            yield out
            out = b""
    if out:
        yield out
