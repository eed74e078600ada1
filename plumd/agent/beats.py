"""The heartbeat: tells the controller that the node lives, and how it is."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from typing import Final, final

import msgspec
import trio

import plumd
from plumd.agent import facts
from plumd.agent.http import CallFailed, Http
from plumd.agent.identity import Identity
from plumd.agent.settings import Settings
from plumd.executors import shim

log = logging.getLogger("plumd.agent")
BEAT_S_MIN: Final = 0.2
AGAIN_S: Final = 1.0
"""Between tries while the controller is not heard, so that it is heard soon when it is back."""
WITHIN_S_MIN: Final = 2.0
ADDRESS_S: Final = 1.0
TAKEN: Final = 409


class Beat(msgspec.Struct, frozen=True, rename="camel"):
    """What is told."""

    node_id: str
    ip: str
    labels: dict[str, str]
    facts: facts.Facts
    agent_version: str
    boot_id: str
    key: str
    run: str


class Heard(msgspec.Struct, frozen=True, rename="camel"):
    """What is answered; an older controller says ttlSec alone."""

    ttl_sec: float = 15.0
    beat_sec: float = 0.0
    draining: bool = False
    assignments: str = ""


@final
class Beats:
    """Beats until canceled.

    owned: an event, set while the controller takes this agent for the node's. answered: set once
    it has said anything to a beat, or nobody listens there. draining: the node shall take nothing
    new. owns: told with each answer whether the node is ours. heard_again: called when the
    controller is heard after it was not. confirmed: called with when a beat was sent (clock of
    leases, ms) and the revision of the assignments that it was answered with, "" = none.
    """

    def __init__(self, settings: Settings, who: Identity, http: Http) -> None:
        self.owned = trio.Event()
        self.taken = trio.Event()
        self.answered = trio.Event()
        self.draining = False
        self.owns: Callable[[bool], None] = no_news
        self.heard_again: Callable[[], None] = nobody
        self.confirmed: Callable[[int, str], None] = no_one
        self._away = False
        self._settings = settings
        self._who = who
        self._run = secrets.token_hex(8)
        self._http = http
        self._said = ""
        self._address = ""
        self._asking = trio.CapacityLimiter(1)  # for a name may be answered very late

    async def run(self) -> None:
        """Beat, as often as the controller wants it."""
        pause_s = self._settings.beat_s
        while True:
            begun_s = trio.current_time()
            heard = await self.beat(max(WITHIN_S_MIN, pause_s))
            if heard is not None and heard.beat_sec:
                pause_s = max(BEAT_S_MIN, heard.beat_sec)
            elif heard is not None:
                pause_s = min(self._settings.beat_s, max(BEAT_S_MIN, heard.ttl_sec / 3))
            await trio.sleep_until(begun_s + (min(AGAIN_S, pause_s) if self._away else pause_s))

    async def beat(self, within_s: float) -> Heard | None:
        """One beat; None when it was not heard, or not wanted."""
        settings = self._settings
        told = Beat(settings.node_id, settings.ip or await self._own_address(), settings.labels,
                    facts.look(settings.data_dir), plumd.__version__, facts.boot_id(),
                    self._who.key, self._run)
        sent_ms = shim.boot_ms()
        try:
            answer = await self._http.call("POST", "v1/nodes/heartbeat", told, within_s)
        except CallFailed as error:
            self._away = True
            self._say(f"the controller does not answer: {error}")
            if error.refused:
                self.answered.set()
            return None
        if self._away:
            self._away = False
            self.heard_again()
        if answer.status == TAKEN:
            self._say(f"this node's name belongs to another agent: {answer.problem}")
            self._own(False)
            self.answered.set()
            return None
        if not answer.ok:
            self.answered.set()
            self._say(f"the controller does not take the heartbeat: {answer.problem}")
            return None
        self._say("")
        self._own(True)
        self.answered.set()
        try:
            heard = msgspec.json.decode(answer.body or b"{}", type=Heard)
        except msgspec.DecodeError:
            heard = Heard()
        self.draining = heard.draining
        self.confirmed(sent_ms, heard.assignments)
        return heard

    async def _own_address(self) -> str:
        """The one that leads to the controller; the last one while names are answered slowly."""
        with trio.move_on_after(ADDRESS_S):
            self._address = await trio.to_thread.run_sync(
                self._http.own_address, abandon_on_cancel=True, limiter=self._asking)
        return self._address

    def _own(self, is_ours: bool) -> None:
        """Let those know who wait for the node to become ours, or another's."""
        now, other = (self.owned, "taken") if is_ours else (self.taken, "owned")
        if not now.is_set():
            now.set()
        if getattr(self, other).is_set():
            setattr(self, other, trio.Event())
        self.owns(is_ours)

    def _say(self, what: str) -> None:
        """Log what is new."""
        if what == self._said:
            return
        self._said = what
        if what:
            log.warning("%s", what)
        else:
            log.info("the controller hears this node", extra={"node_id": self._settings.node_id})


def nobody() -> None:
    """Nobody wants to know."""


def no_news(is_ours: bool) -> None:
    """The same."""
    del is_ours


def no_one(sent_ms: int, revision: str) -> None:
    """The same."""
    del sent_ms, revision
