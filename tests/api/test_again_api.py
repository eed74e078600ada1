"""Runs that are undone, tried again, or go no further than asked: against the real program."""

from __future__ import annotations

import pytest

from tests.api.live import Api, Json, refused, serving, whole
from tests.api.test_graphs_api import (
    ECHO,
    FAIL,
    WAIT,
    act,
    at_rest,
    by_id,
    made,
    run,
    states,
    task_of,
)

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)


def asked(api: Api, path: str, body: Json) -> Json:
    return whole(api.ask("POST", path, body, headers=WAIT), 201)


def test_a_run_is_undone_before_it_is_told(api: Api) -> None:
    undo = api.made("/v1/task-defs", {"name": "builtin.echo", "executor": "embedded"})
    flow = made(
        api,
        {"id": "book", "task": ECHO, "payload": 7,
         "compensate": {"definitionId": undo["defId"], "payload": "${steps.book.result.echo}"}},
        {"id": "pay", "task": ECHO, "compensate": {"task": FAIL}},
        {"id": "ship", "task": FAIL, "compensate": {"task": ECHO}},
        onFailure=[{"id": "tell", "task": ECHO}])
    done = run(api, flow)
    assert done["state"] == "Failed"
    assert states(done) == {
        "book": "Succeeded", "pay": "Succeeded", "ship": "Failed", "ship/undo": "Skipped",
        "pay/undo": "Failed", "book/undo": "Succeeded", "tell": "Succeeded"}
    steps = by_id(done)
    assert (steps["book/undo"]["compensates"], "compensates" in steps["book"]) == ("book", False)
    assert task_of(api, steps["book/undo"])["payload"] == 7
    order = [int(str(steps[name]["startedAt"])) for name in ("pay/undo", "book/undo", "tell")]
    assert order == sorted(order)
    one = api.get(f"/v1/workflow-runs/{done['runId']}/steps/book%2Fundo")
    assert one == steps["book/undo"]
    again = at_rest(api, act(api, done, "retry"))
    assert by_id(again)["book"]["taskId"] != steps["book"]["taskId"], "what was undone runs again"
    refused(api.ask("DELETE", f"/v1/task-defs/{undo['defId']}"), 409, "wrong_state")
    kept = api.get(f"/v1/workflows/{flow['workflowId']}")
    assert api.made("/v1/workflows", {"name": "copy-of-undo", "steps": kept["steps"],
                                      "onFailure": kept["onFailure"]})["steps"] == kept["steps"]


def test_nothing_is_undone_where_all_is_well(api: Api) -> None:
    done = run(api, made(api, {"id": "a", "task": ECHO, "compensate": {"task": ECHO}}))
    assert (done["state"], states(done)) == ("Succeeded", {"a": "Succeeded",
                                                           "a/undo": "Skipped"})


def test_a_retry_goes_on_inside_a_map(api: Api) -> None:
    flow = made(api, {"id": "each", "type": "map", "items": "${params.list}", "concurrency": 1,
                      "maxFailures": 9, "body": [
                          {"id": "no", "type": "branch", "condition": "item == 2"},
                          {"id": "good", "task": ECHO, "payload": "${item}",
                           "needs": [{"step": "no", "on": "false"}]},
                          {"id": "bad", "task": FAIL, "needs": [{"step": "no", "on": "true"}]}]},
                {"id": "stop", "task": FAIL, "needs": ["each"]},
                params={"properties": {"list": {"type": "array"}}})
    failed = run(api, flow, {"list": [1, 2, 3, 2]})
    assert states(failed) == {"each": "Succeeded", "stop": "Failed"}
    strict = made(api, {"id": "each", "type": "map", "items": "${params.list}", "concurrency": 4,
                        "body": [
                            {"id": "no", "type": "branch", "condition": "item == 2"},
                            {"id": "good", "task": ECHO, "payload": "${item}",
                             "needs": [{"step": "no", "on": "false"}]},
                            {"id": "bad", "task": FAIL, "needs": [{"step": "no", "on": "true"}]}]},
                  params={"properties": {"list": {"type": "array"}}})
    first = run(api, strict, {"list": [1, 2, 3, 2]})
    assert states(first) == {"each": "Failed"}
    again = at_rest(api, act(api, first, "retry"))
    assert states(again) == {"each": "Failed"}

    def tasks(found: Json) -> dict[str, object]:
        path = f"/v1/workflow-runs/{found['runId']}/steps?inside=each"
        return {str(step["stepId"]): step["taskId"] for step in api.walk(path)
                if step["taskId"] is not None}

    old, new = tasks(first), tasks(again)
    assert old.keys() == new.keys() == {"each[0].good", "each[1].bad", "each[2].good",
                                        "each[3].bad"}
    assert {name for name in old if old[name] == new[name]} == {"each[0].good", "each[2].good"}


def test_a_run_up_to_a_step(api: Api) -> None:
    flow = made(api, {"id": "a", "task": ECHO, "payload": 1}, {"id": "b", "task": ECHO},
                {"id": "c", "task": FAIL}, result="${steps.c.result.nothing}")
    path = f"/v1/workflows/{flow['workflowId']}?action=run"
    done = asked(api, path, {"upTo": "b"})
    assert (done["state"], done["result"]) == ("Succeeded", None)
    assert states(done) == {"a": "Succeeded", "b": "Succeeded", "c": "Skipped"}
    assert by_id(done)["c"]["skipReason"] == "not_asked"
    rerun = f"/v1/workflow-runs/{done['runId']}?action=rerun"
    assert states(asked(api, rerun, {})) == {"a": "Succeeded", "b": "Succeeded", "c": "Failed"}
    assert states(asked(api, rerun, {"upTo": "a"}))["b"] == "Skipped"
    before = api.count()
    refused(api.ask("POST", path, {"upTo": "nobody"}), 422, "invalid", "upTo")
    refused(api.ask("POST", path, {"upTo": ""}), 422, "invalid", "upTo")
    refused(api.ask("POST", f"/v1/workflow-runs/{done['runId']}?action=retry", {"upTo": "a"}),
            422, "invalid", "upTo")
    refused(api.ask("POST", f"/v1/workflows/{flow['workflowId']}?action=rollback",
                    {"version": 1, "upTo": "a"}), 422, "invalid", "upTo")
    assert api.count() == before


def test_a_rerun_in_another_version(api: Api) -> None:
    flow = made(api, {"id": "a", "task": ECHO})
    first = run(api, flow)
    api.done("PUT", f"/v1/workflows/{flow['workflowId']}", {
        "name": flow["name"], "steps": [{"id": "b", "task": ECHO}]})
    path = f"/v1/workflow-runs/{first['runId']}?action=rerun"
    same, newer = asked(api, path, {}), asked(api, path, {"version": 2})
    assert (list(states(same)), list(states(newer))) == (["a"], ["b"])
    assert (newer["workflowVersion"], newer["originRunId"]) == (2, first["runId"])
    refused(api.ask("POST", path, {"version": 3}), 404, "not_found")
    refused(api.ask("POST", path, {"version": 0}), 422, "invalid", "version")
