"""os_process tasks on a node, by the real programs: who takes them, what is told, what survives."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec
import pytest

from tests.agent.program import Agent
from tests.clients.network import Network
from tests.daemon.plant import Api, crash, wait_for
from tests.daemon.running import Running

pytestmark = pytest.mark.daemon
PRINTS = f"""exec {sys.executable} -c '
import os, sys, time
number = 0
while not os.path.exists("go"):
    number += 1
    print(number, chr(252), flush=True)
    time.sleep(0.001)   # it goes on for as long as others die, and fills no disk
sys.stdout.buffer.write(bytes([0xc3]) + b"x" * 300_000)
'"""


class Failure(msgspec.Struct, rename="camel"):
    code: str
    message: str
    attempt: int
    node: str | None
    exit_code: int | None
    signal: str | None
    detail: dict[str, list[dict[str, object]]] = {}


class Result(msgspec.Struct, rename="camel"):
    exit_code: int | None
    stdout: str
    stderr: str


class Whole(msgspec.Struct, rename="camel"):
    state: str
    attempt: int
    error: Failure | None
    result: Result | None


@contextmanager
def node(daemon: Running, node_id: str, *options: str, url: str = "") -> Iterator[Agent]:
    """An agent whose session is there. url: its way to the controller, where that is another."""
    data = daemon.data_dir.parent / f"agent-{node_id}"
    with Agent(data, url or daemon.url, node_id, "--beat-sec", "10", *options) as agent, \
            Api(daemon) as api:
        wait_for(lambda: is_here(api, node_id), f"{node_id} is here\n{agent.said()}")
        yield agent


def is_here(api: Api, node_id: str) -> bool:
    return any(one["workerId"] == f"node:{node_id}" and one.get("health", "Healthy") != "Away"
               for one in api.workers())


def run(api: Api, code: str, node_id: str = "n1", **fields: object) -> str:
    usual: dict[str, object] = {
        "targetKind": "node", "targetRef": node_id,
        "payload": {"command": "sh", "args": ["-c", code], "killGraceSec": 0.5}}
    return api.submit("a.job", executor="os_process", **(usual | fields)).task_id


def whole(api: Api, task_id: str) -> Whole:
    return msgspec.json.decode(api.get(f"/v1/tasks/{task_id}"), type=Whole)


def ended(api: Api, task_id: str) -> Whole:
    api.ended(task_id)
    return whole(api, task_id)


def logs(api: Api, task_id: str) -> str:
    return api.get(f"/v1/tasks/{task_id}/logs").decode()


def prints_on(api: Api, task_id: str, before: str) -> bool:
    return logs(api, task_id) != before


def runs(api: Api, task_id: str) -> bool:
    return api.task(task_id).state == "Running"


def test_a_node_runs_what_names_it_and_nothing_else(daemon: Running) -> None:
    with Api(daemon) as api:
        early = run(api, "echo hello; echo oops >&2; exit 3")
        why = api.get(f"/v1/tasks/{early}/why").decode()
        assert "no_node" in why
        assert "'n1'" in why
        with node(daemon, "n1", "--label", "rack=a,gpu=yes") as agent:
            done = ended(api, early)
            assert (done.state, done.attempt) == ("Failed", 1)
            assert done.error is not None
            assert done.result is not None
            assert (done.error.code, done.error.exit_code, done.error.node) == (
                "exit_status", 3, "n1")
            assert (done.result.stdout, done.result.stderr) == ("hello\n", "oops\n")
            assert sorted(logs(api, early).splitlines()) == ["hello", "oops"]
            labelled = run(api, "echo $WORKER_NODE_ID", targetKind="labels", targetRef="gpu=yes")
            found = ended(api, labelled).result
            assert found is not None
            assert found.stdout == "n1\n"
            elsewhere = run(api, "true", targetKind="labels", targetRef="gpu=no")
            assert "no_node" in api.get(f"/v1/tasks/{elsewhere}/why").decode()
            here = api.submit("a.job", executor="os_process", payload={
                "command": "sh", "args": ["-c", "echo node=$WORKER_NODE_ID"]})
            found = ended(api, here.task_id).result
            assert found is not None
            assert found.stdout == "node=\n"        # the daemon's own machine, not the node
            wait_for(lambda: not list((agent.data_dir / "attempts").iterdir()),
                     "nothing is left behind")


def test_a_drained_node_takes_no_tasks_whoever_was_started_anew(daemon: Running) -> None:
    with node(daemon, "n1") as agent:
        with Api(daemon) as api:
            assert ended(api, run(api, "true")).state == "Succeeded"
            assert api.post("/v1/nodes/n1?action=drain").status == 200
        agent.kill()
        daemon.kill()
        daemon.start()
        with Api(daemon) as api:
            waiting = run(api, "echo at last")
            agent.start()
            wait_for(lambda: "workers_draining" in api.get(f"/v1/tasks/{waiting}/why").decode(),
                     "the agent is there, and takes nothing")
            assert api.task(waiting).state == "Pending"
            assert api.post("/v1/nodes/n1?action=undrain").status == 200
            assert ended(api, waiting).state == "Succeeded"


