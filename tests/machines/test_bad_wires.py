"""Nodes at wires that carry one way only, or lose and delay: nothing runs twice, nothing flaps."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import suppress

import httpx
import msgspec
import pytest

from tests.daemon.plant import wait_for
from tests.machines.network import Wire
from tests.machines.plant import TTL_S, Plant, boot_ns, plant_of
from tests.sdk_c.building import Workshop

pytestmark = pytest.mark.daemon
HEALED_NS = 2_000_000_000
MOVED_NS = round((2 * TTL_S + 2) * 1e9)
"""The last word of a node may still be on its way when the wire breaks, and be said again."""
DEFAULT_TTL_S = 15.0
TASKS = 30


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("workshop"))


@pytest.fixture(scope="module")
def plant(workshop: Workshop) -> Iterator[Plant]:
    with plant_of(workshop, beat_s=1.0) as made:
        yield made


@pytest.fixture(scope="module")
def wires(plant: Plant) -> dict[str, Wire]:
    return {name: node.machine.wire() for name, node in plant.nodes.items()}


def submit(plant: Plant, node: str, number: int) -> str:
    """A task that leaves its number in a file; its id."""
    code = f"echo {number} >> {plant.folder}/done"
    answer = plant.api.post("/v1/tasks", json={
        "name": "a.job", "executor": "os_process", "targetKind": "node", "targetRef": node,
        "payload": {"command": "sh", "args": ["-c", code]}})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["taskId"])


def ended(plant: Plant, task: str) -> tuple[str, int]:
    """Its state and attempt, at its end."""
    done: dict[str, object] = {}

    def is_over() -> bool:
        done.update(plant.api.get(f"/v1/tasks/{task}", headers={"Prefer": "wait=10"}).json())
        return done["state"] not in ("Pending", "Running")

    wait_for(is_over, "the task ends", 120)
    return str(done["state"]), msgspec.convert(done["attempt"], int)


ONE_WAY = pytest.mark.parametrize(("sent", "received"), [(0.0, 1.0), (1.0, 0.0)],
                                  ids=["it hears nothing", "it is not heard"])


@ONE_WAY
def test_a_fenced_copy_is_alone_when_one_way_is_cut(
        plant: Plant, wires: dict[str, Wire], sent: float, received: float) -> None:
    with plant.deployed(1, "fence") as found:
        old = plant.copy(found)
        node = str(old.node_id)
        cut_ns = boot_ns()
        wires[node].be(sent=sent, received=received)
        new = plant.next_life(cut_ns)
        assert new.node != node
        assert new.first_ns - cut_ns < MOVED_NS
        wires[node].be()
        wait_for(lambda: plant.health(node) == "Healthy", "the node is back")
        plant.wait_ready(found, 1)
        plant.wait_living(new.instance)
    for before, after in itertools.pairwise(plant.lives()):
        assert before.last_ns < after.first_ns, "there were two"


@ONE_WAY
def test_a_copy_that_may_stay_ends_by_the_heal_of_one_way(
        plant: Plant, wires: dict[str, Wire], sent: float, received: float) -> None:
    with plant.deployed(1) as found:
        old = plant.copy(found)
        node = str(old.node_id)
        cut_ns = boot_ns()
        wires[node].be(sent=sent, received=received)
        new = plant.next_life(cut_ns)
        plant.wait_ready(found, 1)
        plant.wait_living(old.instance_id, new.instance)    # keep lets the old one run
        healed_ns = boot_ns()
        wires[node].be()
        plant.wait_living(new.instance)
        assert plant.last_ns(old.instance_id) - healed_ns < HEALED_NS
        wait_for(lambda: plant.health(node) == "Healthy", "the node is back")


@ONE_WAY
def test_a_task_that_was_lost_ends_before_it_begins_again(
        plant: Plant, wires: dict[str, Wire], sent: float, received: float) -> None:
    """By its own words. The first attempt is lost where one way is cut, and ends by the heal."""
    diary = plant.folder / "attempts"
    diary.unlink(missing_ok=True)
    code = (f"end=$(($(date +%s) + ($PLUM_ATTEMPT == 1 ? 600 : 1))); "
            f"while [ $(date +%s) -le $end ]; do echo $PLUM_ATTEMPT >> {diary}; sleep 0.05; done; "
            f"echo $PLUM_ATTEMPT over >> {diary}")
    answer = plant.api.post("/v1/tasks", json={
        "name": "a.job", "executor": "os_process", "targetKind": "node", "targetRef": "n2",
        "onLost": "retry", "maxRetries": 1, "timeoutSec": 300,
        "payload": {"command": "sh", "args": ["-c", code], "killGraceSec": 0}})
    assert answer.status_code == 201, answer.text
    task = str(answer.json()["taskId"])

    def state() -> str:
        return str(plant.api.get(f"/v1/tasks/{task}").json()["state"])

    wait_for(lambda: diary.exists() and diary.read_text().count("1") > 5, "it runs")
    wires["n2"].be(sent=sent, received=received)
    wait_for(lambda: state() in ("Pending", "Retrying"), "it is lost")
    before = diary.stat().st_size
    wait_for(lambda: diary.stat().st_size > before + 20, "it still runs where it is cut off")
    wires["n2"].be()
    assert ended(plant, task) == ("Succeeded", 2)
    said = diary.read_text().splitlines()
    assert said == sorted(said), "there were two at once"
    assert said.count("2 over") == 1
    assert "1 over" not in said


def changes(plant: Plant) -> list[str]:
    """What became of nodes, from the beginning."""
    found = []
    with suppress(httpx.ReadTimeout), plant.api.stream(
            "GET", "/v1/events", params={"topics": "nodes", "lastEventId": "0"},
            timeout=1.0) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                told = msgspec.json.decode(line[6:], type=dict[str, object])
                found.append(f"{told['id']} {told['what']}")
    return found


def test_loss_and_delay_cost_time_and_nothing_else(workshop: Workshop) -> None:
    """A fifth of all frames is lost both ways, each way takes 0.1 s; nodes have the usual TTL."""
    with plant_of(workshop, DEFAULT_TTL_S) as plant, plant.deployed(2, "fence") as found:
        before = changes(plant)
        assert sorted(before) == ["n1 registered", "n2 registered", "n3 registered"]
        wires = [node.machine.wire() for node in plant.nodes.values()]
        for wire in wires:
            wire.be(sent=0.2, received=0.2, delay_s=0.1)
        tasks = [submit(plant, f"n{1 + number % 3}", number) for number in range(TASKS)]
        assert {ended(plant, task) for task in tasks} == {("Succeeded", 1)}
        until_ns = boot_ns() + round(3 * DEFAULT_TTL_S * 1e9)
        wait_for(lambda: boot_ns() > until_ns, "time goes by", 120)
        assert changes(plant) == before
        assert plant.deployment(found).ready == 2
        assert len(plant.lives()) == 2, "no copy was ended or begun"
        plant.wait_living(*(life.instance for life in plant.lives()))
        done = (plant.folder / "done").read_text().split()
        assert sorted(done, key=int) == [str(number) for number in range(TASKS)]
        for wire in wires:
            wire.be()
