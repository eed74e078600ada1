"""A run with a time limit ends, whatever its steps for failures do."""

from __future__ import annotations

import pytest

from tests.api.live import Api, listed, serving

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)
SLOW = {"name": "builtin.delay", "defaultPayload": {"seconds": 3_000}}


@pytest.mark.parametrize(("first", "state", "ended"), [
    ({"name": "builtin.fail"}, "Failed", "Failed"), (SLOW, "Timeout", "Canceled")])
def test_on_failure_has_its_time_too(api: Api, first: dict[str, object], state: str,
                                     ended: str) -> None:
    made = api.made("/v1/workflows", {
        "name": f"late {state}", "timeoutSec": 1, "steps": [{"id": "a", "task": first}],
        "onFailure": [{"id": "tell", "task": SLOW}, {"id": "then", "task": SLOW}]})
    run = api.made(f"/v1/workflows/{made['workflowId']}?action=run", prefer="wait=60")
    assert run["state"] == state
    steps = {one["stepId"]: one["state"] for one in listed(run["steps"])}
    assert steps == {"a": ended, "tell": "Canceled", "then": "Skipped"}
    assert int(str(run["finishedAt"])) >= int(str(run["createdAt"])) + 2_000
