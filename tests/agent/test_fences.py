"""Fenced instances: none runs beyond its lease, whatever becomes of the agent and the line. The
instances themselves write down how long they lived, by the clock of leases."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.acting import Controller, boot_ms
from tests.agent.program import Agent
from tests.agent.test_instances import app_of, is_alive
from tests.daemon.plant import wait_for

pytestmark = pytest.mark.daemon
LEASE_MS = 3_000
DIARY = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open("pid", "w").write(str(os.getpid()))
open("token", "w").write(os.environ["PLUM_FENCE_TOKEN"])
diary = os.open("diary", os.O_WRONLY | os.O_CREAT, 0o600)
while True:
    os.pwrite(diary, b"%020d" % (time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000000), 0)
    time.sleep(0.005)
"""


@pytest.fixture
def controller() -> Iterator[Controller]:
    with Controller() as made:
        yield made


@pytest.fixture
def agent(tmp_path: Path, controller: Controller) -> Iterator[Agent]:
    with Agent(tmp_path / "agent", controller.url, "n1", "--sync-sec", "0.5") as made:
        yield made


def start(controller: Controller, agent: Agent, away_ms: int = 0,
          lease_ms: int = LEASE_MS) -> int:
    """A fenced instance that does not care for SIGTERM; its process."""
    url, _ = controller.app("a.zip", {"start.sh": f"exec {sys.executable} -c '{DIARY}'"})
    controller.want("i1", artifactUrl=url, stopGraceSec=60,
                    fence={"token": 7, "leaseMs": lease_ms, "awayMs": away_ms})
    path = app_of(agent, "i1") / "diary"
    wait_for(lambda: path.exists() and path.stat().st_size == 20, "it writes")
    assert (app_of(agent, "i1") / "token").read_text() == "7"
    return int((app_of(agent, "i1") / "pid").read_text())


def lived_until_ms(agent: Agent) -> int:
    return int((app_of(agent, "i1") / "diary").read_text())


def test_a_lease_that_is_renewed_holds(agent: Agent, controller: Controller) -> None:
    pid = start(controller, agent)
    begun = boot_ms()
    wait_for(lambda: boot_ms() > begun + 2 * LEASE_MS, "two leases pass")
    assert is_alive(pid)


def test_a_line_that_is_cut(agent: Agent, controller: Controller) -> None:
    pid = start(controller, agent)
    controller.silent.set()
    wait_for(lambda: not is_alive(pid), "it ends")
    assert lived_until_ms(agent) <= controller.heard_ms + LEASE_MS
    controller.silent.clear()
    wait_for(lambda: controller.phases("i1")[-2:] == ["Starting", "Running"], "it is back")
    told = [one for one in controller.of("i1") if one["phase"] == "Stopped"]
    assert not told or "want of contact" in str(told[-1]["message"])


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_an_agent_that_is_stopped_or_killed(agent: Agent, controller: Controller,
                                            number: signal.Signals) -> None:
    pid = start(controller, agent)
    os.kill(agent.pid, number)
    wait_for(lambda: not is_alive(pid), "it ends")
    assert lived_until_ms(agent) <= controller.heard_ms + LEASE_MS
    wait_for(lambda: agent.leftovers() == [], "its shim ends after it")
    if number == signal.SIGSTOP:
        os.kill(agent.pid, signal.SIGCONT)
    else:
        assert agent.process is not None
        agent.process.wait()
        agent.start()
    wait_for(lambda: lived_until_ms(agent) > controller.heard_ms - 500
             and (app_of(agent, "i1") / "pid").read_text() != str(pid), "another one runs")


def test_an_agent_that_comes_back_in_time(agent: Agent, controller: Controller) -> None:
    pid = start(controller, agent, lease_ms=25_000)
    agent.kill()
    count = len(controller.reports)
    agent.start()
    wait_for(lambda: len(controller.reports) > count, "it is found again")
    assert controller.last("i1")["phase"] == "Running"
    assert int((app_of(agent, "i1") / "pid").read_text()) == pid
    assert is_alive(pid)


def test_a_controller_that_is_down_is_no_partition(agent: Agent, controller: Controller) -> None:
    """Where nobody listens the machine is there: for a while (awayMs) that is good enough."""
    pid = start(controller, agent, away_ms=3 * LEASE_MS)
    heard_ms = controller.heard_ms
    controller.close()
    wait_for(lambda: not is_alive(pid), "it ends after all")
    until_ms = lived_until_ms(agent)
    assert until_ms > heard_ms + LEASE_MS + 1_000
    assert until_ms <= controller.heard_ms + 4 * LEASE_MS
