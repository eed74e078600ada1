"""Processes and nodes in the core: who takes what, and why something waits."""

from __future__ import annotations

from plumd._sched import Scheduler
from plumd.clock import Instant
from plumd.model import OS_PROCESS_POOL, Join, Kind, Limits, Submit, WorkerKind

NOW = Instant(10**12, 10**18)


def agent(node_id: str, *labels: tuple[str, str]) -> Join:
    return Join(f"node:{node_id}", WorkerKind.SESSION, "s", (OS_PROCESS_POOL,), node_id, labels)


def local(node_id: str = "home") -> Join:
    return Join("local:os_process", WorkerKind.LOCAL, "", (OS_PROCESS_POOL,), node_id)


def started(core: Scheduler, *joins: Join, target_kind: str = "", target_ref: str = "") -> str:
    """Who is given a process with this target; "" when it waits."""
    for join in joins:
        assert core.apply(join, NOW).ok
    assert core.apply(Submit(7, "a.job", Kind.OS_PROCESS, target_kind, target_ref), NOW).ok
    core.tick(NOW)
    core.check()
    starts = core.take()[4]
    return starts[0][0] if starts else ""


def why(core: Scheduler) -> str:
    causes = core.why(7)
    assert causes
    return f"{causes[0].code}: {causes[0].message}"


def test_a_process_without_a_target_runs_at_home() -> None:
    assert started(Scheduler(Limits(), 1), agent("home"), local()) == "local:os_process"
    assert started(Scheduler(Limits(home_node="home"), 1), agent("n1"), agent("home")) == (
        "node:home")
    core = Scheduler(Limits(), 1)
    assert started(core, agent("home")) == ""
    assert why(core).startswith("no_node: The controller's own machine runs no processes")


def test_a_process_runs_on_the_node_that_it_names() -> None:
    core = Scheduler(Limits(), 1)
    assert started(core, local(), agent("n1"), agent("n2"), target_kind="node",
                   target_ref="n2") == "node:n2"
    core = Scheduler(Limits(), 1)
    assert started(core, local(), agent("n1"), target_kind="node", target_ref="n3") == ""
    assert why(core) == "no_node: No agent of the node 'n3' is here."
    assert started(Scheduler(Limits(), 1), local("home"), target_kind="node",
                   target_ref="home") == "local:os_process"


def test_a_process_runs_on_a_node_with_the_labels_that_it_names() -> None:
    one, two = agent("n1", ("gpu", "no"), ("hall", "1")), agent("n2", ("gpu", "yes"), ("hall", "1"))
    core = Scheduler(Limits(), 1)
    assert started(core, local(), one, two, target_kind="labels",
                   target_ref="hall=1,gpu=yes") == "node:n2"
    core = Scheduler(Limits(), 1)
    assert started(core, local(), one, target_kind="labels", target_ref="gpu=yes") == ""
    assert why(core).startswith("no_node: No agent is here whose node has the labels 'gpu=yes'")
