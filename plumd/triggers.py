"""Triggers: an event starts one run or task, and never two.

Whoever hears of an event (a webhook's door, the follower of the log, a message broker) hands in an
Occurrence. Here it is looked up whether the event was taken before, and if not, what it starts and
the row that says so go into one commit: so an event id makes at most one run through any crash, and
whoever is not sure whether it was taken may hand it in again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec

from plumd.clock import Instant
from plumd.errors import NotFound, PlumError
from plumd.flow import BeginRun
from plumd.model import Reply, Submit, parse_id
from plumd.starts import MakeTask, Planner, begin_run
from plumd.store import triggers
from plumd.store.store import Call, Store
from plumd.store.triggers import EventState, Taken, TriggerBody

DEPTH_MAX: Final = 5
"""So many triggers may stand one behind the other: a circle of them ends."""
KNOWN: Final = 100
"""Added to the state in the reply for an event that was taken before."""


class Occurrence(msgspec.Struct, frozen=True):
    """Command: an event came to a trigger. item_id: of the run or task that it makes, and its place
    in the history.  depth: how many triggers stand behind it.  refused: (code, detail) when it is
    not to start anything."""

    trigger_id: int
    event_id: str
    item_id: int
    payload: bytes | None = None
    depth: int = 0
    state: int = EventState.STARTED
    refused: tuple[str, str] = ("", "")


class Triggers:
    """Owned by the engine. `take` gives the rows of a step."""

    def __init__(self, store: Store, planner: Planner, make_task: MakeTask,
                 room: Callable[[], bool]) -> None:
        """room: whether the core takes another task."""
        self.store = store
        self.planner = planner
        self.make_task = make_task
        self.room = room
        self._taken: dict[tuple[int, str], Taken] = {}

    def occur(self, command: Occurrence, now: Instant) -> tuple[Reply, list[BeginRun | Submit]]:
        """The reply's state is the event's, + KNOWN if it was taken before; value: what it started.
        """
        key = (command.trigger_id, command.event_id)
        before = self._taken.get(key)
        if before is not None:
            return Reply(state=before.state + KNOWN, value=before.run_id or before.task_id,
                         detail=before.detail), []
        known = self.store.peek(triggers.event, *key)
        if known is not None:
            return Reply(state=known.state + KNOWN, value=known.run_id or known.task_id,
                         detail=known.detail), []
        row = self.store.peek(triggers.get, command.trigger_id)
        if row is None or not row.body.enabled:
            return Reply("not_found", "no such trigger, or it is paused"), []
        taken = Taken(row.id, command.event_id, command.item_id, command.state, now.wall_ms,
                      command.depth, reason=command.refused[0], detail=command.refused[1])
        if command.state != EventState.STARTED:
            return self._record(taken), []
        if command.depth > DEPTH_MAX:
            return self._record(msgspec.structs.replace(
                taken, state=EventState.FAILED, reason="too_deep",
                detail=f"more than {DEPTH_MAX} triggers stand one behind the other")), []
        if not self.room():
            return Reply("too_many", "too many live tasks"), []
        try:
            start = self.begun(row.body, command)
        except PlumError as refusal:
            return self._record(msgspec.structs.replace(
                taken, state=EventState.FAILED, reason=refusal.code, detail=refusal.detail)), []
        of_run = isinstance(start, BeginRun)
        return self._record(msgspec.structs.replace(
            taken, run_id=command.item_id if of_run else 0,
            task_id=0 if of_run else command.item_id)), [start]

    def begun(self, body: TriggerBody, command: Occurrence) -> BeginRun | Submit:
        """What it starts, as a command. Raises: PlumError."""
        if body.workflow_id:
            return begin_run(self.planner, command.item_id, parse_id(body.workflow_id) or 0,
                             command.payload)
        found = self.planner.catalog.task_def(parse_id(body.def_id) or 0)
        if found is None:
            raise NotFound("the task definition was deleted")
        return msgspec.structs.replace(self.make_task(found, command.payload),
                                       task_id=command.item_id)

    def _record(self, taken: Taken) -> Reply:
        self._taken[(taken.trigger_id, taken.event_id)] = taken
        return Reply(state=taken.state, value=taken.run_id or taken.task_id, detail=taken.detail)

    def take(self) -> Call | None:
        """The rows since the last call, as a store command."""
        if not self._taken:
            return None
        taken, self._taken = list(self._taken.values()), {}
        return partial(triggers.write, taken=taken)
