"""/v1/dag as earlier programs use it, against the real program."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.api.live import WAIT_S, Api, Json, refused, serving, whole

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)
names = iter(f"dag-{number}" for number in range(1_000))


def definition(api: Api, builtin: str = "builtin.echo") -> object:
    return api.made("/v1/task-defs", {"name": next(names), "targetKind": "builtin",
                                      "targetRef": builtin})["defId"]


def nodes_of(found: Json) -> Json:
    """A status's nodes."""
    nodes = found["nodes"]
    assert isinstance(nodes, dict)
    return nodes


def finished(api: Api, nodes: Json, *edges: tuple[str, str, str], body: object = None) -> Json:
    """Make the workflow, run it, and answer its status at its end."""
    made = whole(api.ask("POST", "/v1/dag/workflows", {
        "name": next(names), "nodes": nodes,
        "edges": [{"from": a, "to": b, "edgeType": kind} for a, b, kind in edges]}), 201)
    assert list(made) == ["workflowId"]
    begun = whole(api.ask("POST", f"/v1/dag/workflows/{made['workflowId']}/run", body), 200)
    assert list(begun) == ["runId"]
    api.ask("GET", f"/v1/workflow-runs/{begun['runId']}",
            headers={"prefer": f"wait={WAIT_S}"})
    found = whole(api.ask("GET", f"/v1/dag/runs/{begun['runId']}/status"), 200)
    assert found == api.get(f"/v1/dag/runs/{begun['runId']}")
    assert set(found) == {"nodes", "runId", "state"}
    assert set(nodes_of(found)) == set(nodes)
    return found


def rounds(api: Api, run: Json, node: str) -> list[object]:
    """The payloads of a node's tasks, in the order of the rounds."""
    found = [api.get(f"/v1/tasks/{task['taskId']}")
             for task in api.items(f"/v1/tasks?runId={run['runId']}&limit=100")]
    mine = [task for task in found if str(task["payload"]).find(node) >= 0]
    return [task["payload"] for task in sorted(mine, key=lambda task: str(task["taskId"]))]


@pytest.mark.parametrize(("value", "yes"), [(7, True), ("7", True), (8, False), ("x", False)])
def test_a_branch_looks_at_the_nearest_task(api: Api, value: object, yes: bool) -> None:
    task = {"type": "task", "taskDefId": definition(api)}
    found = finished(api, {
        "get it": {**task, "payloadJson": '{"n": 7}'},
        "分支": {"type": "branch", "condition": {"field": "echo.n", "operator": ">=",
                                               "value": value}},
        "a": task, "b": {**task, "TriggerRule": "all_success"},
        "end": {**task, "triggerRule": "none_failed"}},
        ("get it", "分支", "normal"), ("分支", "a", "true"), ("分支", "b", "false"),
        ("a", "end", "normal"), ("b", "end", "normal"))
    assert found["state"] == "Succeeded"
    assert found["nodes"] == {"get it": "Succeeded", "分支": "Succeeded", "end": "Succeeded",
                              "a": "Succeeded" if yes else "Skipped",
                              "b": "Skipped" if yes else "Succeeded"}


def test_a_counted_loop_repeats_what_its_true_edges_reach(api: Api) -> None:
    task = {"type": "task", "taskDefId": definition(api)}
    found = finished(api, {
        "again": {"type": "loop", "loopCondition": {"type": "count", "count": 3,
                                                    "loopVarName": "i"}},
        "x": {**task, "payloadJson": {"node": "x", "text": "${HOME}"}},
        "y": {**task, "payloadJson": {"node": "y"}}, "end": task},
        ("again", "x", "true"), ("x", "y", "normal"), ("y", "again", "normal"),
        ("again", "end", "false"))
    assert found["state"] == "Succeeded"
    assert set(nodes_of(found).values()) == {"Succeeded"}
    assert rounds(api, found, "'x'") == [{"node": "x", "text": "${HOME}", "i": i}
                                         for i in range(3)]
    assert len(rounds(api, found, "'y'")) == 3


