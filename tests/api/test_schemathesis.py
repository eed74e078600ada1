"""The OpenAPI document against the daemon that it describes: generated requests, good and bad.

PLUM_SCHEMATHESIS_EXAMPLES says how many of each sort an operation gets (default 5); a nightly
run may take thousands.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis import checks as known_checks
from schemathesis.checks import CHECKS, CheckFunction
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.adapter import OpenApiResponses
from schemathesis.specs.openapi.adapter.parameters import OpenApiParameter
from schemathesis.specs.openapi.adapter.security import OpenApiSecurityParameters
from schemathesis.specs.openapi.schemas import OpenApiSchema

from tests import zips
from tests.api.live import Api, serving
from tests.daemon.plant import wait_for

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)

EXAMPLES = int(os.environ.get("PLUM_SCHEMATHESIS_EXAMPLES", "5"))
ENDLESS = ("/v1/events", "/v1/embedded-workers/{id}/stream", "/v1/resources/{id}/exchange",
           "/v1/resources/{id}/stream")
"""Event streams never end, a WebSocket is no JSON, and a long poll takes its time:
test_events_api, tests/stream and test_resources_api."""

Operation = APIOperation[OpenApiParameter, OpenApiResponses, OpenApiSecurityParameters,
                         OpenApiSchema]

known_checks.load_all_checks()


def checks(*names: str) -> list[CheckFunction]:
    """Checks by name; these are all plain functions."""
    found = [check for check in CHECKS.get_by_names(list(names)) if not isinstance(check, type)]
    assert len(found) == len(names)
    return found


CONFORMS = checks("not_a_server_error", "status_code_conformance", "content_type_conformance",
                  "response_headers_conformance", "response_schema_conformance")
REJECTS = checks("negative_data_rejection")
BY_ITEM = ("/v1/tasks/bulk", "/v1/tasks/bulk-cancel", "/v1/workflows/validate")
"""A bad item of a bulk is refused in the answer's place for it; what is wrong with a workflow that
is only looked at is the answer. And the generator makes no list of
10,001, yet blames the shorter one that it sends for `maxItems`; the bound has a test of its own."""


def test_a_bulk_has_its_bound(api: Api) -> None:
    for path, body in (("/v1/tasks/bulk-cancel", {"taskIds": ["1"] * 10_001}),
                       ("/v1/tasks/bulk", {"tasks": [{}] * 10_001})):
        answer = api.ask("POST", path, body)
        assert answer.status_code == 422, path


@pytest.fixture(scope="module")
def schema(api: Api) -> OpenApiSchema:
    """The live document."""
    return schemathesis.openapi.from_url(f"{api.daemon.url}/openapi.json")


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    """One connection for all requests, by no proxy."""
    with requests.Session() as session:
        session.trust_env = False
        yield session


def operations(schema: OpenApiSchema) -> Iterator[Operation]:
    """Those whose bodies are read strictly and whose answers end."""
    for result in schema.get_all_operations():
        assert isinstance(result, Ok), result.err()
        operation = result.ok()
        if operation.path in ENDLESS or "x-plum-lenient" in operation.definition.raw:
            continue
        yield operation


def things(api: Api, number: int) -> dict[str, str]:
    """One of each that is there: the first word of a path -> an id that it may name."""
    definition = api.made("/v1/task-defs", {"name": f"there {number}"})
    flow = api.made("/v1/workflows", {"name": f"there {number}", "steps": [
        {"definitionId": definition["defId"]}]})
    run = api.made(f"/v1/workflows/{flow['workflowId']}?action=run")
    task = api.ended(api.task("builtin.echo", payload={"a": 1}, labels={"k": "v"})["taskId"])
    api.done("POST", "/v1/workers/register", {"workerId": "there", "url": "http://127.0.0.1:1/"})
    plan = api.made("/v1/schedules", {"name": f"there {number}", "cron": "0 0 1 1 *",
                                      "defId": definition["defId"]})
    trigger = api.made("/v1/triggers", {"name": f"there {number}", "kind": "webhook",
                                        "workflowId": flow["workflowId"]})
    hook = api.made("/v1/webhooks", {"name": f"there {number}", "url": "http://127.0.0.1:1/",
                                     "topics": ["limits"]})
    api.done("POST", "/v1/nodes/heartbeat", {"nodeId": "there"})
    app = api.http.post("/v1/apps/upload", content=zips.app("there", str(number))).json()
    made = api.done("POST", "/v1/deployments", {"name": "there", "artifactUrl": app["url"],
                                                "replicas": {"there": 1}})
    api.done("POST", "/v1/resources/register", {"resourceId": "there"})
    rule = api.made("/v1/alarm-rules", {"name": f"there {number}", "state": "s", "op": ">",
                                        "value": 0, "resourceId": "there"})
    api.ask("POST", "/v1/resources/state", {"resourceId": "there", "states": {"s": "1"}})
    wait_for(lambda: bool(api.items("/v1/alarms?resourceId=there")), "an alarm")
    [alarm, *_] = api.items("/v1/alarms?resourceId=there")
    return {"resources": "there", "alarm-rules": str(rule["ruleId"]),
            "alarms": str(alarm["alarmId"]), "nodes": "there", "apps": str(app["artifactId"]),
            "deployments": str(made["deploymentId"]), "instances": str(listed_first(made)),
            "tasks": str(task["taskId"]), "schedules": str(plan["scheduleId"]),
            "triggers": str(trigger["triggerId"]), "webhooks": str(hook["webhookId"]),
            "task-defs": str(definition["defId"]), "workflows": str(flow["workflowId"]),
            "workflow-runs": str(run["runId"]),
            "workers": "there", "embedded-workers": "there"}


def listed_first(made: dict[str, object]) -> object:
    """The first instance of a new deployment."""
    found = made["instances"]
    assert isinstance(found, list)
    return found[0]


def ask_all(operation: Operation, mode: GenerationMode, ids: dict[str, str],
            session: requests.Session) -> int:
    """How many generated requests an operation answered as documented. Raises: Failure."""
    asked = 0
    # An empty parameter (`?limit=`) counts as left out, so only bodies must be rejected.
    checked = CONFORMS + (REJECTS if operation.body and operation.path not in BY_ITEM else [])

    @given(case=operation.as_strategy(mode), known=st.booleans())
    @settings(max_examples=EXAMPLES, database=None, deadline=None, print_blob=True,
              phases=(Phase.generate, Phase.shrink), suppress_health_check=list(HealthCheck))
    def ask(case: Case[Operation], known: bool) -> None:
        nonlocal asked
        if known and "id" in case.path_parameters:
            case.path_parameters["id"] = ids[operation.path.split("/")[2]]
        answer = case.call(session=session, timeout=30)
        case.validate_response(answer, checks=checked)
        asked += 1

    ask()
    return asked


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_the_daemon_does_what_its_document_says(
        api: Api, schema: OpenApiSchema, session: requests.Session, mode: GenerationMode) -> None:
    asked, wrong = {}, []
    ids: dict[str, str] = {}
    for number, operation in enumerate(operations(schema)):
        if mode is GenerationMode.NEGATIVE and not (len(operation.query) or len(operation.body)):
            continue        # nothing about it can be wrong: any text may be an id
        if not ids:
            ids = things(api, number + 1000 * list(GenerationMode).index(mode))
        try:
            asked[operation.label] = ask_all(operation, mode, ids, session)
        except (Failure, FailureGroup) as failure:
            found = failure.exceptions if isinstance(failure, FailureGroup) else [failure]
            wrong.append("\n".join([operation.label, *map(str, found), *getattr(
                failure, "__notes__", ())]))
        if operation.method != "get":
            ids = {}        # they may be gone, or no more what they were
    assert not wrong, "\n\n".join(wrong)
    assert sum(count > 0 for count in asked.values()) > (
        20 if mode is GenerationMode.POSITIVE else 12), asked
