"""One line's talk: says what the desk has to say, and hands the desk what the daemon says."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Sized
from typing import Final, Protocol, final

import msgspec
import trio

from plumd.sdk.ends import WorkerEnd
from plumd.sdk.handlers import PROGRESS_TEXT_CHARS
from plumd.sdk.line import Line, LineClosed
from plumd.sdk.log_lines import MESSAGE_BYTES, LogLines
from plumd.sdk.outbox import Outbox
from plumd.sdk.pace import Pace
from plumd.sdk.protocol import (
    Down,
    LogLine,
    Page,
    Progress,
    Register,
    Registered,
    RemoteProtocolError,
    Up,
)

log = logging.getLogger("plumd.sdk")

SEND_S: Final = 30.0
"""A message that cannot be sent for so long means that the line is dead."""
REGISTER_S: Final = 10.0
PING_S_MIN: Final = 0.5
PROGRESS_S: Final = 0.2
"""Progress alone is worth a message so often; it rides along with anything else at once."""
PROGRESS_ITEMS: Final = 100
PROGRESS_BYTES: Final = PROGRESS_ITEMS * (PROGRESS_TEXT_CHARS * 6 + 128)
WS_PROTOCOL_ERROR: Final = 1002
FATAL: Final = frozenset({"session_replaced", "unsupported_version"})


class TurnedAway(Exception):
    """The daemon does not want this worker, and asking again would not change that."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class Speaker(Protocol):
    """What has something to say on a line: see `Desk`."""

    outbox: Outbox
    lines: LogLines
    names: tuple[str, ...]
    changed: trio.lowlevel.ParkingLot
    pace: Pace
    draining: bool
    leaving: bool

    @property
    def running(self) -> Sized: ...

    @property
    def has_progress(self) -> bool: ...

    @property
    def stuck_at_s(self) -> float: ...

    def give_back(self) -> None: ...

    def holding(self) -> list[str]: ...

    def wake(self) -> None: ...

    def give_up(self, why: str) -> None: ...

    def take_progress(self, items_max: int) -> list[Progress]: ...

    def take_page(self) -> Page | None: ...

    async def take(self, down: Down) -> None: ...


@final
class Lease:
    """How long the daemon's word that our attempts are ours is good for. Times are trio's.

    heard_s: when it said something last.  sure_s: when we said what it has heard for certain. The
    lease counts from this: from what the daemon says nobody knows how long ago it heard of us.
    """

    def __init__(self, beat_s: float) -> None:
        self.beat_s = beat_s
        self.lease_s = 3 * beat_s
        self.heard_s = 0.0
        self.sure_s = 0.0
        self.registered = trio.Event()

    def granted(self, terms: Registered) -> None:
        """The daemon took us on these terms."""
        self.beat_s, self.lease_s = terms.beat_sec, terms.lease_sec
        self.registered.set()

    def ends_s(self) -> float:
        """From when on the attempts in hand must be taken for lost."""
        return self.sure_s + self.lease_s


