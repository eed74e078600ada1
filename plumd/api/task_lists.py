"""/v1/tasks as lists: filters, counts, groups of failures, and actions on all that match.

Nothing here takes long, whatever the table holds: a page looks at a bounded number of rows and says
where it stopped, and what acts on many tasks does so slice by slice, with others in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Final, Literal, TypeVar

import msgspec
import trio
from msgspec import UNSET, Meta, UnsetType

from plumd.api.context import Context, Note, again_as_it_was, answer, once, remember
from plumd.api.decode import strict
from plumd.api.openapi import IDEMPOTENCY_KEY
from plumd.api.paging import CURSOR, LIMIT, cursor_id, next_link, page_limit
from plumd.api.params import query_choice, query_int
from plumd.api.routes import Query, Request, Response, Route
from plumd.api.task_views import TaskView, view_of
from plumd.api.tasks import STATES, BulkItem, Tasks, item_problem, states_of
from plumd.errors import Invalid, NotFound, PlumError, TooMany, WrongState
from plumd.failures import FailureGroup, grouped
from plumd.model import (
    BULK_ITEMS_MAX,
    KINDS,
    TASK_STATES,
    Cancel,
    Submit,
    TaskState,
    id_text,
    parse_id,
)
from plumd.store import lists, tasks
from plumd.store.lists import Filter
from plumd.store.store import Tx

TIME_MAX: Final = 1 << 44
TEXT_MAX: Final = 1_000
FAILURES_LOOKED_AT: Final = 1_000
PROBLEMS_MAX: Final = 100
CANCELS_PER_SLICE: Final = 200
DELETES_PER_SLICE: Final = 40
"""A store command runs on the loop, and each takes some 30 us."""
RERUNS_PER_LOOK: Final = 100
WALKS_MAX: Final = 10
"""Of an action's filter so many pages are looked through, 20,000 rows each."""
LIVE: Final = tuple(range(TaskState.SUCCEEDED))
OVER: Final = tuple(range(TaskState.SUCCEEDED, len(TASK_STATES)))
T = TypeVar("T")

StateName = Literal["Queued", "Pending", "Running", "Retrying", "Succeeded", "Failed", "Timeout",
                    "Canceled"]
Time = Annotated[int, Meta(ge=0, le=TIME_MAX)]
Text = Annotated[str, Meta(max_length=TEXT_MAX)]
IdText = Annotated[str, Meta(max_length=64)]


