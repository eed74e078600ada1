"""Every kind of worker through every scenario, against the real daemon."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from plumd.sdk.client import Client
from tests.clients.kinds import KINDS
from tests.clients.scenarios import COMING, LEFT_OUT, LONG, MORTAL, STEADY, Scenario
from tests.clients.stage import Stage
from tests.daemon.running import Running
from tests.sdk_c.building import Workshop

pytestmark = pytest.mark.daemon
OWN = COMING | (LONG if os.environ.get("PLUM_CLIENTS_LONG") else {})


def cases(table: dict[str, Scenario]) -> list[tuple[str, str]]:
    """The kinds with the scenarios that they can show."""
    return [pair for pair in product(KINDS, table) if pair not in LEFT_OUT]


@pytest.fixture(scope="module")
def api(shared_daemon: Running) -> Iterator[Client]:
    with Client(shared_daemon.url, timeout_s=60) as client:
        yield client


@pytest.fixture(scope="module", params=KINDS)
def serving(request: pytest.FixtureRequest, shared_daemon: Running, api: Client,
            workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A stage whose worker serves all the while."""
    kind = KINDS[request.param]
    stage = Stage(kind, workshop, shared_daemon, api, tmp_path_factory.mktemp(kind.id),
                  f"steady-{kind.id}")
    with stage.worker():
        yield stage


@pytest.mark.parametrize("scenario", STEADY)
def test_with_a_worker_that_serves(serving: Stage, scenario: str) -> None:
    STEADY[scenario](serving)


@pytest.mark.parametrize(("kind", "scenario"), cases(OWN))
def test_with_workers_that_come_and_go(kind: str, scenario: str, shared_daemon: Running,
                                       api: Client, workshop: Workshop, tmp_path: Path) -> None:
    OWN[scenario](Stage(KINDS[kind], workshop, shared_daemon, api, tmp_path,
                           f"{scenario}-{kind}"))


@pytest.mark.parametrize(("kind", "scenario"), cases(MORTAL))
def test_with_a_controller_that_dies(kind: str, scenario: str, mortal_daemon: Running,
                                     workshop: Workshop, tmp_path: Path) -> None:
    with Client(mortal_daemon.url, timeout_s=60) as api:
        MORTAL[scenario](Stage(KINDS[kind], workshop, mortal_daemon, api, tmp_path,
                               f"{scenario}-{kind}"))


def test_what_is_left_out_exists() -> None:
    """The list of what a kind cannot show names kinds and scenarios that there are."""
    tables = {*STEADY, *COMING, *LONG, *MORTAL}
    assert all(kind in KINDS and scenario in tables and reason
               for (kind, scenario), reason in LEFT_OUT.items())
    assert not any((kind, scenario) in LEFT_OUT for kind in KINDS for scenario in STEADY)
