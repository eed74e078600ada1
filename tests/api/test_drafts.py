"""Many tasks of one request: what is common to them is looked at once, nothing is mixed up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from plumd.api.decode import strict
from plumd.api.task_bodies import Drafts, TaskCreate, draft_of
from plumd.bodies import TaskDefBody
from plumd.errors import Invalid
from plumd.store import definitions
from plumd.store.definitions import Catalog
from plumd.store.store import Change, Store

ANOTHER: dict[str, object] = {
    "name": "other", "defId": "7", "executor": "os_process", "targetKind": "node",
    "targetRef": "w2", "labels": {"a": "2"}, "priority": 7, "timeoutSec": 8.0,
    "queueTimeoutSec": 9.0, "maxRetries": 2, "onLost": "fail", "delaySec": 3.0,
    "autoStart": False, "concurrencyKey": "k2", "concurrencyLimit": 4, "onConflict": "skip",
    "payload": {"command": "true"}}
FIRST: dict[str, object] = {
    "name": "t", "targetKind": "worker", "targetRef": "w", "labels": {"a": "1"},
    "payload": {"command": "false"}}


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
    yield body_of(FIRST)
    for name, value in ANOTHER.items():
        changed = FIRST | {name: value}
        if name == "defId":
            changed = {"defId": value, "payload": FIRST["payload"]}
        if name == "executor":
            changed["targetKind"] = "node"
        yield body_of(changed)


def body_of(fields: dict[str, object]) -> TaskCreate:
    """As it comes in a request."""
    return strict(msgspec.json.encode(fields), TaskCreate)


def test_each_field_counts(catalog: Catalog) -> None:
    assert set(ANOTHER) | {"expireAt"} == set(TaskCreate.__struct_encode_fields__)
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
