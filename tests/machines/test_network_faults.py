"""Deployments through what networks and processes do: the promises, by the processes' own words."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterator

import msgspec
import pytest

from tests.daemon.plant import wait_for
from tests.machines.plant import TTL_S, Calls, Plant, boot_ns, plant_of
from tests.sdk_c.building import Workshop

pytestmark = pytest.mark.daemon
MOVED_NS = round((TTL_S + 2) * 1e9)
HEALED_NS = 2_000_000_000
BACK_NS = 2_000_000_000
LONG_NS = 11_000_000_000
"""By then the kernel tries each connection that was cut only once in many seconds."""


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    with plant_of(Workshop(tmp_path_factory.mktemp("workshop"))) as made:
        yield made


def wait_until(at_ns: int) -> None:
    wait_for(lambda: boot_ns() > at_ns, "time goes by")


def ask(plant: Plant, count: int) -> set[str]:
    """Call the service by so many tasks, without a second try; the nodes that answered."""
    tasks = [{"name": f"ask-{index}", "executor": "service", "targetKind": "service",
              "targetRef": "meter", "payload": {"n": index}} for index in range(count)]
    answer = plant.api.post("/v1/tasks/bulk", json={"tasks": tasks})
    assert answer.status_code == 200, answer.text
    nodes = set()
    for item in answer.json()["results"]:
        done = plant.api.get(f"/v1/tasks/{item['taskId']}", headers={"Prefer": "wait=10"}).json()
        assert done["state"] == "Succeeded", done
        nodes.add(str(done["result"]["node"]))
    return nodes


def test_a_service_is_deployed_found_called_and_comes_back(plant: Plant) -> None:
    with plant.deployed(2) as found:
        nodes = {copy.node_id for copy in plant.copies(found)}
        assert len(nodes) == 2
        assert ask(plant, 20) == nodes
        wait_for(lambda: len(plant.endpoints("meter-self")) == 2, "it registers itself, too")
        assert plant.endpoints("meter-self") == plant.endpoints("meter")

        copy = plant.copies(found)[0]
        assert copy.node_id is not None
        gaps = []
        for turn in range(3):
            wait_for(lambda: plant.copies(found)[0].restarts == turn      # noqa: B023 - at once
                     and plant.copies(found)[0].state == "Running", "it runs")
            killed_ns = plant.nodes[copy.node_id].kill(plant.copies(found)[0].pid)
            gaps.append(plant.next_life(killed_ns).first_ns - killed_ns)
        assert gaps[0] < BACK_NS
        assert gaps[1] > 900_000_000, "the second time it waits a second"
        assert gaps[2] > 1_900_000_000, "then two"
        plant.wait_ready(found, 2)
        plant.act(found, "scale", replicas=3)
        plant.wait_ready(found, 3)
        assert ask(plant, 20) == set(plant.nodes)
        plant.act(found, "scale", replicas=1)
        wait_for(lambda: len(plant.living()) == 1, "the others end")


def test_a_copy_moves_when_its_node_is_cut_off_and_the_old_one_ends_by_the_heal(
        plant: Plant) -> None:
    with plant.deployed(1) as found:
        old = plant.copy(found)
        node = plant.nodes[str(old.node_id)]
        cut_ns = boot_ns()
        node.machine.unplug()
        new = plant.next_life(cut_ns)
        assert new.first_ns - cut_ns < MOVED_NS
        assert new.node != node.name
        plant.wait_ready(found, 1)
        assert plant.health(node.name) == "Unhealthy"
        wait_until(cut_ns + LONG_NS)
        plant.wait_living(old.instance_id, new.instance)    # keep lets the old one run
        healed_ns = boot_ns()
        node.machine.plug_in()
        plant.wait_living(new.instance)
        assert plant.last_ns(old.instance_id) - healed_ns < HEALED_NS
        wait_for(lambda: plant.health(node.name) == "Healthy", "the node is back")
        assert ask(plant, 5) == {new.node}


def cut(plant: Plant, name: str) -> None:
    plant.nodes[name].machine.unplug()


def kill(plant: Plant, name: str) -> None:
    plant.nodes[name].signal(signal.SIGKILL)


def stop(plant: Plant, name: str) -> None:
    plant.nodes[name].signal(signal.SIGSTOP)


def plug_in(plant: Plant, name: str) -> None:
    plant.nodes[name].machine.plug_in()


def start(plant: Plant, name: str) -> None:
    plant.nodes[name].start()


def go_on(plant: Plant, name: str) -> None:
    plant.nodes[name].signal(signal.SIGCONT)


@pytest.mark.parametrize(("fault", "end"), [(cut, plug_in), (kill, start), (stop, go_on)],
                         ids=["cut off", "agent killed", "agent stopped"])
def test_a_fenced_copy_never_lives_beside_another(
        plant: Plant, fault: Callable[[Plant, str], None],
        end: Callable[[Plant, str], None]) -> None:
    with plant.deployed(1, "fence") as found:
        old = plant.copy(found)
        if fault is cut:
            wait_until(plant.lives()[0].first_ns + round(2 * TTL_S * 1e9))
            assert len(plant.lives()) == 1, "it was never ended for want of a renewal"
        begun_ns = boot_ns()
        fault(plant, str(old.node_id))
        new = plant.next_life(begun_ns)
        assert new.node != old.node_id
        assert new.first_ns - begun_ns < MOVED_NS
        end(plant, str(old.node_id))
        wait_for(lambda: plant.health(str(old.node_id)) == "Healthy", "the node is back")
        plant.wait_ready(found, 1)
        plant.wait_living(new.instance)
    for before, after in itertools.pairwise(plant.lives()):
        assert before.last_ns < after.first_ns, "there were two"


def test_a_new_version_rolls_through_without_a_call_that_fails(plant: Plant) -> None:
    with plant.deployed(2) as found, Calls(plant) as calls:
        plant.renew(found, plant.body("2", 2))
        wait_for(lambda: rollout(plant, found) == "done", "it rolls through")
        calls.wait_for_more()
        assert calls.said()[-1] == "2"

        plant.renew(found, plant.body("3", 2, start="echo broken >&2; exit 3"))
        wait_for(lambda: rollout(plant, found) == "returned", "what is broken comes back")
        calls.wait_for_more()
        assert calls.said()[-1] == "2"

        plant.act(found, "rollback", version=1)
        wait_for(lambda: rollout(plant, found) == "done", "the first version comes back")
        calls.wait_for_more()
        assert calls.said()[-1] == "1"
        assert calls.wrong() == []
        assert set(calls.said()) == {"1", "2"}


def rollout(plant: Plant, found: str) -> str:
    """How far it is."""
    said = msgspec.to_builtins(plant.deployment(found).rollout)
    return str(said["state"]) if said else ""
