"""The worker protocol, without I/O and without a clock.

A worker sends `Up` messages and gets `Down` messages, each one JSON object: as the text messages
of a WebSocket (stream), or as body and answer of one POST (exchange). These are the words; ends.py
keeps the order of the talk. What the peer got wrong is a RemoteProtocolError, what we got wrong a
LocalProtocolError.

    worker                                   daemon
    Up(register, holding, results?)    ->
                                       <-    Down(registered, attempts?, cancel?)
    Up(seq=1, results, progress, logs) ->
                                       <-    Down(ack=1, refused?, attempts)
    Up(beat)                           ->
    Up(drain)                          ->
                                       <-    Down(cancel)
    Up(seq=2, results), ... Up(bye)    ->    (the daemon closes the line)

Kinds that are ready at the same moment share one message. Unknown keys are ignored and defaults
are left out. Payloads and results stay JSON text: the daemon never parses them. An attempt's id is
`<taskId>` for a task's first attempt and `<taskId>.<n>` for later ones; to a worker it is opaque.
Results stay the worker's until an `ack` covers the batch that they came in; after a lost line it
sends them again, and the daemon tells the doubled ones by their ids. So do lines, in batches of
their own (`logSeq`, `logAck`), and those that came are told by where in the log they stand.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Final, TypeVar, final

import msgspec
from msgspec import Meta, Raw, Struct

VERSION: Final = 1
ITEMS_MAX: Final = 10_000
MESSAGE_BYTES_MAX: Final = 32 * 1024 * 1024
VALUE_BYTES_MAX: Final = 16 * 1024 * 1024
MESSAGE_BYTES_MIN: Final = VALUE_BYTES_MAX + 2 * 1024 * 1024
"""No daemon may ask for shorter messages: one value and a little beside it always fit."""
CAPACITY_MAX: Final = 100_000
HOLDING_MAX: Final = 2 * CAPACITY_MAX   # as many run as wait for their acknowledgement
ERROR_CHARS_MAX: Final = 65_536
PROGRESS_CHARS_MAX: Final = 4_096
LOG_CHARS_MAX: Final = 4_096
LOG_LINES_MAX: Final = 1_000
PAGE_BYTES_MAX: Final = 1 << 20
PAGES_MAX: Final = 8
DEPTH_MAX: Final = 200
LOST: Final = "lost"
"""The error code of an attempt that its worker gave up: contact lost, or stopped in the middle."""

RETURNED: Final = "returned"
"""The error code of an attempt that its worker had in hand and gives back before it began."""

EMPTY: Final = Raw()
"""No value. It is left out of messages, because it is this very object."""

Id = Annotated[str, Meta(min_length=1, max_length=32)]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Word = Annotated[str, Meta(max_length=200)]
Seconds = Annotated[float, Meta(ge=0, le=31_536_000)]
Beat = Annotated[float, Meta(ge=0.05, le=3_600)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Labels = Annotated[dict[Name, Word], Meta(max_length=100)]


class ProtocolError(Exception):
    """The talk between worker and daemon cannot go on. code: for the peer, in `Down.error`."""

    def __init__(self, message: str, code: str = "protocol_error") -> None:
        super().__init__(message)
        self.code = code


@final
class RemoteProtocolError(ProtocolError):
    """The peer broke the protocol: close the line (WebSocket 1002, HTTP 400)."""


@final
class LocalProtocolError(ProtocolError):
    """We were about to break the protocol: a defect on this side."""


class Failure(Struct, frozen=True, omit_defaults=True, rename="camel", gc=False):
    """Why an attempt did not succeed. detail: more facts, any JSON.

    exit_code, signal: how the process ended, where it was one.
    """

    code: Word = ""
    message: Annotated[str, Meta(max_length=ERROR_CHARS_MAX)] = ""
    detail: Raw = EMPTY
    exit_code: int | None = None
    signal: Word = ""


class Result(Struct, frozen=True, omit_defaults=True, rename="camel", gc=False):
    """How an attempt ended. Without result and error it succeeded with null; with both it failed
    and left something all the same.

    stopped: it ended because of a cancel notice.  retry=False: another try would end the same
    way.  retry_after_sec: wait at least so long before the next try.
    """

    id: Id
    result: Raw = EMPTY
    error: Failure | None = None
    stopped: bool = False
    retry: bool = True
    retry_after_sec: Seconds | None = None

    def room(self) -> int:
        """How many bytes of a message it takes at most."""
        error = self.error
        if error is None:
            return 256 + len(self.result)
        text_chars = len(error.code) + len(error.message)
        return 512 + len(self.result) + 6 * text_chars + len(error.detail)


class Progress(Struct, frozen=True, omit_defaults=True, rename="camel", gc=False):
    """How far an attempt is. ratio: 0 .. 1."""

    id: Id
    ratio: Annotated[float, Meta(ge=0, le=1)] | None = None
    text: Annotated[str, Meta(max_length=PROGRESS_CHARS_MAX)] = ""


class LogLine(Struct, frozen=True, omit_defaults=True, rename="camel", gc=False):
    """A line of an attempt's log; a line break is added where it has none, but for a part of one.

    at: how many bytes of the log stand before it, by all that was said; None = it is not counted,
    so it must not be said twice.
    """

    id: Id
    text: Annotated[str, Meta(max_length=LOG_CHARS_MAX)]
    part: bool = False
    at: Count | None = None


class Register(Struct, frozen=True, omit_defaults=True, rename="camel"):
    """Who the worker is. session: random, drawn once per process start.

    capacity: how many attempts it takes at once.  beat_sec: it is heard at least so often.
    """

    session: Name
    tasks: Annotated[list[Name], Meta(max_length=ITEMS_MAX)]
    node_id: Word = ""
    instance_id: Word = ""
    app_name: Word = ""
    app_version: Word = ""
    labels: Labels = {}
    capacity: Annotated[int, Meta(ge=1, le=CAPACITY_MAX)] = 4
    beat_sec: Beat = 10.0
    version: Annotated[int, Meta(ge=1)] = VERSION


class Look(Struct, frozen=True, omit_defaults=True, rename="camel"):
    """The wish to see a part of what an instance printed; asked of agents alone.

    ref: names the answer.  run: which start of it, from 1; 0 = the latest.  offset < 0 counts from
    the end.  wait_sec: the answer may wait so long for something behind the offset.
    """

    ref: Word
    instance_id: Annotated[str, Meta(max_length=1_000)]
    run: Count = 0
    offset: int = 0
    limit: Annotated[int, Meta(ge=1, le=PAGE_BYTES_MAX)] = 65_536
    wait_sec: Seconds = 0.0


class Page(Struct, frozen=True, omit_defaults=True, rename="camel"):
    """The answer to a look. run 0: nothing is kept of such an instance, or of such a run.

    last_run: the latest there is.  finished: no more will come of this run, and this is its end.
    """

    ref: Word
    run: Count = 0
    last_run: Count = 0
    data: Annotated[bytes, Meta(max_length=PAGE_BYTES_MAX)] = b""
    next_offset: Count = 0
    size: Count = 0
    left_out: Count = 0
    finished: bool = False


class Up(Struct, frozen=True, omit_defaults=True, rename="camel"):
    """What a worker says in one message; absent = nothing of that kind.

    holding: ids of the attempts that run or are not yet acknowledged; None = not told.
    seq: number of this batch of results, counted by the worker from 1, never reused on a line.
    logs: lines for the logs of attempts that run.  log_seq: number of this batch of lines, as seq.
    pages: answers to looks.
    tasks: from now on these are all its names.
    ahead: so many attempts it wants in hand beyond its capacity; on a new line it wants none.
    drain: it wants no more attempts.  bye: it leaves for good and holds nothing any more.
    wait_sec, max: exchange only: how long the answer may wait for attempts, and how many it takes.
    """

    register: Register | None = None
    session: Word = ""
    holding: Annotated[list[Id], Meta(max_length=HOLDING_MAX)] | None = None
    seq: Count = 0
    results: Annotated[list[Result], Meta(max_length=ITEMS_MAX)] = []
    progress: Annotated[list[Progress], Meta(max_length=ITEMS_MAX)] = []
    logs: Annotated[list[LogLine], Meta(max_length=LOG_LINES_MAX)] = []
    log_seq: Count = 0
    pages: Annotated[list[Page], Meta(max_length=PAGES_MAX)] = []
    tasks: Annotated[list[Name], Meta(max_length=ITEMS_MAX)] | None = None
    ahead: Annotated[int, Meta(ge=0, le=CAPACITY_MAX)] | None = None
    beat: bool = False
    drain: bool = False
    bye: bool = False
    wait_sec: Annotated[float, Meta(ge=0, le=3_600)] | None = None
    max: Annotated[int, Meta(ge=0, le=CAPACITY_MAX)] | None = None


class Registered(Struct, frozen=True, omit_defaults=True, rename="camel"):
    """The daemon's side of the bargain.

    lease_sec: not heard for so long, the worker's attempts are lost.  beat_sec: be heard so often.
    items_max, bytes_max: bounds of one message from the worker.  log_acks: batches of lines are
    acknowledged; a daemon of earlier does not, and its worker need not keep them.
    """

    lease_sec: Seconds
    beat_sec: Beat
    items_max: Annotated[int, Meta(ge=1)] = ITEMS_MAX
    bytes_max: Annotated[int, Meta(ge=MESSAGE_BYTES_MIN)] = MESSAGE_BYTES_MAX
    log_acks: bool = False


class Attempt(Struct, frozen=True, omit_defaults=True, rename="camel", gc=False):
    """An attempt to carry out. attempt: which try it is, from 1.  timeout_sec: 0 = none."""

    id: Id
    name: Name
    payload: Raw = EMPTY
    timeout_sec: Seconds = 0.0
    attempt: Count = 1

    def room(self) -> int:
        """How many bytes of a message it takes at most."""
        return 1_500 + len(self.payload)


class Refused(Struct, frozen=True, omit_defaults=True, rename="camel", gc=False):
    """A report that changed nothing. attempt: the number of the current one."""

    id: Id
    code: Word = "stale_attempt"
    attempt: Count = 0


class CancelNotice(Struct, frozen=True, omit_defaults=True, rename="camel", gc=False):
    """The wish that an attempt ends. reason: canceled, timeout or stale."""

    id: Id
    reason: Word = "canceled"


class PeerError(Struct, frozen=True, omit_defaults=True, rename="camel"):
    """Why the daemon closes the line."""

    code: Word
    message: Annotated[str, Meta(max_length=ERROR_CHARS_MAX)] = ""


class Down(Struct, frozen=True, omit_defaults=True, rename="camel"):
    """What the daemon says in one message; absent = nothing of that kind.

    ack: all batches of results up to this number are durable.  log_ack: all batches of lines up to
    this number need not be said again.  refused: reports of stale attempts; the worker ends that
    work and forgets it.  drain: no more attempts will come for now.
    """

    registered: Registered | None = None
    ack: Count = 0
    refused: Annotated[list[Refused], Meta(max_length=HOLDING_MAX)] = []
    attempts: Annotated[list[Attempt], Meta(max_length=ITEMS_MAX)] = []
    cancel: Annotated[list[CancelNotice], Meta(max_length=HOLDING_MAX)] = []
    looks: Annotated[list[Look], Meta(max_length=ITEMS_MAX)] = []
    drain: bool = False
    error: PeerError | None = None
    log_ack: Count = 0


_ENCODER: Final = msgspec.json.Encoder()
UP: Final = msgspec.json.Decoder(Up)
DOWN: Final = msgspec.json.Decoder(Down)
_Message = TypeVar("_Message", Up, Down)


def fitting(items: Sequence[Result | Attempt], bytes_max: int = MESSAGE_BYTES_MAX) -> int:
    """How many of the first items go into one message, beside a `register` or `registered`.

    At least 1, if there is any: a single value of VALUE_BYTES_MAX always fits.
    """
    free = bytes_max - 65_536
    count = min(len(items), ITEMS_MAX)
    if sum([item.room() for item in items[:count]]) <= free:
        return count
    for index in range(count):
        free -= items[index].room()
        if free < 0:
            return max(index, 1)
    return count


def too_deep(value: bytes) -> bool:
    """Whether a JSON text nests deeper than DEPTH_MAX, which the daemon does not take."""
    if value.count(b"[") + value.count(b"{") <= DEPTH_MAX:
        return False
    depth = 0
    for match in re.finditer(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', value):
        first = match[0][:1]
        if first in b"[{":
            depth += 1
            if depth > DEPTH_MAX:
                return True
        elif first in b"]}":
            depth -= 1
    return False


def decode(decoder: msgspec.json.Decoder[_Message], data: str | bytes) -> _Message:
    """The message behind the data. Raises RemoteProtocolError, and nothing else."""
    if len(data) > MESSAGE_BYTES_MAX:
        raise RemoteProtocolError(f"message over {MESSAGE_BYTES_MAX} bytes", "too_large")
    try:
        # Bytes are made text first: raw values are skipped, so their UTF-8 is checked nowhere else.
        return decoder.decode(data if isinstance(data, str) else str(data, "utf-8"))
    except RecursionError:
        raise RemoteProtocolError("message is nested too deeply") from None
    except ValueError as error:  # msgspec's own errors and UnicodeError
        raise RemoteProtocolError(str(error)[:500]) from None


def encode(message: Up | Down, bytes_max: int) -> bytes:
    """The message's bytes. Raises LocalProtocolError when it cannot be sent."""
    try:
        data = _ENCODER.encode(message)
    except (TypeError, ValueError, OverflowError) as error:
        raise LocalProtocolError(f"message cannot be encoded: {error}") from error
    if len(data) > bytes_max:
        raise LocalProtocolError(f"message over {bytes_max} bytes", "too_large")
    return data