def test_a_drained_node_takes_no_tasks_until_it_is_undrained_or_deleted(daemon: Running) -> None:
    with node(daemon, "n1") as agent, Api(daemon) as api:
        assert api.post("/v1/nodes/n1?action=drain").status == 200
        agent.kill()
        assert api.call("DELETE", "/v1/embedded-workers/node:n1").status == 204
        agent.start()
        waiting = run(api, "echo at last")
        wait_for(lambda: "workers_draining" in api.get(f"/v1/tasks/{waiting}/why").decode(),
                 "whoever forgets its agent does not undrain a node")
        assert api.task(waiting).state == "Pending"
        assert api.call("DELETE", "/v1/nodes/n1").status == 204
        assert ended(api, waiting).state == "Succeeded"


def test_output_is_told_while_it_comes(daemon: Running) -> None:
    with node(daemon, "n1") as agent, Api(daemon) as api:
        task = run(api, "echo one; printf 'half '; while ! test -e go; do sleep 0.05; done;"
                        "echo 'and half ü'; head -c 300000 /dev/zero | tr '\\0' x; echo")
        wait_for(lambda: logs(api, task) == "one\nhalf ", "the beginning is told")
        attempt = agent.data_dir / "attempts" / task / "1"
        (attempt / "work" / "go").touch()
        assert ended(api, task).state == "Succeeded"
        assert logs(api, task) == "one\nhalf and half ü\n" + "x" * 300_000 + "\n"


def test_output_survives_whoever_dies(daemon: Running) -> None:
    """kill -9 of controller and agent, and a line that is cut, while a process prints without end:
    every byte is told once, in order.
    """
    with Network(daemon.port) as network, node(daemon, "n1", url=network.url) as agent:
        with Api(daemon) as api:
            task = run(api, PRINTS)
        work = agent.data_dir / "attempts" / task / "1" / "work"
        for victim in (daemon, agent, None, daemon, agent):
            with Api(daemon) as api:
                before = logs(api, task)
                wait_for(partial(prints_on, api, task, before), "it prints on")
            if victim is None:
                network.cut(refuse=True)
                network.restore()
            else:
                victim.kill()
                victim.start()
        (work / "go").touch()
        with Api(daemon) as api:
            done = ended(api, task)
            assert (done.state, done.attempt) == ("Succeeded", 1)
            shown = logs(api, task)
    numbers = shown[:-300_001].split("\n")
    assert numbers == [f"{number} \u00fc" for number in range(1, len(numbers))] + [""]
    assert shown[-300_001:] == "\ufffd" + "x" * 300_000


def test_cancel_and_timeout_end_the_whole_tree(daemon: Running) -> None:
    deaf = (f"{sys.executable} -c \"import os,signal,time; os.fork() or os.setsid() or "
            "(signal.signal(15, signal.SIG_IGN), open('deaf','w').close(), time.sleep(600))\";")
    with node(daemon, "n1") as agent, Api(daemon) as api:
        for timeout_s, state in ((0, "Canceled"), (2, "Timeout")):
            task = run(api, f"trap '' TERM; {deaf} echo up; sleep 600", timeoutSec=timeout_s)
            work = agent.data_dir / "attempts" / task / "1" / "work"
            wait_for((work / "deaf").exists, "the daemonised child runs")
            if state == "Canceled":
                assert api.post(f"/v1/tasks/{task}?action=cancel").status in (200, 202)
            done = ended(api, task)
            assert done.state == state
            assert done.error is not None
            signals = [one["signal"] for one in done.error.detail["signals"]]
            assert signals == ["SIGTERM", "SIGKILL"]
            wait_for(lambda: agent.leftovers() == [], "the tree is gone")


def test_processes_outlive_their_agent(daemon: Running) -> None:
    """kill -9 of the agent: exit codes, output and the number of attempts are right."""
    with node(daemon, "n1") as agent, Api(daemon) as api:
        waits = "echo begun; while ! test -e go; do sleep 0.05; done; echo done; exit "
        tasks = [run(api, f"{waits} {number}") for number in range(20)]
        wait_for(lambda: all(logs(api, task) == "begun\n" for task in tasks), "all have begun")
        told = [agent.data_dir / "attempts" / task / "1" / "told" for task in tasks]
        wait_for(lambda: all(path.exists() for path in told), "what was told is noted")
        agent.kill()
        works = [agent.data_dir / "attempts" / task / "1" / "work" for task in tasks]
        for work in works[:10]:         # these end while nobody looks
            (work / "go").touch()
        wait_for(lambda: all((work.parent / "status").exists() for work in works[:10]), "they end")
        agent.start()
        for work in works[10:]:
            (work / "go").touch()
        for number, task in enumerate(tasks):
            done = ended(api, task)
            assert done.attempt == 1
            assert done.result is not None
            assert done.result.exit_code == number
            assert logs(api, task) == "begun\ndone\n"
        wait_for(lambda: not list((agent.data_dir / "attempts").iterdir()), "all is forgotten")


