"""Controller and agents together, by the real programs: deploy, look, lose a node, limit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import msgspec
import pytest
import trio

from plumd.sdk import AsyncClient
from tests.agent.acting import zipped
from tests.agent.program import Agent
from tests.agent.test_instances import is_alive
from tests.agent.test_node_tasks import ended, run
from tests.daemon.plant import Api, wait_for
from tests.daemon.running import BIN, Running

pytestmark = pytest.mark.daemon
META = "name=web\nversion=1\n"
START = ("#!/bin/sh\necho \"up $PLUM_INSTANCE_ID on $WORKER_NODE_ID\"; echo $$ > pid\n"
         "exec sleep 600\n")


class Copy(msgspec.Struct, rename="camel"):
    """An instance as it is shown."""

    instance_id: str
    node_id: str | None
    phase: str
    exit_code: int | None = None
    restarts: int = 0
    message: str = ""


class Site:
    """A controller and its agents."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.daemon = Running(folder / "data", "--node-ttl-sec", "4", *options)
        self.agents: dict[str, Agent] = {}

    def node(self, node_id: str, stack: ExitStack, *options: str) -> Agent:
        agent = Agent(self.folder / node_id, self.daemon.url, node_id, *options)
        self.agents[node_id] = stack.enter_context(agent)
        return agent

    def app(self, files: dict[str, str | bytes]) -> str:
        """Upload an app: its url."""
        answer = httpx.post(f"{self.daemon.url}/v1/apps/upload", files={
            "file": ("a.zip", zipped(files), "application/zip")}, trust_env=False)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["url"])

    def deploy(self, **entry: object) -> str:
        more = {key: entry.pop(key) for key in ("onPartition",) if key in entry}
        answer = httpx.post(f"{self.daemon.url}/v1/deployments", json={
            "name": "d", "entries": [entry], **more}, trust_env=False)
        assert answer.is_success, answer.text
        found = str(answer.json()["deploymentId"])
        answer = httpx.post(f"{self.daemon.url}/v1/deployments/{found}?action=start",
                            trust_env=False)
        assert answer.status_code == 200, answer.text
        return found

    def copies(self) -> list[Copy]:
        text = httpx.get(f"{self.daemon.url}/v1/instances", trust_env=False).content
        return msgspec.json.decode(text, type=list[Copy])

    def running(self, node_id: str = "") -> list[Copy]:
        return [one for one in self.copies() if one.phase == "Running"
                and one.node_id == (node_id or one.node_id)]

    def pid(self, copy: Copy) -> int:
        assert copy.node_id is not None
        path = (self.agents[copy.node_id].data_dir / "instances" / copy.instance_id / "app"
                / "pid")
        wait_for(lambda: path.exists() and path.read_text() != "", "it says its id")
        return int(path.read_text())


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


@pytest.fixture
def site(tmp_path: Path, stack: ExitStack) -> Site:
    made = Site(tmp_path)
    stack.enter_context(made.daemon)
    return made


def test_deploy_look_crash_and_stop(site: Site, stack: ExitStack) -> None:
    agent = site.node("n1", stack)
    url = site.app({"start.sh": START, "meta.ini": META})
    found = site.deploy(artifactUrl=url, replicas={"n1": 2})
    wait_for(lambda: len(site.running("n1")) == 2, "both run")
    one, two = site.running("n1")
    path = f"{site.daemon.url}/v1/instances/{one.instance_id}/logs"
    wait_for(lambda: httpx.get(path, trust_env=False).text == f"up {one.instance_id} on n1\n",
             "it says so")
    answer = httpx.get(path, trust_env=False)
    assert (answer.headers["plum-run"], answer.headers["plum-finished"]) == ("1", "false")
    pid = site.pid(one)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: site.pid(one) != pid and is_alive(site.pid(one)), "it is back")
    wait_for(lambda: [each.restarts for each in site.running()
                      if each.instance_id == one.instance_id] == [1], "and counted")
    first = httpx.get(f"{site.daemon.url}/v1/instances/{one.instance_id}/logs?run=1",
                      trust_env=False)
    assert first.headers["plum-finished"] == "true"
    with httpx.stream("GET", f"{site.daemon.url}/v1/instances/{one.instance_id}/logs"
                             "?run=1&follow=true", trust_env=False) as stream:
        text = b""
        for piece in stream.iter_raw():
            text += piece
            if text.count(b"\n") == 2:      # of the first start, and of the one that followed
                break
    assert text.decode() == f"up {one.instance_id} on n1\n" * 2
    agent.kill()
    answer = httpx.get(f"{site.daemon.url}/v1/instances/{two.instance_id}/logs", trust_env=False)
    assert answer.json()["code"] == "node_unreachable"
    assert answer.json()["reason"] == {"code": "agent_away", "values": {"node": "n1"}}
    agent.start()
    stopped = httpx.post(f"{site.daemon.url}/v1/deployments/{found}?action=stop", trust_env=False)
    assert stopped.status_code == 200
    wait_for(lambda: agent.leftovers() == [], "nothing runs any more")


