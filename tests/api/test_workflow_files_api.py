"""Workflows as YAML files, their versions and differences, against the real program."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.api.live import Api, Json, listed, refused, serving

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)

TEXT = """\
name: files.main
description: |
  two lines
  of text
params:
  properties:
    n: {type: integer, default: 3}
timeoutSec: 60
steps:
  - id: fetch
    task: {name: builtin.echo, labels: {rig: "7"}}
    payload: {n: "${params.n}", on: yes, none: null}
  - id: high
    type: branch
    needs: [fetch]
    condition: steps.fetch.result.echo.n > 10
  - id: warn
    needs: [{step: high, on: "true"}]
    definitionId: files.def
    timeoutSec: 30
  - id: each
    type: map
    needs: [fetch]
    items: [1, 2]
    body:
      - id: inner
        type: workflow
        workflow: files.sub
        payload: "${item}"
result: "${steps.each.result.count}"
onFailure:
  - id: tell
    task: {name: builtin.echo}
---
name: files.sub
steps:
  - {id: say, task: {name: builtin.echo}}
"""


def apply(api: Api, *texts: str, dry: bool = False) -> list[Json]:
    answer = api.ask("POST", "/v1/workflows/apply",
                     {"files": [{"yaml": text} for text in texts], "dryRun": dry})
    assert answer.status_code == 200, answer.text
    return listed(answer.json())


def export(api: Api, workflow_id: object, version: int = 0) -> str:
    answer = api.ask("GET", f"/v1/workflows/{workflow_id}/export"
                     + (f"?version={version}" if version else ""))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/yaml"
    return answer.text


def what(applied: list[Json]) -> list[tuple[object, ...]]:
    return [(one["name"], one["change"], one["version"]) for one in applied]


def test_a_file_with_workflows_that_need_each_other(api: Api) -> None:
    definition = api.made("/v1/task-defs", {"name": "files.def"})
    planned = apply(api, TEXT, dry=True)
    assert what(planned) == [("files.main", "created", 1), ("files.sub", "created", 1)]
    assert [one["workflowId"] for one in planned] == [None, None]
    assert api.items("/v1/workflows?name=files.main") == []

    made = apply(api, TEXT)
    assert what(made) == what(planned)
    main = api.get(f"/v1/workflows/{made[0]['workflowId']}")
    [fetch, high, warn, each] = listed(main["steps"])
    assert warn["definitionId"] == definition["defId"]
    assert listed(each["body"])[0]["workflow"] == made[1]["workflowId"]
    assert fetch["payload"] == {"n": "${params.n}", "on": "yes", "none": None}
    assert high["condition"] == "steps.fetch.result.echo.n > 10"
    assert main["description"] == "two lines\nof text\n"

    # What is exported, saved again, is the same; also under another name.
    texts = [export(api, one["workflowId"]) for one in made]
    assert "workflow: files.sub" in texts[0]
    assert "definitionId: files.def" in texts[0]
    assert what(apply(api, *texts)) == [("files.main", "unchanged", 1),
                                        ("files.sub", "unchanged", 1)]
    [copy] = apply(api, texts[0].replace("name: files.main", "name: files.copy"))
    copied = api.get(f"/v1/workflows/{copy['workflowId']}")
    assert copied["steps"] == main["steps"]
    assert copied["params"] == main["params"]
    assert export(api, copy["workflowId"]) == texts[0].replace("files.main", "files.copy")
    run = api.made(f"/v1/workflows/{copy['workflowId']}?action=run", {}, prefer="wait=30")
    assert (run["state"], run["result"]) == ("Succeeded", 2)


def test_a_change_is_told_and_made_a_version(api: Api) -> None:
    [made] = apply(api, "name: files.change\nsteps: [{id: a, task: {name: builtin.echo}}, "
                        "{id: b, task: {name: builtin.echo}, payload: 1}]")
    changed = ("name: files.change\nsteps: [{id: b, task: {name: builtin.echo}, payload: 2}, "
               "{id: c, type: parallel}]")
    [planned] = apply(api, changed, dry=True)
    assert planned["change"] == "updated"
    assert planned["changes"] == [
        {"path": "steps[a]", "what": "removed", "after": None,
         "before": {"id": "a", "task": {"name": "builtin.echo"}}},
        {"path": "steps[b].payload", "what": "changed", "before": 1, "after": 2},
        {"path": "steps[c]", "what": "added", "before": None,
         "after": {"id": "c", "type": "parallel"}}]
    path = f"/v1/workflows/{made['workflowId']}"
    assert api.get(path)["version"] == 1
    [done] = apply(api, changed)
    assert done == planned
    assert api.get(path)["version"] == 2
    assert api.get(f"{path}/diff") == {"from": 1, "to": 2, "changes": planned["changes"]}
    assert api.get(f"{path}/diff?from=2&to=2")["changes"] == []
    refused(api.ask("GET", f"{path}/diff?from=7"), 404, "not_found")

    one = api.get(f"{path}/versions/1")
    assert (one["version"], len(listed(one["steps"]))) == (1, 2)
    for bad in ("3", "0", "x", "-1", "9" * 30):
        refused(api.ask("GET", f"{path}/versions/{bad}"), 404, "not_found")
    assert "payload: 1" in export(api, made["workflowId"], 1)

    back = api.done("POST", f"{path}?action=rollback", {"version": 1})
    assert (back["version"], back["steps"]) == (3, one["steps"])
    assert api.get(f"{path}/diff?from=1&to=3")["changes"] == []
    refused(api.ask("POST", f"{path}?action=rollback", {"version": 1}, headers={"if-match": '"2"'}),
            412, "version_mismatch")
    refused(api.ask("POST", f"{path}?action=rollback", {"version": 9}), 404, "not_found")
    refused(api.ask("POST", f"{path}?action=rollback"), 422, "invalid", "version")
    refused(api.ask("POST", f"{path}?action=rollback", {"version": 1, "payload": 1}), 422,
            "invalid", "payload")
    old = api.made(f"{path}?action=run", {"version": 2})
    assert old["workflowVersion"] == 2


def test_rollback_asks_whether_it_could_run(api: Api) -> None:
    definition = api.made("/v1/task-defs", {"name": "files.passing"})
    [made] = apply(api, "name: files.back\nsteps: [{definitionId: files.passing}]")
    apply(api, "name: files.back\nsteps: [{type: parallel}]")
    api.gone(f"/v1/task-defs/{definition['defId']}")
    refused(api.ask("POST", f"/v1/workflows/{made['workflowId']}?action=rollback", {"version": 1}),
            422, "invalid", "steps[0].definitionId")


@pytest.mark.parametrize(("text", "code", "field", "words"), [
    ("name: x\nsteps:\n  - id: a\n    when: 1 >\n    type: parallel", "invalid", "steps[0].when",
     "line 4, column 5: "),
    ("name: x\nsteps:\n  - {id: a, type: parallel}\n  - {id: b, type: parallel, needs: [z]}",
     "invalid", "steps[1].needs[0]", "line 4, column 37: "),
    ("name: x\nsteps: [{type: parallel}]\nstep: 1", "invalid", "step", "line 3, column 1: "),
    ("name: x\nsteps: 7", "invalid", "steps", "line 2, column 1: "),
    ("name: x\nsteps: [{type: parallel}]\n---\nname: x\nsteps: [{type: parallel}]", "invalid",
     "name", "line 4, column 1: "),
    ("- 1", "invalid", None, "line 1, column 1: "),
    ("name: x\nname: y", "malformed", None, "line 2, column 1: the key 'name' comes twice"),
    ("", "invalid", "yaml", "no workflow"),
])
def test_refused_with_file_and_line(api: Api, text: str, code: str, field: str | None,
                                    words: str) -> None:
    before = api.count()
    good = "name: files.never\nsteps: [{type: parallel}]"
    if text:
        answer = api.ask("POST", "/v1/workflows/apply", {
            "files": [{"name": "a.yaml", "yaml": good}, {"name": "b.yaml", "yaml": text}]})
        problem = refused(answer, 400 if code == "malformed" else 422, code, field)
        assert str(problem["detail"]).startswith(f"b.yaml: {words}"), problem
    problem = refused(api.ask("POST", "/v1/workflows/parse", {"yaml": text}),
                      400 if code == "malformed" else 422, code, field)
    assert words in str(problem["detail"])
    assert api.count() == before


def test_between_text_and_body(api: Api) -> None:
    answer = api.ask("POST", "/v1/workflows/parse", {"yaml": TEXT.replace("files.", "between.")
                                                     .replace("definitionId: between.def",
                                                              "task: {name: x}")})
    assert answer.status_code == 200, answer.text
    [main, sub] = listed(answer.json())
    assert api.items("/v1/workflows?name=between.main") == []
    text = str(api.done("POST", "/v1/workflows/render", main)["yaml"])
    again = api.ask("POST", "/v1/workflows/parse", {"yaml": text + "---\n" + str(
        api.done("POST", "/v1/workflows/render", sub)["yaml"])})
    assert again.json() == [main, sub]


def test_what_saving_would_refuse(api: Api) -> None:
    """It is told before, as an answer and not as a refusal, and nothing is saved."""
    before = api.count()
    step: Json = {"id": "say", "task": {"name": "builtin.echo"}}
    good: Json = {"name": "files.fresh", "steps": [step]}

    def flaws(body: Json, query: str = "") -> list[Json]:
        found = api.done("POST", f"/v1/workflows/validate{query}", body)
        assert found["ok"] == (not found["flaws"])
        return listed(found["flaws"])

    assert flaws(good) == []
    [flaw] = flaws({**good, "steps": [step, {"id": "next", "type": "branch",
                                             "condition": "steps.say.result >"}]})
    assert (flaw["code"], flaw["field"]) == ("invalid", "steps[1].condition")
    [flaw] = flaws({**good, "steps": [{**step, "timeoutSec": "long"}]})
    assert flaw["field"] == "steps[0].timeoutSec"
    [flaw] = flaws({**good, "steps": [{**step, "needs": ["nobody"]}]})
    assert flaw["field"] == "steps[0].needs[0]"
    [flaw] = flaws({**good, "steps": []})
    assert flaw["field"] == "steps"
    assert api.count() == before
    made = api.made("/v1/workflows", good)["workflowId"]
    [flaw] = flaws(good)
    assert (flaw["code"], flaw["field"]) == ("exists", "name")
    assert flaws(good, f"?workflowId={made}") == []
    refused(api.ask("POST", "/v1/workflows/validate", b"{"), 400, "malformed")


def test_a_name_that_is_an_id(api: Api) -> None:
    """A definition whose name is another one's id stays reachable by its own id."""
    first = api.made("/v1/task-defs", {"name": "files.odd"})
    second = api.made("/v1/task-defs", {"name": first["defId"]})
    [made] = apply(api, f"name: files.odd\nsteps: [{{definitionId: '{second['defId']}'}}]")
    text = export(api, made["workflowId"])
    assert str(second["defId"]) in text
    assert what(apply(api, text)) == [("files.odd", "unchanged", 1)]