class TaskFilter(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Tasks that meet all of these. Times are Unix ms of their creation; label is key=value."""

    state: Annotated[tuple[StateName, ...], Meta(max_length=8)] = ()
    name: Text = ""
    def_id: IdText = ""
    run_id: IdText = ""
    worker_id: Text = ""
    executor: Literal["", "embedded", "service", "os_process"] = ""
    label: Text = ""
    created_from: Time = 0
    created_to: Time = 0
    error_code: Text = ""


class BulkAction(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """One action on up to 10,000 tasks: those of taskIds, or the newest that the filter finds.

    Without `state` in the filter, cancel means live tasks, rerun and delete those that are over.
    """

    action: Literal["cancel", "rerun", "delete"]
    task_ids: Annotated[list[IdText], Meta(max_length=BULK_ITEMS_MAX)] | UnsetType = UNSET
    filter: TaskFilter | UnsetType = UNSET
    preview: bool = False
    """Only count."""


class BulkActed(msgspec.Struct, frozen=True, kw_only=True):
    """What became of it. exact: no more tasks match.  results: the first 100 that failed."""

    matched: int
    exact: bool
    done: int
    failed: int
    results: list[BulkItem] = []


class Count(msgspec.Struct, frozen=True):
    """How many match; not exact = at least so many."""

    count: int
    exact: bool


class TaskLists:
    """The handlers."""

    def __init__(self, context: Context, one: Tasks) -> None:
        self.context = context
        self.engine = context.engine
        self.store = context.store
        self.one = one

    # ------------------------------------------------------------ reading

    async def page(self, request: Request) -> Response:
        """A page; it may be short, or empty, and have a next one."""
        oldest = query_choice(request.query, "order", ("newest", "oldest")) == "oldest"
        page = await self.store.read(lists.page, filter_of(request.query),
                                     limit=page_limit(request), after=cursor_id(request),
                                     oldest=oldest)
        link = (next_link(request, str(page.after)),) if page.after else ()
        return answer(200, [view_of(row, self.engine) for row in page.rows], *link)

    async def count(self, request: Request) -> Response:
        """How many tasks a list has."""
        found = await self.store.read(lists.count, filter_of(request.query))
        return answer(200, Count(*found))

    async def failures(self, request: Request) -> Response:
        """What fails at present, equal failures together."""
        limit = query_int(request.query, "limit", 50, low=1, high=200)
        rows = await self.store.read(lists.failures, FAILURES_LOOKED_AT)
        groups = await trio.to_thread.run_sync(grouped, rows)
        return answer(200, groups[:limit])

    # ------------------------------------------------------------ acting on many

    async def act(self, request: Request) -> Response:
        """Cancel, rerun or delete all that match."""

        async def fresh(note: Note) -> Response:
            body = strict(request.body, BulkAction)
            ids, exact = await self.chosen(body)
            if body.preview:
                return answer(200, BulkActed(matched=len(ids), exact=exact, done=0, failed=0))
            if body.action == "rerun":
                return await self.rerun(ids, exact, note)
            doing = self.cancel if body.action == "cancel" else self.delete
            problems: list[BulkItem] = []
            failed = 0
            for some in sliced(ids, CANCELS_PER_SLICE if body.action == "cancel"
                               else DELETES_PER_SLICE):
                found = await doing(some)
                failed += len(found)
                problems += found[:PROBLEMS_MAX - len(problems)]
            response = answer(200, BulkActed(matched=len(ids), exact=exact,
                                             done=len(ids) - failed, failed=failed,
                                             results=problems))
            if (write := remember(note, 200, response.body)) is not None:
                await self.engine.write(write)
            return response

        return await once(self.context, request, fresh, again_as_it_was)

    async def chosen(self, body: BulkAction) -> tuple[list[int], bool]:
        """The ids, and whether there are no more. Raises: Invalid."""
        if (body.task_ids is UNSET) == (body.filter is UNSET):
            raise Invalid("either taskIds or filter says which tasks", field="taskIds")
        if not isinstance(body.task_ids, UnsetType):
            ids = []
            for index, text in enumerate(body.task_ids):
                number = parse_id(text)
                if number is None:
                    raise Invalid("this is no task's id", field=f"taskIds[{index}]")
                ids.append(number)
            return list(dict.fromkeys(ids)), True
        assert not isinstance(body.filter, UnsetType)
        want = wanted(body.filter, "filter.")
        if not want.states:
            want = msgspec.structs.replace(want, states=LIVE if body.action == "cancel" else OVER)
        found: list[int] = []
        after = 0
        for _ in range(WALKS_MAX):
            walk = await self.store.read(lists.walk, want, limit=BULK_ITEMS_MAX - len(found),
                                         after=after)
            found += walk.ids
            after = walk.after
            if not after or len(found) >= BULK_ITEMS_MAX:
                break
        if after and len(found) >= BULK_ITEMS_MAX:
            rest = await self.store.read(lists.walk, want, limit=1, after=after)
            return found, not (rest.ids or rest.after)
        return found, not after

    async def cancel(self, ids: Sequence[int]) -> list[BulkItem]:
        """A slice; the problems of those that could not be canceled."""
        ask = await self.engine.call_all([Cancel(number) for number in ids])
        problems = []
        for number, reply in zip(ids, ask.replies, strict=True):
            if reply.ok:
                continue
            row = self.store.peek(tasks.get, number)
            if row is None:
                problems.append(problem(number, NotFound("no such task")))
            elif row.state != TaskState.CANCELED:
                problems.append(problem(number, WrongState(
                    f"the task is {TASK_STATES[row.state]} already")))
        return problems

    async def delete(self, ids: Sequence[int]) -> list[BulkItem]:
        """A slice; the problems of those that could not be deleted."""
        problems: list[BulkItem] = []
        able: list[int] = []
        for number in ids:
            row = self.store.peek(tasks.get, number)
            if row is None:
                problems.append(problem(number, NotFound("no such task")))
            elif row.run_id and self.engine.runs.live.get(row.run_id) is not None:
                problems.append(problem(number, WrongState(
                    "the task belongs to a workflow run that goes on")))
            elif row.state < TaskState.SUCCEEDED:
                problems.append(problem(number, WrongState(
                    "only a task that is over can be deleted; cancel it first")))
            else:
                able.append(number)

        def remove(tx: Tx) -> list[int]:
            gone = [number for number in able if tasks.delete(tx.db, number)]
            for number in gone:
                tx.emit("taskDeleted", number, tx.now_ms)
            return gone

        if able:
            gone = await self.engine.write(remove)
            await trio.to_thread.run_sync(forget_all, self.one.processes.forget, gone)
            problems += [problem(number, NotFound("no such task"))
                         for number in set(able).difference(gone)]
        return problems

    async def rerun(self, ids: Sequence[int], exact: bool, note: Note) -> Response:
        """All of them in one commit, so that a repetition makes none twice."""
        problems: list[BulkItem] = []
        commands: list[Submit] = []
        for some in sliced(ids, RERUNS_PER_LOOK):
            await trio.lowlevel.checkpoint()
            for number in some:
                row = self.store.peek(tasks.get, number)
                if row is None:
                    problems.append(problem(number, NotFound("no such task")))
                    continue
                try:
                    commands.append(await self.one.once_more(row))
                except PlumError as refusal:
                    problems.append(problem(number, refusal))
        live = sum(self.engine.core.counts_by_state())
        if live + len(commands) > self.engine.limits.tasks_max:
            raise TooMany(f"there are {live} live tasks already", retry_after_s=5)
        new = self.engine.new_ids(len(commands)) if commands else ()
        commands = [msgspec.structs.replace(command, task_id=task_id)
                    for command, task_id in zip(commands, new, strict=True)]
        response = answer(200, BulkActed(
            matched=len(ids), exact=exact, done=len(commands), failed=len(problems),
            results=problems[:PROBLEMS_MAX]))
        await self.engine.call_all(commands, remember(note, 200, response.body))
        return response


def problem(number: int, refusal: PlumError) -> BulkItem:
    """One task's refusal."""
    return BulkItem(id_text(number), item_problem(refusal, ""))


def forget_all(forget: Callable[[int], object], ids: Iterable[int]) -> None:
    """What processes of these tasks printed."""
    for number in ids:
        forget(number)


def sliced(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """The items, so many at a time."""
    for begin in range(0, len(items), size):
        yield items[begin:begin + size]


def filter_of(query: Mapping[str, str]) -> Filter:
    """The filter of a query string. Raises: Invalid, naming the parameter."""
    executor = query_choice(query, "executor", KINDS)
    if "label" in query and not query["label"]:
        raise Invalid("label is written key=value", field="label")
    for name in ("name", "workerId", "errorCode"):
        if len(query.get(name, "")) > TEXT_MAX:
            raise Invalid(f"{name} is longer than {TEXT_MAX} characters", field=name)
    return made(
        states_of(query), query.get("name", ""), query.get("defId", ""),
        query.get("runId", ""), query.get("workerId", ""), executor, query.get("label", ""),
        query_int(query, "createdFrom", 0, low=0, high=TIME_MAX),
        query_int(query, "createdTo", 0, low=0, high=TIME_MAX), query.get("errorCode", ""), "")


def wanted(body: TaskFilter, where: str) -> Filter:
    """The filter of a body. Raises: Invalid."""
    states = tuple(dict.fromkeys(TASK_STATES.index(name) for name in body.state))
    return made(states, body.name, body.def_id, body.run_id, body.worker_id, body.executor,
                body.label, body.created_from, body.created_to, body.error_code, where)


def made(states: tuple[int, ...], name: str, def_id: str, run_id: str, worker_id: str,
         executor: str, label: str, created_from: int, created_to: int, error_code: str,
         where: str) -> Filter:
    """A filter of texts. where: what the names of fields begin with. Raises: Invalid."""
    key, equals, value = label.partition("=")
    if label and not (key and equals):
        raise Invalid("label is written key=value", field=f"{where}label")
    numbers = []
    for field, text in (("defId", def_id), ("runId", run_id)):
        number = parse_id(text) if text else 0
        if number is None or (text and not number):
            raise Invalid(f"{field} is no id", field=f"{where}{field}")
        numbers.append(number)
    return Filter(
        states=states, name=name, def_id=numbers[0], run_id=numbers[1], worker_id=worker_id,
        kind=KINDS.index(executor) if executor else None, label=(key, value) if label else None,
        created_from=created_from, created_to=created_to, error_code=error_code)


FILTERS: Final = (
    STATES, Query("name", str, "Only of this name"), Query("defId", str, "Only of this definition"),
    Query("runId", str, "Only of this run"),
    Query("workerId", str, "Only those whose current or last attempt this worker has"),
    Query("executor", str, "Only of this executor", choices=KINDS),
    Query("label", str, "key=value"),
    Query("createdFrom", int, "Created at this time or later, Unix ms"),
    Query("createdTo", int, "Created at this time or earlier, Unix ms"),
    Query("errorCode", str, "Ended with this error"),
)


def routes(handlers: TaskLists) -> list[Route]:
    """The table's part about lists of tasks."""
    read, write = "tasks:read", "tasks:write"
    return [
        Route("GET", "/v1/tasks", handlers.page, "List tasks, newest first", "tasks", read,
              answers={200: list[TaskView]}, query=(
                  LIMIT, CURSOR, *FILTERS,
                  Query("order", str, "By creation", choices=("newest", "oldest")))),
        Route("GET", "/v1/tasks/count", handlers.count, "Count tasks, exactly up to 10,000",
              "tasks", read, answers={200: Count}, query=FILTERS),
        Route("GET", "/v1/tasks/failures", handlers.failures,
              "What failed lately, equal failures together", "tasks", read,
              answers={200: list[FailureGroup]},
              query=(Query("limit", int, "At most so many groups, 1 to 200 (default 50)"),)),
        Route("POST", "/v1/tasks/bulk-actions", handlers.act,
              "Cancel, rerun or delete up to 10,000 tasks", "tasks", write, body=BulkAction,
              answers={200: BulkActed}, query=(IDEMPOTENCY_KEY,)),
    ]
