"""plumd.mqtt_packets: bytes of the specification, whatever the pieces; nonsense is refused."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plumd import mqtt_packets as packets
from plumd.mqtt_packets import (
    Broken,
    Connack,
    Other,
    Puback,
    Publish,
    Reader,
    Suback,
    filter_problem,
    matches,
)


def test_what_we_send() -> None:
    assert packets.connect("me", 30) == b"\x10\x0e\x00\x04MQTT\x04\x00\x00\x1e\x00\x02me"
    assert packets.connect("m", 30, "u", "p")[9] == 0xC0
    assert packets.subscribe(7, ("a/#",)) == b"\x82\x08\x00\x07\x00\x03a/#\x01"
    assert packets.unsubscribe(8, ("a",)) == b"\xa2\x05\x00\x08\x00\x01a"
    assert packets.publish("a/b", b"hi", 10) == b"\x32\x09\x00\x03a/b\x00\x0ahi"
    assert packets.puback(10) == b"\x40\x02\x00\x0a"
    assert packets.packet(0x30, b"x" * 200)[:3] == b"\x30\xc8\x01"
    with pytest.raises(ValueError, match="65,535"):
        packets.text("x" * 70_000)


STREAM = (b"\x20\x02\x01\x00" + b"\x90\x04\x00\x07\x01\x80" + b"\x40\x02\x00\x0a" + b"\xd0\x00"
          + b"\x3b\x07\x00\x01t\x00\x05hi" + b"\x30\x05\x00\x01thi")
MEANT = [Connack(True, 0), Suback(7, (1, 128)), Puback(10), Other(13),
         Publish("t", b"hi", 1, 5, True, True), Publish("t", b"hi", 0)]


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_what_we_get_in_any_pieces(cuts: list[int]) -> None:
    reader, found, at = Reader(), [], 0
    for cut in sorted({*cuts, len(STREAM)}):
        found += reader.feed(STREAM[at:cut])
        at = cut
    assert found == MEANT


@given(st.binary(max_size=60))
def test_nonsense_is_refused_or_waited_for(data: bytes) -> None:
    try:
        whole = Reader().feed(data)
    except Broken:
        return
    reader = Reader()
    assert [one for at in range(len(data)) for one in reader.feed(data[at:at + 1])] == whole


@pytest.mark.parametrize("data", [
    b"\x30\xff\xff\xff\xff\x01", b"\x40\xff\xff\xff\x7f", b"\x36\x05\x00\x01t\x00\x01",
    b"\x32\x05\x00\x01t\x00\x00", b"\x30\x02\x00\x09", b"\x30\x03\x00\x01\xff", b"\x20\x01\x00",
    b"\x40\x01\x00", b"\x32\x03\x00\x01t"])
def test_broken(data: bytes) -> None:
    with pytest.raises(Broken):
        Reader().feed(data)


@given(st.lists(st.integers(0, 5 << 20), max_size=6), st.sampled_from((0x30, 0x32, 0x3a)))
@settings(max_examples=25, deadline=None)
def test_a_message_that_is_too_large_is_read_over(cuts: list[int], first: int) -> None:
    large = packets.packet(first, packets.text("a/b") + (b"\0\7" if first > 0x31 else b"")
                           + bytes(4 << 20))
    stream, reader = large + STREAM, Reader()
    found: list[packets.Packet] = []
    for begin, end in pairwise([0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]):
        found += reader.feed(stream[begin:end])
    qos = first >> 1 & 3
    assert found == [Publish("a/b", b"", qos, 7 if qos else 0, dup=first == 0x3a, too_large=True),
                     *MEANT]


@pytest.mark.parametrize(("pattern", "topic", "answer"), [
    ("a", "a", True), ("a", "b", False), ("a/b", "a", False), ("a", "a/b", False),
    ("+", "a", True), ("+", "a/b", False), ("a/+/c", "a/b/c", True), ("a/+", "a/", True),
    ("#", "a/b", True), ("a/#", "a", True), ("a/#", "a/b/c", True), ("a/#", "b", False),
    ("+/+", "/x", True), ("#", "$SYS/x", False), ("+/x", "$SYS/x", False),
    ("$SYS/#", "$SYS/x", True)])
def test_filters(pattern: str, topic: str, answer: bool) -> None:
    assert matches(pattern, topic) is answer
    assert filter_problem(pattern) == ""


@pytest.mark.parametrize("pattern", ["", "a#", "#/a", "a+", "+a/b", "x" * 1_001, "a\0"])
def test_filters_that_are_none(pattern: str) -> None:
    assert filter_problem(pattern)
