"""Workflows that are graphs, against the real program."""

from __future__ import annotations

import time

import pytest

from tests.api.live import WAIT_S, Api, Json, refused, serving, whole

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)

WAIT = {"prefer": f"wait={WAIT_S}"}
ECHO = {"name": "builtin.echo"}
FAIL = {"name": "builtin.fail"}
LONG = {"name": "builtin.delay", "defaultPayload": 3600}
names = iter(f"graph-{number}" for number in range(1_000))


def made(api: Api, *steps: Json, **more: object) -> Json:
    return api.made("/v1/workflows", {"name": next(names), "steps": list(steps), **more})


def run(api: Api, flow: Json, payload: object = None, *, wait: bool = True) -> Json:
    body = None if payload is None else {"payload": payload}
    return whole(api.ask("POST", f"/v1/workflows/{flow['workflowId']}?action=run", body,
                         headers=WAIT if wait else {}), 201)


def by_id(found: Json) -> dict[str, Json]:
    steps: list[Json] = found["steps"]  # type: ignore[assignment]
    return {str(step["stepId"]): step for step in steps}


def states(found: Json) -> dict[str, object]:
    return {name: step["state"] for name, step in by_id(found).items()}


def at_rest(api: Api, found: Json) -> Json:
    """The run at its end."""
    return whole(api.ask("GET", f"/v1/workflow-runs/{found['runId']}", headers=WAIT), 200)


def act(api: Api, found: Json, action: str, step: str = "", payload: object = None) -> Json:
    path = f"/v1/workflow-runs/{found['runId']}" + (f"/steps/{step}" if step else "")
    body = None if payload is None else {"payload": payload}
    return whole(api.ask("POST", f"{path}?action={action}", body),
                 201 if action in ("retry", "rerun") else 200)


def task_of(api: Api, step: Json) -> Json:
    return api.get(f"/v1/tasks/{step['taskId']}")


def test_a_branch_a_join_and_data_between_steps(api: Api) -> None:
    flow = made(
        api,
        {"id": "get", "task": ECHO, "payload": {"value": "${params.value}", "list": [1, 2]}},
        {"id": "big", "type": "branch", "needs": ["get"],
         "condition": "steps.get.result.echo.value > 10"},
        {"id": "yes", "task": ECHO, "needs": [{"step": "big", "on": "true"}],
         "payload": "${steps.get.result.echo.list}"},
        {"id": "no", "task": ECHO, "needs": [{"step": "big", "on": "false"}]},
        {"id": "end", "task": ECHO, "needs": ["yes", "no"], "triggerRule": "none_failed",
         "payload": {"said": "it was ${params.value}", "skipped": "${steps.no.state}"}},
        params={"type": "object", "properties": {
            "value": {"type": "integer", "default": 42, "minimum": 0}}},
        result={"value": "${steps.end.result.echo.said}", "no": "${steps.no.result}"})
    done = run(api, flow)
    assert done["state"] == "Succeeded", done
    assert states(done) == {"get": "Succeeded", "big": "Succeeded", "yes": "Succeeded",
                            "no": "Skipped", "end": "Succeeded"}
    steps = by_id(done)
    assert steps["big"]["outcome"] is True
    assert task_of(api, steps["get"])["payload"] == {"value": 42, "list": [1, 2]}
    assert task_of(api, steps["yes"])["payload"] == [1, 2]
    assert task_of(api, steps["end"])["payload"] == {"said": "it was 42", "skipped": "Skipped"}
    assert (done["payload"], done["result"]) == (
        {"value": 42}, {"value": "it was 42", "no": None})
    small = run(api, flow, {"value": 3})
    assert states(small)["yes"] == "Skipped"
    assert states(small)["no"] == "Succeeded"
    before = api.count()
    for payload, field in (({"value": -1}, "payload.value"), ({"value": "x"}, "payload.value"),
                           ([], "payload")):
        refused(api.ask("POST", f"/v1/workflows/{flow['workflowId']}?action=run",
                        {"payload": payload}), 422, "invalid", field)
    assert api.count() == before


