"""Webhooks that go out: who asked for it is told of events, signed, until it has heard.

The log is followed once for all of them: what a webhook wants is written down with the number of
the next event, in one commit, so nothing is missed and nothing noted twice. Each webhook has a task
of its own that delivers what is due, so a dead receiver delays nobody else. A delivery is made at
least once: when the daemon ends between the answer and the note of it, it is made again, under the
same id.
"""

from __future__ import annotations

import logging
from collections import Counter
from functools import partial
from typing import Final

import msgspec
import trio

from plumd import mapping, signing
from plumd.engine import Engine
from plumd.errors import PlumError
from plumd.executors.answers import asked_wait_ms
from plumd.executors.outgoing import Answer, Client
from plumd.executors.targets import CallFailed
from plumd.expressions import Value
from plumd.follow import Log
from plumd.mapping import Happening, Rules
from plumd.model import id_text
from plumd.mqtt import Brokers
from plumd.news import news_of, topic_of
from plumd.store import triggers, webhooks
from plumd.store.events import Event
from plumd.store.store import Tx
from plumd.store.webhooks import DeliveryState, Due, Note, Tried, WebhookRow

log = logging.getLogger("plumd.webhooks")
NAME: Final = "webhooks"
ENCODE: Final = msgspec.json.Encoder().encode
AGAIN_S: Final = 1.0
KEEP_EVERY: Final = 20_000
AT_ONCE: Final = 4
"""So many deliveries of one webhook are under way at once."""
BACKOFF_MS: Final = (2_000, 10_000, 30_000, 120_000, 300_000, 900_000, 1_800_000, 3_600_000)
"""Before the second attempt, the third ..., then always the last."""
RETRY_AFTER_S_MAX: Final = 86_400
LOOK_S_MAX: Final = 60.0
"""The wall clock that attempts go by may be set; this long at most it is not looked at."""
DETAIL_CHARS: Final = 300
GONE: Final = 410


class Told(msgspec.Struct, frozen=True):
    """A webhook, ready to be asked."""

    row: WebhookRow
    rules: Rules


