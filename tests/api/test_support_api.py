"""The support bundle of the real program: whole, readable, without what is nobody's business."""

from __future__ import annotations

import io
import json
import zipfile

import pytest

from tests.api.live import Api, serving

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)


def bundle(api: Api) -> dict[str, str]:
    answer = api.ask("GET", "/v1/support-bundle")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/zip"
    assert "plum-support.zip" in answer.headers["content-disposition"]
    with zipfile.ZipFile(io.BytesIO(answer.content)) as packed:
        return {name: packed.read(name).decode() for name in packed.namelist()}


def test_it_says_how_the_daemon_is_and_nothing_of_what_it_does(api: Api) -> None:
    secret = "quite-a-secret"
    done = api.task(payload={"hidden": secret})
    api.ended(done["taskId"])
    failed = api.task("builtin.fail", payload={"message": f"db://ada:{secret}@host is away"})
    api.ended(failed["taskId"])
    parts = bundle(api)
    for name, text in parts.items():
        assert secret not in text, name
        if name.endswith(".json"):
            json.loads(text)
    assert json.loads(parts["versions.json"])["plumd"] == api.get("/version")["version"]
    assert json.loads(parts["settings.json"])["tasks_max"] == {
        "value": 10_000_000, "from": "default"}
    assert "host is away" in parts["failures.json"]
    assert "plum_runs_total" in parts["metrics.txt"]
    assert json.loads(parts["database.json"])["journal_mode"] == ["wal"]
    assert "Engine.run" in parts["tasks.txt"]
    assert json.loads(parts["status.json"])["writes"] == "ok"
    assert "plumd" in parts["log.txt"]