def test_failures_that_are_cared_for_and_on_failure(api: Api) -> None:
    cared = run(api, made(
        api, {"id": "a", "task": FAIL},
        {"id": "mend", "task": ECHO, "needs": [{"step": "a", "on": "failure"}]},
        {"id": "next", "task": ECHO, "needs": ["a"]}))
    assert cared["state"] == "Succeeded"
    assert states(cared) == {"a": "Failed", "mend": "Succeeded", "next": "Skipped"}
    assert by_id(cared)["next"]["skipReason"] == "upstream_failed"
    failed = run(api, made(
        api, {"id": "a", "task": FAIL}, {"id": "b", "task": ECHO, "needs": ["a"]},
        {"id": "tidy", "task": ECHO, "needs": ["b"], "triggerRule": "all_done"},
        onFailure=[{"id": "tell", "task": ECHO, "payload": "a is ${steps.a.state}"}]))
    assert failed["state"] == "Failed"
    assert states(failed) == {"a": "Failed", "b": "Skipped", "tidy": "Succeeded",
                              "tell": "Succeeded"}
    assert task_of(api, by_id(failed)["tell"])["payload"] == "a is Failed"


def test_loops_repeat_and_keep_what_each_round_did(api: Api) -> None:
    flow = made(
        api, {"id": "again", "type": "loop", "until": "steps.count.result.echo >= 3",
              "body": [{"id": "count", "task": ECHO, "payload": "${loop.index}"}]},
        {"id": "each", "type": "loop", "items": ["a", "b"], "needs": ["again"],
         "body": [{"id": "say", "task": ECHO, "payload": {"item": "${item}"}}]},
        {"id": "end", "task": ECHO, "needs": ["each"],
         "payload": ["${steps.again.result.count}", "${steps.each.result.results[1].echo.item}"]})
    done = run(api, flow)
    assert done["state"] == "Succeeded", done
    steps = by_id(done)
    assert steps["again"]["iterations"] == {"total": None, "count": 4, "failed": 0}
    assert task_of(api, steps["end"])["payload"] == [4, "b"]
    path = f"/v1/workflow-runs/{done['runId']}/steps"
    inside = [step["stepId"] for step in api.walk(f"{path}?inside=again&limit=3")]
    assert inside == [f"again[{number}].count" for number in range(4)]
    one = api.get(f"{path}/each[1].say")
    assert task_of(api, one)["payload"] == {"item": "b"}
    refused(api.ask("GET", f"{path}/each[2].say"), 404, "not_found")
    refused(api.ask("GET", f"{path}/nothing"), 404, "not_found")
    endless = run(api, made(api, {"id": "x", "type": "loop", "while": "true", "maxIterations": 5,
                                  "body": [{"id": "y", "type": "parallel"}]}))
    assert endless["state"] == "Failed"
    assert by_id(endless)["x"]["iterations"] == {"total": None, "count": 5, "failed": 0}


def test_a_map_over_many_items_gathers_results_in_order(api: Api) -> None:
    flow = made(
        api, {"id": "all", "type": "map", "items": "${params.items}", "concurrency": 7,
              "body": [{"id": "one", "task": ECHO, "payload": "${item}"}],
              "result": "${steps.one.result.echo}"},
        {"id": "end", "task": ECHO, "payload": "${steps.all.result.results}"},
        params={"properties": {"items": {"type": "array"}}})
    done = run(api, flow, {"items": list(range(50))})
    assert done["state"] == "Succeeded", done
    assert task_of(api, by_id(done)["end"])["payload"] == list(range(50))
    none = run(api, flow, {"items": []})
    assert task_of(api, by_id(none)["end"])["payload"] == []


