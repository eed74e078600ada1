"""The bounds of a connection, in one place."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True):
    """The bounds of a connection. Seconds, bytes, counts.

    send_s: time for each 64 KiB of an answer.  linger_s: how long a closed connection is still
    read, so that the last answer is not lost to a reset.  grace_s: at shutdown, for requests in
    flight; within it stream_grace_s for SSE and WebSocket streams, and first_s for connections
    that have not sent a request yet.
    """

    head_bytes_max: int = 16 * 1024
    connections_max: int = 10_000
    idle_s: float = 75.0
    head_s: float = 30.0
    body_s: float = 30.0
    send_s: float = 10.0
    linger_s: float = 1.0
    handshake_s: float = 20.0
    grace_s: float = 5.0
    stream_grace_s: float = 1.5
    first_s: float = 1.0
    websocket_message_bytes_max: int = 32 * 1024 * 1024
