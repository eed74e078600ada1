"""The sans-IO half under real traffic, whole, cut at every byte, and with faults put into it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from msgspec import Raw
from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, Ping, Pong, TextMessage

from plumd.sdk.ends import DaemonEnd, WorkerEnd
from plumd.sdk.protocol import (
    Attempt,
    CancelNotice,
    Down,
    PeerError,
    Refused,
    Register,
    Registered,
    Up,
)
from tests.daemon.running import Running
from tests.sdk_c.building import Workshop, run

FUZZ_ROUNDS = 30_000
LIBFUZZER_ROUNDS = 20_000


def down(*messages: Down) -> list[bytes]:
    """The bytes of a daemon's messages on one line."""
    end, worker = DaemonEnd(), WorkerEnd()
    end.receive(worker.send(Up(register=Register("s", ["t"]), holding=[])))
    return [end.send(message) for message in messages]


FIRST = Down(
    registered=Registered(30.0, 10.0), attempts=[
        Attempt("1f", "t", Raw(b'{"a": [1, "\\u00e9\xc3\xa9", {"b": null}]}'), 1.5, 1),
        Attempt("20.3", "t", attempt=3), Attempt("21", "nobody knows this")],
    cancel=[CancelNotice("99", "timeout"), CancelNotice("20.3")], refused=[Refused("77")])


def traffic_of(text: str, data: bytes, workshop: Workshop, folder: Path) -> str:
    """What the C reader made of the data; the program has cut it everywhere by then."""
    path = folder / "traffic"
    path.write_bytes(data)
    return run(workshop.inside(), "traffic", text, path)


def frames() -> bytes:
    """What a server may send on a WebSocket, by an implementation that is not ours."""
    server = Connection(ConnectionType.SERVER)
    data = server.send(TextMessage(data="short")) + server.send(Ping(payload=b"are you there"))
    data += server.send(TextMessage(data="é" * 100, message_finished=False))
    data += server.send(Pong(payload=b""))      # control frames come between fragments
    data += server.send(TextMessage(data="x" * 300))
    data += server.send(TextMessage(data=""))
    return data + server.send(CloseConnection(code=1001, reason="bye"))


def test_websocket(workshop: Workshop, tmp_path: Path) -> None:
    told = traffic_of("ws", frames(), workshop, tmp_path)
    assert told == ("[ws 1 0 5 short][ws 9 0 13 are you there][ws 10 0 0 ]"
                    f"[ws 1 0 500 {'é' * 100}{'x' * 300}][ws 1 0 0 ][ws 8 1001 3 bye]")


def test_messages_of_the_daemon(workshop: Workshop, tmp_path: Path) -> None:
    first, = down(FIRST)
    told = traffic_of("down", first, workshop, tmp_path)
    assert told.startswith("0 [waiting 1f t {\"a\": [1, \"\\u00e9é\", {\"b\": null}]} 1500 1]")
    assert '[unsent {"id":"20.3","stopped":true}]' in told
    assert '[unsent {"id":"99","stopped":true}]' in told
    assert '"id":"21","error":{"code":"unknown_task"' in told
    end = DaemonEnd()
    end.receive(WorkerEnd().send(Up(register=Register("s", ["t"]), holding=[])))
    last = end.send(Down(error=PeerError("session_replaced", "another")))
    assert traffic_of("down", last, workshop, tmp_path).startswith("19 ")


def recorded(daemon: Running, request: str, until: bytes) -> bytes:
    """What the real daemon answers, byte for byte."""
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=20) as line:
        line.sendall(request.replace("\n", "\r\n").encode())
        data = b""
        while until not in data:
            piece = line.recv(65536)
            assert piece, f"it hung up: {data!r}"
            data += piece
    return data


@pytest.fixture
def answers(shared_daemon: Running) -> dict[str, bytes]:
    """Recorded from the daemon: answers of both its HTTP doors, and of its event stream."""
    body = '{"name":"builtin.echo","payload":{"n":[1,2]}}'
    post = (f"POST /v1/tasks HTTP/1.1\nHost: 127.0.0.1\nContent-Type: application/json\n"
            f"Content-Length: {len(body)}\nPrefer: wait=10\n\n{body}")
    hot = recorded(shared_daemon, post, b'"omitted"')
    cold = recorded(shared_daemon, "GET /v1/services/list HTTP/1.1\nHost: 127.0.0.1\n\n", b"\n[]")
    stream = recorded(shared_daemon, "GET /v1/events?lastEventId=0&topics=tasks HTTP/1.1\n"
                      "Host: 127.0.0.1\n\n", b"Succeeded")
    return {"hot": hot, "cold": cold, "stream": stream}


