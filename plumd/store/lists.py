"""Lists of tasks and runs by any combination of filters, in bounded time whatever there is.

SQLite would have to guess which index is best. Here the candidates of each index that a filter
could use are counted, up to a budget, and the fewest are taken; the other filters are looked at
row by row. When the budget is used up, what was found is the page, and the next one goes on where
this one stopped: a page may be short, or empty, and still have a next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeAlias

import apsw
import msgspec

from plumd.model import TaskState
from plumd.store import flows, sql
from plumd.store.flows import RunRow
from plumd.store.sql import SQLiteValue
from plumd.store.tasks import ID_SHIFT, TaskRow

SQL: Final = sql.load("lists")
ROWS_MAX: Final = 20_000
"""So many rows a page looks at."""
COUNTED_MAX: Final = 10_000
COUNT_ROWS_MAX: Final = 50_000
FIRST_LOOK: Final = 1_000
ID_MAX: Final = (1 << 63) - 1
CLOCK_SLACK_MS: Final = 60_000
"""A task's id may have been drawn so much before or after its time of creation."""

Part: TypeAlias = tuple[str, tuple[SQLiteValue, ...]]
"""A piece of SQL and the values that it binds."""


class Filter(msgspec.Struct, frozen=True):
    """What tasks are narrowed to. None, "", 0 and () = whatever it is. Times are Unix ms."""

    states: tuple[int, ...] = ()
    name: str = ""
    def_id: int = 0
    run_id: int = 0
    worker_id: str = ""
    kind: int | None = None
    label: tuple[str, str] | None = None
    created_from: int = 0
    created_to: int = 0
    error_code: str = ""


class Page(msgspec.Struct, frozen=True):
    """after: the id that the next page goes on behind, 0 = that was all."""

    rows: list[TaskRow]
    after: int


class Walk(msgspec.Struct, frozen=True):
    """The ids of a page, and as Page.after."""

    ids: list[int]
    after: int


class _Source(msgspec.Struct, frozen=True):
    """Where candidates come from: statements, merged in order. done: what they settle."""

    done: str
    arms: tuple[Part, ...]


def page(db: apsw.Connection, want: Filter, *, limit: int, after: int = 0,
         oldest: bool = False, rows_max: int = ROWS_MAX) -> Page:
    """One page, newest first or oldest first. after: the id that it goes on behind."""
    query = _of_tasks(db, want, after, oldest, rows_max)
    rows: list[TaskRow] = []
    for statement, values in query.looks("page", limit):
        rows = [TaskRow(*row) for row in db.execute(statement, values)]
        if len(rows) == limit:
            break
    return Page(rows, query.next_after(rows[-1].id if len(rows) == limit else 0))


def walk(db: apsw.Connection, want: Filter, *, limit: int, after: int = 0,
         oldest: bool = False, rows_max: int = ROWS_MAX) -> Walk:
    """The same, ids alone."""
    query = _of_tasks(db, want, after, oldest, rows_max)
    ids = query.ids("ids", limit)
    return Walk(ids, query.next_after(ids[-1] if len(ids) == limit else 0))


def count(db: apsw.Connection, want: Filter) -> tuple[int, bool]:
    """How many there are, and whether that is exact: at most COUNTED_MAX are counted."""
    query = _of_tasks(db, want, 0, False, COUNT_ROWS_MAX)
    found = len(query.ids("ids", COUNTED_MAX + 1))
    if found > COUNTED_MAX:
        return COUNTED_MAX, False
    return found, not query.next_after(0)


def failures(db: apsw.Connection, limit: int) -> list[tuple[int, str, int, int, str | None]]:
    """(id, name, state, finished_ms, error as JSON) of the newest that failed or timed out."""
    return list(sql.rows(db, SQL["failures"], (limit,)))


def runs(db: apsw.Connection, workflow_id: int, states: Sequence[int], *, limit: int,
         after: int = 0, rows_max: int = ROWS_MAX) -> tuple[list[RunRow], int]:
    """One page of runs, newest first, and as Page.after; workflow_id 0 = of all workflows."""
    wanted = sorted(set(states))
    sources = []
    if workflow_id:
        sources.append(_Source("workflow", ((SQL["runs_by_workflow"], (workflow_id,)),)))
    if wanted:
        sources.append(_Source("states", tuple(
            (SQL["runs_by_state"], (state,)) for state in wanted)))

    def where(done: str) -> Part:
        terms: list[str] = []
        values: list[SQLiteValue] = []
        if workflow_id and done != "workflow":
            terms.append("t.workflow_id = ?")
            values.append(workflow_id)
        if wanted and done != "states":
            terms.append(f"t.state IN ({','.join('?' * len(wanted))})")
            values += wanted
        return " AND ".join(terms) or "1", tuple(values)

    high = after - 1 if after else ID_MAX
    query = _Query(db, sources or [_Source("key", ((SQL["runs_by_key"], ()),))], where, (1, high),
                   "DESC", rows_max)
    ids = query.ids("run_ids", limit)
    rows = [row for number in ids if (row := flows.get(db, number)) is not None]
    return rows, query.next_after(ids[-1] if len(ids) == limit else 0)


