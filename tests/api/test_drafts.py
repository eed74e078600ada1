"""Many tasks of one request: what is common to them is looked at once, nothing is mixed up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from plumd.api.task_bodies import Drafts, TaskCreate, draft_of
from plumd.errors import Invalid
from plumd.model import TaskDefBody
from plumd.store import definitions
from plumd.store.definitions import Catalog
from plumd.store.store import Change, Store

ANOTHER: dict[str, object] = {
    "name": "other", "def_id": "7", "executor": "os_process", "target_kind": "node",
    "target_ref": "w2", "labels": {"a": "2"}, "priority": 7, "timeout_sec": 8.0,
    "queue_timeout_sec": 9.0, "max_retries": 2, "on_lost": "fail", "delay_sec": 3.0,
    "auto_start": False, "concurrency_key": "k2", "concurrency_limit": 4, "on_conflict": "skip",
    "payload": msgspec.Raw(b'{"command": "true"}')}
FIRST: dict[str, object] = {
    "name": "t", "target_kind": "worker", "target_ref": "w", "labels": {"a": "1"},
    "payload": msgspec.Raw(b'{"command": "false"}')}


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    """With one definition, number 7, named `defined`."""
    store = Store(tmp_path / "plum.db", threads=False)
    body = TaskDefBody(name="defined", max_retries=5, default_payload=msgspec.Raw(b'{"x": 1}'))
    store.commit_now(Change(1, calls=[
        lambda tx: definitions.create(tx, definitions.TASK_DEFS, 7, body)]))
    yield Catalog(store)
    store.close()


def bodies() -> Iterator[TaskCreate]:
    """One, and others that differ from it in a single field each."""
    yield TaskCreate(**FIRST)  # type: ignore[arg-type]  # values by field
    for name, value in ANOTHER.items():
        changed = FIRST | {name: value}
        if name == "def_id":
            changed = {"def_id": value, "payload": FIRST["payload"]}
        if name == "executor":
            changed["target_kind"] = "node"
        yield TaskCreate(**changed)  # type: ignore[arg-type]  # values by field


def test_each_field_counts(catalog: Catalog) -> None:
    assert set(ANOTHER) | {"expire_at"} == set(TaskCreate.__struct_fields__)
    drafts = Drafts(catalog)
    many = [*bodies(), *bodies()]
    found = [drafts.submit(body, number) for number, body in enumerate(many)]
    assert found == [draft_of(catalog, body).with_payload(body.payload, number)
                     for number, body in enumerate(many)]
    half = len(many) // 2
    alike = [msgspec.structs.replace(task, task_id=0) for task in found]
    assert alike[:half] == alike[half:]
    assert len({repr(task) for task in alike[:half]}) == half, "no two of them are the same"


def test_payloads_are_judged_one_by_one(catalog: Catalog) -> None:
    drafts = Drafts(catalog)
    wait = TaskCreate(name="builtin.delay", payload=msgspec.Raw(b'{"seconds": 1}'))
    assert drafts.submit(wait, 1).payload == b'{"seconds": 1}'
    with pytest.raises(Invalid):
        drafts.submit(msgspec.structs.replace(wait, payload=msgspec.Raw(b'{"seconds": "x"}')), 2)
    named = TaskCreate(name="defined", payload=msgspec.Raw(b'{"y": 2}'))
    assert msgspec.json.decode(drafts.submit(named, 3).payload or b"") == {"x": 1, "y": 2}
    plain = drafts.submit(TaskCreate(name="defined"), 4)
    assert (plain.payload, plain.max_retries, plain.def_id) == (b'{"x": 1}', 5, 7)
