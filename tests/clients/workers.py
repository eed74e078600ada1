"""Workers of the conformance suite as programs of their own.

python -m tests.clients.workers KIND URL ID NAME NOTES BEAT_MS [LISTEN_PORT CALLED_PORT]

KIND: websocket, long-poll (the Python SDK), http (called back), grpc (grpcio's own client). Each
start of an attempt is a line in NOTES, the end of one that was held another, with a dash. SIGTERM
drains those of the SDK and ends the others.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from plumd.sdk import Context, TaskFailed, Worker
from tests.clients.orders import line

CAPACITY = 16
LOOK_S = 0.005
TALK_S = 0.001          # between two lines: a talker is quick, and fills no disk
REPLACED = 19           # the exit code of the C SDK's workers for it
HTTP_BEAT_S = 1.0
GRPC_BEAT_S = 10.0
AGAIN_S = 0.1
SAID_MAX = 5_000


class Order(msgspec.Struct, frozen=True):
    """What to do; see orders.py."""

    do: str
    given: object = msgspec.field(default=None, name="with")
    size: int = 0
    gate: str = ""
    retry: bool = True


class Notes:
    """Where starts are written down."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def add(self, attempt_id: str) -> None:
        """It starts now."""
        os.write(self._file, f"{attempt_id}\n".encode())

    def end(self, attempt_id: str) -> None:
        """It has been held as long as it should."""
        os.write(self._file, f"-{attempt_id}\n".encode())


def act(order: Order, attempt_id: str, notes: Notes, stopped: Callable[[], bool],
        say: Callable[[str], None] | None = None) -> object:
    """Obey. Raises: TaskFailed."""
    notes.add(attempt_id)
    if order.do == "echo":
        return order.given
    if order.do == "who":
        return os.getpid()
    if order.do == "big":
        return "x" * order.size
    if order.do == "fail":
        raise TaskFailed(str(order.given), code="asked", retry=order.retry)
    if order.do == "talk":
        assert say is not None, "this kind of worker has no lines"
        return talk(order, stopped, say)
    while not (Path(order.gate).exists() or stopped()):
        time.sleep(LOOK_S)
    notes.end(attempt_id)
    return "held"


def talk(order: Order, stopped: Callable[[], bool], say: Callable[[str], None]) -> int:
    """Say lines until the gate is open; how many they were."""
    count = 0
    while not (Path(order.gate).exists() or stopped()):
        say(line(count))
        count += 1
        time.sleep(TALK_S)
    return count


def sdk(transport: Literal["websocket", "long-poll"], url: str, worker_id: str, name: str,
        notes: Notes, beat_s: float) -> None:
    """A worker of the Python SDK."""
    worker = Worker(url, worker_id=worker_id, capacity=CAPACITY, beat_s=beat_s,
                    drain_timeout_s=20, transport=transport)

    @worker.task(name, type=Order)
    def handle(order: Order, context: Context) -> object:
        answer = act(order, context.id, notes, lambda: context.canceled, context.log)
        context.check_canceled()
        return answer

    worker.run()


