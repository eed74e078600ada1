"""gRPC under TLS: HTTP/2 by ALPN on the one port."""

from __future__ import annotations

import ssl
from functools import partial
from pathlib import Path

import grpc
import trio

from plumd.api.admission import Policy
from plumd.api.app import build_app
from plumd.api.front import bind, serve
from plumd.api.gate import Gate
from plumd.clock import SystemClock
from plumd.engine import Engine
from plumd.model import Limits
from plumd.outbox import Outbox
from plumd.planner import Planner
from plumd.store.blobs import Blobs
from plumd.store.definitions import Catalog
from plumd.store.store import Store
from plumd.stream.grpc import TaskService
from tests.api.serving import LIMITS, no_stream
from tests.api.test_front_streams import certificate
from tests.stream.grpcio import StreamWorker, channel, health

__all__ = ["certificate"]       # a fixture


def talk(port: int, root: bytes) -> None:
    """Register, be seen, and leave; blocking."""
    trust = grpc.ssl_channel_credentials(root)
    with channel(port, trust, host="localhost") as line:
        one = StreamWorker(line, "tls")
        one.register("t")
        assert health(line, "tls").healthy
        one.leave()
        assert one.end() == (grpc.StatusCode.OK, "")
        assert not health(line, "tls").healthy


async def test_a_stream_under_tls(tmp_path: Path, certificate: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    store, gate, shutdown = Store(tmp_path / "plum.db"), Gate(Policy()), trio.Event()
    engine = Engine(store, SystemClock(), Outbox(store), Planner(Catalog(store)), Limits(), 1)
    door = TaskService(build_app([], gate), engine, Blobs(tmp_path / "blobs"), gate)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.run)
        async with trio.open_nursery() as doors:
            [address] = await doors.start(partial(
                serve, door, routes=[], gate=gate, limits=LIMITS, sockets=bind(["127.0.0.1:0"]),
                stream_handler=no_stream, shutdown=shutdown, ssl_context=context))
            await trio.to_thread.run_sync(
                talk, int(address.rpartition(":")[2]), (certificate / "cert.pem").read_bytes())
            shutdown.set()
        nursery.cancel_scope.cancel()
    store.close()
