"""Artifacts that cannot be used, by the real programs: it is said, and nothing of them stays."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.agent.acting import Controller
from tests.agent.program import Agent
from tests.agent.test_whole import META, START, Site
from tests.daemon.plant import wait_for

pytestmark = pytest.mark.daemon
DAY_S = 86_400


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path, "--artifact-hosts", "127.0.0.1")
    with made.daemon:
        yield made


@pytest.fixture
def agent(site: Site) -> Iterator[Agent]:
    with ExitStack() as stack:
        yield site.node("n1", stack)


def stored(site: Site) -> Path:
    """The only artifact on the controller's disk."""
    found, = (site.daemon.data_dir / "artifacts").rglob("*.zip")
    return found


def leftovers(agent: Agent) -> list[str]:
    """What there should be nothing of."""
    return [path.name for kind in ("*.part", "*.new", "*.zip")
            for path in agent.data_dir.rglob(kind)]


@pytest.mark.parametrize(("fault", "words"), [
    ("changed", "wrong sha256"), ("cut", "the connection"), ("no start.sh", "has no start.sh"),
    ("no command", "exit code 127")])
def test_what_is_wrong_is_said_and_nothing_stays(site: Site, agent: Agent, fault: str,
                                                 words: str) -> None:
    more: dict[str, object] = {"backoff": {"firstSec": 0.2, "maxSec": 0.2}}
    with Controller() as elsewhere:
        url = site.app({"start.sh": START, "meta.ini": META, "big": os.urandom(1 << 20)})
        good = stored(site).read_bytes()
        if fault == "changed":
            stored(site).write_bytes(good[:500_000] + b"?" + good[500_001:])
        elif fault == "cut":
            os.truncate(stored(site), 500_000)
        elif fault == "no command":
            more["startCmd"] = "./none.sh"
        else:
            path, more["sha256"] = elsewhere.app("b.zip", {"readme": "x"})
            url = elsewhere.url + path
        found = site.deploy(artifactUrl=url, replicas=1, **more)
        wait_for(lambda: [(words in one.message, one.phase) for one in site.copies()]
                 == [(True, "Failed")], "it is told")
        wait_for(lambda: words in agent.said(), "it is logged")
        if fault in ("changed", "cut"):
            assert [name for name in leftovers(agent) if not name.endswith(".part")] == []
            stored(site).write_bytes(good)
            wait_for(lambda: [one.phase for one in site.copies()] == ["Running"], "it is mended")
    base = f"{site.daemon.url}/v1/deployments/{found}"
    assert httpx.post(f"{base}?action=stop", trust_env=False).is_success
    assert httpx.delete(base, trust_env=False).is_success
    wait_for(lambda: not list((agent.data_dir / "instances").iterdir()), "nothing of it stays")
    assert [name for name in leftovers(agent) if not name.endswith(".zip")] == []
    wait_for(lambda: agent.leftovers() == [], "nothing of it runs")


def test_what_nobody_fetches_to_its_end_goes(site: Site, agent: Agent) -> None:
    url = site.app({"start.sh": START, "meta.ini": META, "big": os.urandom(1 << 20)})
    os.truncate(stored(site), 500_000)
    found = site.deploy(artifactUrl=url, replicas=1)
    wait_for(lambda: ["the connection" in one.message for one in site.copies()] == [True],
             "it is told")
    base = f"{site.daemon.url}/v1/deployments/{found}"
    assert httpx.post(f"{base}?action=stop", trust_env=False).is_success
    assert httpx.delete(base, trust_env=False).is_success
    wait_for(lambda: not list((agent.data_dir / "instances").iterdir()), "it is not wanted")
    agent.stop()
    part, = agent.data_dir.rglob("*.part")
    assert part.stat().st_size <= 500_000
    agent.start()
    wait_for(lambda: agent.said().count("the agent runs") == 2, "it is back")
    assert part.exists(), "it may be wanted again"
    agent.stop()
    os.utime(part, times=(time.time() - DAY_S - 60,) * 2)
    agent.start()
    wait_for(lambda: not part.exists(), "it is forgotten")
