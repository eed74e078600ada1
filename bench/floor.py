"""What the machine and the libraries cost at this moment, to read the other figures against: a
message there and back over trio-websocket between two processes, and a synced append."""

from __future__ import annotations

import subprocess
import sys
import time

import trio
from trio_websocket import WebSocketConnection, WebSocketRequest, open_websocket, serve_websocket

from bench import harness
from bench.harness import Figures

MESSAGE = '{"seq":1,"results":[' + ",".join(['{"id":"68826c9a3b80000"}'] * 16) + "]}"


async def echo(port: int) -> None:
    """Answer every message with itself."""
    async def serve(request: WebSocketRequest) -> None:
        line: WebSocketConnection = await request.accept()
        while True:
            await line.send_message(await line.get_message())

    await serve_websocket(serve, "127.0.0.1", port, None)


async def ask(port: int, seconds: float) -> list[float]:
    """Milliseconds of each round trip."""
    times = []
    with trio.fail_after(30):
        while True:
            try:
                stream = await trio.open_tcp_stream("127.0.0.1", port)
            except OSError:
                await trio.sleep(0.05)
            else:
                await stream.aclose()
                break
    async with open_websocket("127.0.0.1", port, "/", use_ssl=False) as line:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            begun = time.monotonic()
            await line.send_message(MESSAGE)
            await line.get_message()
            times.append((time.monotonic() - begun) * 1000)
    return times


def run(seconds: float) -> Figures:
    """The floor."""
    port = harness.free_port()
    server = subprocess.Popen([sys.executable, "-m", "bench.floor", str(port)],
                              stderr=subprocess.DEVNULL)
    try:
        times = trio.run(ask, port, seconds)
    finally:
        server.kill()
        server.wait()
    return Figures("floor", {
        "websocket_round_trip_p50_ms": harness.median(times), "round_trips": len(times),
    }, harness.digest_of(MESSAGE))


if __name__ == "__main__":
    trio.run(echo, int(sys.argv[1]))
