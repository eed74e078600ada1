"""Simulated workers and the lines between them and the daemon."""

from __future__ import annotations

import math
from collections import deque
from random import Random

import msgspec
import trio
from trio_websocket import ConnectionClosed

from plumd.sdk.ends import WorkerEnd
from plumd.sdk.protocol import Attempt, Down, Failure, Register, Result, Up


class Line:
    """The daemon's side of a WebSocket, as far as plumd.stream.websocket uses one."""

    def __init__(self, rng: Random) -> None:
        self.up: deque[str] = deque()
        self.down: deque[str] = deque()
        self.cut = False
        self._rng = rng
        self._rest = ""             # of a message that went out in part
        self._came = trio.Event()

    def deliver(self, text: str) -> None:
        """A message arrives at the daemon."""
        self.up.append(text)
        self._came.set()

    def drop(self) -> None:
        """The line is gone, with all that was on it."""
        self.cut = True
        self.up.clear()
        self._came.set()

    async def get_message(self) -> str:
        while not self.up:
            if self.cut:
                raise ConnectionClosed(None)
            self._came = trio.Event()
            await self._came.wait()
        await trio.lowlevel.checkpoint()
        return self.up.popleft()

    @property
    def ready(self) -> bool:
        return not self._rest and self._rng.random() < 0.8

    def send_text_nowait(self, data: bytes) -> bool:
        assert not self._rest, "a message inside another"
        if self.cut:
            raise ConnectionClosed(None)
        if self._rng.random() < 0.2:
            self._rest = data.decode()
            return False
        self.down.append(data.decode())
        return True

    async def flush(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.cut:
            raise ConnectionClosed(None)
        if self._rest:
            self.down.append(self._rest)
            self._rest = ""

    async def send_text(self, data: bytes) -> None:
        await self.flush()
        self.down.append(data.decode())

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        del code, reason
        await trio.lowlevel.checkpoint()
        self.drop()


class Starts:
    """How often each attempt began, over all workers and processes."""

    def __init__(self) -> None:
        self.count: dict[str, int] = {}

    def begin(self, attempt_id: str) -> None:
        self.count[attempt_id] = self.count.get(attempt_id, 0) + 1
        assert self.count[attempt_id] == 1, f"attempt {attempt_id} started twice"


class SimWorker:
    """A worker process that obeys the protocol, with a life of its own."""

    def __init__(self, name: str, tasks: list[str], rng: Random, starts: Starts) -> None:
        self.name = name
        self.tasks = tasks
        self.rng = rng
        self.starts = starts
        self.session = ""
        self.line: Line | None = None
        self.end = WorkerEnd()
        self.running: dict[str, Attempt] = {}
        self.unacked: list[Result] = []
        self.sent: deque[tuple[int, list[Result]]] = deque()
        self.seen: set[str] = set()
        self.stopped: list[Result] = []
        self.seq = 0
        self.registered = False
        self.capacity = rng.randint(1, 3)
        self.last_word = -math.inf
        self.restart()

    def restart(self) -> None:
        """The process dies and comes again: it holds nothing, and knows nothing."""
        self.session = f"{self.name}-{self.rng.random()}"
        self.running.clear()
        self.unacked.clear()
        self.seen.clear()
        self.hang_up()

    def hang_up(self) -> None:
        """The line breaks."""
        if self.line is not None:
            self.line.drop()
        self.line = None
        self.registered = False
        self.sent.clear()

    def dial(self, now: float) -> Line:
        """A new line; the first message is on it."""
        self.hang_up()
        self.line, self.end, self.seq = Line(self.rng), WorkerEnd(), 0
        holding = [*self.running, *(result.id for result in self.unacked)]
        register = Register(session=self.session, tasks=self.tasks, capacity=self.capacity,
                            beat_sec=1.0)
        results = list(self.unacked)
        self.say(Up(register=register, holding=holding, seq=self.number(results),
                    results=results), now)
        return self.line

    def number(self, results: list[Result]) -> int:
        """The batch's number; the batch is kept until it is acknowledged."""
        if not results:
            return 0
        self.seq += 1
        self.sent.append((self.seq, results))
        return self.seq

    def say(self, up: Up, now: float) -> None:
        assert self.line is not None
        self.last_word = now
        self.line.deliver(self.end.send(up).decode())

    def listen(self, now: float) -> None:
        """Take in what the daemon said."""
        line = self.line
        while line is not None and line.down and self.line is line:
            self.take(self.end.receive(line.down.popleft()), now)
        if line is not None and line.cut and not line.down:
            self.hang_up()

    def take(self, down: Down, now: float) -> None:
        if down.registered is not None:
            self.registered = True
            said = {result.id for _, batch in self.sent for result in batch}
            rest = [result for result in self.unacked if result.id not in said]
            if rest:
                self.say(Up(seq=self.number(rest), results=rest), now)
        while self.sent and self.sent[0][0] <= down.ack:
            _, batch = self.sent.popleft()
            done = {result.id for result in batch}
            self.unacked = [result for result in self.unacked if result.id not in done]
        for refused in down.refused:
            self.running.pop(refused.id, None)
            self.unacked = [result for result in self.unacked if result.id != refused.id]
        for attempt in down.attempts:
            if attempt.id not in self.seen:
                self.seen.add(attempt.id)
                self.starts.begin(attempt.id)
                self.running[attempt.id] = attempt
        for notice in down.cancel:
            if self.running.pop(notice.id, None) is not None:
                self.report([Result(notice.id, stopped=True)], now)
        if down.error is not None:
            if down.error.code == "session_replaced":
                self.restart()
            self.hang_up()

    def report(self, results: list[Result], now: float) -> None:
        """Results are kept until they are acknowledged, line or no line."""
        self.unacked.extend(results)
        if self.line is not None and self.registered:
            self.say(Up(seq=self.number(results), results=results), now)

    def work(self, now: float, *, well: bool = False) -> None:
        """End some of what runs."""
        ids = [one for one in self.running if well or self.rng.random() < 0.6]
        results = []
        for attempt_id in ids:
            del self.running[attempt_id]
            if well or self.rng.random() < 0.7:
                results.append(Result(attempt_id, result=msgspec.Raw(b"1")))
            else:
                results.append(Result(attempt_id, error=Failure("oops", "no luck")))
        if results:
            self.report(results, now)

    def beat(self, now: float) -> None:
        if self.line is not None and self.registered:
            self.say(Up(beat=True), now)