def test_processes_outlive_their_controller(daemon: Running) -> None:
    with node(daemon, "n1") as agent, Api(daemon) as api:
        waits = "echo begun; while ! test -e go; do sleep 0.05; done; echo done; exit 5"
        early, late = run(api, waits), run(api, waits)
        wait_for(lambda: runs(api, early) and runs(api, late), "they run")
        work = {task: agent.data_dir / "attempts" / task / "1" / "work" for task in (early, late)}
        # What is on its way when the daemon dies is lost, so it is waited for.
        wait_for(lambda: all(logs(api, task) == "begun\n" for task in work), "they have begun")
        daemon.kill()
        (work[early] / "go").touch()
        wait_for((work[early].parent / "status").exists, "one ends while the controller is away")
        daemon.start()
        api.close()
        assert ended(api, early).result is not None
        (work[late] / "go").touch()
        for task in (early, late):
            done = ended(api, task)
            assert (done.state, done.attempt) == ("Failed", 1)
            assert done.error is not None
            assert done.error.exit_code == 5
            assert logs(api, task) == "begun\ndone\n"


def test_what_was_lost_is_ended_when_the_node_is_back(daemon: Running) -> None:
    """A node without a word for a lease: its attempt is lost, and the old process is ended."""
    with node(daemon, "n1", "--beat-sec", "1") as agent, Api(daemon) as api:
        task = run(api, "echo $PLUM_ATTEMPT > /dev/null; exec sleep 600")
        wait_for(lambda: runs(api, task), "it runs")
        first = agent.data_dir / "attempts" / task / "1"
        wait_for((first / "claim").exists, "it is claimed")
        os.kill(agent.pid, signal.SIGSTOP)
        wait_for(lambda: api.task(task).state == "Pending", "it is lost")
        os.kill(agent.pid, signal.SIGCONT)
        wait_for(lambda: whole(api, task).attempt == 2, "it is tried again")
        wait_for(lambda: not first.exists(), "the old one is gone")
        assert api.post(f"/v1/tasks/{task}?action=cancel").status in (200, 202)
        assert ended(api, task).state == "Canceled"


def test_a_restart_of_both_at_once(daemon: Running) -> None:
    with node(daemon, "n1") as agent, Api(daemon) as api:
        task = run(api, "while ! test -e go; do sleep 0.05; done; echo done")
        wait_for((agent.data_dir / "attempts" / task / "1" / "work").exists, "it runs")
        agent.kill()
        crash(daemon, api)
        agent.start()
        (agent.data_dir / "attempts" / task / "1" / "work" / "go").touch()
        done = ended(api, task)
        assert (done.state, done.attempt) == ("Succeeded", 1)


def test_another_agent_cannot_have_the_same_directory(daemon: Running, tmp_path: Path) -> None:
    with node(daemon, "n1") as agent:
        with Agent(tmp_path / "other", daemon.url, "n2") as second:
            second.stop()
            second.words[second.words.index("--data-dir") + 1] = str(agent.data_dir)
            second.start()
            assert second.process is not None
            assert second.process.wait(20) == 73
            assert "another agent uses" in second.said()


def test_output_of_a_gigabyte_costs_no_memory(daemon: Running) -> None:
    with node(daemon, "n1") as agent, Api(daemon) as api:
        before = rss_kb(agent.pid)
        task = run(api, "head -c 1073741824 /dev/zero | tr '\\0' y; echo; echo end")
        done = ended(api, task)
        assert done.state == "Succeeded"
        assert rss_kb(agent.pid) < before + 48 * 1024
        whole_log = api.get(f"/v1/tasks/{task}/logs?follow=true").decode()
        assert whole_log.endswith("yyy\nend\n")
        assert "bytes left out" in whole_log


def rss_kb(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0])


def test_what_is_no_agent_gets_no_processes(daemon: Running) -> None:
    with Api(daemon) as api:
        body = {"register": {"session": "s", "tasks": ["!os_process"], "nodeId": "n1"},
                "session": "s", "holding": []}
        for worker_id, status in (("w", 422), ("node:n2", 422), ("node:n1", 200)):
            answer = api.post(f"/v1/embedded-workers/{worker_id}/exchange", body)
            assert answer.status == status, answer


def test_the_daemon_brings_an_agent_of_its_own(tmp_path: Path) -> None:
    with Running(tmp_path / "data", "--agent", "--node-id", "home") as daemon, Api(daemon) as api:
        wait_for(lambda: is_here(api, "home"), "the agent is here")
        assert ended(api, run(api, "true", "home")).state == "Succeeded"
        daemon.kill()
        daemon.start()
        api.close()
        wait_for(lambda: is_here(api, "home"), "another one is here")
        assert ended(api, run(api, "true", "home")).state == "Succeeded"
        marks = Agent(tmp_path / "data" / "agent", daemon.url, "home")
        assert len(marks.leftovers()) == 1
        assert daemon.stop() == 0
        assert marks.leftovers() == []