def test_one_copy_by_the_command_line(site: Site, stack: ExitStack) -> None:
    site.node("n1", stack)
    url = site.app({"start.sh": START, "meta.ini": META})
    found = site.deploy(artifactUrl=url, replicas={"n1": 2}, backoff={"firstSec": 0.1})
    wait_for(lambda: len(site.running("n1")) == 2, "both run")
    one, two = (copy.instance_id for copy in site.running("n1"))

    def plum(*words: str) -> str:
        done = site.daemon.plum(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def state() -> str:
        return str(json.loads(plum("instance", "get", one, "-o", "json"))["state"])

    said = f"up {one} on n1\n"
    assert plum("instance", "list", "--node", "n1", "-o", "name").split() == [one, two]
    assert plum("instance", "list", "--state", "Failed", "-o", "name") == ""
    assert "n1" in plum("instance", "get", one)
    wait_for(lambda: plum("instance", "logs", one) == said, "it says so")
    assert plum("instance", "logs", one, "--tail", "3") == said[-3:]
    plum("instance", "stop", one)
    wait_for(lambda: state() == "Stopped", "it stops alone")
    assert [copy.instance_id for copy in site.running()] == [two]
    plum("instance", "start", one)
    wait_for(lambda: state() == "Running", "it runs again, where it was")
    assert plum("instance", "logs", one, "--run", "1") == said
    wait_for(lambda: plum("instance", "logs", one, "--run", "2", "--raw") == said, "it says so")
    with subprocess.Popen([BIN / "plum", "--server", site.daemon.url, "instance", "logs", one,
                           "-f", "--run", "1"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == [said, said]
        process.kill()

    async def read() -> bytes:
        async with AsyncClient(site.daemon.url) as client, client.instance_logs(
                one, run=1) as pieces:
            return b"".join([piece async for piece in pieces])

    assert trio.run(read).decode() == said
    assert site.daemon.plum("instance", "logs", "0").returncode == 3
    plum("instance", "delete", one)
    wait_for(lambda: [copy.instance_id for copy in site.copies()] == [two], "there is one less")
    shown = json.loads(plum("deployment", "get", found, "-o", "json"))
    assert shown["entries"][0]["replicas"] == {"n1": 1}


def test_a_lost_node_s_instances_move_and_its_old_copies_end(site: Site, stack: ExitStack) -> None:
    first, second = site.node("n1", stack), site.node("n2", stack)
    url = site.app({"start.sh": START, "meta.ini": META})
    wait_for(lambda: len(httpx.get(f"{site.daemon.url}/v1/nodes", trust_env=False).json()) == 2,
             "both nodes are here")
    site.deploy(artifactUrl=url, replicas=2)
    wait_for(lambda: len(site.running("n1")) == len(site.running("n2")) == 1, "they are spread")
    old = site.running("n1")[0]
    pid = site.pid(old)
    os.kill(first.pid, signal.SIGSTOP)
    wait_for(lambda: len(site.running("n2")) == 2, "it moved")
    assert is_alive(pid), "keep lets the old copy run while its node is away"
    os.kill(first.pid, signal.SIGCONT)
    wait_for(lambda: not is_alive(pid), "the old copy ends when the node is back")
    assert len([one for one in site.copies() if one.phase == "Running"]) == 2
    assert second.process is not None


def test_a_machine_that_was_set_up_anew(site: Site, stack: ExitStack) -> None:
    """It has the name, not the key: it keeps nobody alive, and is the node once that is lost."""
    old = site.node("n1", stack)
    url = site.app({"start.sh": START, "meta.ini": META})
    site.deploy(artifactUrl=url, replicas={"n1": 1})
    wait_for(lambda: len(site.running("n1")) == 1, "it runs")
    pid = site.pid(site.running("n1")[0])
    old.kill()
    new = Agent(site.folder / "anew", site.daemon.url, "n1")
    site.agents["n1"] = stack.enter_context(new)
    wait_for(lambda: "belongs to another agent" in new.said(), "it is told")
    path = f"{site.daemon.url}/v1/nodes/n1"
    wait_for(lambda: httpx.delete(path, trust_env=False).status_code == 204,
             "the node is lost, and its name is given away")
    wait_for(lambda: len(site.running("n1")) == 1, "what it had runs on the new machine")
    assert site.pid(site.running("n1")[0]) != pid
    assert is_alive(pid), "the old machine was not heard of"
    old.start()
    wait_for(lambda: not is_alive(pid), "it hears that it is no node any more")
    assert len(site.running("n1")) == 1


def test_a_fenced_copy_ends_before_another_begins(site: Site, stack: ExitStack) -> None:
    """The copies write down when they live; no moment has two."""
    diary = site.folder / "diary"
    begin = f"import os, time\nmine = f'{diary}-' + os.environ['PLUM_INSTANCE_ID']\n"
    loop = ("now = lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME)\nfirst = now()\n"
            "file = os.open(mine, os.O_WRONLY | os.O_CREAT)\nwhile True:\n"
            "    os.pwrite(file, b'%020d %020d' % (first, now()), 0); time.sleep(0.005)\n")
    url = site.app({"start.sh": "#!/bin/sh\nexec python3 live.py\n", "live.py": begin + loop,
                    "meta.ini": META})
    first = site.node("n1", stack)
    site.node("n2", stack)
    site.deploy(artifactUrl=url, replicas=1, onPartition="fence", stopGraceSec=60)
    wait_for(lambda: len(site.running()) == 1, "it runs")
    copy = site.running()[0]
    if copy.node_id == "n2":
        first = site.agents["n2"]
    os.kill(first.pid, signal.SIGSTOP)
    wait_for(lambda: len([one for one in site.running() if one.node_id != copy.node_id]) == 1,
             "it moved", 60)
    other = next(one for one in site.running() if one.node_id != copy.node_id)
    path = Path(f"{diary}-{other.instance_id}")
    wait_for(lambda: path.exists() and len(path.read_text().split()) == 2, "it lives")
    ended_ns = int(Path(f"{diary}-{copy.instance_id}").read_text().split()[1])
    begun_ns = int(path.read_text().split()[0])
    assert ended_ns < begun_ns
    os.kill(first.pid, signal.SIGCONT)


def test_limits_hold_a_memory_hog_and_a_fork_bomb(site: Site, stack: ExitStack) -> None:
    agent = site.node("n1", stack)
    with Api(site.daemon) as api:
        hog = run(api, "true", payload={
            "command": "python3", "args": ["-c", "x = bytearray(1 << 30); print(len(x))"],
            "limits": {"memoryBytes": 64 << 20}})
        bomb = run(api, "true", payload={
            "command": "sh", "args": ["-c", "f() { f | f & }; f; sleep 1; echo over"],
            "limits": {"pids": 32}, "killGraceSec": 0}, timeoutSec=10)
        done = ended(api, hog)
        assert done.state == "Failed"
        assert done.error is not None
        assert done.error.code in ("oom", "exit_status")    # by its group, or by its own rlimit
        if done.error.code == "oom":
            assert "out of memory" in done.error.message
        done = ended(api, bomb)
        assert done.state in ("Succeeded", "Failed", "Timeout")
        wait_for(lambda: agent.leftovers() == [], "nothing of it is left")
        assert ended(api, run(api, "echo fine")).state == "Succeeded"


def test_what_starts_printed_is_kept_in_few_files(site: Site, stack: ExitStack) -> None:
    """Of all starts, whenever the agent is killed, and of an instance that is gone."""
    agent = site.node("n1", stack)
    url = site.app({
        "start.sh": "echo start of $PLUM_INSTANCE_ID; echo oops >&2; exit 1", "meta.ini": META})
    found = site.deploy(artifactUrl=url, replicas={"n1": 1},
                        backoff={"firstSec": 0.05, "maxSec": 0.05})

    def restarts() -> int:
        return max((each.restarts for each in site.copies()), default=0)

    def fail_again(times: int) -> None:
        before = restarts()
        wait_for(lambda: restarts() >= before + times, "it is started again")

    for _ in range(3):
        fail_again(8)
        agent.kill()
        agent.start()
    fail_again(1)
    instance = site.copies()[0].instance_id
    stopped = httpx.post(f"{site.daemon.url}/v1/deployments/{found}?action=stop", trust_env=False)
    assert stopped.status_code == 200
    runs = agent.data_dir / "instances" / instance / "runs"
    wait_for(lambda: not any(folders for _, folders, _ in os.walk(runs)), "all starts are over")
    assert len(list((agent.data_dir / "logs").iterdir())) <= 4, "two an hour"

    def log(number: int) -> httpx.Response:
        return httpx.get(f"{site.daemon.url}/v1/instances/{instance}/logs?run={number}",
                         trust_env=False)

    wait_for(lambda: log(0).status_code == 200, "the agent's session is there")
    last = int(log(0).headers["plum-last-run"])
    assert last > 24
    for number in range(1, last + 1):
        answer = log(number)
        assert answer.text == f"start of {instance}\noops\n", number
        assert answer.headers["plum-finished"] == "true"
    with httpx.stream("GET", f"{site.daemon.url}/v1/instances/{instance}/logs"
                             f"?run={last - 2}&follow=true", trust_env=False) as stream:
        text = b""
        for piece in stream.iter_raw():
            text += piece
            if text.count(b"oops") == 3:
                break
    assert log(last + 1).status_code == 404
