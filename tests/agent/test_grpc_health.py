"""The health check of a gRPC server, by what it says of itself."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import trio

from plumd.agent.assigned import Check
from plumd.agent.health import is_well
from plumd.agent.http import Http


class Server:
    """Answers the one question; with "" as what it answers it has no such service."""

    def __init__(self, answer: bytes = b"\x08\x01") -> None:
        self.answer = answer
        check = grpc.unary_unary_rpc_method_handler(lambda _request, _context: self.answer)
        self._server = grpc.server(ThreadPoolExecutor(2), handlers=[
            grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": check})]
            if answer else [])
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def stop(self) -> None:
        """Listen no more."""
        self._server.stop(None).wait()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.stop()


def asked(kind: str, port: int) -> bool:
    http = Http("http://127.0.0.1:9")
    return trio.run(is_well, Check(kind, port, timeout_sec=5), http)


def test_a_grpc_server_is_well_when_it_says_so(server: Server) -> None:
    assert asked("grpc", server.port)
    server.answer = b"\x08\x02"
    assert not asked("grpc", server.port), "NOT_SERVING"
    assert asked("tcp", server.port), "its port is open all the same"
    other = Server(b"")
    assert not asked("grpc", other.port), "it has no health service"
    other.stop()
    server.stop()
    assert not asked("grpc", server.port), "nobody listens"
