"""Both ends of the worker protocol: who may say what when.

An end is fed what came in and says what it means, and turns what shall go out into bytes; between
the two it keeps the order of the talk. What `receive` gives has been checked, so nobody behind it
checks again.
"""

from __future__ import annotations

import re
from typing import Final, final

from plumd.sdk.protocol import (
    DOWN,
    ITEMS_MAX,
    LOG_LINES_MAX,
    MESSAGE_BYTES_MAX,
    UP,
    VERSION,
    Down,
    LocalProtocolError,
    Register,
    RemoteProtocolError,
    Up,
    decode,
    encode,
)

_is_id: Final = re.compile(r"[0-9a-f]{1,16}(?:\.[1-9][0-9]{0,8})?").fullmatch


def _check_ids(up: Up) -> None:
    """Raises RemoteProtocolError when an id that the worker names cannot be one."""
    named = [result.id for result in up.results]
    if up.progress:
        named += [progress.id for progress in up.progress]
    if up.logs:
        named += [line.id for line in up.logs]
    if up.holding:
        named += up.holding
    if not all(map(_is_id, named)):
        wrong = next(text for text in named if not _is_id(text))
        raise RemoteProtocolError(f"{wrong!r} is no attempt id")


@final
class DaemonEnd:
    """The daemon's end of one line, or with exchange=True of one request and its answer."""

    def __init__(self, *, exchange: bool = False) -> None:
        self._exchange = exchange
        self._came = False              # a first message came
        self._register_open = False     # a register waits for its answer
        self._known = exchange          # an exchange may belong to a session of earlier
        self._bye = False               # the worker said its last
        self._closed = False            # we said our last
        self._seq = 0
        self._acked = 0

    def receive(self, data: str | bytes) -> Up:
        """What the worker says, checked. Raises RemoteProtocolError."""
        up = decode(UP, data)
        if self._bye or self._closed:
            raise RemoteProtocolError("message after the end")
        if self._exchange:
            self._check_exchange(up)
        elif up.register is None and not self._came:
            raise RemoteProtocolError("the first message must register")
        if up.register is not None:
            self._check_register(up, up.register)
        if up.results:
            if up.seq <= self._seq:
                raise RemoteProtocolError(f"results numbered {up.seq} after {self._seq}")
            self._seq = up.seq
        elif up.seq:
            raise RemoteProtocolError("a batch number without results")
        _check_ids(up)
        self._came = True
        self._bye = up.bye
        return up

    def _check_exchange(self, up: Up) -> None:
        if self._came:
            raise RemoteProtocolError("an exchange is one message")
        if not up.session or up.holding is None:
            raise RemoteProtocolError("an exchange names its session and what it holds")

    def _check_register(self, up: Up, register: Register) -> None:
        if self._came:
            raise RemoteProtocolError("registered twice")
        if register.version != VERSION:
            raise RemoteProtocolError(f"protocol version {register.version} is not {VERSION}",
                                      "unsupported_version")
        if up.session not in ("", register.session):
            raise RemoteProtocolError("two different sessions in one message")
        if up.holding is None:
            raise RemoteProtocolError("a register says what the worker holds")
        if up.tasks is not None:
            raise RemoteProtocolError("a register names its tasks itself")
        self._register_open = True

    def send(self, down: Down) -> bytes:
        """The bytes that say this to the worker. Raises LocalProtocolError.

        After a bye the last acknowledgement may still go out.
        """
        if self._closed or not self._came:
            raise LocalProtocolError("nobody listens")
        if down.registered is not None:
            if not self._register_open:
                raise LocalProtocolError("registered without being asked")
            if down.registered.lease_sec < down.registered.beat_sec:
                raise LocalProtocolError("a lease shorter than a beat")
        elif down.error is None and (self._register_open or not self._known):
            raise LocalProtocolError("the register is not answered")
        if not self._acked <= down.ack <= self._seq and down.ack:
            raise LocalProtocolError(f"ack {down.ack} is not in {self._acked}..{self._seq}")
        if len(down.attempts) > ITEMS_MAX:
            raise LocalProtocolError(f"over {ITEMS_MAX} attempts in one message")
        data = encode(down, MESSAGE_BYTES_MAX)
        if down.registered is not None:
            self._register_open, self._known = False, True
        self._acked = down.ack or self._acked
        self._closed = self._exchange or down.error is not None
        return data


@final
class WorkerEnd:
    """The worker's end of one line, or with exchange=True of one request and its answer."""

    def __init__(self, *, exchange: bool = False) -> None:
        self.items_max = ITEMS_MAX
        self.bytes_max = MESSAGE_BYTES_MAX
        self._exchange = exchange
        self._asked = False             # a first message was sent
        self._register_open = False     # our register waits for its answer
        self._over = False
        self._seq = self._log_seq = 0

    def send(self, up: Up) -> bytes:
        """The bytes that say this to the daemon. Raises LocalProtocolError."""
        if self._over:
            raise LocalProtocolError("message after the end")
        if self._exchange and (self._asked or not up.session or up.holding is None):
            raise LocalProtocolError("an exchange is one message with session and holding")
        if up.register is not None:
            if self._asked:
                raise LocalProtocolError("registered twice")
            if up.holding is None:
                raise LocalProtocolError("a register says what the worker holds")
            if up.tasks is not None:
                raise LocalProtocolError("a register names its tasks itself")
        elif not self._asked and not self._exchange:
            raise LocalProtocolError("the first message must register")
        if up.seq <= self._seq if up.results else up.seq:
            raise LocalProtocolError(f"batch number {up.seq} after {self._seq}")
        if len(up.results) > self.items_max or len(up.progress) > self.items_max:
            raise LocalProtocolError(f"over {self.items_max} items in one message")
        if len(up.logs) > LOG_LINES_MAX:
            raise LocalProtocolError(f"over {LOG_LINES_MAX} log lines in one message")
        data = encode(up, self.bytes_max)
        self._register_open = self._register_open or up.register is not None
        self._asked = True
        self._over = up.bye
        self._seq, self._log_seq = up.seq or self._seq, up.log_seq or self._log_seq
        return data

    def receive(self, data: str | bytes) -> Down:
        """What the daemon says, checked. Raises RemoteProtocolError."""
        down = decode(DOWN, data)
        if not self._asked:
            raise RemoteProtocolError("the daemon speaks first")
        if down.registered is not None:
            if not self._register_open:
                raise RemoteProtocolError("registered without being asked")
            self._register_open = False
            self.items_max = min(down.registered.items_max, ITEMS_MAX)
            self.bytes_max = min(down.registered.bytes_max, MESSAGE_BYTES_MAX)
        elif self._register_open and down.error is None:
            raise RemoteProtocolError("the register is not answered")
        if down.ack > self._seq or down.log_ack > self._log_seq:
            raise RemoteProtocolError("an ack of a batch that was never sent")
        self._over = self._over or down.error is not None
        return down
