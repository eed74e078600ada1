"""Concurrency keys and limits of the real program through kill -9."""

from __future__ import annotations

import pytest

from tests.api.live import Api, whole
from tests.daemon.running import Running

pytestmark = pytest.mark.daemon


def test_limits_hold_after_kill_9(daemon: Running) -> None:
    with Api(daemon) as api:
        whole(api.ask("PUT", "/v1/limits/named", {"concurrency": 2}), 200)
        made = {key: [api.task("builtin.delay", payload={"seconds": 600}, concurrencyKey=key,
                               concurrencyLimit=3)["taskId"] for _ in range(5)]
                for key in ("named", "own")}
    for _ in range(2):
        with Api(daemon) as api:
            for key, most in (("named", 2), ("own", 3)):
                states = [api.get(f"/v1/tasks/{one}")["state"] for one in made[key]]
                assert states == ["Running"] * most + ["Pending"] * (5 - most)
        daemon.kill()
        daemon.start()
