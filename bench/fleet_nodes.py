"""Many agents in one process, as plumd.agent speaks: python -m bench.fleet_nodes PORT COUNT.

Each has connections for beats, looks and reports, and a stream of wake-ups; it beats when the
answer says so, looks at its assignments when it is woken or a beat says that they changed, and
tells every 15 s what its instances use. A line `silent N` on stdin lets the first N fall silent.
"""

from __future__ import annotations

import socket
import sys
import threading
import time

import msgspec

from bench.load import Connection, head

STATS_S = 15.0
KEY = "k" * 32


class Heard(msgspec.Struct, rename="camel"):
    """The answer of a beat."""

    beat_sec: float
    assignments: str = ""


class Item(msgspec.Struct, rename="camel"):
    """An assignment, as far as it is looked at here."""

    instance_id: str
    desired: str


class Assignments(msgspec.Struct):
    """What a node shall run."""

    items: list[Item]
    revision: str = ""


class Agent:
    """One of them."""

    def __init__(self, port: int, number: int) -> None:
        self.node_id = f"node-{number:04}"
        self.line, self.looks, self.reports = (Connection(port) for _ in range(3))
        self.revision = "none"
        self.running: set[str] = set()
        self.beat_s = self.beat()
        self.stream = socket.create_connection(("127.0.0.1", port))
        self.stream.sendall(head("GET", f"/v1/stream?nodeId={self.node_id}", 0))

    def beat(self) -> float:
        """One sign of life; when the next one is due, s."""
        told = msgspec.json.encode({
            "nodeId": self.node_id, "ip": "127.0.0.1", "labels": {"rack": self.node_id[-1]},
            "agentVersion": "0", "bootId": "b", "key": KEY, "facts": {
                "cpus": 8, "cpuPercent": 12.5, "memTotal": 1 << 34, "memAvailable": 1 << 33,
                "diskTotal": 1 << 40, "diskFree": 1 << 39, "load1": 0.5, "os": "linux",
                "arch": "x86_64", "bootId": "b"}})
        heard = msgspec.json.decode(self.line.call("POST", "/v1/nodes/heartbeat", told),
                                    type=Heard)
        if heard.assignments != self.revision:
            self.sync()
        return heard.beat_sec

    def sync(self) -> None:
        """Look at the assignments; what is new runs at once."""
        found = msgspec.json.decode(
            self.looks.call("GET", f"/v1/assignments?nodeId={self.node_id}"), type=Assignments)
        self.revision = found.revision
        wanted = {one.instance_id for one in found.items if one.desired == "Running"}
        ended = {one.instance_id for one in found.items} - wanted
        if news := dict.fromkeys(wanted - self.running, "Running") | dict.fromkeys(
                ended, "Stopped"):
            self.report(news)
        self.running = wanted

    def report(self, phases: dict[str, str]) -> None:
        """Say how instances are, with what they use."""
        now_s = int(time.time())
        items = [{"instanceId": one, "phase": phase, "tsUnix": now_s, "nodeId": self.node_id,
                  "healthy": phase == "Running", "restarts": 0, "pid": 4711, "startedAt": 1,
                  "generation": 1, "stats": {
                      "cpuSec": now_s % 1000, "memoryBytes": 1 << 26, "peakMemoryBytes": 1 << 27,
                      "processes": 2, "readBytes": 1, "writtenBytes": 1}}
                 for one, phase in phases.items()]
        self.reports.call("POST", "/v1/instances/status", msgspec.json.encode({"items": items}))

    def tell_stats(self) -> None:
        """What its instances use."""
        if self.running:
            self.report(dict.fromkeys(self.running, "Running"))

    def run(self, first_s: float, silent: threading.Event) -> None:
        """Beat until it is to be silent. first_s: after how long the first time."""
        beat = stats = time.monotonic() + first_s
        while not silent.is_set():
            self.stream.settimeout(max(0.001, min(beat, stats) - time.monotonic()))
            try:
                if b"data: assignments" in self.stream.recv(4096):
                    self.sync()
            except TimeoutError:
                now = time.monotonic()
                if now >= beat:
                    beat += self.beat()
                if now >= stats:
                    stats += STATS_S
                    self.tell_stats()
        for each in (self.line.socket, self.looks.socket, self.reports.socket, self.stream):
            each.close()


def main() -> None:
    """Beat until killed."""
    port, count = int(sys.argv[1]), int(sys.argv[2])
    threading.stack_size(1 << 18)
    ends = [threading.Event() for _ in range(count)]
    for number, silent in enumerate(ends):
        agent = Agent(port, number)
        threading.Thread(target=agent.run, daemon=True,
                         args=(agent.beat_s * number / count, silent)).start()
    print("connected", flush=True)
    for line in sys.stdin:
        for silent in ends[:int(line.split()[1])]:
            silent.set()


if __name__ == "__main__":
    main()