class Webhooks:
    """`run` in a nursery of the daemon's; `renew` after one was written."""

    def __init__(self, engine: Engine, client: Client, brokers: Brokers) -> None:
        self.engine = engine
        self.client = client
        self.brokers = brokers
        self._known: dict[int, Told] = {}
        self._stale = True
        self._renewed = trio.Event()
        self._serving: dict[int, trio.CancelScope] = {}
        self._news: dict[int, trio.Event] = {}
        self._room: dict[int, int] = {}     # how many more may wait, as far as they were counted
        self._dropping: set[int] = set()    # of these was told that the oldest are given up
        self.ended = Counter({"delivered": 0, "failed": 0, "dropped": 0})
        """What became of deliveries since the start."""

    def renew(self) -> None:
        """One was written: read them again before the next event is looked at."""
        self._stale = True
        self._renewed.set()

    def poke(self, number: int) -> None:
        """Something of this webhook is due."""
        if number in self._news:
            self._news[number].set()

    async def run(self) -> None:
        """Until canceled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow, nursery)

    def _read(self, nursery: trio.Nursery) -> None:
        self._stale = False
        self._known = {}
        self._room = {}
        for shape in self.engine.store.peek(webhooks.every):
            try:
                row = webhooks.row_of(shape)
                rules = mapping.rules_of(row.body.filter, msgspec.Raw(b"null"))
            except (msgspec.DecodeError, PlumError):
                log.exception("a webhook cannot be read", extra={"webhook_id": id_text(shape[0])})
                continue
            if row.body.enabled:
                self._known[row.id] = Told(row, rules)
        for number in list(self._serving):
            if number not in self._known:
                self._serving.pop(number).cancel()
                del self._news[number]
        self._dropping.intersection_update(self._known)
        for number in self._known:
            self.poke(number)
            if number not in self._serving:
                self._serving[number] = trio.CancelScope()
                self._news[number] = trio.Event()
                nursery.start_soon(self._serve, number, self._serving[number])

    # ------------------------------------------------------------ from the log

    async def _follow(self, nursery: trio.Nursery) -> None:
        kept = self.engine.store.peek(triggers.followed, NAME)
        reader = Log(self.engine, kept or self.engine.store.next_seq)
        while True:
            if self._stale:
                self._read(nursery)
            if not self._known:
                self._renewed = trio.Event()
                if not self._stale:
                    await self._renewed.wait()
                continue
            reader.seq = max(reader.seq, min(one.row.since_seq for one in self._known.values()))
            found = await reader.more()
            if self._stale:
                self._read(nursery)
            if reader.lost:
                log.warning("events were gone before webhooks saw them",
                            extra={"count": reader.lost})
                reader.lost = 0
            notes = [note for seq, event in found for note in self._notes(seq, event)]
            if notes or reader.seq - kept > KEEP_EVERY:
                await self._write_down(notes, reader.seq)
                kept = reader.seq
                for number in {note.webhook_id for note in notes}:
                    self.poke(number)

    async def _write_down(self, notes: list[Note], seq: int) -> None:
        noted = Counter(note.webhook_id for note in notes)

        def write(tx: Tx) -> dict[int, tuple[int, int]]:
            webhooks.note(tx, notes)
            triggers.follow(tx, NAME, seq)
            return {number: self._bounded(tx, number, count) for number, count in noted.items()}

        while True:
            try:
                found = await self.engine.write(write)
            except PlumError as error:
                log.warning("webhooks wait", extra={"reason": error.detail})
                await trio.sleep(AGAIN_S)
            else:
                break
        for number, (room, dropped) in found.items():
            self._room[number] = room
            if dropped:
                self._dropping.add(number)
                self.ended["dropped"] += dropped

    def _bounded(self, tx: Tx, number: int, count: int) -> tuple[int, int]:
        """So many were noted: how many more may be, and how many were given up for them."""
        room, told = self._room.get(number, 0) - count, self._known.get(number)
        if room >= 0 or told is None:
            return room, 0
        return webhooks.bound(tx, number, told.row.body.max_waiting,
                              told=number in self._dropping)

    def _notes(self, seq: int, event: Event) -> list[Note]:
        topic = topic_of(event)
        if event[:2] == ("alert", "webhook_failed"):
            return []       # else a dead receiver of alerts would be told that it is dead
        found: list[Note] = []
        happening: Happening | None = None
        for told in self._known.values():
            if topic not in told.row.body.topics or seq < told.row.since_seq:
                continue
            if happening is None:
                happening = self._happening(seq, event)
            if mapping.wanted(told.rules, happening):
                found.append(Note(told.row.id, seq, topic, ENCODE(happening.event)))
        return found

    def _happening(self, seq: int, event: Event) -> Happening:
        topic, name, news = news_of(event)
        data: dict[str, Value] = msgspec.to_builtins(news)
        at = data.get("at")
        return Happening({
            "id": str(seq), "seq": seq, "topic": topic, "event": name,
            "at": at if isinstance(at, int) else self.engine.clock.now().wall_ms, "data": data})

    # ------------------------------------------------------------ to receivers

    async def _serve(self, number: int, scope: trio.CancelScope) -> None:
        """Deliver what is due of one webhook, until it is paused or gone."""
        with scope:
            while (told := self._known.get(number)) is not None:
                news = self._news[number] = trio.Event()
                now_ms = self.engine.clock.now().wall_ms
                found = self.engine.store.peek(webhooks.due, number, AT_ONCE)
                due = [one for one in found if one.due_ms <= now_ms]
                if due:
                    async with trio.open_nursery() as nursery:
                        for one in due:
                            nursery.start_soon(self._deliver, told.row, one)
                    continue
                left_s = (found[0].due_ms - now_ms) / 1000 if found else LOOK_S_MAX
                with trio.move_on_after(min(left_s, LOOK_S_MAX)):
                    await news.wait()

    async def _deliver(self, row: WebhookRow, one: Due) -> None:
        tried = await self._attempt(row, one)
        if tried.state != DeliveryState.PENDING:
            self.ended[webhooks.STATES[tried.state]] += 1
        if tried.state == DeliveryState.DELIVERED:
            self._dropping.discard(row.id)
        while True:
            try:
                await self.engine.write(partial(webhooks.tried, one=tried))
            except PlumError as error:
                log.warning("a delivery's end waits", extra={"reason": error.detail})
                await trio.sleep(AGAIN_S)
            else:
                return

    async def _attempt(self, row: WebhookRow, one: Due) -> Tried:
        body = row.body
        ident = f"{id_text(row.id)}.{one.seq}"
        at_s = self.engine.clock.now().wall_ms // 1000
        headers = [(name.lower(), value) for name, value in body.headers.items()]
        headers += [("webhook-id", ident), ("webhook-timestamp", str(at_s)),
                    ("webhook-signature", signing.sign(row.secret, ident, at_s, one.body))]
        answer: Answer | None = None
        detail = ""
        try:
            with trio.fail_after(body.timeout_sec):
                if body.url.startswith("mqtt:"):
                    name, _, topic = body.url[5:].partition("/")
                    await self.brokers.publish(name, topic, one.body)
                    return self._tried(row, one, None, "")
                answer = await self.client.post(body.url, one.body, headers)
            detail = "" if 200 <= answer.status < 300 else (
                f"{answer.status} {answer.reason}: "
                f"{answer.body[:200].decode(errors='replace')}")
        except trio.TooSlowError:
            detail = f"no answer within {body.timeout_sec:g} s"
        except CallFailed as failure:
            detail = failure.message
        return self._tried(row, one, answer, detail[:DETAIL_CHARS])

    def _tried(self, row: WebhookRow, one: Due, answer: Answer | None, detail: str) -> Tried:
        attempts, status = one.attempts + 1, 0 if answer is None else answer.status
        if not detail:
            return Tried(row.id, one.seq, DeliveryState.DELIVERED, attempts, 0, status, "")
        if attempts >= row.body.max_attempts or status == GONE:
            return Tried(row.id, one.seq, DeliveryState.FAILED, attempts, 0, status, detail)
        wait_ms = BACKOFF_MS[min(attempts, len(BACKOFF_MS)) - 1]
        if answer is not None:
            wait_ms = max(wait_ms, asked_wait_ms(answer.headers, RETRY_AFTER_S_MAX))
        # Neighbours that failed together come again spread over a tenth of the time.
        wait_ms += wait_ms * (one.seq * 2654435761 % 1000) // 10_000
        return Tried(row.id, one.seq, DeliveryState.PENDING, attempts,
                     self.engine.clock.now().wall_ms + wait_ms, status, detail)
