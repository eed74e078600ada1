"""A worker on a gRPC stream, beside the same measurements of a worker on a WebSocket."""

from __future__ import annotations

import msgspec

from bench import latency, throughput
from bench.harness import Figures


def run(seconds: float, round_tasks: int = throughput.ROUND) -> Figures:
    """Throughput with 16 slots and latency one by one, half of the time each."""
    many = throughput.bulk(seconds / 2, round_tasks, "grpc")
    single = latency.run(seconds / 2, "grpc")
    return msgspec.structs.replace(
        many, question="grpc", digest=many.digest, values={
            **many.values, **{name: value for name, value in single.values.items()
                              if name.startswith(("tasks", "submit"))}})