def test_what_a_schedule_starts_is_not_deleted(api: Api) -> None:
    definition = api.made("/v1/task-defs", {"name": "files.used"})
    [made] = apply(api, "name: files.scheduled\nsteps: [{type: parallel}]")
    path = f"/v1/workflows/{made['workflowId']}"
    for what_, place in (({"workflowId": made["workflowId"]}, path),
                         ({"defId": definition["defId"]}, f"/v1/task-defs/{definition['defId']}")):
        schedule = api.made("/v1/schedules", {"name": "files.nightly", "cron": "@daily", **what_})
        problem = refused(api.ask("DELETE", place), 409, "wrong_state")
        assert "the schedule 'files.nightly' uses" in str(problem["detail"])
        api.gone(f"/v1/schedules/{schedule['scheduleId']}")
        api.gone(place)


def test_the_program(api: Api, tmp_path: Path) -> None:
    plum = api.daemon.plum
    (tmp_path / "more").mkdir()
    (tmp_path / "one.yaml").write_text("name: files.cli\nsteps: [{id: a, type: parallel}]\n")
    (tmp_path / "more" / "two.yml").write_text(
        "---\nname: files.cli2\nsteps: [{type: workflow, workflow: files.cli}]\n")
    ran = plum("workflow", "diff", "-f", str(tmp_path))
    assert (ran.returncode, ran.stdout.count("created")) == (1, 2), ran
    ran = plum("workflow", "apply", "-f", str(tmp_path), "--dry-run", "-o", "json")
    assert ran.stdout.count('"created"') == 2, ran
    assert plum("workflow", "apply", "-f", str(tmp_path)).returncode == 0
    ran = plum("workflow", "export", "files.cli", "files.cli2")
    assert ran.stdout == ("---\nname: files.cli\nsteps:\n  - id: a\n    type: parallel\n"
                          "---\nname: files.cli2\nsteps:\n  - type: workflow\n"
                          "    workflow: files.cli\n")
    assert plum("workflow", "diff", "-f", "-", given=ran.stdout).returncode == 0
    ran = plum("workflow", "apply", "-f", "-", given=ran.stdout.replace("id: a", "id: b"))
    assert "updated" in ran.stdout
    ran = plum("workflow", "diff", "files.cli")
    assert (ran.returncode, "steps[b]" in ran.stdout) == (1, True)
    assert plum("workflow", "rollback", "files.cli", "--to", "1").returncode == 0
    assert plum("workflow", "diff", "files.cli", "--from", "1").returncode == 0
    assert plum("workflow", "versions", "files.cli", "-o", "name").stdout.split() == ["3", "2", "1"]
    (tmp_path / "one.yaml").write_text("name: [")
    ran = plum("workflow", "apply", "-f", str(tmp_path / "one.yaml"))
    assert ran.returncode == 2
    assert f"{tmp_path / 'one.yaml'}: line 2, column" in ran.stderr.replace("\n", "")
    assert plum("workflow", "apply", "-f", str(tmp_path / "none")).returncode == 2
    assert plum("workflow", "diff").returncode == 2
