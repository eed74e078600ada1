"""The walls of the house: who may import whom, where time, chance and SQL live, and how long
things may be. The table is ARCHITECTURE.md's."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

from plumd.model import KINDS, TASK_STATES, Kind, TaskState

ROOT = Path(__file__).parent.parent
PLUMD = ROOT / "plumd"
FILES = sorted(path for path in PLUMD.rglob("*.py")
               if "static" not in path.parts and not path.stem.endswith("_pb2"))    # protoc's
LINE_COLUMNS_MAX = 100
FUNCTION_LINES_MAX = 70

# Each room with the level that it stands on; a room may import rooms of lower levels, those of
# its own package, and what ALSO names.
LEVELS = {
    "plumd.model": 0, "plumd.bodies": 0, "plumd.errors": 0, "plumd.clock": 0, "plumd.logs": 0,
    "plumd.endings": 1, "plumd.config": 1, "plumd.flow": 1, "plumd.balance": 1,
    "plumd.values": 0, "plumd.scrub": 0, "plumd.signing": 1, "plumd.failures": 1, "plumd.cron": 1,
    "plumd.fleet": 0, "plumd.placement": 0, "plumd.rollout": 1,
    "plumd.expressions": 0,
    "plumd.sdk": 1, "plumd._sched": 1,
    "plumd.stream.task_service_pb2": 0, "plumd.stream.grpc_frames": 1,
    "plumd.store": 2, "plumd.executors": 2,
    "plumd.agent": 3,
    "plumd.attempt_logs": 3,
    "plumd.outbox": 3, "plumd.journal": 3, "plumd.planner": 3, "plumd.runs": 3,
    "plumd.slots": 3, "plumd.starts": 3, "plumd.schedules": 3, "plumd.news": 3,
    "plumd.triggers": 3, "plumd.mapping": 2,
    "plumd.engine": 4, "plumd.follow": 5, "plumd.listeners": 5, "plumd.webhooks": 5,
    "plumd.carrier": 5, "plumd.stats": 5, "plumd.retention": 5, "plumd.gathering": 5,
    "plumd.services": 5,
    "plumd.companion": 0, "plumd.expiry": 5, "plumd.silence": 5, "plumd.devices": 5,
    "plumd.operations": 5,
    "plumd.mqtt_packets": 0, "plumd.mqtt": 5, "plumd.simulate": 4, "plumd.forecast": 5,
    "plumd.nodes": 5, "plumd.artifact": 3, "plumd.artifacts": 5, "plumd.deployments": 5,
    "plumd.notify": 0, "plumd.units": 0, "plumd.lease_book": 1, "plumd.leases": 5,
    "plumd.kv_checks": 1, "plumd.waits": 6, "plumd.builtin_calls": 6,
    "plumd.thresholds": 1, "plumd.alarms": 5,
    "plumd.breaker": 1, "plumd.service_calls": 3, "plumd.lookout": 3,
    "plumd.health": 4, "plumd.signals": 5,
    "plumd.api": 6, "plumd.stream": 6,
    "plumd.daemon": 7, "plumd.cli": 7, "plumd.__main__": 8,
}
ALSO = {
    ("plumd.bodies", "plumd.model"),
    ("plumd.runs", "plumd.outbox"), ("plumd.runs", "plumd.planner"),
    ("plumd.engine", "plumd.runs"), ("plumd.schedules", "plumd.slots"),
    ("plumd.schedules", "plumd.starts"), ("plumd.triggers", "plumd.starts"),
    ("plumd.listeners", "plumd.follow"), ("plumd.webhooks", "plumd.follow"),
    ("plumd.webhooks", "plumd.mqtt"),
    ("plumd.operations", "plumd.devices"), ("plumd.operations", "plumd.leases"),
    ("plumd.carrier", "plumd.waits"), ("plumd.alarms", "plumd.devices"),
    ("plumd.deployments", "plumd.nodes"), ("plumd.deployments", "plumd.services"),
    ("plumd.deployments", "plumd.artifacts"),
    ("plumd.stream", "plumd.api"),      # the types of requests and answers
    ("plumd.api", "plumd.stream"),      # the long poll is a route
}
SDK_SEES = ("plumd.sdk", "plumd")
AGENT_SEES = ("plumd.executors", "plumd.sdk", "plumd.model", "plumd.errors",
              "plumd.notify", "plumd")
TIME_AND_CHANCE = {"time", "random", "secrets", "uuid", "datetime"}
PURE_OF_TIME = ("plumd.flow", "plumd.failures", "plumd.endings", "plumd.balance", "plumd.engine",
                "plumd.store", "plumd.attempt_logs", "plumd.runs", "plumd.outbox",
                "plumd.journal", "plumd.api", "plumd.stream", "plumd.carrier", "plumd.stats",
                "plumd.retention", "plumd.services", "plumd.expiry", "plumd.values",
                "plumd.devices", "plumd.operations", "plumd.nodes", "plumd.fleet",
                "plumd.artifacts", "plumd.artifact", "plumd.deployments",
                "plumd.placement", "plumd.rollout", "plumd.schedules", "plumd.slots",
                "plumd.starts", "plumd.expressions",
                "plumd.planner", "plumd.triggers", "plumd.simulate", "plumd.mapping",
                "plumd.news", "plumd.follow", "plumd.listeners", "plumd.webhooks",
                "plumd.forecast", "plumd.mqtt", "plumd.mqtt_packets", "plumd.lease_book",
                "plumd.leases", "plumd.breaker", "plumd.service_calls", "plumd.health",
                "plumd.lookout",
                "plumd.scrub", "plumd.kv_checks", "plumd.thresholds", "plumd.alarms", "plumd.waits",
                "plumd.builtin_calls")
SQL = re.compile(r"\b(SELECT .+ FROM|INSERT INTO|DELETE FROM|UPDATE \w+ SET|PRAGMA )")


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """The room that a module belongs to: the longest name in the table."""
    names = [name for name in LEVELS if module == name or module.startswith(name + ".")]
    return max(names, key=len, default=module)


@lru_cache(1)
def nodes(path: Path) -> list[ast.AST]:
    """All of a file's syntax. The tests of a file come one after the other."""
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


