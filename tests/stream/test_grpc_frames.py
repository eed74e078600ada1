"""gRPC's framing and words, by themselves."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumd.stream.grpc_frames import (
    MESSAGE_CHARS_MAX,
    Frames,
    GrpcError,
    Status,
    decode_message,
    encode_message,
    frame,
    status_of,
    timeout_text,
)


@given(st.lists(st.binary(max_size=50)), st.lists(st.integers(0, 400)))
def test_messages_come_whole_in_whatever_pieces(messages: list[bytes], cuts: list[int]) -> None:
    data = b"".join(map(frame, messages))
    frames, found, at = Frames(), list[bytes](), 0
    for cut in [*sorted(each for each in cuts if each < len(data)), len(data)]:
        found += frames.feed(data[at:cut])
        at = cut
    assert found == messages
    assert frames.empty


@given(st.binary(max_size=200), st.integers(1, 50))
def test_any_bytes_are_messages_or_a_grpc_error(data: bytes, step: int) -> None:
    frames = Frames(bytes_max=60)
    found: list[bytes] = []
    with suppress(GrpcError):
        for at in range(0, len(data), step):
            found += frames.feed(data[at:at + step])
    assert all(len(one) <= 60 for one in found)
    assert b"".join(map(frame, found)) == data[:sum(len(one) + 5 for one in found)]


def test_what_is_too_large_is_refused_at_its_head() -> None:
    frames = Frames(bytes_max=10)
    assert frames.feed(frame(b"x" * 10)) == [b"x" * 10]
    with pytest.raises(GrpcError, match="larger"):
        frames.feed(b"\0\0\0\0\x0b")
    waiting = Frames()
    assert waiting.wanted == 0
    waiting.feed(b"\0\0\0\1\0a")
    assert (waiting.wanted, waiting.empty) == (256, False)


@given(st.text(max_size=MESSAGE_CHARS_MAX))
def test_words_come_through_a_header(text: str) -> None:
    data = encode_message(text)
    assert all(0x20 <= byte <= 0x7e for byte in data)
    assert decode_message(data.decode()) == text.encode("utf-8", "replace").decode()


def test_long_words_are_cut() -> None:
    assert len(encode_message("x" * 5_000)) == MESSAGE_CHARS_MAX


@pytest.mark.parametrize(("milliseconds", "text"), [
    (0, "1m"), (1, "1m"), (99_999_999, "99999999m"), (100_000_000, "100000S"),
    (10**15, "99999999S")])
def test_timeouts(milliseconds: int, text: str) -> None:
    assert timeout_text(milliseconds) == text


@pytest.mark.parametrize(("text", "status"), [
    ("0", Status.OK), ("14", Status.UNAVAILABLE), ("99", Status.UNKNOWN), ("", Status.UNKNOWN),
    ("x", Status.UNKNOWN)])
def test_statuses(text: str, status: Status) -> None:
    assert status_of(text) == status