def test_http_answers(answers: dict[str, bytes], workshop: Workshop, tmp_path: Path) -> None:
    for name in ("hot", "cold"):
        data = answers[name]
        told = traffic_of("http", data + data, workshop, tmp_path)
        body = data.partition(b"\r\n\r\n")[2].decode()
        assert told.count("[head 20") == 2, told
        assert told.count(f"]{body}[end 1]") == 2, told
    chunked = (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
               b"5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nTrailer: t\r\n\r\n"
               b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
    told = traffic_of("http", chunked, workshop, tmp_path)
    assert told == ("[head 200   transfer-encoding=chunked]hello![end 1]"
                    "[head 204   connection=close][end 0]")
    calls = (b"POST /op HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"
             b"GET /x HTTP/1.0\r\n\r\n")
    assert traffic_of("request", calls, workshop, tmp_path) == (
        "[head 0 POST /op host=h content-length=3]abc[end 1][head 0 GET /x][end 0]")


def test_server_sent_events(answers: dict[str, bytes], workshop: Workshop, tmp_path: Path) -> None:
    head, _, rest = answers["stream"].partition(b"\r\n\r\n")
    assert b"200" in head
    body = b""
    while rest:     # chunks, as the recorded answer has them
        size, _, rest = rest.partition(b"\r\n")
        body += rest[:int(size, 16)]
        rest = rest[int(size, 16) + 2:]
    told = traffic_of("sse", body, workshop, tmp_path)
    assert told.count("[sse ") == body.count(b"\ndata:") + body.startswith(b"data:")
    odd = b"\xef\xbb\xbf: hello\n\ndata:a\ndata: b\r\nid: 7\r\n\r\nevent:e\rdata\r\rdata: left open"
    assert traffic_of("sse", odd, workshop, tmp_path) == "[sse message|a\nb|7][sse e||7]"


def seeds(workshop: Workshop, answers: dict[str, bytes], folder: Path) -> list[tuple[str, Path]]:
    """Real inputs of every reader."""
    journal = folder / "unit"
    journal.mkdir()
    chunked = b"POST / HTTP/1.1\r\nTransfer-Encoding:chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"
    contents = [("http", answers["hot"]), ("http", answers["cold"]), ("sse", answers["stream"]),
                ("request", chunked),
                ("ws", frames()), ("json", b'{"a":[1,-2.5e3,"\\u00e9\\ud83d\\ude00",{"b":null}]}'),
                ("json", b'"QUJDRA=="'), ("down", b"\n".join([
                    *down(FIRST)[:1], b'{"ack":1,"attempts":[{"id":"5","name":"t","payload":"x"}]}',
                    b'{"ack":3,"refused":[{"id":"5"}],"cancel":[{"id":"1f"},{"id":"1f"}]}']))]
    found = []
    for index, (kind, data) in enumerate(contents):
        path = folder / f"seed-{index}"
        path.write_bytes(data)
        found.append((kind, path))
    path = folder / "seed-journal"
    path.write_text(run(workshop.inside(), "unit", journal), encoding="utf-8",
                    errors="surrogateescape")
    return [*found, ("journal", path)]


def test_small_things_and_the_journal(workshop: Workshop, tmp_path: Path) -> None:
    assert run(workshop.inside(), "unit", tmp_path), "the journal that it was about"


def test_fuzz(workshop: Workshop, answers: dict[str, bytes], tmp_path: Path) -> None:
    """The same mutations each time, under ASan and UBSan: no input harms, however it is cut."""
    words = [word for kind, path in seeds(workshop, answers, tmp_path) for word in (kind, path)]
    assert run(workshop.inside(), "fuzz", str(FUZZ_ROUNDS), *words) == f"{FUZZ_ROUNDS} rounds\n"


def test_libfuzzer(workshop: Workshop, answers: dict[str, bytes], tmp_path: Path) -> None:
    """Guided by coverage, from the same seeds."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    kinds = ["http", "request", "ws", "sse", "down", "json", "journal"]
    for index, (kind, path) in enumerate(seeds(workshop, answers, tmp_path)):
        (corpus / str(index)).write_bytes(bytes([kinds.index(kind)]) + path.read_bytes())
    run(workshop.fuzzer(), "-seed=1", f"-runs={LIBFUZZER_ROUNDS}", "-max_len=8192",
        "-close_fd_mask=1", corpus)
