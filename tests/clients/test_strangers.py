"""Peers that break every rule, beside a worker that keeps them: each ends its own session, with a
reason where there is a language to say it in, and the others notice nothing.
"""

from __future__ import annotations

import json
import os
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from plumd.sdk.client import Client
from plumd.sdk.messages import text_frame
from tests.api.live import no_defects
from tests.clients.kinds import KINDS
from tests.clients.orders import echo, hold
from tests.clients.stage import Stage
from tests.daemon.running import Running
from tests.sdk_c.building import Workshop

pytestmark = pytest.mark.daemon
PATH: Final = "/v1/embedded-workers/stranger"
SLOW: Final = 100
REGISTER: Final = {"register": {"session": "x", "tasks": ["stranger"]}, "holding": []}
WAIT_S: Final = 30


class Wire:
    """A raw connection."""

    def __init__(self, port: int) -> None:
        self.line = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)

    def say(self, data: bytes) -> None:
        """Send, as far as the other side still wants it."""
        with suppress(OSError):
            self.line.sendall(data)

    def say_no_more(self) -> None:
        """Shut this end, if the other has not hung up before."""
        with suppress(OSError):
            self.line.shutdown(socket.SHUT_WR)

    def upgrade(self) -> None:
        """Become a WebSocket."""
        self.say(f"GET {PATH}/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
                 "Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
                 "Sec-WebSocket-Version: 13\r\n\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.line.recv(1)
        assert head.startswith(b"HTTP/1.1 101 "), head

    def tell(self, message: object) -> None:
        """A message of the session protocol."""
        self.say(text_frame(json.dumps(message).encode(), mask=True))

    def post(self, path: str, body: bytes) -> None:
        """A request."""
        self.say(f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                 f"Content-Length: {len(body)}\r\n\r\n".encode() + body)

    def answer(self) -> bytes:
        """What an answer begins with."""
        with suppress(ConnectionError):
            return self.line.recv(65_536)
        return b""

    def last_words(self) -> bytes:
        """All that comes until the daemon hangs up."""
        heard = b""
        with suppress(ConnectionError):
            while data := self.line.recv(65_536):
                heard += data
        return heard


Stranger = Callable[[Wire, str], None]
"""What a peer does; it gets the id of an attempt that another worker has in hand."""


def closes(wire: Wire, *codes: int) -> None:
    """The daemon closes the WebSocket with one of these codes, and waits for nothing else."""
    heard = b""
    while not any(code.to_bytes(2, "big") in heard.partition(b"\x88")[2] for code in codes):
        data = wire.answer()
        assert data, heard
        heard += data


def random_bytes(wire: Wire, _held: str) -> None:
    wire.say(random.Random(1).randbytes(100_000))
    wire.say_no_more()
    wire.last_words()


def random_frames(wire: Wire, _held: str) -> None:
    wire.upgrade()
    wire.tell(REGISTER)
    wire.say(b"\xff\xff" + random.Random(2).randbytes(100_000))
    closes(wire, 1002)


def frame_without_mask(wire: Wire, _held: str) -> None:
    wire.upgrade()
    wire.say(text_frame(json.dumps(REGISTER).encode(), mask=False))
    closes(wire, 1002)


def frame_of_a_terabyte(wire: Wire, _held: str) -> None:
    """It is refused by its head: nobody makes room for it, or waits for the rest."""
    wire.upgrade()
    wire.tell(REGISTER)
    wire.say(b"\x81\xff" + (1 << 40).to_bytes(8, "big") + bytes(4) + bytes(100_000))
    closes(wire, 1009)


def pieces_without_end(wire: Wire, _held: str) -> None:
    """A message in fragments is bounded as a whole."""
    wire.upgrade()
    piece = b"\xff" + (1 << 20).to_bytes(8, "big") + bytes(4) + b" " * (1 << 20)
    wire.say(b"\x01" + piece)
    for _ in range(40):
        wire.say(b"\x00" + piece)
    closes(wire, 1009, 1002)


def results_before_the_register(wire: Wire, held: str) -> None:
    wire.upgrade()
    wire.tell({"seq": 1, "results": [{"id": held, "result": "forged"}]})
    closes(wire, 1002)


def registered_twice(wire: Wire, _held: str) -> None:
    wire.upgrade()
    wire.tell(REGISTER)
    wire.tell(REGISTER)
    closes(wire, 1002)


def batches_out_of_order(wire: Wire, held: str) -> None:
    wire.upgrade()
    wire.tell(REGISTER)
    wire.tell({"seq": 7, "results": [{"id": held, "result": "forged"}]})
    wire.tell({"seq": 7, "results": [{"id": held, "result": "forged"}]})
    closes(wire, 1002)


def anothers_attempt(wire: Wire, held: str) -> None:
    """A report of what it does not hold is refused and named, and changes nothing."""
    wire.upgrade()
    wire.tell(REGISTER | {"holding": [held]})
    wire.tell({"seq": 1, "results": [{"id": held, "result": "forged"},
                                     {"id": f"{held}.9", "error": {"message": "forged"}}]})
    heard = b""
    while b'"refused"' not in heard:
        heard += wire.answer()
    assert held.encode() in heard.partition(b'"refused"')[2], heard


def exchange_of_anothers_attempt(wire: Wire, held: str) -> None:
    path = f"{PATH}/exchange"
    wire.post(path, json.dumps(REGISTER | {"session": "x"}).encode())
    assert b'"registered"' in wire.answer()
    wire.post(path, json.dumps({"session": "x", "holding": [held], "seq": 1, "results": [
        {"id": held, "result": "forged"}]}).encode())
    heard = wire.answer()
    assert b'"refused"' in heard, heard


def exchange_of_nonsense(wire: Wire, held: str) -> None:
    for body in (b"\xff" * 1_000, b"[" * 50_000, b'{"session": "x", "holding": [1e9]}',
                 json.dumps({"session": "not me", "holding": [held]}).encode()):
        wire.post(f"{PATH}/exchange", body)
        heard = wire.answer()
        assert heard.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 409 ", b"HTTP/1.1 422 ")), heard
        assert b"application/problem+json" in heard


def body_that_is_too_long(wire: Wire, _held: str) -> None:
    """It is refused by its head."""
    wire.say(f"POST {PATH}/exchange HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json"
             "\r\nContent-Length: 99999999999\r\n\r\n".encode())
    assert wire.answer().startswith(b"HTTP/1.1 413 ")


def one_that_never_reads(wire: Wire, _held: str) -> None:
    """It asks for much and takes nothing; what waits for it is bounded."""
    wire.line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    wire.line.settimeout(0.2)
    wire.upgrade()
    wire.tell(REGISTER)
    for seq in range(1, 400):
        wire.tell({"seq": seq, "results": [{"id": os.urandom(7).hex()} for _ in range(100)]})


STRANGERS: Final[dict[str, Stranger]] = {each.__name__: each for each in (
    random_bytes, random_frames, frame_without_mask, frame_of_a_terabyte, pieces_without_end,
    results_before_the_register, registered_twice, batches_out_of_order, anothers_attempt,
    exchange_of_anothers_attempt, exchange_of_nonsense, body_that_is_too_long,
    one_that_never_reads)}


@contextmanager
def wired(port: int) -> Iterator[Wire]:
    """A connection, ended at the end."""
    wire = Wire(port)
    try:
        yield wire
    finally:
        wire.line.close()


@pytest.fixture(scope="module", params=["python", "python-poll"])
def stage(request: pytest.FixtureRequest, shared_daemon: Running, workshop: Workshop,
          tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A worker that keeps the rules, and knows nothing of the others."""
    kind = KINDS[request.param]
    folder = tmp_path_factory.mktemp(kind.id)
    with no_defects(shared_daemon), Client(shared_daemon.url, timeout_s=60) as api:
        stage = Stage(kind, workshop, shared_daemon, api, folder, f"good-{kind.id}")
        with stage.worker() as program:
            yield stage
            assert program.said.count("no line to") == 0, program.said


@pytest.mark.parametrize("stranger", STRANGERS)
def test_a_stranger_ends_alone(stage: Stage, stranger: str, tmp_path: Path) -> None:
    held = stage.submit(hold(tmp_path / "gate"))
    stage.until_started(held)
    with wired(stage.daemon.port) as wire:
        STRANGERS[stranger](wire, held)
        assert [stage.done(echo(number))["result"] for number in range(10)] == [*range(10)]
    assert stage.task(held)["state"] == "Running", "what it holds is its own"
    (tmp_path / "gate").touch()
    done = stage.ended(held)
    assert (done["result"], done["attempt"]) == ("held", 1)
    stage.once(held)


def test_many_that_never_finish_a_word_delay_nobody(stage: Stage) -> None:
    """Heads, handshakes and bodies that come byte by byte or stop: slow loris, a hundred of each.
    """
    beginnings = (b"POST /v1/embedded-workers/w/exchange HT", b"GET /v1/embedded-workers/w/strea",
                  b"POST /v1/tasks HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n{",
                  b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
    wires = [Wire(stage.daemon.port) for _ in range(SLOW * len(beginnings))]
    try:
        for number, wire in enumerate(wires):
            wire.say(beginnings[number % len(beginnings)])
        for number in range(20):
            for wire in wires[number::20]:
                wire.say(b"1")
            assert stage.done(echo(number))["result"] == number
    finally:
        for wire in wires:
            wire.line.close()
    assert stage.done(echo("after"))["result"] == "after"
