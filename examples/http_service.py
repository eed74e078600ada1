"""An HTTP service that registers itself with Plum. Start it, twice or more, beside a daemon:

    python examples/http_service.py --plum http://127.0.0.1:8080 --name my-service --port 0
    curl -d '{"name": "greet", "executor": "service", "targetRef": "my-service",
              "labels": {"servicePath": "/api/execute"}, "payload": {"who": "world"}}' \
         -H 'Content-Type: application/json' http://127.0.0.1:8080/v1/tasks

It needs nothing but Python. Ctrl-C or SIGTERM: it takes itself off the list and ends.
"""

import argparse
import json
import os
import signal
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BEAT_S = 5.0
BODY_BYTES_MAX = 16 << 20

plum = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never by way of a proxy


class Handler(BaseHTTPRequestHandler):
    """Answers POST /api/execute; the body is the task's payload, the answer is its result."""

    protocol_version = "HTTP/1.1"  # keeps connections open between calls
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        # The body is read whatever the path: what is left unread would look like a next request.
        size = int(self.headers.get("Content-Length", 0))
        if size > BODY_BYTES_MAX:
            self.close_connection = True
            return self.reply(413, {"error": "the payload is too large"})
        body = self.rfile.read(size)
        if self.path != "/api/execute":
            return self.reply(404, {"error": "there is only POST /api/execute"})
        try:
            payload = json.loads(body)
        except ValueError:
            # A 4xx tells Plum that the same payload would fail again.
            return self.reply(400, {"error": "the payload is no JSON"})
        # The same key comes again only if an attempt is repeated whose answer was lost on the
        # way: a service that must not do its work twice remembers the keys that it has done.
        print("attempt", self.headers.get("Idempotency-Key"), flush=True)
        return self.reply(200, {"service": self.server.name, "instance": self.server.instance,
                                "received": payload})

    def reply(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        """Be quiet."""


class Server(ThreadingHTTPServer):
    """Knows whose instance it is."""

    daemon_threads = True
    name = ""
    instance = ""


def send(method: str, url: str, value: object = None) -> None:
    """Ask Plum for something. Raises OSError; an HTTPError is one too."""
    body = None if value is None else json.dumps(value).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"},
                                     method=method)
    with plum.open(request, timeout=10):
        pass


def own_address(url: str) -> str:
    """The address by which this machine reaches Plum, so Plum can reach it by the same."""
    parts = urllib.parse.urlsplit(url)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((parts.hostname, parts.port or 80))
        return str(probe.getsockname()[0])


def stay_registered(base: str, registration: dict[str, object], over: threading.Event) -> None:
    """Register, beat until it is over, register again whenever Plum does not know us."""
    listed = [{**one, "ip": registration["ip"], "healthy": True}
              for one in registration["endpoints"]]
    beat = {"instanceId": registration["instanceId"], "health": listed}
    known = False
    while True:
        try:
            if not known:
                send("POST", f"{base}/v1/services/register?replace=true", registration)
                print("registered as", registration["instanceId"], flush=True)
                known = True
            else:
                send("POST", f"{base}/v1/services/heartbeat", beat)
        except urllib.error.HTTPError as error:
            known = known and error.code != 404
            print("Plum answers", error.code, flush=True)
        except OSError as error:
            print("Plum cannot be reached:", error, flush=True)
        if over.wait(BEAT_S if known else 1.0):
            return


def main() -> None:
    parser = argparse.ArgumentParser(description="An HTTP service that registers with Plum.")
    parser.add_argument("--plum", default=os.environ.get("CONTROLLER_BASE",
                                                         "http://127.0.0.1:8080"))
    parser.add_argument("--name", default="my-service")
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    options = parser.parse_args()
    base = options.plum.rstrip("/")
    ip = own_address(base)
    server = Server((ip, options.port), Handler)
    port = server.server_address[1]
    server.name = options.name
    server.instance = f"{options.name}-{ip}-{port}"
    registration = {
        "instanceId": server.instance, "ip": ip,
        "endpoints": [{"serviceName": options.name, "port": port, "protocol": "http",
                       "version": "1.0"}]}
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"{options.name} listens on http://{ip}:{port}", flush=True)
    stay_registered(base, registration, over)
    try:
        send("DELETE", f"{base}/v1/services?instanceId={urllib.parse.quote(server.instance)}")
    except OSError as error:
        print("not taken off the list:", error)
    server.shutdown()


if __name__ == "__main__":
    main()
