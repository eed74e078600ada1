"""Instances of deployments under the real agent, against a controller played by hand."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from plumd.agent.instance import owner_of
from plumd.executors.hour_logs import HourLogs
from tests.agent.acting import Controller
from tests.agent.program import Agent
from tests.daemon.plant import wait_for
from tests.daemon.running import free_port

pytestmark = pytest.mark.daemon
SERVICE = "#!/bin/sh\necho up; env > env.txt; echo $$ > pid; exec sleep 600\n"


@pytest.fixture
def controller() -> Iterator[Controller]:
    with Controller() as made:
        yield made


@pytest.fixture
def agent(tmp_path: Path, controller: Controller) -> Iterator[Agent]:
    with Agent(tmp_path / "agent", controller.url, "n1") as made:
        yield made


def app_of(agent: Agent, instance_id: str) -> Path:
    return agent.data_dir / "instances" / instance_id / "app"


def pid_of(agent: Agent, instance_id: str) -> int:
    """The process of an instance, once it has said its id."""
    path = app_of(agent, instance_id) / "pid"
    wait_for(lambda: path.exists() and path.read_text().strip() != "", "it says its id")
    return int(path.read_text())


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def runs(controller: Controller, instance_id: str) -> None:
    wait_for(lambda: controller.last(instance_id)["phase"] == "Running", "it runs")


def test_an_artifact_is_fetched_checked_and_started(agent: Agent, controller: Controller) -> None:
    url, sha256 = controller.app("a.zip", {"start.sh": SERVICE, "meta.ini": "name=a\nversion=1\n",
                                           "lib/deep/data.txt": "x"})
    controller.want("i1", artifactUrl=url, sha256=sha256, env={"MINE": "yes"})
    runs(controller, "i1")
    pid = pid_of(agent, "i1")
    names = dict(line.partition("=")[::2] for line in
                 (app_of(agent, "i1") / "env.txt").read_text().splitlines())
    assert names["PLUM_INSTANCE_ID"] == "i1"
    assert (names["PLUM_APP_NAME"], names["PLUM_APP_VERSION"]) == ("app", "1")
    assert names["WORKER_NODE_ID"] == "n1"
    assert names["CONTROLLER_BASE"] == controller.url
    assert names["CONTROLLER_GRPC_ADDR"] == f"127.0.0.1:{controller.port}"
    assert names["MINE"] == "yes"
    assert "AGENT_NODE_ID" not in names
    assert os.getsid(pid) == pid
    assert controller.last("i1")["pid"] == pid
    controller.want("i2", artifactUrl=url, sha256=sha256)
    runs(controller, "i2")
    assert controller.ranges == [""], "the second came from the cache"
    controller.drop("i1")
    wait_for(lambda: controller.last("i1")["phase"] == "Stopped", "it is stopped")
    assert not is_alive(pid)
    wait_for(lambda: not app_of(agent, "i1").exists(), "its files are gone")
    assert controller.phases("i1") == ["Starting", "Running", "Stopped"]
    assert is_alive(pid_of(agent, "i2"))


def test_the_heartbeat_says_how_the_node_is(agent: Agent, controller: Controller) -> None:
    wait_for(lambda: bool(controller.beats), "it beats")
    beat = controller.beats[0]
    assert (beat["nodeId"], beat["ip"]) == ("n1", "127.0.0.1")
    facts = beat["facts"]
    assert isinstance(facts, dict)
    assert facts["cpus"] == os.cpu_count()
    assert facts["memTotal"] > facts["memAvailable"] > 0
    assert beat["key"]
    agent.stop()
    count = len(controller.beats)
    agent.start()
    wait_for(lambda: len(controller.beats) > count, "it beats again")
    assert controller.beats[-1]["key"] == beat["key"]


def test_stop_ends_daemons_of_their_own_session(agent: Agent, controller: Controller) -> None:
    deaf = (f"{sys.executable} -c 'import os,signal,time; signal.signal(15, signal.SIG_IGN);"
            " os.setsid(); open(\"deaf\",\"w\").write(str(os.getpid())); time.sleep(600)' &\n")
    script = f"{deaf}trap '' TERM\necho $$ > pid\nsleep 600\n"
    url, _ = controller.app("a.zip", {"start.sh": script})
    controller.want("i1", artifactUrl=url, stopGraceSec=0.3)
    pid = pid_of(agent, "i1")
    path = app_of(agent, "i1") / "deaf"
    wait_for(lambda: path.exists() and path.read_text() != "", "the daemon runs")
    other = int(path.read_text())
    controller.want("i1", desired="Stopped")
    wait_for(lambda: controller.last("i1")["phase"] == "Stopped", "it is stopped")
    assert not is_alive(pid)
    assert not is_alive(other)
    wait_for(lambda: agent.leftovers() == [], "nothing is left")
    controller.want("i1", desired="Running")
    runs(controller, "i1")


def test_a_crash_is_restarted_with_growing_pauses(agent: Agent, controller: Controller) -> None:
    url, _ = controller.app("a.zip", {"start.sh": "date +%s%N >> times; exit 9\n"})
    controller.want("i1", artifactUrl=url, backoff={"firstSec": 0.1, "maxSec": 1, "resetSec": 60})
    path = app_of(agent, "i1") / "times"
    wait_for(lambda: path.exists() and len(path.read_text().split()) >= 6, "it is tried often")
    failed = [one for one in controller.of("i1") if one["phase"] == "Failed"]
    assert failed[0]["exitCode"] == 9
    pauses = [str(one["message"]).partition("; again in ")[2] for one in failed[:5]]
    assert pauses == ["0.1 s", "0.2 s", "0.4 s", "0.8 s", "1 s"]
    assert [one["restarts"] for one in failed[:5]] == [1, 2, 3, 4, 5]


def test_the_ways_in_which_an_instance_ends(agent: Agent, controller: Controller) -> None:
    for name, policy, code in (("done", "on-failure", 0), ("never", "never", 3)):
        controller.want(name, startCmd=f"echo {name}; exit {code}", restart=policy)
    wait_for(lambda: controller.last("done")["phase"] == "Completed", "it is completed")
    wait_for(lambda: controller.last("never")["phase"] == "Failed", "it has failed")
    assert (controller.last("done")["exitCode"], controller.last("never")["exitCode"]) == (0, 3)
    controller.want("always", startCmd="echo x >> ../again", restart="always",
                    backoff={"firstSec": 0.05, "maxSec": 0.05})
    path = app_of(agent, "always").parent / "again"
    wait_for(lambda: path.exists() and len(path.read_text()) > 6, "it is started again and again")
    agent.stop()
    agent.start()
    wait_for(lambda: len(controller.beats) > 1, "it is back")
    controller.want("after", startCmd="true")
    wait_for(lambda: controller.last("after")["phase"] == "Completed", "it goes on")
    assert controller.phases("done")[-1] == "Completed"
    agent.stop()
    logs = HourLogs(agent.data_dir / "logs", 1 << 30)
    starts = {name: logs.last(owner_of(name)) for name in ("done", "never", "always")}
    assert (starts["done"], starts["never"]) == (1, 1)
    assert starts["always"] >= 3
    page = logs.read((owner_of("done"), 1), 0, 100)
    assert page is not None
    assert page.entries[0].data == b"done\n"


def shim_of(agent: Agent, instance_id: str) -> int:
    """The keeper of its only run."""
    claim, = (agent.data_dir / "instances" / instance_id / "runs").glob("*/claim")
    return int(claim.read_text().split()[0])


@pytest.mark.parametrize("agent_is_there", [True, False])
def test_a_machine_that_goes_down_completes_nothing(agent: Agent, controller: Controller,
                                                    agent_is_there: bool) -> None:
    """All get SIGTERM then, and good programs end with 0: they were asked to."""
    polite = "trap 'exit 0' TERM\necho $$ > pid\nwhile :; do sleep 0.05; done\n"
    controller.want("i1", startCmd=polite, backoff={"firstSec": 0.1})
    pid, shim = pid_of(agent, "i1"), shim_of(agent, "i1")
    runs(controller, "i1")
    if not agent_is_there:
        agent.kill()
    os.kill(shim, signal.SIGTERM)
    wait_for(lambda: not is_alive(pid) and not is_alive(shim), "all of it ended")
    if not agent_is_there:
        agent.start()
    wait_for(lambda: pid_of(agent, "i1") != pid, "it is there again")
    runs(controller, "i1")
    assert "Completed" not in controller.phases("i1")
    told = [one for one in controller.of("i1") if one["phase"] == "Failed"]
    assert str(told[0]["message"]).startswith("its machine was shut down")


def test_one_that_is_over_begins_again_when_it_is_asked_to(agent: Agent,
                                                           controller: Controller) -> None:
    """Also when it was stopped and started while its agent did not hear."""
    count = agent.data_dir.parent / "count"
    controller.want("i1", startCmd=f"echo x >> {count}", placedAt=1)
    wait_for(lambda: controller.last("i1")["phase"] == "Completed", "it is over")
    controller.want("i1", placedAt=1, phase="Pending")
    wait_for(lambda: len(controller.of("i1")) > 3, "it is told again")
    assert controller.phases("i1")[-1] == "Completed"
    agent.kill()
    controller.want("i1", placedAt=2, phase="Pending")
    agent.start()
    wait_for(lambda: count.read_text() == "x\nx\n", "it ran again")
    wait_for(lambda: controller.phases("i1")[-3:] == ["Starting", "Running", "Completed"], "so")
    controller.want("i1", placedAt=2, phase="Completed", lastReportAt=7)
    controller.want("i2", startCmd="exec sleep 600")
    runs(controller, "i2")
    assert count.read_text() == "x\nx\n"


def test_limits_that_nothing_holds_are_told(tmp_path: Path, controller: Controller) -> None:
    with Agent(tmp_path / "agent", controller.url, "n1", "--no-cgroups"):
        controller.want("i1", startCmd="exec sleep 600", limits={
            "memoryBytes": 1 << 30, "pids": 9, "cpuPercent": 50.0})
        controller.want("i2", startCmd="exec sleep 600", limits={"memoryBytes": 1 << 30})
        runs(controller, "i1")
        runs(controller, "i2")
    words = "limits that nothing holds on this machine: cpu, pids"
    assert controller.last("i1")["message"] == words
    assert not controller.last("i2").get("message")


def test_a_program_in_the_background_is_ended_and_told_so(agent: Agent,
                                                         controller: Controller) -> None:
    controller.want("i1", startCmd="setsid sleep 600 >/dev/null 2>&1 & sleep 0.2")
    wait_for(lambda: controller.last("i1")["phase"] == "Completed", "it ends")
    assert "left 1 process behind" in str(controller.last("i1")["message"])
    assert "foreground" in str(controller.last("i1")["message"])
    wait_for(lambda: agent.leftovers() == [], "nothing is left")


def test_whatever_an_instance_leaves_goes_with_it(agent: Agent, controller: Controller) -> None:
    """Directories without end, too."""
    dig = ("i=0; while [ $i -lt 1500 ]; do mkdir d && cd d; i=$((i+1)); done; touch %s;"
           " exec sleep 600")
    deep = agent.data_dir.parent / "deep"
    controller.want("i1", startCmd=dig % deep)
    wait_for(deep.exists, "it has dug")
    controller.want("i2", startCmd="exec sleep 600")
    controller.drop("i1")
    wait_for(lambda: controller.last("i1")["phase"] == "Stopped", "it is over")
    wait_for(lambda: not app_of(agent, "i1").parent.exists(), "nothing is left of it")
    runs(controller, "i2")


def test_what_cannot_be_prepared_spoils_no_other(agent: Agent, controller: Controller) -> None:
    """Whatever files are in the way of an instance: it waits, and the rest of the node goes on."""
    controller.want("other", startCmd="echo $$ > pid; exec sleep 600")
    pid = pid_of(agent, "other")
    controller.want("i1", startCmd="cd ..; rm -r app; echo > app; exit 1",
                    backoff={"firstSec": 0.1, "maxSec": 0.1})
    wait_for(lambda: "preparing the start" in str(controller.last("i1").get("message")),
             "it is told")
    url, sha256 = controller.app("a.zip", {"start.sh": SERVICE})
    (agent.data_dir / "cache").touch()
    controller.want("i2", artifactUrl=url, sha256=sha256, backoff={"firstSec": 0.1, "maxSec": 0.1})
    wait_for(lambda: "fetching the artifact" in str(controller.last("i2").get("message")),
             "it is told")
    (agent.data_dir / "cache").unlink()
    runs(controller, "i2")
    (app_of(agent, "i1")).unlink()
    controller.want("i1", startCmd="exec sleep 600")
    runs(controller, "i1")
    assert is_alive(pid)
    assert agent.said().count("the agent runs") == 1


def test_instances_outlive_their_agent(agent: Agent, controller: Controller) -> None:
    """kill -9 of the agent with 20 instances: none is touched, and one that ended is seen."""
    url, _ = controller.app("a.zip", {"start.sh": SERVICE})
    names = [f"i{number}" for number in range(20)]
    for name in names:
        controller.want(name, artifactUrl=url, backoff={"firstSec": 0.1})
    pids = {name: pid_of(agent, name) for name in names}
    agent.kill()
    os.kill(pids["i0"], signal.SIGKILL)
    count = len(controller.reports)
    agent.start()
    wait_for(lambda: any(one["phase"] == "Failed" for one in controller.of("i0")), "it is seen")
    assert [one["signal"] for one in controller.of("i0") if one["phase"] == "Failed"] == [9]
    wait_for(lambda: controller.last("i0")["phase"] == "Running", "it runs again")
    wait_for(lambda: {str(one["instanceId"]) for one in controller.reports[count:]} == set(names),
             "all are told of")
    for name in names[1:]:
        assert pid_of(agent, name) == pids[name]
        assert is_alive(pids[name])
    controller.drop("i7")
    wait_for(lambda: not is_alive(pids["i7"]), "stop works after")
    assert is_alive(pids["i8"])


def test_what_nobody_can_read_any_more_is_ended_and_removed(agent: Agent,
                                                            controller: Controller) -> None:
    for name in ("i1", "i2"):
        controller.want(name, startCmd="echo $$ > pid; exec sleep 600")
    pids = {name: pid_of(agent, name) for name in ("i1", "i2")}
    runs(controller, "i1")
    agent.kill()
    (agent.data_dir / "instances" / "i1" / "assigned").write_bytes(b"")
    (agent.data_dir / "instances" / "half" / "app").mkdir(parents=True)
    controller.drop("i1")
    agent.start()
    wait_for(lambda: not is_alive(pids["i1"]), "it is ended")
    wait_for(lambda: [one.name for one in (agent.data_dir / "instances").iterdir()] == ["i2"],
             "nothing of it stays")
    assert is_alive(pids["i2"])


def test_an_agent_outlives_its_data(agent: Agent, controller: Controller) -> None:
    """Nor does it take for running what has ended, when somebody removed all that it keeps."""
    controller.want("i1", startCmd="echo $$ > pid; exec sleep 600")
    pid = pid_of(agent, "i1")
    runs(controller, "i1")
    shutil.rmtree(agent.data_dir)
    count = len(controller.beats)
    wait_for(lambda: len(controller.beats) > count + 1, "the node lives")
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: any(one["phase"] == "Failed" for one in controller.of("i1")), "it is seen")
    wait_for(lambda: controller.last("i1")["phase"] == "Running", "it runs again")
    assert pid_of(agent, "i1") != pid


def test_a_controller_that_is_away_changes_nothing(tmp_path: Path) -> None:
    with Controller() as first:
        url, _ = first.app("a.zip", {"start.sh": SERVICE})
        with Agent(tmp_path / "agent", first.url, "n1") as agent:
            first.want("i1", artifactUrl=url, backoff={"firstSec": 0.1})
            pid = pid_of(agent, "i1")
            first.close()
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda: pid_of(agent, "i1") != pid and is_alive(pid_of(agent, "i1")),
                     "it is started again without a controller")


@pytest.mark.parametrize(("what", "words"), [
    ("sha", "wrong sha256"), ("nothing", "has no start.sh"), ("missing", "answered 404"),
    ("command", "exit code 127"), ("broken", "no sound zip file"),
    ("outside", "leads out of its directory"), ("link", "is neither file nor directory"),
    ("url", "is not an http or https URL"), ("port", "Port out of range"),
])
def test_what_cannot_be_started_says_why(agent: Agent, controller: Controller, what: str,
                                         words: str) -> None:
    url, sha256 = controller.app("a.zip", {"start.sh": SERVICE})
    more: dict[str, object] = {"artifactUrl": url, "backoff": {"firstSec": 30}}
    if what == "sha":
        more["sha256"] = "0" * 64
    elif what == "nothing":
        more["artifactUrl"], _ = controller.app("b.zip", {"readme": "x"})
    elif what == "missing":
        more["artifactUrl"] = "/artifacts/none.zip"
    elif what == "url":
        more["artifactUrl"] = "ftp://127.0.0.1/a.zip"
    elif what == "port":
        more["artifactUrl"] = "http://127.0.0.1:99999/a.zip"
    elif what == "command":
        more["startCmd"] = "./no-such-thing"
    elif what == "broken":
        controller.artifacts[url] = b"PK\x03\x04 not a zip"
    elif what == "outside":
        more["artifactUrl"], _ = controller.app("b.zip", {"../../x": "x", "start.sh": SERVICE})
    elif what == "link":
        data = controller.artifacts[url]
        assert sha256
        controller.artifacts[url] = data.replace((0o100755 << 16).to_bytes(4, "little"),
                                                 (0o120777 << 16).to_bytes(4, "little"))
    controller.want("i1", **more)
    wait_for(lambda: controller.last("i1")["phase"] == "Failed", "it fails")
    assert words in str(controller.last("i1")["message"])
    assert not list(agent.data_dir.rglob("*.part"))
    assert not list(agent.data_dir.rglob("*.new"))
    controller.drop("i1")
    wait_for(lambda: not (agent.data_dir / "instances" / "i1").exists(), "nothing is left")


@pytest.mark.usefixtures("agent")
def test_a_download_that_breaks_off_goes_on(controller: Controller) -> None:
    url, sha256 = controller.app("a.zip", {"start.sh": SERVICE, "big": os.urandom(3_000_000)})
    controller.cut_after = 1_000_000
    controller.want("i1", artifactUrl=url, sha256=sha256, backoff={"firstSec": 0.1})
    runs(controller, "i1")
    assert controller.phases("i1")[:2] == ["Starting", "Failed"]
    assert controller.ranges[0] == ""
    assert controller.ranges[1].startswith("bytes=")
    assert 0 < int(controller.ranges[1][6:-1]) <= 1_000_000


def test_a_node_that_belongs_to_another_runs_nothing(tmp_path: Path) -> None:
    """And says nothing: to ask for assignments would keep the other one alive."""
    with Controller() as controller:
        controller.taken = True
        url, _ = controller.app("a.zip", {"start.sh": SERVICE})
        controller.want("i1", artifactUrl=url)
        with Agent(tmp_path / "agent", controller.url, "n1", "--sync-sec", "0.2") as agent:
            wait_for(lambda: "belongs to another agent" in agent.said(), "it is told")
            wait_for(lambda: controller.refused >= 2, "it goes on to beat")
            assert not controller.asked.is_set()
            assert controller.reports == []
            controller.taken = False
            runs(controller, "i1")
            pid = pid_of(agent, "i1")
            controller.taken = True         # its name was given away meanwhile
            wait_for(lambda: not is_alive(pid), "what it ran is nobody's")
            wait_for(lambda: agent.leftovers() == [], "nothing is left")


def test_health_is_told(agent: Agent, controller: Controller, tmp_path: Path) -> None:
    serve = (f"exec {sys.executable} -c 'import http.server as h;"
             " s = h.HTTPServer((\"127.0.0.1\", 0), h.SimpleHTTPRequestHandler);"
             f" open(\"{tmp_path}/port\", \"w\").write(str(s.server_port)); s.serve_forever()'")
    controller.want("web", startCmd=serve)
    port = tmp_path / "port"
    wait_for(lambda: port.exists() and port.read_text() != "", "it listens")
    check = {"kind": "http", "port": int(port.read_text()), "path": "/well", "intervalSec": 0.1,
             "failures": 2}
    controller.want("probe", startCmd="sleep 600", healthCheck=check)
    wait_for(lambda: controller.last("probe").get("message") == "the health check fails", "ill")
    (app_of(agent, "web") / "well").touch()
    wait_for(lambda: controller.last("probe").get("healthy") is True, "well again")
    (app_of(agent, "web") / "well").unlink()
    wait_for(lambda: controller.last("probe").get("healthy") is False, "ill again")
    assert controller.last("probe")["phase"] == "Running"


def test_one_that_is_well_stays_so_under_the_next_agent(agent: Agent, controller: Controller
                                                        ) -> None:
    """It is well from its first answer on, whatever its grace, and started when it was started."""
    port = free_port()
    controller.want("web", startCmd=f"exec {sys.executable} -m http.server {port}", healthCheck={
        "kind": "http", "port": port, "intervalSec": 0.1, "graceSec": 60})
    wait_for(lambda: controller.last("web").get("healthy") is True, "well")
    before = controller.last("web")
    agent.kill()
    count = len(controller.reports)
    agent.start()
    wait_for(lambda: len(controller.reports) > count, "it is told of")
    after = controller.reports[count]
    assert (after["phase"], after.get("healthy"), after["pid"]) == ("Running", True, before["pid"])
    assert abs(int(str(after["startedAt"])) - int(str(before["startedAt"]))) < 1000


def test_an_assignment_that_is_not_understood_spoils_no_other(
        agent: Agent, controller: Controller) -> None:
    controller.want("i1", startCmd="echo $$ > pid; exec sleep 600")
    pid = pid_of(agent, "i1")
    controller.wanted["i1"]["limits"] = "none at all"
    controller.wanted["i9"] = {"instanceId": "i9", "env": 7}
    controller.want("i2", startCmd="echo $$ > pid; exec sleep 600")
    runs(controller, "i2")
    assert is_alive(pid)
    assert "an assignment is not understood" in agent.said()
