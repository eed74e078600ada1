"""Simulation through the real program: by body, by name, from history; and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.api.live import Api, Json, listed, refused, serving

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)
PATH = "/v1/workflows/simulate"
CHAIN: Json = {"name": "sim", "steps": [
    {"id": "a", "task": {"name": "fetch"}}, {"id": "m", "type": "map", "items": 8, "body": [
        {"id": "w", "task": {"name": "solve"}}]}, {"id": "z", "task": {"name": "report"}}]}


def test_a_body_that_is_not_saved(api: Api) -> None:
    before = api.count()
    asked = {"workflow": CHAIN, "steps": {"a": {"durationSec": 2}, "w": {"durationSec": 5}},
             "workers": [{"slots": 2}], "whatIf": [2, 4], "samples": 3}
    found = api.done("POST", PATH, asked)
    forecast, others = found["forecast"], listed(found["whatIf"])
    assert isinstance(forecast, dict)
    assert forecast["makespan"] == dict.fromkeys(("mean", "min", "p50", "p90", "p99", "max"), 23)
    assert forecast["ends"] == {"Succeeded": 3}
    assert forecast["gantt"]["criticalPath"] == ["a", "m", "z"]
    assert [(one["slots"], one["makespan"]["mean"], one["savedSec"]) for one in others] == [  # type: ignore[index]
        (4, 13, 10), (8, 8, 15)]
    assert forecast["waitSec"]["max"] == 15
    assert found == api.done("POST", PATH, asked)
    assert api.count() == before


def test_the_past_says_how_long(api: Api) -> None:
    made = api.made("/v1/workflows", {"name": "sim.past", "steps": [
        {"id": "nap", "task": {"name": "builtin.delay"}, "payload": {"seconds": 0.3}},
        {"id": "fail", "task": {"name": "builtin.fail"}, "when": "has(params.x)"}]})
    for _ in range(3):
        api.made(f"/v1/workflows/{made['workflowId']}?action=run", prefer="wait=30")
    known = api.done("POST", PATH, {"workflowId": made["workflowId"], "samples": 5})
    assert known["fromHistory"] == {"nap": 3}
    assert 0.3 <= known["forecast"]["makespan"]["p50"] < 5  # type: ignore[index]
    plain = api.done("POST", PATH, {"workflowId": "sim.past", "history": False})
    assert plain["forecast"]["makespan"]["p50"] == 0.3  # type: ignore[index]
    assert plain["fromHistory"] == {}


def test_sub_workflows_and_many_runs(api: Api) -> None:
    inner = api.made("/v1/workflows", {"name": "sim.inner", "steps": [
        {"id": "i", "task": {"name": "x"}}]})
    body = {"name": "sim.outer", "steps": [
        {"id": "sub", "type": "workflow", "workflow": "sim.inner"}, {"id": "b", "task": {
            "name": "y"}}]}
    found = api.done("POST", PATH, {"workflow": body, "runs": 4, "workers": [{"slots": 1}],
                                    "steps": {"i": {"durationSec": 3}}, "whatIf": []})
    forecast = found["forecast"]
    assert isinstance(forecast, dict)
    assert (forecast["makespan"]["p50"], forecast["ends"]) == (16, {"Succeeded": 80})
    assert forecast["utilization"] == 1
    api.gone(f"/v1/workflows/{inner['workflowId']}")


def test_it_is_bounded(api: Api) -> None:
    endless = {"name": "x", "steps": [{"id": "l", "type": "loop", "while": "true",
                                       "maxIterations": 100_000, "body": [
                                           {"id": "w", "task": {"name": "x"}}]}]}
    found = api.done("POST", PATH, {"workflow": endless, "samples": 100, "whatIf": []})
    forecast = found["forecast"]
    assert isinstance(forecast, dict)
    assert sum(forecast["stopped"].values()) == forecast["samples"] < 10
    assert found["leftOut"] == 100 - forecast["samples"]


@pytest.mark.parametrize(("fields", "field"), [
    ({}, "workflowId"), ({"workflow": CHAIN, "workflowId": "1"}, "workflowId"),
    ({"workflowId": "none"}, "workflowId"), ({"workflow": {"name": "x"}}, "workflow.steps"),
    ({"workflow": {"name": "x", "steps": [{"id": "a"}]}}, "steps[0].definitionId"),
    ({"workflow": CHAIN, "steps": {"q": {}}}, "steps.q"),
    ({"workflow": CHAIN, "steps": {"a": {"durationSec": [3, 1]}}}, "steps.a.durationSec"),
    ({"workflow": CHAIN, "steps": {"a": {"durationSec": -1}}}, "steps[...].durationSec"),
    ({"workflow": CHAIN, "steps": {"a": {"failureRate": 2}}}, "steps[...].failureRate"),
    ({"workflow": CHAIN, "samples": 0}, "samples"), ({"workflow": CHAIN, "workers": []}, "workers"),
    ({"workflow": CHAIN, "whatIf": [0]}, "whatIf[0]")])
def test_what_cannot_be_is_refused(api: Api, fields: Json, field: str) -> None:
    refused(api.ask("POST", PATH, fields), 422, "invalid", field)


def test_parameters_are_checked(api: Api) -> None:
    body = {"name": "x", "params": {"required": ["n"], "properties": {"n": {"type": "integer"}}},
            "steps": [{"id": "m", "type": "map", "items": "${params.n}", "body": [
                {"id": "w", "task": {"name": "x"}}]}]}
    refused(api.ask("POST", PATH, {"workflow": body}), 422, "invalid", "payload.n")
    found = api.done("POST", PATH, {"workflow": body, "payload": {"n": 7}, "samples": 1,
                                    "workers": [{"slots": 1}]})
    assert found["forecast"]["makespan"]["max"] == 7  # type: ignore[index]


def test_the_program(api: Api, tmp_path: Path) -> None:
    plum = api.daemon.plum
    file = tmp_path / "x.yaml"
    file.write_text("name: sim.cli\nsteps:\n  - {id: a, task: {name: x}}\n"
                    "  - {id: b, task: {name: y}}\n")
    ran = plum("workflow", "simulate", "-f", str(file), "--slots", "1", "--step", "a=2",
               "--step", "b=3..3:0", "--what-if", "2", "--samples", "2")
    assert ran.returncode == 0, ran.stderr
    assert "2 samples on 1 slots: makespan 5 s" in ran.stdout
    assert "*" * 20 in ran.stdout
    assert "SAVED S" in ran.stdout
    options = tmp_path / "options.json"
    options.write_text(json.dumps({"workers": [{"slots": 1}], "runs": 3}))
    assert plum("workflow", "apply", "-f", str(file)).returncode == 0
    ran = plum("workflow", "simulate", "sim.cli", "--options", str(options), "-o", "name")
    assert ran.stdout == "6\n"
    assert plum("workflow", "simulate", "sim.cli", "--step", "a").returncode == 2
    assert plum("workflow", "simulate").returncode == 2
    assert plum("workflow", "simulate", "no-such").returncode == 3
