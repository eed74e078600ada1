"""One look at an endpoint: whether it seems to work."""

from __future__ import annotations

from typing import Final

from plumd.balance import Endpoint
from plumd.executors.grpc_client import GrpcClient
from plumd.executors.outgoing import Client
from plumd.executors.targets import CallFailed
from plumd.stream.grpc_frames import GrpcError

GRPC: Final = "grpc"
HTTP: Final = ("http", "https")
ENOUGH_BYTES: Final = 64 << 10
"""Of a body, whose status is what counts."""


class Checks:
    """Looks by these clients, which know where calls may go."""

    def __init__(self, client: Client, grpc: GrpcClient) -> None:
        self.client = client
        self.grpc = grpc

    async def check(self, endpoint: Endpoint) -> str:
        """Why an endpoint does not seem to work, "" when it does.

        By its label healthCheck (http, https, tcp, grpc); without one its label healthPath is
        asked for if it has one, else it must accept a connection.
        """
        labels, protocol = endpoint.labels, endpoint.protocol.lower()
        path = labels.get("healthPath", "")
        kind = labels.get("healthCheck", "") or (protocol if path and protocol in HTTP else "tcp")
        try:
            if kind in HTTP:
                answer = await self.client.request(
                    "GET", url_of(endpoint, path or "/", scheme=kind), enough=ENOUGH_BYTES)
                return "" if answer.status < 400 else f"its health check answers {answer.status}"
            if kind == GRPC:
                return await self.grpc.health(url_of(endpoint, ""))
            await self.client.probe(endpoint.ip, endpoint.port)
        except CallFailed as failure:
            return failure.message
        except GrpcError as error:
            return f"its health service answers {error.status.name}: {error.message}"
        return ""


def url_of(endpoint: Endpoint, path: str, scheme: str = "") -> str:
    """Where an endpoint is called; without a path as grpc."""
    if not path:
        return f"grpc://{endpoint.address}"
    path = path if path.startswith("/") else "/" + path
    return f"{scheme or endpoint.protocol.lower()}://{endpoint.address}{path}"
