"""Pure: MQTT 3.1.1 as bytes, as far as a client of QoS 0 and 1 needs it.

Source: OASIS, MQTT Version 3.1.1, chapters 2 and 3.
"""

from __future__ import annotations

import struct
from typing import Final, TypeAlias

import msgspec

PACKET_BYTES_MAX: Final = 2 << 20
TOPIC_BYTES_MAX: Final = 65_535
PINGREQ: Final = b"\xc0\x00"
REFUSALS: Final = ("", "another protocol version", "the client id is refused",
                   "the broker is not available", "wrong user name or password",
                   "not allowed to connect")


class Broken(ValueError):
    """What the broker sent is no MQTT, or too large."""


class Connack(msgspec.Struct, frozen=True):
    """The answer to CONNECT. code: 0 = welcome."""

    session_present: bool
    code: int


class Publish(msgspec.Struct, frozen=True):
    """A message. pid: 0 for QoS 0.  too_large: its payload was left out, and read over."""

    topic: str
    payload: bytes
    qos: int
    pid: int = 0
    retain: bool = False
    dup: bool = False
    too_large: bool = False


class Puback(msgspec.Struct, frozen=True):
    """A message of ours was taken."""

    pid: int


class Suback(msgspec.Struct, frozen=True):
    """The answer to SUBSCRIBE. codes: 128 = refused."""

    pid: int
    codes: tuple[int, ...]


class Other(msgspec.Struct, frozen=True):
    """Anything else that a broker may send: PINGRESP, UNSUBACK."""

    kind: int


Packet: TypeAlias = Connack | Publish | Puback | Suback | Other


def text(value: str) -> bytes:
    """A string with its length. Raises: ValueError when it is too long."""
    data = value.encode()
    if len(data) > TOPIC_BYTES_MAX:
        raise ValueError("a text takes at most 65,535 bytes")
    return struct.pack("!H", len(data)) + data


def packet(first: int, body: bytes) -> bytes:
    """A packet with its fixed header."""
    left, size = len(body), bytearray()
    while True:
        left, digit = divmod(left, 128)
        size.append(digit | (128 if left else 0))
        if not left:
            return bytes([first]) + bytes(size) + body


def connect(client_id: str, keepalive_s: int, user: str = "", password: str = "") -> bytes:
    """CONNECT to a session that outlives the connection."""
    flags = (0x80 if user else 0) | (0x40 if password else 0)
    body = text("MQTT") + bytes([4, flags]) + struct.pack("!H", keepalive_s) + text(client_id)
    body += text(user) if user else b""
    body += text(password) if password else b""
    return packet(0x10, body)


def subscribe(pid: int, filters: tuple[str, ...]) -> bytes:
    """SUBSCRIBE with QoS 1."""
    return packet(0x82, struct.pack("!H", pid) + b"".join(text(one) + b"\1" for one in filters))


def unsubscribe(pid: int, filters: tuple[str, ...]) -> bytes:
    """UNSUBSCRIBE."""
    return packet(0xA2, struct.pack("!H", pid) + b"".join(map(text, filters)))


def publish(topic: str, payload: bytes, pid: int) -> bytes:
    """PUBLISH with QoS 1."""
    return packet(0x32, text(topic) + struct.pack("!H", pid) + payload)


def puback(pid: int) -> bytes:
    """PUBACK."""
    return packet(0x40, struct.pack("!H", pid))


class Reader:
    """Bytes in, packets out."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._left = 0
        """So much of a message that is too large is still to come."""

    def feed(self, data: bytes) -> list[Packet]:
        """The packets that are whole by now. Raises: Broken."""
        if self._left:
            passed = min(self._left, len(data))
            self._left -= passed
            data = data[passed:]
        self._buffer += data
        found: list[Packet] = []
        while (taken := self._next()) is not None:
            found.append(taken)
        return found

    def _next(self) -> Packet | None:
        buffer, size, at = self._buffer, 0, 1
        while True:
            if len(buffer) <= at:
                return None
            size |= (buffer[at] & 127) << 7 * (at - 1)
            if not buffer[at] & 128:
                break
            at += 1
            if at > 4:
                raise Broken("a packet's length has more than four bytes")
        if size > PACKET_BYTES_MAX:
            return self._large(at + 1, size)
        if len(buffer) < at + 1 + size:
            return None
        first, body = buffer[0], bytes(buffer[at + 1:at + 1 + size])
        del buffer[:at + 1 + size]
        try:
            return parsed(first, body)
        except (struct.error, IndexError, UnicodeDecodeError) as error:
            raise Broken(f"a packet is cut short or no UTF-8: {error}") from None


    def _large(self, at: int, size: int) -> Packet | None:
        """The head of a message that is too large. Who hung up for it would be sent it again and
        again by the broker, and hear of nothing else. Raises: Broken."""
        buffer = self._buffer
        if buffer[0] >> 4 != 3:
            raise Broken(f"a packet is larger than {PACKET_BYTES_MAX} bytes")
        head = bytes(buffer[at:at + 4 + TOPIC_BYTES_MAX])
        if len(head) < 2 or len(head) < 4 + int.from_bytes(head[:2]):
            return None
        try:
            found = parsed(buffer[0], head)
        except UnicodeDecodeError as error:
            raise Broken(f"a topic is no UTF-8: {error}") from None
        self._left = max(0, at + size - len(buffer))
        del buffer[:at + size]
        assert isinstance(found, Publish)
        return msgspec.structs.replace(found, payload=b"", too_large=True)


def parsed(first: int, body: bytes) -> Packet:
    """A packet's meaning. Raises: Broken, struct.error, IndexError, UnicodeDecodeError."""
    kind = first >> 4
    if kind == 2:
        return Connack(bool(body[0] & 1), body[1])
    if kind == 3:
        qos = first >> 1 & 3
        if qos == 3:
            raise Broken("there is no QoS 3")
        size = struct.unpack_from("!H", body)[0]
        if len(body) < 2 + size:
            raise Broken("a topic is cut short")
        topic, at, pid = body[2:2 + size].decode(), 2 + size, 0
        if qos:
            pid = struct.unpack_from("!H", body, at)[0]
            at += 2
            if not pid:
                raise Broken("a packet has the identifier 0")
        return Publish(topic, body[at:], qos, pid, bool(first & 1), bool(first & 8))
    if kind == 4:
        return Puback(struct.unpack_from("!H", body)[0])
    if kind == 9:
        return Suback(struct.unpack_from("!H", body)[0], tuple(body[2:]))
    return Other(kind)


def filter_problem(value: str) -> str:
    """What is wrong with a topic filter, "" = nothing."""
    if not value or len(value.encode()) > 1_000 or "\0" in value:
        return "a topic filter has 1 to 1,000 bytes"
    levels = value.split("/")
    for place, level in enumerate(levels):
        if "#" in level and (level != "#" or place != len(levels) - 1):
            return "# stands alone, at the end"
        if "+" in level and level != "+":
            return "+ stands alone between slashes"
    return ""


def matches(pattern: str, topic: str) -> bool:
    """Whether a topic filter takes a topic."""
    levels, names = pattern.split("/"), topic.split("/")
    if topic.startswith("$") and levels[0] in ("+", "#"):
        return False
    for place, level in enumerate(levels):
        if level == "#":
            return True
        if place >= len(names) or level not in ("+", names[place]):
            return False
    return len(levels) == len(names)