def test_a_sub_workflow_gives_its_result_and_is_canceled_with_its_run(api: Api) -> None:
    inner = made(api, {"id": "a", "task": ECHO, "payload": "${params.x}"},
                 params={"properties": {"x": {"type": "integer"}}, "required": ["x"]},
                 result="${steps.a.result.echo}")
    outer = made(api, {"id": "sub", "type": "workflow", "workflow": inner["name"],
                       "payload": {"x": 7}},
                 {"id": "end", "task": ECHO, "payload": "${steps.sub.result}"})
    done = run(api, outer)
    assert done["state"] == "Succeeded", done
    assert task_of(api, by_id(done)["end"])["payload"] == 7
    child = api.get(f"/v1/workflow-runs/{by_id(done)['sub']['runId']}")
    assert (child["state"], child["parentRunId"], child["result"]) == (
        "Succeeded", done["runId"], 7)
    bad = run(api, made(api, {"id": "sub", "type": "workflow", "workflow": inner["workflowId"]}))
    assert bad["state"] == "Failed"
    error: Json = by_id(bad)["sub"]["error"]  # type: ignore[assignment]
    assert error["code"] == "invalid"
    slow = made(api, {"id": "a", "task": LONG})
    live = run(api, made(api, {"id": "sub", "type": "workflow", "workflow": slow["name"]}),
               wait=False)
    act(api, live, "cancel")
    over = at_rest(api, live)
    assert (over["state"], states(over)) == ("Canceled", {"sub": "Canceled"})
    assert api.get(f"/v1/workflow-runs/{by_id(over)['sub']['runId']}")["state"] == "Canceled"


def test_approvals_events_and_waits(api: Api) -> None:
    flow = made(
        api, {"id": "ask", "type": "approval"},
        {"id": "come", "type": "wait", "event": "arrived"},
        {"id": "rest", "type": "wait", "seconds": "${steps.come.result.seconds}"},
        {"id": "end", "task": ECHO, "payload": "${steps.ask.result.payload.who}"})
    live = run(api, flow, wait=False)
    assert states(live) == {"ask": "Running", "come": "Waiting", "rest": "Waiting",
                            "end": "Waiting"}
    path = f"/v1/workflow-runs/{live['runId']}/steps"
    why = api.get(f"{path}/come/why")
    assert why["causes"][0]["code"] == "needs"  # type: ignore[index]
    refused(api.ask("POST", f"{path}/come?action=complete"), 409, "wrong_state")
    refused(api.ask("POST", f"{path}/ask?action=sing"), 422, "invalid", "action")
    act(api, live, "approve", "ask", {"who": "Ada"})
    act(api, live, "complete", "come", {"seconds": 0.01})
    done = at_rest(api, live)
    assert done["state"] == "Succeeded", done
    assert task_of(api, by_id(done)["end"])["payload"] == "Ada"
    refused(api.ask("POST", f"{path}/ask?action=approve"), 409, "wrong_state")
    no = run(api, flow, wait=False)
    act(api, no, "reject", "ask")
    over = at_rest(api, no)
    assert (over["state"], states(over)["ask"], states(over)["end"]) == (
        "Failed", "Failed", "Skipped")
    late = run(api, made(api, {"id": "ask", "type": "approval", "timeoutSec": 0.01}))
    assert (late["state"], states(late)["ask"]) == ("Timeout", "Timeout")


def test_pause_resume_skip_and_the_run_timeout(api: Api) -> None:
    flow = made(api, {"id": "ask", "type": "approval"}, {"id": "b", "task": ECHO},
                {"id": "c", "task": ECHO, "needs": ["ask"]}, {"id": "d", "task": ECHO,
                                                              "needs": ["b", "c"],
                                                              "triggerRule": "none_failed"})
    live = run(api, flow, wait=False)
    assert act(api, live, "pause")["state"] == "Paused"
    assert [each["runId"] for each in api.items("/v1/workflow-runs?state=Paused")] == [
        live["runId"]]
    act(api, live, "skip", "c")
    act(api, live, "approve", "ask")
    assert act(api, live, "resume")["state"] in ("Running", "Succeeded")
    done = at_rest(api, live)
    assert states(done) == {"ask": "Succeeded", "b": "Succeeded", "c": "Skipped",
                            "d": "Succeeded"}
    assert by_id(done)["c"]["skipReason"] == "by_hand"
    refused(api.ask("POST", f"/v1/workflow-runs/{live['runId']}?action=pause"), 409,
            "wrong_state")
    late = run(api, made(api, {"id": "a", "task": LONG}, {"id": "b", "task": ECHO},
                         timeoutSec=0.05))
    assert (late["state"], states(late)) == ("Timeout", {"a": "Canceled", "b": "Skipped"})


