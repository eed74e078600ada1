"""Pure: gRPC's messages inside an HTTP/2 body, its statuses, and their words in headers.

A message is one byte (0 = not compressed), four bytes of length, and so many bytes. A call ends
with `grpc-status` and `grpc-message` in the trailers.

Source: grpc/doc/PROTOCOL-HTTP2.md, grpc/doc/statuscodes.md.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final
from urllib.parse import unquote

MESSAGE_BYTES_MAX: Final = (16 << 20) + (64 << 10)
"""One value of the largest size, and a little beside it."""
MESSAGE_CHARS_MAX: Final = 1_000
_HEAD: Final = struct.Struct(">BI")


class Status(IntEnum):
    """What became of a call."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


OF_HTTP: Final = {
    400: Status.INTERNAL, 401: Status.UNAUTHENTICATED, 403: Status.PERMISSION_DENIED,
    404: Status.UNIMPLEMENTED, 413: Status.RESOURCE_EXHAUSTED, 429: Status.UNAVAILABLE,
    502: Status.UNAVAILABLE, 503: Status.UNAVAILABLE, 504: Status.UNAVAILABLE,
}
"""What an answer without a grpc-status means. Source: grpc/doc/http-grpc-status-mapping.md."""


class GrpcError(Exception):
    """The call ends with this status."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def status_of(text: str) -> Status:
    """The status that a header says; UNKNOWN for what is none."""
    try:
        return Status(int(text))
    except ValueError:
        return Status.UNKNOWN


def frame(message: bytes) -> bytes:
    """A message as it stands in a body."""
    return _HEAD.pack(0, len(message)) + message


class Frames:
    """Takes a body's bytes in any pieces and gives whole messages."""

    def __init__(self, bytes_max: int = MESSAGE_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._buffer = bytearray()

    @property
    def empty(self) -> bool:
        """Whether no part of a message is waiting for its rest."""
        return not self._buffer

    @property
    def wanted(self) -> int:
        """How long the message is that has begun, 0 when that is not known yet."""
        if len(self._buffer) < _HEAD.size:
            return 0
        size: int = _HEAD.unpack_from(self._buffer)[1]
        return size

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that these bytes made whole. Raises: GrpcError."""
        buffer, found, at = self._buffer, list[bytes](), 0
        buffer += data
        while len(buffer) - at >= _HEAD.size:
            compressed, size = _HEAD.unpack_from(buffer, at)
            if compressed:
                raise GrpcError(Status.UNIMPLEMENTED, "compressed messages are not taken")
            if size > self._bytes_max:
                raise GrpcError(Status.RESOURCE_EXHAUSTED, f"a message of {size} bytes is larger "
                                f"than {self._bytes_max}")
            end = at + _HEAD.size + size
            if len(buffer) < end:
                break
            found.append(bytes(buffer[at + _HEAD.size:end]))
            at = end
        del buffer[:at]
        return found


def encode_message(text: str) -> bytes:
    """Text as `grpc-message` carries it: printable ASCII, all else percent-encoded UTF-8."""
    data = text[:MESSAGE_CHARS_MAX].encode("utf-8", "replace")
    return b"".join(bytes((byte,)) if 0x20 <= byte <= 0x7e and byte != 0x25 else b"%%%02X" % byte
                    for byte in data)


def decode_message(text: str) -> str:
    """The text of a `grpc-message`; what is wrongly encoded is replaced."""
    return unquote(text, errors="replace")[:MESSAGE_CHARS_MAX]


def timeout_text(milliseconds: int) -> str:
    """A time as `grpc-timeout` says it: at most eight digits and a unit."""
    if milliseconds < 10**8:
        return f"{max(1, milliseconds)}m"
    return f"{min(milliseconds // 1000, 10**8 - 1)}S"