class Called:
    """A worker that the daemon calls back, and that beats."""

    def __init__(self, url: str, worker_id: str, name: str, notes: Notes, ports: list[int]) -> None:
        listen, called = ports or [0, 0]
        self.notes = notes
        self._daemon = urlsplit(url)
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                status, body = owner.answer(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - theirs
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", listen), Handler)
        self._server.daemon_threads = True
        port = called or self._server.server_address[1]
        self._register = {"workerId": worker_id, "url": f"http://127.0.0.1:{port}/do",
                          "tasks": [name], "capacity": CAPACITY}

    def answer(self, body: bytes) -> tuple[int, bytes]:
        """What a call gets."""
        call = json.loads(body)
        try:
            order = msgspec.convert(call["payload"], Order)
            result = act(order, call["taskId"], self.notes, lambda: False)
            return 200, json.dumps(result).encode()
        except TaskFailed as failed:
            return 500, str(failed).encode()

    def serve(self) -> None:
        """Until the end of the process."""
        threading.Thread(target=self._beat, daemon=True).start()
        with contextlib.suppress(KeyboardInterrupt):
            self._server.serve_forever()

    def _beat(self) -> None:
        known = False
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                known = self._post("heartbeat" if known else "register")
            time.sleep(HTTP_BEAT_S if known else AGAIN_S)

    def _post(self, what: str) -> bool:
        line = http.client.HTTPConnection(self._daemon.hostname or "", self._daemon.port, timeout=5)
        try:
            line.request("POST", f"/v1/workers/{what}", json.dumps(self._register).encode(),
                         {"Content-Type": "application/json"})
            return line.getresponse().status == 200
        finally:
            line.close()


class Streaming:
    """A worker on gRPC streams, one after the other. What it has said of late it says again on each
    new one, for nobody told it what arrived.
    """

    def __init__(self, url: str, worker_id: str, name: str, notes: Notes) -> None:
        self.port = urlsplit(url).port or 0
        self.worker_id, self.name, self.notes = worker_id, name, notes
        self.said: deque[bytes] = deque(maxlen=SAID_MAX)
        self.known: set[str] = set()
        self.waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def serve(self) -> int:
        """Until another took over; the exit code."""
        import grpc

        from plumd.stream.task_service_pb2 import TaskRequest
        from tests.stream.grpcio import SERVICE, channel

        while True:
            self.waiting = queue.SimpleQueue()
            with channel(self.port) as opened:
                call = opened.stream_stream(
                    SERVICE + "TaskStream", response_deserializer=TaskRequest.FromString)(
                        self._words([*self.said], self.waiting))
                try:
                    for request in call:
                        if request.task_id not in self.known:
                            self.known.add(request.task_id)
                            threading.Thread(target=self._work, daemon=True, args=(
                                request.task_id, request.payload)).start()
                except grpc.RpcError:
                    if call.code() is grpc.StatusCode.ABORTED:
                        return REPLACED
            self.waiting.put(None)
            time.sleep(AGAIN_S)

    def _words(self, again: list[bytes],
               waiting: queue.SimpleQueue[bytes | None]) -> Iterator[bytes]:
        from plumd.stream.task_service_pb2 import Heartbeat, TaskAck, WorkerRegister

        yield TaskAck(register=WorkerRegister(
            worker_id=self.worker_id, tasks=[self.name],
            labels={"capacity": str(CAPACITY)})).SerializeToString()
        yield from again
        beat = TaskAck(heartbeat=Heartbeat(worker_id=self.worker_id)).SerializeToString()
        while True:
            try:
                word = waiting.get(timeout=GRPC_BEAT_S)
            except queue.Empty:
                yield beat
                continue
            if word is None:
                return
            yield word

    def _work(self, task_id: str, payload: str) -> None:
        from plumd.stream.task_service_pb2 import TaskAck, TaskResponse

        try:
            order = msgspec.json.decode(payload, type=Order)
            answer = TaskResponse(task_id=task_id, result=json.dumps(
                act(order, task_id, self.notes, lambda: False)))
        except TaskFailed as failed:
            answer = TaskResponse(task_id=task_id, error=str(failed))
        word = TaskAck(result=answer).SerializeToString()
        self.said.append(word)
        self.waiting.put(word)


def main() -> int:
    """Serve."""
    kind, url, worker_id, name, path, beat_ms, *ports = sys.argv[1:]
    notes = Notes(path)
    if kind == "http":
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        Called(url, worker_id, name, notes, [int(port) for port in ports]).serve()
    elif kind == "grpc":
        return Streaming(url, worker_id, name, notes).serve()
    else:
        sdk("long-poll" if kind == "long-poll" else "websocket", url, worker_id, name, notes,
            int(beat_ms) / 1000)
    return 0


if __name__ == "__main__":
    sys.exit(main())
