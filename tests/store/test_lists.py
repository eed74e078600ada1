"""Lists of tasks: every combination of filters finds what a plain look at all rows finds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import apsw
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plumd.flow.graph import Graph, RunPlan, Scope
from plumd.model import Ended, Ending, Finish, Submit, TaskError, TaskState
from plumd.store import flows, lists, migrate, tasks
from plumd.store.lists import CLOCK_SLACK_MS, Filter
from plumd.store.tasks import ID_SHIFT, TaskRow

NO_STEPS = Graph("", Scope((), (), {}))
EPOCH_MS = 1_700_000_000_000
COUNT = 300
NAMES, WORKERS, CODES = ("a", "b", "c"), ("w1", "w2"), ("boom", "exit", "lost")
LABELS = (("x", "1"), ("x", "2"), ("y", "1"))


def fill(db: apsw.Connection, count: int) -> None:
    """Rows of every kind; ids are drawn up to a second before the time that is recorded."""
    draw = Random(3)
    with db:
        for i in range(count):
            created_ms = EPOCH_MS + i * 500
            number = (created_ms - draw.randrange(1000) << ID_SHIFT) + i
            state = TaskState(draw.choice((0, 1, 1, 2, 3, 4, 4, 4, 5, 6, 7)))
            submit = Submit(number, draw.choice(NAMES), draw.randrange(3),
                            def_id=draw.randrange(3), run_id=draw.randrange(4),
                            labels=tuple(dict(draw.sample(LABELS, draw.randrange(3))).items()))
            worker = draw.choice(WORKERS) if state >= TaskState.RUNNING else None
            tasks.insert(db, [(submit, created_ms, state, 1 if worker else 0, worker, 0, 0, 0, 0)])
            if state > TaskState.SUCCEEDED:
                error = TaskError(draw.choice(CODES), "it broke")
                tasks.end(db, [Ended(number, 1, Ending.FAILED, state, worker or "", "", 1, 2, "",
                                     Finish(number, 1, "w", Ending.FAILED, error=error),
                                     submit.name, 0, -1, 0)])


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Iterator[apsw.Connection]:
    opened = migrate.open_writer(tmp_path_factory.mktemp("lists") / "plum.db", log_bytes=0)
    fill(opened, COUNT)
    yield opened
    opened.close()


class Everything:
    """All rows, newest first, by the plainest way."""

    def __init__(self, db: apsw.Connection) -> None:
        found = [tasks.get(db, int(row[0])) for row in db.execute("SELECT id FROM tasks")]
        self.rows = sorted((row for row in found if row is not None), key=lambda row: -row.id)


@pytest.fixture(scope="module")
def everything(db: apsw.Connection) -> Everything:
    return Everything(db)


def meets(row: TaskRow, want: Filter) -> bool:
    """What the filter says, in plain words."""
    error = None if row.error is None else msgspec.json.decode(row.error, type=TaskError)
    labels = {} if row.labels is None else msgspec.json.decode(row.labels, type=dict[str, str])
    return ((not want.states or row.state in want.states)
            and want.name in ("", row.name) and want.def_id in (0, row.def_id)
            and want.run_id in (0, row.run_id) and want.worker_id in ("", row.worker_id)
            and want.kind in (None, row.kind)
            and (want.label is None or labels.get(want.label[0]) == want.label[1])
            and row.created_ms >= want.created_from
            and (not want.created_to or row.created_ms <= want.created_to)
            and (not want.error_code or (error is not None and error.code == want.error_code)))


TIMES = st.sampled_from((0, 0, EPOCH_MS + 20_000, EPOCH_MS + 70_500, EPOCH_MS + 120_000))
FILTERS = st.builds(
    Filter, states=st.lists(st.integers(0, 7), max_size=3).map(tuple),
    name=st.sampled_from(("", *NAMES, "none")), def_id=st.sampled_from((0, 0, 1, 2)),
    run_id=st.sampled_from((0, 0, 1, 3)), worker_id=st.sampled_from(("", "", *WORKERS)),
    kind=st.sampled_from((None, None, 0, 1, 2)), label=st.sampled_from((None, None, *LABELS)),
    created_from=TIMES, created_to=TIMES, error_code=st.sampled_from(("", "", *CODES)))


@settings(max_examples=400)
@given(want=FILTERS, limit=st.sampled_from((1, 7, 100, 1000)), oldest=st.booleans(),
       rows_max=st.sampled_from((3, 20, 20_000)))
def test_all_pages_together_are_the_list(db: apsw.Connection, everything: Everything,
                                         want: Filter, limit: int, oldest: bool,
                                         rows_max: int) -> None:
    expected = [row.id for row in everything.rows if meets(row, want)]
    if oldest:
        expected.reverse()
    found: list[int] = []
    after = pages = 0
    while True:
        page = lists.page(db, want, limit=limit, after=after, oldest=oldest, rows_max=rows_max)
        walk = lists.walk(db, want, limit=limit, after=after, oldest=oldest, rows_max=rows_max)
        assert [row.id for row in page.rows] == walk.ids
        assert walk.after == page.after
        assert len(walk.ids) <= limit
        found += walk.ids
        pages += 1
        assert pages <= COUNT + 2, "it does not get on"
        if not page.after:
            break
        after = page.after
    assert found == expected
    assert lists.count(db, want) == (len(expected), True)


def test_a_page_stops_at_its_budget(db: apsw.Connection, everything: Everything) -> None:
    want = Filter(worker_id="nobody")
    page = lists.page(db, want, limit=10, rows_max=50)
    assert page.rows == []
    assert page.after == everything.rows[49].id, "the next page goes on where this one stopped"


def test_the_fewest_candidates_are_chosen(db: apsw.Connection) -> None:
    """However the filters are combined, a rare one is not looked for among many."""
    with db:
        tasks.insert(db, [(Submit(1, "rare"), EPOCH_MS, 5, 0, None, 0, 0, 0, 0)])
    try:
        for want in (Filter(name="rare", states=(5,)), Filter(name="rare", states=(5, 6))):
            page = lists.page(db, want, limit=1, rows_max=20)
            assert [row.id for row in page.rows] == [1], "it was not beyond the budget"
    finally:
        tasks.delete(db, 1)


def test_counts_are_bounded(db: apsw.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "COUNTED_MAX", 30)
    assert lists.count(db, Filter()) == (30, False)
    monkeypatch.setattr(lists, "COUNT_ROWS_MAX", 40)
    assert lists.count(db, Filter(worker_id="nobody")) == (0, False), "more may come"


def test_the_newest_failures(db: apsw.Connection, everything: Everything) -> None:
    expected = [row.id for row in everything.rows if row.state in (5, 6)]
    assert [row[0] for row in lists.failures(db, 1000)] == expected
    assert [row[0] for row in lists.failures(db, 5)] == expected[:5]


@settings(max_examples=100)
@given(workflow=st.sampled_from((0, 1, 2, 9)), states=st.lists(st.integers(0, 7), max_size=3),
       limit=st.sampled_from((1, 7, 1000)), rows_max=st.sampled_from((3, 20_000)))
def test_all_pages_of_runs_are_the_list(db: apsw.Connection, workflow: int, states: list[int],
                                        limit: int, rows_max: int) -> None:
    facts = [(number, 1 + number % 3, number * 7 % 8) for number in range(1, 61)]
    if flows.get(db, 1) is None:
        with db:
            flows.write(db, flows.RunChange(
                [(RunPlan(number, flow, 1, (), NO_STEPS), 1) for number, flow, _ in facts],
                ended=[flows.RunEnd(number, state, 2, ()) for number, _, state in facts]))
    expected = [number for number, flow, state in facts[::-1]
                if workflow in (0, flow) and (not states or state in states)]
    found: list[int] = []
    after = 0
    while True:
        rows, following = lists.runs(db, workflow, states, limit=limit, after=after,
                                     rows_max=rows_max)
        assert len(rows) <= limit
        found += [row.id for row in rows]
        if not following:
            break
        assert not after or following < after, "it gets on"
        after = following
    assert found == expected


def test_ids_and_times_may_differ_a_little() -> None:
    """A clock that is set makes ids run ahead of times, but not by as much as this."""
    assert CLOCK_SLACK_MS >= 10_000


def test_an_older_database_gets_the_new_indexes(tmp_path: Path) -> None:
    path = tmp_path / "plum.db"
    migrate.open_writer(path, log_bytes=0).close()
    db = apsw.Connection(str(path))
    names = {row[0] for row in db.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'index' AND tbl_name = 'tasks'")}
    db.close()
    assert {"tasks_live", "tasks_unwell"} <= names
    assert "tasks_by_state" not in names