def test_retry_goes_on_from_what_failed_in_a_new_run(api: Api) -> None:
    flow = made(
        api, {"id": "a", "task": ECHO, "payload": 5},
        {"id": "b", "type": "approval", "needs": ["a"]},
        {"id": "c", "task": ECHO, "needs": ["b"], "payload": "${steps.a.result.echo}"},
        {"id": "tidy", "task": ECHO, "needs": ["c"], "triggerRule": "all_done"})
    first = run(api, flow, wait=False)
    refused(api.ask("POST", f"/v1/workflow-runs/{first['runId']}?action=retry"), 409,
            "wrong_state")
    act(api, first, "reject", "b")
    failed = at_rest(api, first)
    assert failed["state"] == "Failed"
    second = act(api, first, "retry")
    assert (second["originRunId"], states(second)["a"]) == (first["runId"], "Succeeded")
    act(api, second, "approve", "b")
    done = at_rest(api, second)
    assert set(states(done).values()) == {"Succeeded"}
    assert by_id(done)["a"]["taskId"] == by_id(failed)["a"]["taskId"]
    assert by_id(done)["tidy"]["taskId"] != by_id(failed)["tidy"]["taskId"]
    assert task_of(api, by_id(done)["c"])["payload"] == 5
    assert at_rest(api, first) == failed
    third = act(api, second, "rerun")
    assert third["runId"] not in (first["runId"], second["runId"])
    act(api, third, "cancel")


T: Json = {"id": "t", "task": ECHO}
PROCESS: Json = {"name": "p", "executor": "os_process"}


@pytest.mark.parametrize(("steps", "field"), [
    ([{"id": "a", "task": ECHO, "needs": ["b"]}, {"id": "b", "task": ECHO, "needs": ["a"]}],
     "steps[0].needs"),
    ([T, {"id": "b", "task": ECHO, "needs": ["x"]}], "steps[1].needs[0]"),
    ([T, {"id": "b", "task": ECHO, "needs": [{"step": "t", "on": "true"}]}],
     "steps[1].needs[0].on"),
    ([T, T], "steps[1].id"), ([{"id": "a.b", "task": ECHO}], "steps[0].id"),
    ([{"type": "sing"}], "steps[0].type"), ([{"type": "branch"}], "steps[0].condition"),
    ([{"type": "branch", "condition": "1 +"}], "steps[0].condition"),
    ([{"type": "branch", "condition": "(" * 1_000}], "steps[0].condition"),
    ([{"type": "branch", "condition": "1+" * 5_000}], "steps[0].condition"),
    ([{"type": "parallel", "count": 3}], "steps[0].count"),
    ([{"type": "loop", "count": 3, "body": []}], "steps[0].body"),
    ([{"type": "loop", "body": [T]}], "steps[0]"), ([{"type": "map", "body": [T]}],
                                                    "steps[0].items"),
    ([{"type": "map", "items": [], "body": [{"type": "nothing"}]}], "steps[0].body[0].type"),
    ([{**T, "payload": {"a": ["${steps.u.result}"]}}], "steps[0].payload"),
    ([{**T, "payload": "${params.x"}], "steps[0].payload"),
    ([{**T, "payload": "${loop.index}"}], "steps[0].payload"),
    ([{**T, "needs": []}, {"id": "u", "task": ECHO, "needs": [],
                           "payload": "${steps.t.result}"}], "steps[1].payload"),
    ([{"type": "wait"}], "steps[0]"), ([{"type": "workflow"}], "steps[0].workflow"),
    ([{"type": "workflow", "workflow": "no such"}], "steps[0].workflow"),
    ([{**T, "triggerRule": "sometimes"}], "steps[0].triggerRule"),
    ([{"id": "p", "task": {"name": "p", "executor": "os_process", "defaultPayload":
                           {"command": "/bin/sh"}}, "payload": {"args": ["-c", "x ${run.id}"]}}],
     "steps[0].payload.args[1]"),
    ([{"task": {"name": "p", "executor": "magic"}}], "steps[0].task.executor"),
    ([{"task": PROCESS}], "steps[0].payload"),
    ([{"task": PROCESS, "payload": {"args": ["x"]}}], "steps[0].payload"),
    ([{**T, "compensate": {"task": PROCESS}}], "steps[0].compensate.payload"),
    ([{"type": "loop", "count": 2, "body": [{"task": PROCESS}]}], "steps[0].body[0].payload"),
    ([{"task": {**PROCESS, "defaultPayload": {"command": "/bin/true"}},
       "payload": {"comand": "x"}}], "steps[0].payload.comand"),
])
def test_what_could_not_work_is_refused_with_its_place(api: Api, steps: list[Json],
                                                       field: str) -> None:
    before = api.count()
    refused(api.ask("POST", "/v1/workflows", {"name": "bad", "steps": steps}), 422, "invalid",
            field)
    assert api.count() == before