@final
class Talk:
    """The talk on one line: three tasks speak, listen and watch; they end when the line does.

    registered: the daemon took us on this line.  bye_said: it knows that we leave.
    """

    def __init__(self, desk: Speaker, lease: Lease, line: Line) -> None:
        self.registered = False
        self.bye_said = False
        self._desk = desk
        self._lease = lease
        self._line = line
        self._end = WorkerEnd()
        self._over = False      # the daemon said its last, or what nobody understands
        self._drain_said = False
        self._names_said: tuple[str, ...] = ()
        self._ahead_said = 0
        self._sent_s = 0.0
        self._progress_s = -PROGRESS_S
        self._speaking = False  # a message is on its way out: the next one waits for it
        self._unsure: deque[tuple[int, float]] = deque()    # batches in flight, and since when

    async def speak(self, register: Register) -> None:
        """Register, then say what there is to say whenever the line is free for it."""
        desk = self._desk
        holding = desk.holding()
        # Lines wait for the answer, which says whether they are acknowledged; results for theirs.
        seq, results = desk.outbox.take(
            self._end.items_max, self._end.bytes_max - 32 * len(holding),
            desk.lines.said if desk.lines else None)
        self._drain_said, self._names_said = desk.draining, desk.names
        up = Up(register=msgspec.structs.replace(register, tasks=list(desk.names)),
                holding=holding, seq=seq, results=results, drain=desk.draining)
        while await self._say(up):
            while self._speaking or (message := self._collect()) is None:
                with trio.move_on_at(math.inf if self._speaking else self._due_s()):
                    await desk.changed.park()
            up = message

    async def _say(self, up: Up) -> bool:
        """Send one message; False when it was the last that can be sent."""
        if self._over:
            return False
        self._sent_s = trio.current_time()
        self.bye_said = self.bye_said or up.bye
        sent_s, data = self._sent_s, self._end.send(up)
        if up.seq or up.register:
            self._unsure.append((up.seq, sent_s))
        self._speaking = True
        try:
            with trio.fail_after(SEND_S):
                await self._line.send(data)
            if self._line.answered and self.registered:
                self._heard(sent_s)
        except (LineClosed, trio.TooSlowError):
            await self._line.close()  # the listener finds out by this
            return False
        finally:
            self._speaking = False
        return not up.bye

    async def _reply(self) -> None:
        """Say what a message has led to without waiting for the speaker's turn."""
        if not self._speaking and self._desk.outbox.unsent and (up := self._collect()) is not None:
            await self._say(up)
            self._desk.wake()   # the speaker may have had something to say meanwhile

    def _due_s(self) -> float:
        """When there is something to say even if nothing happens: a beat, or held-back progress."""
        beat_s, waiting = self._sent_s + self._lease.beat_s, self._desk.has_progress
        beat_s = min(beat_s, self._desk.stuck_at_s)
        waiting = waiting or (self.registered and bool(self._desk.lines))
        return min(beat_s, self._progress_s + PROGRESS_S) if waiting else beat_s

    def _collect(self, *, bye: bool = False) -> Up | None:
        """All that is to be said now, in one message; None when there is nothing."""
        desk, now = self._desk, trio.current_time()
        if now >= desk.stuck_at_s:
            desk.give_back()
        in_time = now >= self._progress_s + PROGRESS_S
        # The lines of an attempt go before its result: behind it nobody takes them.
        log_seq, lines = desk.lines.take() if self.registered and desk.lines and (
            desk.outbox or bye or in_time or desk.lines.full_message) else (0, list[LogLine]())
        seq, results = desk.outbox.take(
            self._end.items_max, self._end.bytes_max - PROGRESS_BYTES - MESSAGE_BYTES,
            desk.lines.said if desk.lines and not bye else None)
        names = None if desk.names == self._names_said else list(desk.names)
        drain = desk.draining and not self._drain_said
        bye = bye or (desk.leaving and not desk.running and not desk.outbox)
        beat = now >= self._sent_s + self._lease.beat_s
        ahead = None if desk.pace.wanted == self._ahead_said else desk.pace.wanted
        said = bool(seq or lines) or names is not None or drain or bye or beat
        page = None if seq else desk.take_page()    # results go first, and may fill a message
        said = said or ahead is not None or page is not None
        progress = []
        if desk.has_progress and (said or in_time):
            progress = desk.take_progress(min(self._end.items_max, PROGRESS_ITEMS))
        if progress or lines:
            self._progress_s = now
        if not (said or progress):
            return None
        self._drain_said, self._names_said = desk.draining, desk.names
        self._ahead_said = desk.pace.wanted
        return Up(seq=seq, results=results, progress=progress, logs=lines, log_seq=log_seq,
                  tasks=names, pages=[] if page is None else [page], ahead=ahead,
                  beat=beat and not seq, drain=drain, bye=bye)

    async def listen(self) -> None:
        """Hand on what the daemon says.

        Raises LineClosed when the line ends, RemoteProtocolError, TurnedAway.
        Cancel: as `Desk.take`.
        """
        while True:
            data = await self._line.receive()
            try:
                down = self._end.receive(data)
            except RemoteProtocolError:
                self._over = True
                await self._line.close(WS_PROTOCOL_ERROR)
                raise
            if down.error is not None:
                self._over = True
                await self._line.close(1000)
                self._turned_away(down)
            self._heard(self._answered_s(down))
            if down.registered is not None:
                self.registered = True
                self._lease.granted(down.registered)
                self._desk.lines.acked = down.registered.log_acks
                log.info("registered: lease %.1f s, beat %.1f s", self._lease.lease_s,
                         self._lease.beat_s)
                self._desk.wake()  # the beat may have become shorter
            if down.log_ack:
                self._desk.lines.acknowledged(down.log_ack)
            await self._desk.take(down)
            await self._reply()

    def _turned_away(self, down: Down) -> None:
        assert down.error is not None
        if down.error.code in FATAL:
            raise TurnedAway(down.error.code, down.error.message)
        raise LineClosed(f"{down.error.code}: {down.error.message}")

    def _answered_s(self, down: Down) -> float:
        """When we said the latest that this answers; 0 when it answers nothing."""
        sent_s = 0.0
        if down.registered is not None:     # the register was the first
            sent_s = self._unsure.popleft()[1]
        while self._unsure and self._unsure[0][0] <= down.ack:
            sent_s = self._unsure.popleft()[1]
        return sent_s

    def _heard(self, sure_s: float) -> None:
        """The daemon lives, and has heard what we said at that time. What it says after a lease
        without a word may be older than that.
        """
        if trio.current_time() >= self._lease.ends_s():
            self._desk.give_up("the lease ended without a word from the daemon")
        self._lease.heard_s = trio.current_time()
        self._lease.sure_s = max(self._lease.sure_s, sure_s)

    async def watch(self) -> None:
        """Notice a line that is open but dead: after a beat without a sign that the daemon hears
        us comes a ping.
        """
        lease = self._lease
        with trio.move_on_after(REGISTER_S):
            while not self.registered:
                await self._desk.changed.park()
        if not self.registered:
            await self._line.close()
            return
        while True:
            await trio.sleep_until(lease.sure_s + lease.beat_s)
            asked_s = trio.current_time()
            if asked_s < lease.sure_s + lease.beat_s:
                continue
            try:
                with trio.fail_after(max(PING_S_MIN, lease.beat_s / 2)):
                    await self._line.ping()
            except (LineClosed, trio.TooSlowError):
                await self._line.close()
                return
            self._heard(asked_s)

    async def last_words(self) -> None:
        """Say everything that is left and goodbye, in one message, when there is no time."""
        if self.registered and not self.bye_said:
            up = self._collect(bye=True)
            assert up is not None, "a bye is something to say"
            await self._say(up)
