"""Whether an instance is well, by asking it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from plumd.agent.assigned import Check
from plumd.agent.http import CallFailed, Http

INTERVAL_S_MIN: Final = 0.1
WELL_BELOW: Final = 400


async def watch(check: Check, http: Http, told: Callable[[bool], None], age_s: float) -> None:
    """Ask again and again; told: what is new. age_s: so long it has run. Cancel: anywhere."""
    grace_until_s = trio.current_time() + check.grace_sec - age_s
    well: bool | None = None
    failures = 0
    while True:
        if await is_well(check, http):
            failures = 0
            if well is not True:
                well = True
                told(True)
        elif trio.current_time() >= grace_until_s:
            failures += 1
            if failures >= max(1, check.failures) and well is not False:
                well = False
                told(False)
        await trio.sleep(max(INTERVAL_S_MIN, check.interval_sec))


async def is_serving(stream: trio.SocketStream, port: int) -> bool:
    """What a gRPC server says of itself."""
    # Here, for HTTP/2 is a sixth of an agent's memory, and few agents need it.
    from plumd.executors import grpc_client

    return await grpc_client.is_serving(stream, f"grpc://127.0.0.1:{port}")


async def is_well(check: Check, http: Http) -> bool:
    """One question."""
    with trio.move_on_after(max(INTERVAL_S_MIN, check.timeout_sec)):
        try:
            if check.kind == "http":
                url = f"http://127.0.0.1:{check.port}/{check.path.lstrip('/')}"
                async with http.stream(url) as answer:
                    return answer.status < WELL_BELOW
            stream = await trio.open_tcp_stream("127.0.0.1", check.port)
            async with stream:
                return check.kind != "grpc" or await is_serving(stream, check.port)
        except (CallFailed, OSError, ValueError):
            return False
    return False
