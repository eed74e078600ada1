"""Every statement that an API query or the engine runs walks an index or the key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from plumd.store import migrate, sql

SUBJECTS = ("tasks", "events", "workers", "keys", "flows", "definitions", "services", "blobs",
            "kv", "devices", "lists", "schedules",
            "limits", "triggers", "webhooks", "history", "brokers", "nodes", "apps",
            "deployments", "instances", "leases", "alarms", "buckets")
# Few rows, read whole on purpose, or no more of them than the slice's limit.
WHOLE = {
    ("workers", "all"), ("workers", "prune"), ("services", "all"),
    ("definitions", "workflows_using"),
    ("definitions", "hidden_workflows"), ("events", "prune"),
    ("devices", "all"), ("devices", "count"), ("devices", "reporting"), ("devices", "prune"),
    ("kv", "gone_count"), ("triggers", "listening"), ("webhooks", "all"), ("brokers", "all"),
    ("schedules", "plans"), ("schedules", "shift_paced"), ("schedules", "ahead"),
    ("nodes", "all"), ("apps", "files"), ("deployments", "all"), ("deployments", "in_use"),
    ("alarms", "rules"), ("alarms", "rule_count"), ("alarms", "prune"), ("buckets", "devices"),
    ("leases", "all"), ("leases", "count"), ("services", "policies"),
    ("services", "policy_count"),
    ("instances", "all"), ("instances", "counts"),
    ("kv", "namespaces"),       # of the names, not of the keys
}
PIECES = {
    ("flows", "page"): [
        ("", "id < ?"), ("", "id < ? AND workflow_id = ?"), ("", "id < ? AND state = ?")],
}


LISTS = sql.load("lists")
SOURCES = [LISTS[name] for name in LISTS if name.startswith("by_")] + [
    f"{LISTS['by_live']} UNION ALL {LISTS['by_live']}",
    f"{LISTS['by_live']} UNION ALL {LISTS['by_unwell']} UNION ALL {LISTS['by_unwell']}"]
WHERE = f"t.state IN (?,?) AND {LISTS['has_label']} AND r.error ->> 'code' = ?"


def lists_of_tasks() -> Iterator[tuple[str, str, str]]:
    """Every source in both orders, with the filters that are looked at row by row."""
    for name in ("page", "ids", "reach"):
        for number, source in enumerate(SOURCES):
            for order in ("ASC", "DESC"):
                yield "lists", f"{name}-{number}-{order}", LISTS[name].format(
                    candidates=source, order=order, where=WHERE)
    for number, source in enumerate([
            *(LISTS[name] for name in LISTS if name.startswith("runs_by_")),
            f"{LISTS['runs_by_state']} UNION ALL {LISTS['runs_by_state']}"]):
        yield "lists", f"run_ids-{number}", LISTS["run_ids"].format(
            candidates=source, order="DESC", where="t.workflow_id = ? AND t.state IN (?,?)")


def statements() -> Iterator[tuple[str, str, str]]:
    for subject in SUBJECTS:
        if subject == "lists":
            yield subject, "failures", LISTS["failures"]
            yield from lists_of_tasks()
            continue
        for name, text in sql.load(subject).items():
            pieces = PIECES.get((subject, name))
            if pieces is None:
                yield subject, name, text
            else:
                for number, (source, where) in enumerate(pieces):
                    yield subject, f"{name}-{number}", text.format(
                        source=source, where=where, order=where.split()[-3])


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Iterator[apsw.Connection]:
    opened = migrate.open_writer(tmp_path_factory.mktemp("queries") / "plum.db", log_bytes=0)
    yield opened
    opened.close()


@pytest.mark.parametrize(("subject", "name", "text"), list(statements()),
                         ids=lambda value: value if len(str(value)) < 40 else "")
def test_no_statement_reads_a_whole_table(db: apsw.Connection, subject: str, name: str,
                                          text: str) -> None:
    if (subject, name) in WHOLE:
        return
    count = len(re.findall(r"\?", text))
    plan = [row[3] for row in db.execute("EXPLAIN QUERY PLAN " + text, (1,) * count)]
    for step in plan:
        assert not re.match(r"SCAN (?!json_each|CONSTANT|c$|\(subquery)", step) or \
            "USING" in step, f"{subject}.{name}: {step}"
    assert not any("TEMP B-TREE" in step and "ORDER BY" in step for step in plan), \
        f"{subject}.{name} sorts: {plan}"


def test_every_subject_is_looked_at() -> None:
    found = {path.stem for path in (Path(sql.__file__).parent).glob("*.sql")}
    assert found == {*SUBJECTS, "quarantine"}


def test_a_statement_comes_without_the_remark_on_the_one_behind_it(db: apsw.Connection) -> None:
    """Else SQLite reads that anew at each execution, for it is no statement that could be kept."""
    for subject in (*SUBJECTS, "quarantine"):
        for name, text in sql.load(subject).items():
            if "{" in text or name == "has_label":
                continue        # pieces of others
            empty = db.cache_stats()["no_vdbe"]
            db.execute("EXPLAIN " + text, (1,) * len(re.findall(r"\?", text))).fetchall()
            assert db.cache_stats()["no_vdbe"] == empty, f"{subject}.{name}"
