"""plumd.starts: what a schedule or trigger starts is what the same request by hand would be."""

from __future__ import annotations

import msgspec

from plumd.bodies import TaskDefBody
from plumd.starts import plain_task
from plumd.store.definitions import Versioned


def test_a_payload_lies_over_that_of_the_definition() -> None:
    body = TaskDefBody(name="count", default_payload=msgspec.Raw(b'{"a":1,"b":2}'), priority=7)
    found = Versioned(5, 3, body, 0, 0)
    task = plain_task(found, b'{"b":3}')
    assert msgspec.json.decode(task.payload or b"") == {"a": 1, "b": 3}
    assert (task.name, task.def_id, task.def_version, task.priority) == ("count", 5, 3, 7)
    assert plain_task(found, None).payload == b'{"a":1,"b":2}'
