"""A gigabyte of output in one task: how soon is its end shown, and what does that cost?"""

from __future__ import annotations

import time
from typing import Final

import msgspec

from bench import harness
from bench.harness import Daemon, Figures
from bench.load import Connection

OUTPUT_BYTES: Final = 1 << 30
TAIL_BYTES: Final = 65_536
MARK: Final = b"\nthe end\n"
LOOKS: Final = 200
LOOK_S: Final = 0.1


def run(seconds: float, size: int = OUTPUT_BYTES) -> Figures:
    """Its end is asked for while it is written, and when it is kept with what has ended."""
    del seconds
    with harness.daemon() as daemon, Connection(daemon.port) as line:
        before_kb = daemon.status("VmRSS")
        code = f"yes 0123456789012345678901234567890 | head -c {size}; printf '\\nthe end\\n'"
        task = line.text(line.json("POST", "/v1/tasks", msgspec.json.encode({
            "name": "prints", "executor": "os_process", "timeoutSec": 600,
            "payload": {"command": "sh", "args": ["-c", code]}}))["taskId"])
        begun, live = time.monotonic(), list[float]()
        while not is_over(line, task):
            live.append(look(line, task)[0])
            time.sleep(LOOK_S)      # so often somebody looks: that is the question
        took_s = time.monotonic() - begun
        harness.wait_for(lambda: not any((daemon.data / "attempts").iterdir()), "it is moved")
        kept = [look(line, task) for _ in range(LOOKS)]
        more_kb = daemon.status("VmHWM") - before_kb
        return Figures("output", {
            "bytes": float(size), "written_s": took_s,
            "live_tail_p50_ms": harness.median(live), "live_tail_max_ms": max(live),
            "kept_tail_p50_ms": harness.median([each for each, _ in kept]),
            "kept_tail_max_ms": max(each for each, _ in kept),
            "memory_more_mb": max(0, more_kb) / 1024, "disk_mb": disk_mb(daemon),
        }, harness.digest_of([len(body) for _, body in kept if body.endswith(MARK)]))


def is_over(line: Connection, task: str) -> bool:
    """Whether a task has ended."""
    return line.text(line.json("GET", f"/v1/tasks/{task}")["state"]) == "Succeeded"


def look(line: Connection, task: str) -> tuple[float, bytes]:
    """How long it takes to be shown the end of its log, in ms, and the end."""
    begun = time.monotonic()
    body = line.call("GET", f"/v1/tasks/{task}/logs?offset=-{TAIL_BYTES}")
    return (time.monotonic() - begun) * 1000, body


def disk_mb(daemon: Daemon) -> float:
    """What the logs of all that has ended take."""
    return sum(path.stat().st_size for path in (daemon.data / "logs").iterdir()) / (1 << 20)
