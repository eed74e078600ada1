"""Looks at endpoints: a program of its own beside the daemon, whose loop has tasks to dispatch.

    python -m plumd.lookout

It reads lines of JSON: first where it may call, then lists of endpoints, each of which it looks at
at once. It says lists of what it found, when it found it. Who is looked at when, and how many at
the same time, is the daemon's to say (health.py), so it has nothing to remember, and another one
can take its place at any time. It ends when its stdin does.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Self, TypeAlias

import msgspec
import trio

from plumd.balance import Endpoint, Key
from plumd.executors.checks import Checks
from plumd.executors.grpc_client import GrpcClient
from plumd.executors.outgoing import Client
from plumd.executors.targets import Policy

log = logging.getLogger("plumd.lookout")
CHECK_S: Final = 2.0
TICK_S: Final = 0.1
TELL_S: Final = 0.02
"""So long findings are gathered: each line wakes the daemon."""
STEP_S: Final = 0.001
STEPS: Final = 16
"""The looks of a line begin one after the other: many in a row hold a processor that a task may be
waiting for."""
NICE: Final = 10

Check: TypeAlias = Callable[[Endpoint], Awaitable[str]]
"""Why an endpoint does not seem to work, "" when it does."""
Found: TypeAlias = tuple[Key, str]
"""What a look at an endpoint came to."""


class Allowed(msgspec.Struct, frozen=True):
    """Where calls may go, as a line says it; see Policy."""

    networks: tuple[str, ...]
    listeners: tuple[tuple[str, int], ...]

    @classmethod
    def by(cls, policy: Policy) -> Self:
        """What a policy allows."""
        return cls(tuple(map(str, policy.networks)), tuple(policy.listeners))

    @property
    def policy(self) -> Policy:
        """The policy that was said."""
        return Policy(tuple(map(ipaddress.ip_network, self.networks)), frozenset(self.listeners))


class Lines:
    """The lines of a stream, to its end."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        seen = 0
        while (end := self._buffer.find(b"\n", seen)) < 0:
            seen = len(self._buffer)
            data = await self._stream.receive_some()
            if not data:
                raise StopAsyncIteration
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[:end + 1]
        return line


def line_of(value: msgspec.Struct | list[Endpoint] | list[Found]) -> bytes:
    """A value as a line."""
    return msgspec.json.encode(value) + b"\n"


class Lookout:
    """Looks like this."""

    def __init__(self, check: Check) -> None:
        self.check = check
        self._found: list[Found] = []
        self._news = trio.Event()
        self._ticks = 0
        self._looks: deque[tuple[int, trio.CancelScope]] = deque()
        self._begun = trio.Event()

    async def serve(self, asked: Lines, told: trio.abc.SendStream) -> None:
        """Until nobody asks any more."""
        asking = msgspec.json.Decoder(list[Endpoint])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell, told)
            nursery.start_soon(self._give_up)
            async for line in asked:
                looks = asking.decode(line)
                at_once = len(looks) // STEPS + 1
                for at in range(0, len(looks), at_once):
                    for endpoint in looks[at:at + at_once]:
                        nursery.start_soon(self._look, endpoint)
                    await trio.sleep(STEP_S)
            nursery.cancel_scope.cancel()

    async def _look(self, endpoint: Endpoint) -> None:
        why = f"no answer within {CHECK_S:g} s"
        with trio.CancelScope() as scope:
            self._looks.append((self._ticks, scope))
            self._begun.set()
            try:
                why = await self.check(endpoint)
            except Exception as error:  # a defect that one meets must not end looks at the others
                log.exception("a look failed")
                why = f"the look at it failed: {error!r}"
        self._found.append((endpoint.key, why))
        self._news.set()

    async def _give_up(self) -> None:
        """End looks that take too long, by a clock that goes no faster than we: where the machine
        has little time for us, an answer that lies there unread is not late."""
        while True:
            if not self._looks:
                self._begun = trio.Event()
                await self._begun.wait()
            await trio.sleep(TICK_S)
            self._ticks += 1
            while self._looks and (self._ticks - self._looks[0][0]) * TICK_S > CHECK_S:
                self._looks.popleft()[1].cancel()

    async def _tell(self, told: trio.abc.SendStream) -> None:
        with suppress(trio.BrokenResourceError):    # nobody listens, so nobody asks, either
            while True:
                await self._news.wait()
                self._news = trio.Event()
                found, self._found = self._found, []
                await told.send_all(line_of(found))
                await trio.sleep(TELL_S)


async def run(asked: Lines, told: trio.abc.SendStream) -> None:
    """The whole program, until `asked` ends."""
    allowed = msgspec.json.decode(await anext(asked), type=Allowed)
    client = Client(allowed.policy)
    grpc = GrpcClient(client)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        nursery.start_soon(grpc.run)
        await Lookout(Checks(client, grpc).check).serve(asked, told)
        nursery.cancel_scope.cancel()


async def main() -> None:
    """By stdin and stdout, behind whatever else there is to do."""
    for number in (signal.SIGINT, signal.SIGHUP):   # the terminal's are for the daemon
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError):                         # the unit's filter refuses it
        os.nice(NICE)
    with suppress(StopAsyncIteration):              # the daemon went before it said a word
        await run(Lines(trio.lowlevel.FdStream(os.dup(0))), trio.lowlevel.FdStream(os.dup(1)))


if __name__ == "__main__":
    trio.run(main)
