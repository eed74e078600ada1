"""python -m bench [QUESTION ...] [--seconds N] [--tiny]: prints figures, machine and durability."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import click

from bench import (
    browsers,
    c_sdk,
    checks,
    discovery,
    fleet,
    floor,
    graphs,
    grpc_streams,
    harness,
    latency,
    lists,
    nodes,
    output,
    pages,
    scale,
    schedules,
    throughput,
    workflows,
)
from bench.harness import Figures

SECONDS: Final = 20.0
QUESTIONS: Final[dict[str, Callable[[float], Figures]]] = {
    "floor": floor.run,
    "latency": latency.run,
    "bulk": throughput.bulk,
    "singles": throughput.singles,
    "grpc": grpc_streams.run,
    "workflows": workflows.many,
    "long": workflows.long,
    "graph": graphs.whole,
    "map": graphs.mapped,
    "fib": graphs.fibs,
    "sleeps": graphs.sleeps,
    "scale": scale.run,
    "browsers": browsers.run,
    "readers": partial(browsers.run, digest_ms=0),
    "lists": lists.run,
    "pages": pages.run,
    "nodes": nodes.steady,
    "failover": nodes.failover,
    "lookups": discovery.inside,
    "lookups-http": discovery.over_http,
    "checks": checks.run,
    "output": output.run,
    "schedules": schedules.storm,
    "schedules-idle": schedules.idle,
    "fleet": fleet.beats,
    "idle": fleet.idle,
    "poll-bulk": partial(throughput.bulk, kind="python-poll"),
    "c-bulk": partial(throughput.bulk, kind="c"),
    "c-poll-bulk": partial(throughput.bulk, kind="c-poll"),
    "c-latency": partial(latency.run, kind="c"),
    "c-idle": c_sdk.idle,
    "c-fleet": c_sdk.fleet,
}


@click.command()
@click.argument("questions", nargs=-1, type=click.Choice(list(QUESTIONS)))
@click.option("--seconds", default=SECONDS, show_default=True, help="Steady state, each.")
def main(questions: tuple[str, ...], seconds: float) -> None:
    """Ask plumd how fast it is."""
    with tempfile.TemporaryDirectory(prefix="plum-bench-") as folder:
        fsync_ms = harness.fsync_ms(Path(folder))
    print(f"# {harness.machine()}; fsync {fsync_ms:.3f} ms; WAL, synchronous=FULL, every "
          "acknowledgement and every completion synced")
    for name in questions or tuple(QUESTIONS):
        figures = QUESTIONS[name](seconds)
        print(f"{figures.question}  (result {figures.digest}, fsync {fsync_ms:.3f} ms)")
        for value, number in figures.values.items():
            print(f"    {value:34} {number:,.3f}".rstrip("0").rstrip("."))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
