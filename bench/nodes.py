"""A fleet of 500 nodes and 5,000 instances: what beats cost, and how long a failover is planned."""

from __future__ import annotations

import hashlib
import io
import random
import resource
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import apsw
import msgspec

from bench import harness
from bench.harness import Daemon, Figures
from bench.load import Connection
from plumd.fleet import Body, Copy, DeploymentEntry, Phase, Slot, slots_of
from plumd.placement import NODE_LOST, Board, Need, Node
from plumd.rollout import View, settle

INSTANCES_OF_EACH = 10
TTL_S = 15
WAIT_S = 120


def copies_of(number: int, body: Body, nodes: list[str], first: int) -> list[Copy]:
    """A deployment's copies, spread over the fleet."""
    return [Copy(first + index, number, slot.entry, slot.pin, slot.ordinal, 1, 1, index + 1, 0,
                 nodes[(first + index) % len(nodes)], "", 0, False, Phase.RUNNING, 1, None, None,
                 0, 1, "", 1, 1, 1, 1)
            for index, slot in enumerate(slots_of(body.entries[0]))]


def program(entry: DeploymentEntry, version: int, name: str) -> DeploymentEntry:
    """What each version says."""
    del version, name
    return entry


def unfenced(version: int) -> bool:
    """None of them has a fence."""
    del version
    return False


def another(number: int, slot: Slot) -> Copy:
    """A copy without a node."""
    return Copy(number * 100_000 + 50_000 + slot.ordinal, number, *slot, 2, 1, 99, 0, "", "", 0,
                False, Phase.PENDING, 0, None, None, 0, 0, "", 0, 0, 0, 1)


def failover(seconds: float, node_count: int = 500, lost_count: int = 50) -> Figures:
    """So many nodes are lost at once: from that news to all moves, ready to be written."""
    del seconds
    drawn = random.Random(1)
    names = [f"node-{index:04}" for index in range(node_count)]
    lost = set(drawn.sample(names, lost_count))
    deployments = []
    for number in range(1, node_count + 1):
        body = Body(f"d{number}", (DeploymentEntry(name="e", replicas=INSTANCES_OF_EACH,
                                         selector={"rack": str(number % 4)}),))
        fit = [name for index, name in enumerate(names) if index % 4 == number % 4]
        deployments.append((number, body, copies_of(number, body, fit, number * 100_000)))
    begun = time.process_time()
    board = Board(Node(name, {"rack": str(index % 4)}, NODE_LOST if name in lost else "",
                       memory_bytes=1 << 34) for index, name in enumerate(names))

    def need(number: int, entry: DeploymentEntry) -> Need:
        return Need((number, entry.name), entry.selector, memory_bytes=1 << 20)

    for number, body, copies in deployments:
        for copy in copies:
            board.put(copy.node_id, need(number, body.entries[0]))
    moved, digest = 0, hashlib.sha256()
    for number, body, copies in deployments:
        moves = settle(View(number, 1, body, True, None, copies,
                            partial(program, body.entries[0]), unfenced, need,
                            partial(another, number), 100), board)
        moved += len(moves.begun)
        for copy in moves.begun:
            assert copy.node_id not in lost
            digest.update(f"{copy.number} {copy.node_id};".encode())
    took = time.process_time() - begun
    return Figures(f"failover of {lost_count} of {node_count} nodes", {
        "nodes": node_count, "instances": node_count * INSTANCES_OF_EACH, "moved": moved,
        "planned_cpu_s": took}, digest.hexdigest()[:12])


# ---- the real controller with agents that are played --------------------------------------------

def deploy(port: int, count: int) -> None:
    """So many deployments, as large as nodes have instances."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("start.sh", "exec sleep 1000")
        archive.writestr("meta.ini", "name=bench\nversion=1\n")
    with Connection(port) as line:
        url = line.text(line.json("POST", "/v1/apps/upload", made.getvalue())["url"])
    with Connection(port) as line:
        for number in range(count):
            found = line.json("POST", "/v1/deployments", msgspec.json.encode({
                "name": f"d{number}", "entries": [
                    {"artifactUrl": url, "replicas": INSTANCES_OF_EACH}]}))
            line.call("POST", f"/v1/deployments/{line.text(found['deploymentId'])}?action=start")


def count(daemon: Daemon, statement: str) -> int:
    """A number out of the daemon's file."""
    db = apsw.Connection(str(daemon.data / "plum.db"), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return next(iter(db.execute(statement)))[0] or 0
    finally:
        db.close()


def wait_for(daemon: Daemon, statement: str, wanted: int) -> None:
    """Until the number is as large."""
    harness.wait_for(lambda: count(daemon, statement) >= wanted, f"{wanted}: {statement}", WAIT_S)


@contextmanager
def fleet(daemon: Daemon, nodes: int) -> Iterator[subprocess.Popen[bytes]]:
    """So many agents, in a process of their own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, nodes * 4 + 1_000), hard))
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.fleet_nodes", str(daemon.port), str(nodes)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


RUNNING = "SELECT count(*) FROM instances WHERE phase = 2 AND retired = ''"
MOVED = ("SELECT count(*) FROM instances WHERE retired = 'lost' AND node_id IN "
         "(SELECT id FROM nodes WHERE lost_ms > 0)")
LAG_MS = ("SELECT max(new.created_ms - nodes.lost_ms) FROM instances AS old "
          "JOIN nodes ON nodes.id = old.node_id "
          "JOIN instances AS new ON new.deployment_id = old.deployment_id "
          "AND new.ordinal = old.ordinal AND new.generation = old.generation + 1 "
          "WHERE old.retired = 'lost'")


def steady(seconds: float, nodes: int = 500, lost: int = 50) -> Figures:
    """What beats, looks and reports cost in the daemon, and how long after the news of a lost node
    its instances have new places on disk."""
    instances = nodes * INSTANCES_OF_EACH
    with harness.daemon(("--node-ttl-sec", str(TTL_S))) as daemon, \
            fleet(daemon, nodes) as agents:
        deploy(daemon.port, nodes)
        wait_for(daemon, RUNNING, instances)
        time.sleep(2)           # the last reports of the start are no steady state
        cpu_s, commits, begun = daemon.cpu_s(), daemon.commits(), time.monotonic()
        time.sleep(seconds)     # the window: nothing is waited for
        took_s = time.monotonic() - begun
        found = {"nodes": nodes, "instances": instances,
                 "core_percent": (daemon.cpu_s() - cpu_s) / took_s * 100,
                 "commits_per_s": (daemon.commits() - commits) / took_s,
                 "rss_mb": daemon.status("VmRSS") / 1024}
        if lost:
            assert agents.stdin is not None
            agents.stdin.write(f"silent {lost}\n".encode())
            agents.stdin.flush()
            moved = lost * INSTANCES_OF_EACH
            wait_for(daemon, MOVED, moved)
            wait_for(daemon, RUNNING, instances)
            found |= {"moved": moved, "moved_after_ms_max": count(daemon, LAG_MS)}
        return Figures(f"{nodes} nodes and {instances} instances", found,
                       harness.digest_of(f"{nodes} {instances}"))