def test_a_loop_without_true_edges_repeats_its_task_successors(api: Api) -> None:
    task = {"type": "task", "taskDefId": definition(api)}
    found = finished(api, {
        "again": {"type": "loop", "loopCondition": {"count": 2}},
        "x": {**task, "payloadJson": '{"node": "x"}'}, "end": {**task,
                                                               "payloadJson": '{"node":"end"}'}},
        ("again", "x", "normal"), ("x", "end", "normal"), body={"taskPayload": {"more": 1}})
    assert found["state"] == "Succeeded"
    assert rounds(api, found, "'x'") == [{"node": "x", "more": 1}] * 2
    assert rounds(api, found, "'end'") == [{"node": "end", "more": 1}]


def test_a_conditional_loop_ends_when_its_condition_no_longer_holds(api: Api) -> None:
    task = {"type": "task", "taskDefId": definition(api)}
    found = finished(api, {
        "again": {"type": "loop", "loopCondition": {
            "type": "condition", "sourceTask": "x", "field": "echo.i", "operator": "<", "value": 2,
            "loopVarName": "i"}},
        "x": {**task, "payloadJson": {"node": "x"}}}, ("again", "x", "true"))
    assert found["state"] == "Succeeded"
    assert [one["i"] for one in rounds(api, found, "'x'")] == [0, 1, 2]  # type: ignore[index]


def test_what_fails_leaves_a_state_for_every_node(api: Api) -> None:
    bad = {"type": "task", "taskDefId": definition(api, "builtin.fail")}
    task = {"type": "task", "taskDefId": definition(api)}
    found = finished(api, {
        "a": bad, "b": task, "p": {"type": "parallel"},
        "again": {"type": "loop", "loopCondition": {"count": 2}}, "x": task,
        "mend": {**task, "triggerRule": "one_failed"}, "none": {**task, "triggerRule":
                                                                "all_failed"}},
        ("a", "b", "normal"), ("b", "again", "normal"), ("again", "x", "true"),
        ("p", "none", "normal"), ("p", "mend", "normal"), ("b", "mend", "normal"))
    assert found["state"] == "Failed"
    assert found["nodes"] == {"a": "Failed", "b": "Skipped", "again": "Skipped", "x": "Skipped",
                              "p": "Succeeded", "mend": "Succeeded", "none": "Skipped"}


def test_loops_nest_so_deep_and_no_deeper(api: Api) -> None:
    keys = [f"l{at}" for at in range(400)]
    nodes = {key: {"type": "loop", "loopCondition": {"type": "count", "count": 1}} for key in keys}
    edges = [{"from": one, "to": other, "edgeType": "true"} for one, other in pairwise(keys)]
    refused(api.ask("POST", "/v1/dag/workflows", {"name": "deep", "nodes": nodes, "edges": edges}),
            422, "invalid", "nodes.l8")


def test_bad_bodies_name_the_place(api: Api) -> None:
    task: Json = {"type": "task", "taskDefId": definition(api)}
    before = api.count()
    for nodes, edges, field in (
            ({"a": {"type": "song"}}, [], "nodes.a.type"),
            ({"a": task}, [{"from": "a", "to": "b"}], "edges[0].to"),
            ({"a": task, "b": task}, [{"from": "a", "to": "b", "edgeType": "x"}],
             "edges[0].edgeType"),
            ({"a": {"type": "branch"}}, [], "nodes.a.condition.sourceTask"),
            ({"a": {"type": "loop"}}, [], "nodes.a"),
            ({"a": {**task, "triggerRule": "x"}}, [], "nodes.a.triggerRule"),
            ({"a": {"type": "task"}}, [], "nodes.a.taskDefId"), ({"a.b": task}, [], "nodes.a.b"),
            ({"a": task, "b": task}, [{"from": "a", "to": "b"}, {"from": "b", "to": "a"}],
             "steps[0].needs")):
        refused(api.ask("POST", "/v1/dag/workflows", {"name": "bad", "nodes": nodes,
                                                      "edges": edges}), 422, "invalid", field)
    assert api.count() == before
    refused(api.ask("GET", "/v1/dag/runs/1/status"), 404, "not_found")
    refused(api.ask("POST", "/v1/dag/workflows/1/run"), 404, "not_found")
