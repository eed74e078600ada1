"""What the h2 library lets pass: it checks a frame's length only once the whole frame is there."""

from __future__ import annotations

from typing import Final

import h2.connection

HEAD_BYTES: Final = 9


def frame_too_large(connection: h2.connection.H2Connection) -> bool:
    """Whether the peer has begun a frame that is longer than it may be: 16 MiB of it would be kept.

    Ask after each `receive_data`. Source: RFC 9113 section 4.2.
    """
    rest = connection.incoming_buffer._data
    return (len(rest) >= HEAD_BYTES
            and int.from_bytes(rest[:3], "big") > connection.max_inbound_frame_size)
