"""For all tests: a real daemon, and no test that is left out unseen where it counts."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, settings

from tests.daemon.running import Running

# How long an example takes says something of the machine, and nothing of the code.
settings.register_profile("plum", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("plum")


LONG: Final = (
    "sim/test_seeds.py", "clients/test_conformance.py", "ui/test_node.py", "ui/test_axe.py",
    "api/test_schemathesis.py", "ui/test_truth.py", "ui/test_by_clicks.py", "test_bench.py",
    "machines/test_bad_wires.py", "ui/test_editor_page.py", "clients/test_outage.py",
    "ui/test_run_page.py", "ui/test_schedules_page.py", "sdk_c/test_c_client.py",
    "ui/test_fleet_page.py", "ui/test_devices_page.py", "sdk_c/test_c_worker.py",
    "machines/test_network_faults.py", "daemon/test_restarts.py", "ui/test_replay_page.py",
    "test_docs.py", "daemon/test_soak_short.py", "agent/test_instances.py",
    "daemon/test_worker_faults.py", "ui/test_triggers_page.py", "agent/test_node_tasks.py",
    "agent/test_fences.py", "ui/test_forms_page.py", "machines/test_booted_systemd.py",
    "ui/test_refused_uploads_page.py", "test_cron.py", "agent/test_whole.py",
    "ui/test_webhooks_page.py", "daemon/test_weight.py", "ui/test_hostile_page.py",
    "test_house.py", "daemon/test_kept_logs.py", "test_cli.py", "ui/test_watch_pages.py",
    "daemon/test_mqtt.py", "test_services.py", "daemon/test_disk_full.py", "sdk/test_worker.py")
"""Files of minutes. They begin first, or they would run alone at the end."""
ROOT: Final = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    """Of several processes that collect all tests each begins elsewhere: what one has rewritten of
    a file's assertions is there for the others, where byte code may be written (Makefile)."""
    number = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    if number and config.args == config.getini("testpaths"):
        files = sorted(str(path) for path in ROOT.rglob("test_*.py"))
        first = len(files) * int(number) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        config.args = files[first:] + files[:first]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first, the others by their names."""
    places = {ROOT / name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: (places.get(item.path, len(LONG)), item.path))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a test that is skipped has failed: it says nothing about what it was written for.

    What a test printed goes to another process, as UTF-8, which has no lone surrogates.
    """
    report = refuse_skip((yield))
    report.sections = [(title, text.encode(errors="backslashreplace").decode())
                       for title, text in report.sections]
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a whole file that skips itself."""
    report = yield
    if os.environ.get("CI") and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped where CI is set: {report.longrepr}"
    return report


def refuse_skip(report: pytest.TestReport) -> pytest.TestReport:
    """A report as it counts in CI; a test that is expected to fail is none that was skipped."""
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped where CI is set: {report.longrepr}"
    return report


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Running]:
    """A running plumd with fresh data, stopped at the end."""
    with Running(tmp_path / "data") as running:
        yield running


@pytest.fixture(scope="module")
def shared_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One plumd for all tests of a file that do not mind each other."""
    with Running(tmp_path_factory.mktemp("plum") / "data") as running:
        yield running
