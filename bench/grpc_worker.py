"""A gRPC stream worker of a measurement: python -m bench.grpc_worker URL CAPACITY NAME MODE.

It is grpcio's own client, as the workers of earlier programs have it. MODE: noop answers null,
stamp the time at which the attempt arrived.
"""

from __future__ import annotations

import queue
import sys
import time
from urllib.parse import urlsplit

import grpc

from plumd.stream.task_service_pb2 import TaskAck, TaskRequest, TaskResponse, WorkerRegister


def main() -> None:
    """Serve until killed; prints a line when it is registered."""
    url, capacity, name, mode = sys.argv[1:5]
    parts = urlsplit(url)
    said: queue.SimpleQueue[TaskAck] = queue.SimpleQueue()
    said.put(TaskAck(register=WorkerRegister(
        worker_id="bench", tasks=[name], labels={"capacity": capacity})))
    stream = grpc.insecure_channel(parts.netloc).stream_stream(
        "/plum.task.TaskService/TaskStream", request_serializer=TaskAck.SerializeToString,
        response_deserializer=TaskRequest.FromString)(iter(said.get, None))
    stream.initial_metadata()
    print("registered", flush=True)
    for request in stream:
        result = str(time.monotonic_ns()) if mode == "stamp" else "null"
        said.put(TaskAck(result=TaskResponse(task_id=request.task_id, result=result)))


if __name__ == "__main__":
    main()
