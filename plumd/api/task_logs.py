"""/v1/tasks/{id}/logs: what a process printed, and what a worker said of its attempt."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final

import msgspec
import trio

from plumd.api.context import Context
from plumd.api.params import query_bool, query_int
from plumd.api.routes import Request, Response
from plumd.attempt_logs import AttemptLogs
from plumd.errors import NotFound
from plumd.executors.os_process import TAIL_PAUSE_S, LogPage, OsProcess
from plumd.model import Kind, TaskState, parse_attempt
from plumd.store import tasks
from plumd.store.store import Store
from plumd.store.tasks import TaskRow
from plumd.stream.session import LOCAL_PREFIX

PLAIN: Final = "text/plain; charset=utf-8"
FOLLOW_BYTES: Final = 256 * 1024
LOG_BEGINS_S: Final = 5.0
LOG_LOOK_S: Final = 0.02


def known_task(store: Store, request: Request) -> TaskRow:
    """The task that the path names, by its own or an attempt's id. Raises: NotFound."""
    pair = parse_attempt(request.params["id"])
    row = None if pair is None else store.peek(tasks.get, pair[0])
    if pair is None or row is None or (pair[1] > 1 and pair[1] > row.attempt):
        raise NotFound("no such task")
    return row


class TaskLogs:
    """The handler. processes, lines: who keeps which logs."""

    def __init__(self, context: Context, processes: OsProcess, lines: AttemptLogs) -> None:
        self.context = context
        self.engine = context.engine
        self.processes = processes
        self.lines = lines

    async def answer(self, request: Request) -> Response:
        """What a process printed or a worker said: text, or with follow=true text as it comes."""
        row = known_task(self.context.store, request)
        query = request.query
        number = query_int(query, "attempt", row.attempt, low=0, high=1 << 31)
        offset = query_int(query, "offset", 0, low=-(1 << 53), high=1 << 53)
        if row.kind == Kind.EMBEDDED or self.runs_elsewhere(row, number):
            return await self.said(request, row, number, offset)
        await self.log_begins(row, number)
        if query_bool(query, "follow"):
            await trio.to_thread.run_sync(self.processes.read_log, row.id, number, offset, 1)
            return Response(200, content_type=PLAIN, stream=self.follow(row.id, number, offset))
        limit = query_int(query, "limit", 1 << 20, low=1, high=1 << 24)
        page = await trio.to_thread.run_sync(
            self.processes.read_log, row.id, number, offset, limit)
        return log_answer(page)

    def runs_elsewhere(self, row: TaskRow, number: int) -> bool:
        """Whether a node's agent carries this attempt of a process out, and tells what it prints.
        """
        worker_id = row.worker_id
        if number != row.attempt:
            past = self.context.store.peek(tasks.attempts, row.id)
            worker_id = next((one.worker_id for one in past if one.attempt == number), None)
        return bool(worker_id) and not str(worker_id).startswith(LOCAL_PREFIX)

    async def said(self, request: Request, row: TaskRow, number: int, offset: int) -> Response:
        """The lines that a worker said of an attempt."""
        if query_bool(request.query, "follow"):
            await self.page_of(row.id, number, offset, 1)
            return Response(200, content_type=PLAIN,
                            stream=self.follow_said(row.id, number, offset))
        limit = query_int(request.query, "limit", 1 << 20, low=1, high=1 << 24)
        page = await self.page_of(row.id, number, offset, limit)
        return log_answer(page)

    def runs_now(self, task_id: int, number: int) -> bool:
        """Whether this attempt is under way."""
        known = self.engine.core.knows(task_id)
        return known is not None and known[:2] == (TaskState.RUNNING, number)

    async def page_of(self, task_id: int, number: int, offset: int, limit: int) -> LogPage:
        """A page of what was said. Raises: NotFound when nothing was, and nothing can be."""
        over = not self.runs_now(task_id, number)   # before the page, so that its end is the end
        with trio.move_on_after(LOG_BEGINS_S):
            await self.lines.settled()
        page = await trio.to_thread.run_sync(self.lines.read, task_id, number, offset, limit)
        if page is not None:
            return msgspec.structs.replace(page, finished=over and page.next_offset >= page.size)
        if over:
            raise NotFound("nothing is kept of this attempt's output")
        return LogPage((), 0, 0, 0, finished=False)

    async def follow_said(self, task_id: int, number: int, offset: int) -> AsyncIterator[bytes]:
        """The lines as they come, until the attempt is over."""
        with suppress(NotFound):
            while True:
                page = await self.page_of(task_id, number, offset, FOLLOW_BYTES)
                if page.entries:
                    yield b"".join(entry.data for entry in page.entries)
                elif page.finished:
                    return
                offset = page.next_offset
                if not page.entries:
                    await trio.sleep(TAIL_PAUSE_S)

    async def log_begins(self, row: TaskRow, number: int) -> None:
        """A process whose attempt was claimed a moment ago has its log a moment later."""
        if (row.kind, row.state, row.attempt) != (Kind.OS_PROCESS, TaskState.RUNNING, number):
            return
        with trio.move_on_after(LOG_BEGINS_S):
            while not self.processes.directory(row.id, number).exists():  # noqa: ASYNC110 - a file
                await trio.sleep(LOG_LOOK_S)

    async def follow(self, task_id: int, number: int, offset: int) -> AsyncIterator[bytes]:
        """The output as it comes, until the attempt is over or its log was deleted."""
        with suppress(NotFound):
            while True:
                page = await trio.to_thread.run_sync(
                    self.processes.read_log, task_id, number, offset, FOLLOW_BYTES)
                if page.entries:
                    yield b"".join(entry.data for entry in page.entries)
                elif page.finished:
                    return
                offset = page.next_offset
                if not page.entries:
                    await self.processes.wait_log(task_id, number, offset)


def log_answer(page: LogPage) -> Response:
    """A page of a log as it is answered."""
    body = b"".join(entry.data for entry in page.entries)
    return Response(200, body, PLAIN, (
        ("plum-next-offset", str(page.next_offset)),
        ("plum-finished", "true" if page.finished else "false")))