@pytest.fixture(scope="module", params=FILES, ids=module_of, name="path")
def a_file(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


def imports(path: Path) -> Iterator[str]:
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            if node.module == "plumd":
                yield from (f"plumd.{alias.name}" for alias in node.names)
            else:
                yield node.module


def test_a_room_imports_only_what_stands_below_it(path: Path) -> None:
    room = room_of(module_of(path))
    assert room in LEVELS or room == "plumd", f"{room} has no level"
    for name in imports(path):
        other = room_of(name)
        if not name.startswith("plumd.") or other == room or (room, other) in ALSO:
            continue
        if room in ("plumd.sdk", "plumd.cli"):
            allowed = ("plumd.sdk",) if room == "plumd.cli" else ()
            assert other in allowed or name == "plumd.__version__", f"{room} imports {name}"
        elif room == "plumd.agent":
            assert other in AGENT_SEES, f"{room} imports {name}"
        elif other in LEVELS:
            assert LEVELS[other] < LEVELS[room], f"{room} imports {name}, which stands above it"


def test_sizes(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for number, line in enumerate(text.splitlines(), 1):
        assert len(line) <= LINE_COLUMNS_MAX, f"{path}:{number} is {len(line)} columns wide"
    for node in nodes(path):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= FUNCTION_LINES_MAX, f"{path}: {node.name} has {length} lines"


def test_time_and_chance_come_from_the_clock(path: Path) -> None:
    if room_of(module_of(path)) in PURE_OF_TIME:
        found = TIME_AND_CHANCE & {name.partition(".")[0] for name in imports(path)}
        assert not found, f"{path} reads {found} by itself"


def test_sql_lives_in_the_store(path: Path) -> None:
    if room_of(module_of(path)) == "plumd.store":
        return
    for node in nodes(path):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not SQL.search(node.value), f"{path}:{node.lineno} holds SQL"


def test_nothing_swallows_what_must_pass(path: Path) -> None:
    """No bare except, no except BaseException that does not raise again, no asyncio."""
    assert "asyncio" not in set(imports(path))
    for node in nodes(path):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{path}:{node.lineno} is a bare except"
            if isinstance(node.type, ast.Name) and node.type.id == "BaseException":
                assert any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
        if isinstance(node, ast.Try):
            for inner in node.finalbody:
                assert not any(isinstance(one, ast.Return) for one in ast.walk(inner))


def test_every_room_has_its_tests() -> None:
    names = " ".join(path.name for path in (ROOT / "tests").rglob("*.py"))
    text = " ".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    for room in LEVELS:
        assert room in text or room.rpartition(".")[2] in names, f"no test names {room}"


def test_the_words_are_the_states() -> None:
    assert [state.name.capitalize() for state in TaskState] == list(TASK_STATES)
    assert [kind.name.lower() for kind in Kind] == list(KINDS)
    schema = (PLUMD / "store/schema/0001_init.sql").read_text(encoding="utf-8")
    assert f"state BETWEEN 0 AND {max(TaskState)}" in schema
    core = (PLUMD / "_sched.pyx").read_text(encoding="utf-8")
    for state in TaskState:
        assert f"    {state.name} = {state.value}\n" in core


def run(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff() -> None:
    run("ruff", "check", ".")


def test_mypy() -> None:
    run("mypy")


def test_stubtest() -> None:
    run("mypy.stubtest", "--ignore-missing-stub", "plumd._sched")     # its inner classes


def test_the_project_speaks_of_itself_alone() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    homes = ("/" + "root/", "/" + "work/", "py" + "pi.org", "registry.npm" + "js")
    for name in listed.stdout.decode().split("\0"):
        path = ROOT / name
        if name and path.is_file() and path.stat().st_size < 1 << 20:
            text = path.read_bytes()
            for home in homes:
                assert home.encode() not in text, f"{name} names {home}"
