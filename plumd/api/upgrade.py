"""A connection that becomes a worker's WebSocket: the handshake, the session's wall, the goodbye.

Source: RFC 6455 sections 4.2 and 7.4.
"""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Awaitable, Callable

import trio
from trio_websocket import ConnectionClosed

from plumd.api.gate import Ticket
from plumd.api.hot import Head
from plumd.api.limits import Limits
from plumd.api.problem import problem, problem_of
from plumd.api.routes import Request, Response
from plumd.errors import Malformed
from plumd.sdk.messages import MessageSocket, accept_messages

log = logging.getLogger("plumd.api")

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]
StreamHandler = Callable[[MessageSocket, str, Request], Awaitable[None]]


def bad_upgrade(head: Head) -> Response | None:
    """The answer to an upgrade that is none; None when it is one."""
    headers = head.headers
    if headers.get("sec-websocket-version") != "13":
        return problem_of("malformed", 426, "only version 13 of WebSocket is spoken here",
                          headers=(("sec-websocket-version", "13"), ("upgrade", "websocket")))
    try:
        key = base64.b64decode(headers.get("sec-websocket-key", ""), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    tokens = {token.strip().lower() for token in headers.get("connection", "").split(",")}
    if "upgrade" not in tokens or len(key) != 16:
        return problem(Malformed("this is not a WebSocket upgrade"))
    return None


async def run_session(stream: Stream, start: bytes, handler: StreamHandler, request: Request,
                      ticket: Ticket, limits: Limits) -> None:
    """Accept the WebSocket and run its handler until either side ends it, or `ticket` does.

    start: the bytes that were read already, from the request's first one on.
    Cancel: the socket is closed without the closing handshake.
    """
    async with trio.open_nursery() as nursery:
        socket: MessageSocket | None = None
        with trio.move_on_after(limits.handshake_s):
            socket = await accept_messages(
                nursery, stream, start, message_bytes_max=limits.websocket_message_bytes_max)
        if socket is not None:
            code, reason = 1000, ""
            try:
                with ticket.waiting():
                    await handler(socket, request.params["id"], request)
                if ticket.ended:
                    code, reason = 1001, "the daemon is shutting down"
            except* ConnectionClosed:
                pass
            except* Exception:
                log.exception("worker stream failed", extra={"worker_id": request.params["id"]})
                code, reason = 1011, "the daemon met an unexpected error; see its log"
            with trio.move_on_after(limits.linger_s):
                await socket.aclose(code, reason)
        nursery.cancel_scope.cancel()

