"""Internal triggers: what happens here starts something else here.

Whoever has a trigger of kind `event` or `after` is looked up for each event of the log; what they
ask for beyond the event itself is read from the rows that it is about. An event's id is its number.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Final

import msgspec
import trio

from plumd import mapping
from plumd.engine import Ask, Engine
from plumd.errors import PlumError
from plumd.expressions import Failure, Value
from plumd.flow.data import decoded
from plumd.follow import Log
from plumd.mapping import Happening, Rules
from plumd.model import TaskState, id_text
from plumd.news import TOPIC_OF, news_of
from plumd.store import definitions, flows, tasks, triggers
from plumd.store.definitions import WORKFLOWS
from plumd.store.events import Event
from plumd.store.store import Tx
from plumd.store.triggers import EventState, TriggerRow
from plumd.triggers import Occurrence

log = logging.getLogger("plumd.listeners")
NAME: Final = "triggers"
AGAIN_S: Final = 1.0
KEEP_EVERY: Final = 20_000
"""How far one looks without a note of it; so much is looked at again after a restart at most."""
ENDS: Final = {
    "success": frozenset({TaskState.SUCCEEDED}),
    "failure": frozenset({TaskState.FAILED, TaskState.TIMEOUT}),
    "any": frozenset({TaskState.SUCCEEDED, TaskState.FAILED, TaskState.TIMEOUT,
                      TaskState.CANCELED}),
}
DEAF: Final = frozenset({"trigger", "webhook"})
"""What triggers do themselves starts none."""
DEAF_ALERTS: Final = frozenset({"trigger_failed", "webhook_failed"})


class Listener(msgspec.Struct, frozen=True):
    """A trigger that listens, ready to be asked."""

    row: TriggerRow
    rules: Rules
    kinds: frozenset[str]

    def hears(self, event: Event) -> bool:
        """Whether the event could be one of its own, before any expression."""
        if event[0] not in self.kinds or (event[0] == "alert" and event[1] in DEAF_ALERTS):
            return False
        after = self.row.body.after
        return after is None or (id_text(int(event[2])) == after.workflow_id
                                 and event[3] in ENDS[after.on])


class Listeners:
    """`run` in a nursery of the daemon's; `renew` after a trigger was written."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._known: list[Listener] = []
        self._renewed = trio.Event()
        self._stale = True

    def renew(self) -> None:
        """A trigger was written: read them again before the next event is looked at."""
        self._stale = True
        self._renewed.set()

    def _read(self) -> None:
        self._stale = False
        self._known = []
        for shape in self.engine.store.peek(triggers.listening):
            try:
                row = triggers.row_of(shape)
                body = row.body
                if not body.enabled or body.kind not in ("event", "after"):
                    continue
                rules = mapping.rules_of(body.filter, body.payload)
            except (msgspec.DecodeError, PlumError):
                log.exception("a trigger cannot be read", extra={
                    "trigger_id": id_text(shape[0])})
                continue
            self._known.append(Listener(row, rules, kinds_of(row)))

    async def run(self) -> None:
        """Until canceled."""
        kept = self.engine.store.peek(triggers.followed, NAME)
        reader = Log(self.engine, kept or self.engine.store.next_seq)
        while True:
            if self._stale:
                self._read()
            if not self._known:
                self._renewed = trio.Event()
                if not self._stale:
                    await self._renewed.wait()
                continue
            # Events from before all of them belong to nobody; so nobody's silence costs a thing.
            reader.seq = max(reader.seq, min(one.row.since_seq for one in self._known))
            found = await reader.more()
            if self._stale:
                self._read()
            if reader.lost:
                log.warning("events were gone before triggers saw them",
                            extra={"count": reader.lost})
                reader.lost = 0
            starts = [start for seq, event in found for start in self._starts(seq, event)]
            if starts or reader.seq - kept > KEEP_EVERY:
                await self._hand_in(starts, reader.seq)
                kept = reader.seq

    async def _hand_in(self, starts: list[Occurrence], seq: int) -> None:
        """Everything that follows, and how far one has looked, in one commit; until it is there."""
        while True:
            asks: list[Ask] = []

            def write(tx: Tx, asks: list[Ask] = asks) -> None:
                if all(reply.code != "too_many" for reply in asks[0].replies):
                    triggers.follow(tx, NAME, seq)

            try:
                asks.append(self.engine.post(starts, write))
                await asks[0].done.wait()
                if asks[0].error is None and all(
                        reply.code != "too_many" for reply in asks[0].replies):
                    return
            except PlumError as error:
                log.warning("triggers wait", extra={"reason": error.detail})
            await trio.sleep(AGAIN_S)

    # ------------------------------------------------------------ one event

    def _starts(self, seq: int, event: Event) -> list[Occurrence]:
        found: list[Occurrence] = []
        happening: Happening | None = None
        for listener in self._known:
            if seq < listener.row.since_seq or not listener.hears(event):
                continue
            if listener.row.body.after is not None and self.engine.store.peek(
                    flows.is_cut, int(event[1])):
                continue        # a part of a workflow is not what others wait for
            if happening is None:
                happening = self.happening(seq, event)
            if mapping.wanted(listener.rules, happening):
                found.append(self._occurrence(listener, happening, seq, event))
        return found

    def _occurrence(self, listener: Listener, happening: Happening, seq: int,
                    event: Event) -> Occurrence:
        run_id, task_id = items_of(event)
        depth = self.engine.store.peek(triggers.depth, run_id, task_id) + 1
        command = Occurrence(listener.row.id, str(seq), self.engine.new_id(), depth=depth)
        try:
            payload = mapping.payload_of(listener.rules, happening)
        except Failure as failure:
            return msgspec.structs.replace(command, state=EventState.FAILED,
                                           refused=("expression_failed", str(failure)))
        return msgspec.structs.replace(command, payload=payload)

    def happening(self, seq: int, event: Event) -> Happening:
        """An event of the log as expressions see it."""
        topic, name, news = news_of(event)
        data: dict[str, Value] = msgspec.to_builtins(news)
        at = data.get("at")
        return Happening({
            "id": str(seq), "seq": seq, "topic": topic, "event": name,
            "at": at if isinstance(at, int) else self.engine.clock.now().wall_ms, "data": data},
            partial(self.more, event))

    def more(self, event: Event) -> Mapping[str, Value]:
        """What the rows say of a task or run."""
        store = self.engine.store
        run_id, task_id = items_of(event)
        if event[0] == "run":
            run = store.peek(flows.get, run_id)
            if run is None:
                return {}
            body = store.peek(definitions.version, WORKFLOWS, run.workflow_id, run.version)
            return {"name": None if body is None else body.name, "version": run.version,
                    "payload": json_of(run.payload), "result": json_of(run.result),
                    "error": json_of(run.error)}
        if event[0] == "task":
            task = store.peek(tasks.get, task_id)
            if task is None:
                return {}
            return {"payload": json_of(task.payload), "result": json_of(task.result),
                    "error": json_of(task.error), "labels": json_of(task.labels)}
        return {}


def json_of(data: bytes | str | None) -> Value:
    """JSON from a row; null where there is none."""
    if data is None:
        return None
    try:
        return decoded(data.encode() if isinstance(data, str) else data)
    except Failure:                 # a worker's result may be any text
        return data if isinstance(data, str) else data.decode(errors="replace")


def items_of(event: Event) -> tuple[int, int]:
    """(run, task) that an event is about, 0 = none."""
    if event[0] == "task":
        return int(event[6]), int(event[1])
    if event[0] in ("run", "step"):
        return int(event[1]), 0
    return 0, 0


def kinds_of(row: TriggerRow) -> frozenset[str]:
    """The recorded kinds of events that a trigger can be about."""
    if row.body.after is not None:
        return frozenset({"run"})
    wanted = row.body.topics
    found = {kind for kind, topic in TOPIC_OF.items() if topic in wanted}
    if "alerts" in wanted:
        found.add("alert")
    return frozenset(found - DEAF)