def _of_tasks(db: apsw.Connection, want: Filter, after: int, oldest: bool,
              rows_max: int) -> _Query:
    low, high = _range(want)
    if after:
        low, high = (max(low, after + 1), high) if oldest else (low, min(high, after - 1))
    return _Query(db, _sources(want), lambda done: _where(want, done), (low, high),
                  "ASC" if oldest else "DESC", rows_max)


class _Query:
    """One filter over one range of ids, with the source that was chosen for it."""

    def __init__(self, db: apsw.Connection, sources: Sequence[_Source],
                 where: Callable[[str], Part], span: tuple[int, int], order: str,
                 rows_max: int) -> None:
        """where: what is left to look at when a source settles that much (`_Source.done`)."""
        self.db = db
        self.rows_max = rows_max
        self.order = order
        self.low, self.high = span
        self.source = sources[0]
        if len(sources) > 1:
            self.source = min(sources, key=lambda source: self.reach(source)[0])
        self.where = where(self.source.done)

    def looks(self, name: str, limit: int) -> Iterator[Part]:
        """The statement, first for few candidates, as mostly they are enough; then for all."""
        text, values = self._candidates(self.source)
        statement = SQL[name].format(candidates=text, order=self.order, where=self.where[0])
        for look in (FIRST_LOOK, self.rows_max) if self.where[0] != "1" else (limit,):
            yield statement, (*values, look, *self.where[1], limit)

    def ids(self, name: str, limit: int) -> list[int]:
        """The ids of the rows. name: the statement."""
        found: list[int] = []
        for statement, values in self.looks(name, limit):
            rows: Iterator[tuple[int]] = sql.rows(self.db, statement, values)
            found = [row[0] for row in rows]
            if len(found) == limit:
                break
        return found

    def reach(self, source: _Source) -> tuple[int, int]:
        """How many candidates a source has, up to rows_max, and the last of them."""
        text, values = self._candidates(source)
        rows: list[tuple[int, int]] = list(sql.rows(
            self.db, SQL["reach"].format(candidates=text, order=self.order),
            (1 if self.order == "DESC" else 0, *values, self.rows_max)))
        return rows[0]

    def next_after(self, last: int) -> int:
        """Where the next page goes on. last: the id of the last row of a full page."""
        if last:
            return last
        if self.where[0] == "1":
            return 0        # the page is not full, and nothing was passed over
        seen, end = self.reach(self.source)
        return end if seen == self.rows_max else 0

    def _candidates(self, source: _Source) -> Part:
        text = " UNION ALL ".join(arm for arm, _ in source.arms)
        values: list[SQLiteValue] = []
        for _, given in source.arms:
            values += (*given, self.low, self.high)
        return text, tuple(values)


def _range(want: Filter) -> tuple[int, int]:
    """The ids that can have been created between the two times."""
    low, high = 1, ID_MAX
    if want.created_from:
        low = max(low, (want.created_from - CLOCK_SLACK_MS) << ID_SHIFT)
    if want.created_to:
        high = min(high, (want.created_to + CLOCK_SLACK_MS) << ID_SHIFT)
    return low, high


def _sources(want: Filter) -> list[_Source]:
    """Every index that the filter could walk, the likely best first; the key when there is none."""
    found: list[_Source] = []
    if want.run_id:
        found.append(_Source("run", ((SQL["by_run"], (want.run_id,)),)))
    if want.label is not None:
        found.append(_Source("label", ((SQL["by_label"], want.label),)))
    states = _states(want)
    if states and TaskState.SUCCEEDED not in states:
        found.append(_Source("states", tuple(
            (SQL["by_live" if state < TaskState.SUCCEEDED else "by_unwell"], (state,))
            for state in states)))
    if want.def_id:
        found.append(_Source("def", ((SQL["by_def"], (want.def_id,)),)))
    if want.name:
        found.append(_Source("name", ((SQL["by_name"], (want.name,)),)))
    return found or [_Source("key", ((SQL["by_key"], ()),))]


def _states(want: Filter) -> Sequence[int]:
    """The states that are asked for, if only by the way."""
    if want.error_code and not want.states:
        return (TaskState.FAILED, TaskState.TIMEOUT, TaskState.CANCELED)
    return sorted(set(want.states))


def _where(want: Filter, done: str) -> Part:
    """What the source does not settle; "1" when that is nothing."""
    terms: list[str] = []
    values: list[SQLiteValue] = []
    states = _states(want)
    if states and done != "states":
        terms.append(f"t.state IN ({','.join('?' * len(states))})")
        values += states
    for name, column, value in (
            ("run", "run_id", want.run_id or None), ("def", "def_id", want.def_id or None),
            ("name", "name", want.name or None), ("", "worker_id", want.worker_id or None),
            ("", "kind", want.kind)):
        if value is not None and (not name or name != done):
            terms.append(f"t.{column} = ?")
            values.append(value)
    if want.label is not None and done != "label":
        terms.append(SQL["has_label"])
        values += want.label
    if want.created_from:
        terms.append("t.created_ms >= ?")
        values.append(want.created_from)
    if want.created_to:
        terms.append("t.created_ms <= ?")
        values.append(want.created_to)
    if want.error_code:
        terms.append("r.error ->> 'code' = ?")
        values.append(want.error_code)
    return " AND ".join(terms) or "1", tuple(values)