def test_a_step_says_the_command_that_its_definition_leaves_open(api: Api) -> None:
    """Alone such a definition cannot be run."""
    definition = api.made("/v1/task-defs", {**PROCESS, "name": next(names)})["defId"]
    refused(api.ask("POST", f"/v1/task-defs/{definition}?action=run"), 422, "invalid", "payload")
    step: Json = {"id": "say", "definitionId": definition}
    refused(api.ask("POST", "/v1/workflows", {"name": next(names), "steps": [step]}), 422,
            "invalid", "steps[0].payload")
    done = run(api, made(api, {**step, "payload": {"command": "echo", "args": ["${params.word}"]}}),
               {"word": "so"})
    result = task_of(api, by_id(done)["say"])["result"]
    assert isinstance(result, dict)
    assert result["stdout"] == "so\n"


@pytest.mark.parametrize("odd", [b"1e400", b'{"a":[-1e999]}'])
def test_a_value_that_means_nothing_is_refused_wherever_it_comes(api: Api, odd: bytes) -> None:
    """It is well-formed JSON, so that it cannot be read is seen only where it is looked into."""
    name = str(time.monotonic_ns())
    step: Json = {"id": "say", "task": {"name": "builtin.echo"}}
    made = api.made("/v1/workflows", {"name": name, "steps": [
        step, {"id": "ask", "type": "approval"}]})
    strict_one = api.made("/v1/workflows", {
        "name": f"{name}/strict", "params": {"properties": {"n": {}}}, "steps": [step]})
    run = api.made(f"/v1/workflows/{made['workflowId']}?action=run")["runId"]
    flow = str(made["workflowId"]).encode()

    def asked(path: str, field: str, body: bytes) -> None:
        refused(api.ask("POST", path, body), 422, "invalid", field)

    for one in (made, strict_one):
        asked(f"/v1/workflows/{one['workflowId']}?action=run", "payload",
              b'{"payload":{"n":%b}}' % odd)
    asked(f"/v1/workflow-runs/{run}?action=rerun", "payload", b'{"payload":%b}' % odd)
    asked(f"/v1/workflow-runs/{run}/steps/ask?action=approve", "payload", b'{"payload":%b}' % odd)
    for key, field in (("payload", "steps[0].payload"), ("params", "params"), ("result", "result")):
        value = b'{"default":%b,"title":"${run.id}"}' % odd
        here = b'"steps":[{"id":"a","task":{"name":"builtin.echo"}%b}]%b' % (
            (b',"payload":' + value, b"") if key == "payload"
            else (b"", b',"%b":%b' % (key.encode(), value)))
        asked("/v1/workflows", field, b'{"name":"%b/odd",%b}' % (name.encode(), here))
    asked("/v1/schedules", "payload", b'{"name":"%b","workflowId":"%b","everySec":1,"payload":%b}'
          % (name.encode(), flow, odd))
    asked("/v1/triggers", "payload", b'{"name":"%b","workflowId":"%b","kind":"webhook",'
          b'"payload":%b}' % (name.encode(), flow, odd))
    api.done("POST", f"/v1/workflow-runs/{run}/steps/ask?action=approve")
    # Where nobody looks into it, it goes through as it is, and what refers to it has no value.
    kept = whole(api.ask("POST", "/v1/workflows", b'{"name":"%b/kept","steps":['
                 b'{"id":"say","task":{"name":"builtin.echo"},"payload":{"n":%b}},'
                 b'{"id":"more","task":{"name":"builtin.echo"},"payload":"${steps.say.result.echo.n}"}'
                 b"]}" % (name.encode(), odd)), 201)
    over = api.made(f"/v1/workflows/{kept['workflowId']}?action=run", {"payload": {"a": 1}},
                    prefer=f"wait={WAIT_S}")
    assert states(over) == {"say": "Succeeded", "more": "Failed"}
