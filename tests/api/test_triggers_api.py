"""Triggers of every kind, against the real program: one event, one run."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Mapping

import httpx
import pytest

from plumd.signing import sign
from tests.api.live import Api, Json, listed, refused, serving, whole
from tests.daemon.plant import wait_for

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)


@pytest.fixture(scope="module", name="flow")
def made_flow(api: Api) -> str:
    """A workflow that answers its payload."""
    return str(api.made("/v1/workflows", {"name": "hooked", "steps": [
        {"id": "say", "task": {"name": "builtin.echo"}}]})["workflowId"])


def trigger(api: Api, name: str, **fields: object) -> Json:
    return api.made("/v1/triggers", {"name": name, **fields})


def call(api: Api, made: Json, body: object, *, ident: str = "", secret: str = "",
         headers: Mapping[str, str] | None = None, at: int = 0) -> httpx.Response:
    """As whoever sends webhooks calls."""
    data = json.dumps(body).encode()
    stamp = at or int(time.time())
    signed = {} if not secret else {
        "webhook-id": ident, "webhook-timestamp": str(stamp),
        "webhook-signature": sign(secret, ident, stamp, data)}
    return api.ask("POST", str(made["path"]), data, headers={**signed, **dict(headers or {})})


def taken(answer: httpx.Response) -> Json:
    return whole(answer, 202)


def history(api: Api, made: Json, query: str = "") -> list[Json]:
    return api.items(f"/v1/triggers/{made['triggerId']}/events{query}")


def test_a_signed_webhook_starts_one_run_an_event(api: Api, flow: str) -> None:
    made = trigger(api, "hook.signed", kind="webhook", workflowId=flow,
                   filter='event.data.kind != "ping"',
                   payload={"n": "${event.data.n}", "from": "${event.headers[\"x-who\"]}"})
    secret = str(made["secret"])
    assert secret.startswith("whsec_")
    assert api.get(f"/v1/triggers/{made['triggerId']}")["secret"] is None
    first = taken(call(api, made, {"kind": "push", "n": 3}, ident="e1", secret=secret,
                       headers={"x-who": "rig"}))
    assert (first["eventId"], first["state"], first["duplicate"]) == ("e1", "started", False)
    run = api.get(f"/v1/workflow-runs/{first['runId']}", prefer="wait=30")
    assert (run["state"], run["payload"]) == ("Succeeded", {"n": 3, "from": "rig"})
    for _ in range(3):
        again = taken(call(api, made, {"kind": "push", "n": 4}, ident="e1", secret=secret))
        assert again == first | {"duplicate": True}
    ping = taken(call(api, made, {"kind": "ping"}, ident="e2", secret=secret))
    assert (ping["state"], ping["runId"]) == ("filtered", None)
    bad = taken(call(api, made, {"kind": "push"}, ident="e3", secret=secret))
    assert (bad["state"], "event.data.n" in str(bad["detail"])) == ("failed", True), bad
    assert [(one["eventId"], one["state"], one["reason"]) for one in history(api, made)] == [
        ("e3", "failed", "expression_failed"), ("e2", "filtered", None), ("e1", "started", None)]
    assert history(api, made, "?state=started")[0]["outcome"] == "Succeeded"
    assert [one["eventId"] for one in api.walk(
        f"/v1/triggers/{made['triggerId']}/events?limit=1")] == ["e3", "e2", "e1"]
    runs = api.items(f"/v1/workflow-runs?workflowId={flow}")
    assert len(runs) == 1


def test_what_is_not_signed_right_changes_nothing(api: Api, flow: str) -> None:
    made = trigger(api, "hook.wrong", kind="webhook", workflowId=flow, secret="x" * 20)
    assert made["secret"] == "x" * 20
    before = api.count()
    refused(call(api, made, {}), 403, "bad_signature")
    refused(call(api, made, {}, ident="a", secret="y" * 20), 403, "bad_signature")
    refused(call(api, made, {}, ident="a", secret="x" * 20, at=int(time.time()) - 400), 403,
            "bad_signature")
    refused(api.ask("POST", "/v1/hooks/none", {}), 404, "not_found")
    refused(api.ask("POST", str(made["path"]), b"{"), 400, "malformed")
    assert history(api, made) == []
    api.done("POST", f"/v1/triggers/{made['triggerId']}?action=pause")
    refused(call(api, made, {}, ident="a", secret="x" * 20), 404, "not_found")
    api.done("POST", f"/v1/triggers/{made['triggerId']}?action=resume")
    assert api.count() == before
    assert taken(call(api, made, {}, ident="a", secret="x" * 20))["state"] == "started"


def test_github_and_unsigned_ones_with_their_own_ids(api: Api) -> None:
    definition = str(api.made("/v1/task-defs", {
        "name": "hook.def", "targetKind": "builtin", "targetRef": "builtin.echo"})["defId"])
    made = trigger(api, "hook.github", kind="webhook", defId=definition, signature="github",
                   secret="It's-a-Secret-to-Everybody")
    body = json.dumps({"ref": "main"}).encode()
    digest = hmac.new(b"It's-a-Secret-to-Everybody", body, hashlib.sha256).hexdigest()
    for duplicate in (False, True):
        answer = taken(api.ask("POST", str(made["path"]), body, headers={
            "x-hub-signature-256": f"sha256={digest}", "x-github-delivery": "g-1",
            "content-type": "text/plain"}))
        assert (answer["eventId"], answer["duplicate"]) == ("g-1", duplicate)
    task = api.ended(answer["taskId"])
    assert (task["result"], task["defId"]) == ({"echo": {"ref": "main"}}, definition)

    plain = trigger(api, "hook.plain", kind="webhook", defId=definition, signature="none",
                    eventId="event.data.order")
    assert plain["secret"] is None
    ids = [taken(call(api, plain, {"order": order}))["taskId"] for order in (1, 2, 1, 2)]
    assert ids[:2] == ids[2:]
    assert taken(call(api, plain, {}))["state"] == "failed"


def test_a_workflow_after_another(api: Api, flow: str) -> None:
    first = str(api.made("/v1/workflows", {
        "name": "before", "params": {"properties": {"n": {"type": "integer"}}},
        "steps": [{"id": "a", "task": {"name": "builtin.echo"}, "payload": "${params.n}"},
                  {"id": "b", "task": {"name": "builtin.fail"}, "when": "params.n > 9"}],
        "result": "${steps.a.result.echo}"})["workflowId"])
    after = {on: trigger(api, f"after.{on}", kind="after", workflowId=flow,
                         after={"workflowId": first, "on": on},
                         payload={"got": "${event.data.result}", "state": "${event.data.state}",
                                  "run": "${event.data.runId}"})
             for on in ("success", "failure", "any")}
    path = f"/v1/workflows/{first}?action=run"
    api.made(path, {"payload": {"n": 3}, "upTo": "a"}, prefer="wait=30")    # it counts as none
    runs = [api.made(path, {"payload": {"n": n}}, prefer="wait=30") for n in (3, 10)]
    wait_for(lambda: len(history(api, after["any"])) == 2, "both were taken")
    wait_for(lambda: len(history(api, after["failure"])) == 1, "the failure was taken")
    for on, states in (("success", ["Succeeded"]), ("failure", ["Failed"]),
                       ("any", ["Failed", "Succeeded"])):
        seen = []
        for one in history(api, after[on]):
            run = api.get(f"/v1/workflow-runs/{one['runId']}")
            payload = run["payload"]
            assert isinstance(payload, dict)
            seen.append(payload["state"])
            assert payload["got"] == (3 if payload["state"] == "Succeeded" else None)
            assert payload["run"] in [before["runId"] for before in runs]
        assert seen == states
    problem = refused(api.ask("DELETE", f"/v1/workflows/{first}"), 409, "wrong_state")
    assert "the trigger 'after." in str(problem["detail"])


def test_what_happens_here_starts_something_and_circles_end(api: Api) -> None:
    circle = str(api.made("/v1/workflows", {"name": "circle", "steps": [
        {"id": "a", "type": "parallel"}]})["workflowId"])
    made = trigger(api, "round", kind="event", workflowId=circle, topics=["runs"],
                   filter=f'event.event == "run" && event.data.workflowId == "{circle}" && '
                          'event.data.state == "Succeeded"')
    api.made(f"/v1/workflows/{circle}?action=run")
    wait_for(lambda: any(one["reason"] == "too_deep" for one in history(api, made)), "it ends")
    states = [one["state"] for one in history(api, made)]
    assert states == ["failed"] + ["started"] * 5
    api.gone(f"/v1/triggers/{made['triggerId']}")

    task = trigger(api, "on.task", kind="event", workflowId=circle, topics=["tasks"],
                   filter='event.data.name == "builtin.fail" && event.data.state == "Failed"',
                   payload="${event.data.error.code}")
    failing = api.ended(api.task("builtin.fail")["taskId"])
    wait_for(lambda: len(history(api, task)) > 0, "the failure was taken")
    [one] = history(api, task)
    run = api.get(f"/v1/workflow-runs/{one['runId']}")
    assert run["payload"] == failing["error"]["code"]  # type: ignore[index]


def test_pausing_keeps_what_happens_meanwhile_without_consequences(api: Api, flow: str) -> None:
    made = trigger(api, "paused", kind="event", workflowId=flow, topics=["kv"], enabled=False)
    path = f"/v1/triggers/{made['triggerId']}"
    api.done("PUT", "/v1/kv/triggers/a", {"value": "1"})
    api.done("POST", f"{path}?action=resume")
    api.done("PUT", "/v1/kv/triggers/b", {"value": "1"})
    wait_for(lambda: len(history(api, made)) > 0, "the second was taken")
    [one] = history(api, made)
    run = api.get(f"/v1/workflow-runs/{one['runId']}")
    assert run["payload"]["key"] == "b"  # type: ignore[index]
    api.gone(path)


def test_trying_one_out(api: Api, flow: str) -> None:
    made = trigger(api, "tried", kind="event", workflowId=flow, topics=["tasks"],
                   filter="event.data.n > 1", payload={"n": "${event.data.n}"})
    path = f"/v1/triggers/{made['triggerId']}/test"
    assert api.done("POST", path, {"event": {"data": {"n": 2}}}) == {
        "wanted": True, "payload": {"n": 2}, "error": None}
    assert api.done("POST", path, {"event": {"data": {"n": 1}}})["wanted"] is False
    refused(api.ask("POST", path, {}), 422, "invalid", "event")
    refused(api.ask("POST", path, {"event": 1}), 422, "invalid", "event")
    assert history(api, made) == []


@pytest.mark.parametrize(("fields", "field"), [
    ({"kind": "webhook"}, "workflowId"), ({"kind": "webhook", "workflowId": "1"}, "workflowId"),
    ({"kind": "other"}, "kind"), ({"kind": "event"}, "topics"),
    ({"kind": "event", "topics": ["x"]}, "topics[0]"),
    ({"kind": "event", "topics": ["triggers"]}, "topics[0]"), ({"kind": "after"}, "after"),
    ({"kind": "after", "after": {"workflowId": "1"}}, "after.workflowId"),
    ({"kind": "event", "topics": ["kv"], "secret": "x" * 20}, "secret"),
    ({"kind": "webhook", "topics": ["kv"]}, "topics"),
    ({"kind": "webhook", "secret": "short"}, "secret"),
    ({"kind": "webhook", "secret": "whsec_" + "*" * 20}, "secret"),
    ({"kind": "webhook", "signature": "none", "secret": "x" * 20}, "secret"),
    ({"kind": "webhook", "filter": "event.data."}, "filter"),
    ({"kind": "webhook", "filter": "params.x"}, "filter"),
    ({"kind": "webhook", "payload": {"a": "${event.x}"}}, "payload"),
    ({"kind": "webhook", "eventId": "1 +"}, "eventId")])
def test_what_cannot_be_is_refused(api: Api, flow: str, fields: Json, field: str) -> None:
    before = len(api.items("/v1/triggers?limit=1000"))
    given = {"name": "bad", "workflowId": flow, **fields}
    if field == "workflowId" and "workflowId" not in fields:
        del given["workflowId"]
    refused(api.ask("POST", "/v1/triggers", given), 422, "invalid", field)
    assert len(api.items("/v1/triggers?limit=1000")) == before


def test_versions_and_names(api: Api, flow: str) -> None:
    made = trigger(api, "kept", kind="webhook", workflowId=flow)
    path = f"/v1/triggers/{made['triggerId']}"
    refused(api.ask("POST", "/v1/triggers", {"name": "kept", "kind": "webhook",
                                             "workflowId": flow}), 409, "exists", "name")
    again = api.done("PUT", path, {"name": "kept", "kind": "webhook", "workflowId": flow})
    assert (again["version"], again["path"], again["secret"]) == (2, made["path"], None)
    assert taken(call(api, made, {}, ident="x", secret=str(made["secret"])))["state"] == "started"
    changed = api.done("PUT", path, {"name": "kept", "kind": "webhook", "workflowId": flow,
                                     "secret": "z" * 16})
    assert changed["secret"] == "z" * 16
    refused(call(api, made, {}, ident="y", secret=str(made["secret"])), 403, "bad_signature")
    refused(api.ask("PUT", path, {"name": "kept", "kind": "webhook", "workflowId": flow},
                    headers={"if-match": '"1"'}), 412, "version_mismatch")
    assert [one["triggerId"] for one in api.items("/v1/triggers?name=kept")] == [made["triggerId"]]
    api.gone(path)
    refused(api.ask("GET", path), 404, "not_found")
    refused(call(api, made, {}), 404, "not_found")
    assert listed([one for one in api.items("/v1/triggers") if one["name"] == "kept"]) == []


def test_the_program(api: Api, flow: str) -> None:
    plum = api.daemon.plum
    body = json.dumps({"name": "cli", "kind": "webhook", "workflowId": flow, "signature": "none",
                       "filter": "event.data.n > 1"})
    assert "/v1/hooks/" in plum("trigger", "create", "-f", "-", given=body).stdout
    ran = plum("trigger", "test", "cli", "-p", '{"data": {"n": 2}}', "-o", "json")
    assert json.loads(ran.stdout)["wanted"] is True
    made = api.items("/v1/triggers?name=cli")[0]
    taken(call(api, made, {"n": 2}, headers={"webhook-id": "one"}))
    assert plum("trigger", "events", "cli", "--state", "started", "-o", "name").stdout == "one\n"
    assert plum("trigger", "update", "cli", "-f", "-", "--if-version", "7",
                given=body).returncode == 5
    for verb in ("pause", "resume", "get", "delete"):
        assert plum("trigger", verb, "cli").returncode == 0
    assert plum("trigger", "get", "cli").returncode == 3
