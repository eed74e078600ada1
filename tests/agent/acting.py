"""A controller played by hand: it speaks to agents as an existing one does, and counts.

Old as default: it answers a heartbeat with ttlSec alone, and assignments with the nine old keys.
"""

from __future__ import annotations

import hashlib
import io
import json
import threading
import time
import zipfile
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import parse_qs, urlsplit


def zipped(files: Mapping[str, str | bytes], mode: int = 0o755) -> bytes:
    """A zip with these files."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, text in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (0o100000 | mode) << 16
            archive.writestr(info, text)
    return made.getvalue()


def boot_ms() -> int:
    """The clock of leases."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class Controller:
    """Listens on loopback. Its lists may be changed at any time; `wake` tells the agents so."""

    def __init__(self) -> None:
        self.wanted: dict[str, dict[str, object]] = {}
        self.reports: list[dict[str, object]] = []
        self.beats: list[dict[str, object]] = []
        self.artifacts: dict[str, bytes] = {}
        self.ranges: list[str] = []
        self.cut_after = 0          # of a download without Range only so many bytes come
        self.untold = False         # downloads do not say how long they are
        self.taken = False      # set: beats are refused
        self.refused = 0        # so many of them
        self.asked = threading.Event()      # the assignments were told
        self.silent = threading.Event()     # set: what is asked gets no answer
        self.heard_ms = 0   # when an assignments request last came that was answered
        self.beat_answer: dict[str, object] = {"ttlSec": 15}
        self._news = threading.Condition()
        self._turn = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.port = self._server.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Listen no more."""
        with self._news:
            self._turn = -1
            self._news.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def app(self, name: str, files: Mapping[str, str | bytes]) -> tuple[str, str]:
        """An artifact: (its relative URL, its sha256)."""
        data = zipped(files)
        self.artifacts[f"/artifacts/{name}"] = data
        return f"/artifacts/{name}", hashlib.sha256(data).hexdigest()

    def want(self, instance_id: str, **more: object) -> None:
        """List an instance, or change what is wanted of it."""
        known = self.wanted.get(instance_id, {
            "instanceId": instance_id, "deploymentId": "d1", "desired": "Running",
            "artifactUrl": "", "startCmd": "", "appName": "app", "appVersion": "1",
            "phase": "Running", "healthy": True, "lastReportAt": 0})
        self.wanted[instance_id] = known | more
        self.wake()

    def drop(self, instance_id: str) -> None:
        """List it no more."""
        del self.wanted[instance_id]
        self.wake()

    def wake(self) -> None:
        with self._news:
            self._turn += 1
            self._news.notify_all()

    def phases(self, instance_id: str) -> list[str]:
        """What was told of it, one after the other, equal words once."""
        found: list[str] = []
        for one in self.of(instance_id):
            if not found or found[-1] != one["phase"]:
                found.append(str(one["phase"]))
        return found

    def of(self, instance_id: str) -> list[dict[str, object]]:
        return [one for one in list(self.reports) if one["instanceId"] == instance_id]

    def last(self, instance_id: str) -> dict[str, object]:
        return self.of(instance_id)[-1] if self.of(instance_id) else {"phase": ""}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        controller = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                """Silent."""

            def answer(self, status: int, body: object = None) -> None:
                data = b"" if body is None else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_POST(self) -> None:
                if controller._turn < 0:
                    self.close_connection = True
                    return
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path == "/v1/nodes/heartbeat":
                    controller.beats.append(body)
                    if controller.taken:
                        controller.refused += 1
                        self.answer(409, {"code": "node_taken", "detail": "another has it"})
                    else:
                        self.answer(200, controller.beat_answer)
                elif self.path == "/v1/instances/status":
                    controller.reports.append(body)
                    self.answer(204)
                else:
                    self.answer(404)

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                if controller._turn < 0:
                    self.close_connection = True
                elif parts.path == "/v1/assignments":
                    assert parse_qs(parts.query)["nodeId"]
                    if controller.silent.is_set():
                        self.hang()
                        return
                    controller.heard_ms = boot_ms()
                    self.answer(200, {"items": list(controller.wanted.values())})
                    controller.asked.set()
                elif parts.path == "/v1/stream":
                    self.stream()
                elif parts.path in controller.artifacts:
                    self.artifact(controller.artifacts[parts.path])
                else:
                    self.answer(404, {"code": "not_found", "detail": "no such thing"})

            def hang(self) -> None:
                """Nothing comes back, as behind a line that is cut."""
                while controller.silent.is_set() and controller._turn >= 0:
                    time.sleep(0.02)    # the line is held in a thread of its own; nothing waits
                self.close_connection = True

            def stream(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(b"event: ping\ndata: init\n\n")
                with controller._news:
                    seen = controller._turn
                    while controller._turn >= 0:
                        if controller._turn == seen:
                            controller._news.wait(5)
                        seen = controller._turn
                        try:
                            self.wfile.write(b"event: update\ndata: assignments\n\n")
                        except OSError:
                            break
                self.close_connection = True

            def artifact(self, data: bytes) -> None:
                wanted = self.headers.get("Range", "")
                controller.ranges.append(wanted)
                begin = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
                self.send_response(206 if wanted else 200)
                if controller.untold:
                    self.send_header("Connection", "close")
                    self.close_connection = True
                else:
                    self.send_header("Content-Length", str(len(data) - begin))
                self.end_headers()
                cut = controller.cut_after if not wanted and controller.cut_after else len(data)
                self.wfile.write(data[begin:cut])
                if cut < len(data):
                    self.wfile.flush()
                    self.connection.close()
                    self.close_connection = True

        return Handler
