"""The program `plum` against the real daemon: what it prints, where, and its exit codes."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from plumd.cli import carry_out
from plumd.cli.screen import clean, json_text, line
from plumd.cli.workers import offers
from plumd.news import TOPICS
from tests.daemon.running import BIN, Running, free_port

pytestmark = pytest.mark.daemon

Ran = subprocess.CompletedProcess[str]
NOBODY = "nobody-does-this"
HOSTILE = "\x1b]0;owned\x07\x9b31m\u202ered\x00"


def ok(ran: Ran) -> str:
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def failed(ran: Ran, code: int, *words: str) -> None:
    assert ran.returncode == code, ran
    for word in words:
        assert word in ran.stderr
    assert "Traceback" not in ran.stderr


def value(ran: Ran) -> dict[str, object]:
    found: dict[str, object] = json.loads(ok(ran))
    return found


def values(ran: Ran) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(ok(ran))
    return found


class Here:
    """Runs the program in this process, which is quicker by far than a new one."""

    def __init__(self, running: Running) -> None:
        self.url = running.url
        self.port = running.port

    def plum(self, *words: str, given: str = "", server: str | None = "") -> Ran:
        """server: "" = this daemon, None = whatever else says where it is."""
        arguments = [*words] if server is None else ["--server", server or self.url, *words]
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="") for _ in range(2))
        before, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(given.encode()))
        try:
            with redirect_stdout(out), redirect_stderr(err):
                code = carry_out(arguments)
        finally:
            sys.stdin = before
        texts = []
        for stream in (out, err):
            stream.flush()
            texts.append(stream.buffer.getvalue().decode())
        return subprocess.CompletedProcess(arguments, code, *texts)


@pytest.fixture
def plumd(shared_daemon: Running) -> Here:
    return Here(shared_daemon)


# ---------------------------------------------------------------- tasks

def test_run_and_wait(plumd: Here) -> None:
    task = value(plumd.plum("task", "run", "builtin.echo", "-p", '{"x": 1.0}', "--wait",
                            "--label", "a=b=c", "--priority", "9", "-o", "json"))
    assert task["state"] == "Succeeded"
    assert task["result"] == {"echo": {"x": 1.0}}
    assert task["labels"] == {"a": "b=c"}
    assert task["priority"] == 9


def test_the_installed_program(shared_daemon: Running) -> None:
    ran = shared_daemon.plum("task", "run", "builtin.echo", "-p", "-", "--wait", given="[1]")
    assert re.search(r"^State +Succeeded$", ok(ran), re.MULTILINE)
    failed(shared_daemon.plum("task", "get", "123"), 3, "plum: no such task (not_found)")
    failed(shared_daemon.plum("task", "get"), 2, "Missing argument")


def test_it_brings_nothing_along_that_it_does_not_use() -> None:
    program = ("import sys; from plumd.cli import carry_out\n"
               "code = carry_out(['--server', 'http://127.0.0.1:1', 'status'])\n"
               "sys.exit(99 if {'trio', 'anyio', 'h2', 'pygments'} & {*sys.modules} else code)")
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    failed(ran, 6, "does not answer")


def test_every_option_of_a_submit_arrives(plumd: Here) -> None:
    task = value(plumd.plum(
        "-o", "json", "task", "run", NOBODY, "--timeout", "1.5", "--queue-timeout", "60",
        "--retries", "2", "--delay", "3600", "--on-lost", "fail", "--target", "labels=a=b,c=d",
        "--executor", "embedded"))
    wanted = {"timeoutSec": 1.5, "queueTimeoutSec": 60.0, "maxRetries": 2, "onLost": "fail",
              "targetKind": "labels", "targetRef": "a=b,c=d", "state": "Pending"}
    assert wanted.items() <= task.items()
    assert task["dueAt"] is not None
    ok(plumd.plum("task", "cancel", str(task["taskId"])))


def test_payloads_come_from_files_and_stdin(plumd: Here, tmp_path: Path) -> None:
    file = tmp_path / "payload.json"
    file.write_text('{"ä": [null]}')
    task = value(plumd.plum("task", "run", "builtin.echo", "-p", f"@{file}", "--wait", "-o",
                            "json"))
    assert task["payload"] == {"ä": [None]}
    task = value(plumd.plum("task", "run", "builtin.echo", "-p", "-", "--wait", "-o", "json",
                            given='"text"'))
    assert task["result"] == {"echo": "text"}


def test_a_run_that_fails_is_1_and_says_why(plumd: Here) -> None:
    ran = plumd.plum("task", "run", "builtin.fail", "-p", '{"message": "no paint"}', "--wait")
    assert ran.returncode == 1
    assert re.search(r"^State +Failed$", ran.stdout, re.MULTILINE)
    assert "no paint" in ran.stdout
    task = ok(plumd.plum("task", "list", "--state", "failed", "--limit", "1", "-o", "name")).strip()
    failed(plumd.plum("task", "wait", task), 1)
    failed(plumd.plum("task", "result", task), 1, "the task is Failed", "no paint")


def test_waiting_too_long_is_124(plumd: Here) -> None:
    failed(plumd.plum("task", "run", NOBODY, "--wait-timeout", "0.2"), 124, "not over after 0.2 s")
    task = ok(plumd.plum("task", "run", NOBODY, "-o", "name")).strip()
    failed(plumd.plum("task", "wait", task, "--timeout", "0"), 124)
    ok(plumd.plum("task", "cancel", task))


def test_from_hold_to_deletion(plumd: Here) -> None:
    task = ok(plumd.plum("task", "run", "builtin.echo", "--hold", "-o", "name")).strip()
    assert "not_started" in ok(plumd.plum("task", "why", task))
    assert value(plumd.plum("task", "get", task, "-o", "json"))["state"] == "Queued"
    ok(plumd.plum("task", "start", task))
    ok(plumd.plum("task", "wait", task))
    assert json.loads(ok(plumd.plum("task", "result", task))) == {"echo": None}
    assert len(values(plumd.plum("task", "attempts", task, "-o", "json"))) == 1
    assert "It waits for nothing: it is Succeeded." in ok(plumd.plum("task", "why", task))
    again = value(plumd.plum("task", "rerun", task, "--wait", "-o", "json"))
    assert again["originTaskId"] == task
    assert f"deleted {task}" in ok(plumd.plum("task", "delete", task))
    failed(plumd.plum("task", "get", task), 3, "no such task")


def test_the_same_key_is_the_same_task(plumd: Here) -> None:
    first = ok(plumd.plum("task", "run", "builtin.echo", "--key", "k1", "-o", "name"))
    assert ok(plumd.plum("task", "run", "builtin.echo", "--key", "k1", "-o", "name")) == first
    failed(plumd.plum("task", "run", "builtin.echo", "-p", "1", "--key", "k1"), 5,
           "idempotency_key_reused")


def test_of_several_the_good_ones_are_done(plumd: Here) -> None:
    tasks = [ok(plumd.plum("task", "run", NOBODY, "-o", "name")).strip() for _ in range(2)]
    ran = plumd.plum("task", "cancel", tasks[0], "123", tasks[1], "-o", "name")
    assert ran.returncode == 3
    assert ran.stdout.split() == tasks


def test_lists_filter_and_end(plumd: Here) -> None:
    for _ in range(3):
        ok(plumd.plum("task", "run", "builtin.echo", "--label", "list=yes"))
    names = ok(plumd.plum("task", "list", "--label", "list=yes", "-o", "name")).split()
    assert len(names) == 3
    assert names == sorted(names, reverse=True)
    assert len(ok(plumd.plum("task", "list", "--limit", "2", "-o", "name")).split()) == 2
    table = ok(plumd.plum("task", "list", "--label", "list=yes")).splitlines()
    assert table[0].split() == ["ID", "NAME", "STATE", "ATTEMPT", "WORKER", "CREATED", "TOOK"]
    assert [row.split()[0] for row in table[1:]] == names


def test_more_filters(plumd: Here) -> None:
    plumd.plum("task", "run", "builtin.fail", "-p", '{"code": "cli_filter", "message": "no 7"}',
               "--wait")
    one = ok(plumd.plum("task", "list", "--error", "cli_filter", "-o", "name")).split()
    assert len(one) == 1
    words = ("--state", "failed", "--state", "Timeout", "--worker", "local:builtin", "-o", "name")
    newest = ok(plumd.plum("task", "list", *words)).split()
    assert newest[0] == one[0]
    assert ok(plumd.plum("task", "list", "--oldest", *words)).split() == newest[::-1]
    table = ok(plumd.plum("task", "failures")).splitlines()
    assert table[0].split() == ["COUNT", "NAME", "CODE", "LAST", "TASK", "LAST", "FIRST",
                                "MESSAGE"]
    assert table[1].split()[:4] == ["1", "builtin.fail", "cli_filter", one[0]]
    assert ok(plumd.plum("task", "failures", "--limit", "1", "-o", "name")).split() == one


def test_stats(plumd: Here) -> None:
    card = ok(plumd.plum("stats"))
    assert re.search(r"^Writes +ok$", card, re.MULTILINE)
    assert re.search(r"^Tasks +queued \d+, pending \d+, running \d+, retrying \d+$", card,
                     re.MULTILINE)
    assert value(plumd.plum("stats", "-o", "json"))["writes"] == "ok"


# ---------------------------------------------------------------- definitions and workflows

ECHO = json.dumps({"name": "cli-echo", "targetKind": "builtin", "targetRef": "builtin.echo",
                   "defaultPayload": {"a": 1}})


def test_definitions_and_workflows_by_name_and_id(plumd: Here) -> None:
    def_id = ok(plumd.plum("def", "create", "-f", "-", "-o", "name", given=ECHO)).strip()
    failed(plumd.plum("def", "create", "-f", "-", given=ECHO), 5, "exists")
    body = json.dumps({**json.loads(ECHO), "maxRetries": 1})
    updated = value(plumd.plum("def", "update", "cli-echo", "--if-version", "1", "-f", "-",
                               "-o", "json", given=body))
    assert updated["version"] == 2
    failed(plumd.plum("def", "update", def_id, "--if-version", "1", "-f", "-", given=body), 5,
           "version_mismatch")
    assert value(plumd.plum("def", "get", "cli-echo", "--version", "1", "-o", "json"))[
        "maxRetries"] == 0
    assert ok(plumd.plum("def", "versions", "cli-echo", "-o", "name")).split() == ["2", "1"]
    task = value(plumd.plum("def", "run", def_id, "-p", '{"b": 2}', "--wait", "-o", "json"))
    assert task["result"] == {"echo": {"a": 1, "b": 2}}
    assert "cli-echo" in ok(plumd.plum("def", "list"))

    flow = json.dumps({"name": "cli-flow", "steps": [{"definitionId": def_id, "name": "one"},
                                                     {"definitionId": def_id, "name": "two"}]})
    flow_id = ok(plumd.plum("workflow", "create", "-f", "-", "-o", "name", given=flow)).strip()
    assert "one > two" in ok(plumd.plum("workflow", "list"))
    run = value(plumd.plum("workflow", "run", "cli-flow", "--wait", "-o", "json"))
    assert run["state"] == "Succeeded"
    table = ok(plumd.plum("run", "get", str(run["runId"])))
    assert re.search(r"^two +Succeeded ", table, re.MULTILINE)
    assert ok(plumd.plum("run", "list", "--workflow", flow_id, "-o", "name")).split() == [
        run["runId"]]
    failed(plumd.plum("def", "delete", "cli-echo"), 5)
    ok(plumd.plum("run", "delete", str(run["runId"])))
    failed(plumd.plum("run", "wait", str(run["runId"])), 3)
    ok(plumd.plum("workflow", "delete", "cli-flow"))
    failed(plumd.plum("workflow", "get", "cli-flow"), 3, "no such workflow: cli-flow")


def test_runs_are_paused_answered_and_repeated(plumd: Here) -> None:
    flow = json.dumps({"name": "cli-release", "steps": [
        {"id": "ask", "type": "approval"}, {"id": "come", "type": "wait", "event": "arrived"},
        {"id": "no", "type": "approval"},
        {"id": "go", "task": {"name": "builtin.echo"}, "payload": "${steps.ask.result.payload}"}]})
    ok(plumd.plum("workflow", "create", "-f", "-", given=flow))
    run = ok(plumd.plum("workflow", "run", "cli-release", "-o", "name")).strip()
    assert "rule all_success waits for no (Waiting)" in ok(plumd.plum("run", "why", run, "go"))
    assert value(plumd.plum("run", "pause", run, "-o", "json"))["state"] == "Paused"
    assert value(plumd.plum("run", "resume", run, "-o", "json"))["state"] == "Running"
    failed(plumd.plum("run", "complete", run, "ask"), 5)
    failed(plumd.plum("run", "approve", run, "nothing"), 3)
    ok(plumd.plum("run", "approve", run, "ask", "-p", '"by me"'))
    assert value(plumd.plum("run", "skip", run, "no", "-o", "json"))["state"] == "Skipped"
    ok(plumd.plum("run", "complete", run, "come"))
    over = value(plumd.plum("run", "wait", run, "-o", "json"))
    assert over["state"] == "Succeeded"
    again = value(plumd.plum("run", "rerun", run, "-o", "json"))
    assert again["originRunId"] == run
    ok(plumd.plum("run", "reject", str(again["runId"]), "ask"))
    failed(plumd.plum("run", "wait", str(again["runId"])), 1)
    third = value(plumd.plum("run", "retry", str(again["runId"]), "-o", "json"))
    states = [step["state"] for step in values(
        plumd.plum("run", "steps", str(third["runId"]), "-o", "json"))]
    assert states == ["Running", "Waiting", "Waiting", "Waiting"]
    ok(plumd.plum("run", "cancel", str(third["runId"])))


def test_a_run_that_is_canceled_is_1(plumd: Here) -> None:
    definition = json.dumps({"name": NOBODY})
    def_id = ok(plumd.plum("def", "create", "-f", "-", "-o", "name", given=definition)).strip()
    flow = json.dumps({"name": "stuck", "steps": [{"definitionId": def_id}]})
    ok(plumd.plum("workflow", "create", "-f", "-", given=flow))
    run = ok(plumd.plum("workflow", "run", "stuck", "-o", "name")).strip()
    failed(plumd.plum("run", "wait", run, "--timeout", "0.1"), 124)
    ok(plumd.plum("run", "cancel", run))
    failed(plumd.plum("run", "wait", run), 1)


# ---------------------------------------------------------------- workers, services, the daemon

def test_workers_of_both_kinds(plumd: Here) -> None:
    body = {"workerId": "cli/w 1", "url": "http://127.0.0.1:9/", "tasks": ["weld"], "capacity": 3}
    register = subprocess.run(
        ["curl", "-sf", "--noproxy", "*", "-d", json.dumps(body),
         f"{plumd.url}/v1/workers/register"], check=True, capture_output=True)
    assert register.returncode == 0
    assert "cli/w 1" in ok(plumd.plum("worker", "list", "-o", "name")).splitlines()
    assert value(plumd.plum("worker", "drain", "cli/w 1", "-o", "json"))["health"] == "Draining"
    assert value(plumd.plum("worker", "resume", "cli/w 1", "-o", "json"))["health"] == "Healthy"
    assert re.search(r"^Running +0 of 3$", ok(plumd.plum("worker", "get", "cli/w 1")), re.MULTILINE)
    ok(plumd.plum("worker", "delete", "cli/w 1"))
    failed(plumd.plum("worker", "get", "cli/w 1"), 3, "no such worker")


def test_services(plumd: Here) -> None:
    ok(plumd.plum("service", "register", "api", "--port", "9000", "--ip", "127.0.0.1",
                  "--instance", "i1", "--version", "2", "--label", "zone=a"))
    found = values(plumd.plum("service", "discover", "api", "-o", "json"))
    assert [(one["instanceId"], one["labels"]) for one in found] == [("i1", {"zone": "a"})]
    assert "http://127.0.0.1:9000" in ok(plumd.plum("service", "list"))
    assert ok(plumd.plum("service", "discover", "api", "--strategy", "random", "-o",
                         "name")).strip() == "i1"
    failed(plumd.plum("service", "discover", "api", "--version", "3", "--strategy", "lazy"), 3)
    ok(plumd.plum("service", "delete", "i1"))
    assert values(plumd.plum("service", "list", "api", "-o", "json")) == []


def test_status(plumd: Here) -> None:
    assert value(plumd.plum("status", "--wait", "5", "-o", "json"))["writes"] == "ok"
    assert plumd.url in ok(plumd.plum("status"))


def test_events_from_the_first_on(plumd: Here) -> None:
    ok(plumd.plum("task", "run", "builtin.echo", "--wait"))
    said = ok(plumd.plum("events", "--from", "1", "--count", "3", "--topics", "tasks", "-o",
                         "json"))
    numbers = [json.loads(text)["id"] for text in said.splitlines()]
    assert len(numbers) == 3
    assert numbers == sorted(numbers)
    assert ok(plumd.plum("events", "--from", str(numbers[1]), "--count", "1", "-o",
                         "name")).strip() == str(numbers[1])
    failed(plumd.plum("events", "--topics", "nonsense", "--from", "1"), 2, "topics: ")
    told = ok(plumd.plum("events", "--help"))
    assert not [topic for topic in TOPICS if topic not in told]


def test_every_event_says_when_and_of_what(plumd: Here) -> None:
    first = str(value(plumd.plum("status", "-o", "json"))["nextEvent"])
    def_id = value(plumd.plum("def", "create", "-f", "-", "-o", "json", given=json.dumps(
        {"name": "spoken-of", "targetKind": "builtin", "targetRef": "builtin.echo"})))["defId"]
    ok(plumd.plum("workflow", "create", "-f", "-", given=json.dumps(
        {"name": "told", "steps": [{"id": "only", "definitionId": def_id}]})))
    run = ok(plumd.plum("workflow", "run", "told", "--wait", "-o", "name")).strip()
    count = int(str(value(plumd.plum("status", "-o", "json"))["nextEvent"])) - int(first)
    said = ok(plumd.plum("events", "--from", first, "--count", str(count)))
    for text in (f"taskDef  {def_id} created spoken-of", f"step     {run} only Succeeded"):
        assert re.search(rf"^ *\d+ \d\d:\d\d:\d\d\.\d{{3}} {text}$", said, re.MULTILINE), said


# ---------------------------------------------------------------- wrong calls

@pytest.mark.parametrize(("words", "said"), [
    (("task", "run", "x", "-p", "{x"), "this is not JSON"),
    (("task", "run", "x", "-p", "NaN"), "this is not JSON"),
    (("task", "run", "x", "-p", "1e999"), "this is not JSON"),
    (("task", "run", "x", "-p", "@/no/such"), "No such file"),
    (("task", "run", "x", "--label", "novalue"), "is not written KEY=VALUE"),
    (("task", "run", "x", "--target", "node"), "KIND=REF"),
    (("task", "run", "x", "--priority", "10"), "0<=x<=9"),
    (("task", "run", "x", "--hold", "--wait"), "--hold"),
    (("task", "run", "x", "--timeout", "inf"), "is no finite number"),
    (("kv", "put", "x", "k", "v", "--ttl", "nan"), "is no finite number"),
    (("task", "run", "builtin.no-such-thing"), "(invalid)"),
    (("task", "fly"), "No such command"),
    (("task", "list", "-o", "xml"), "xml"),
    (("def", "create", "-f", "/dev/null"), "this is not JSON"),
    (("--server", "nonsense", "status"), "is no URL"),
])
def test_wrong_calls_are_2(plumd: Here, words: tuple[str, ...], said: str) -> None:
    failed(plumd.plum(*words), 2, said)


def test_what_cannot_be_had_is_named_among_several(plumd: Here) -> None:
    task = value(plumd.plum("task", "run", NOBODY, "-o", "json"))["taskId"]
    ran = plumd.plum("task", "cancel", "123", str(task), "124")
    failed(ran, 3, "plum: 123: no such task (not_found)", "plum: 124: no such task (not_found)")
    assert "Canceled" in ran.stdout


def test_whoever_waits_is_told_why_nothing_happens(plumd: Here) -> None:
    ran = plumd.plum("task", "run", NOBODY, "--wait-timeout", "4")
    why = f"plum: it waits: No worker has registered the task '{NOBODY}'."
    failed(ran, 124, why, "not over after 4 s")
    assert ran.stderr.count("it waits") == 1
    ok(plumd.plum("workflow", "create", "-f", "-", given=json.dumps(
        {"name": "stuck-here", "steps": [{"id": "one", "task": {"name": NOBODY}}]})))
    failed(plumd.plum("workflow", "run", "stuck-here", "--wait-timeout", "4"), 124, why)
    assert "it waits" not in plumd.plum(
        "task", "run", "builtin.delay", "-p", '{"seconds": 3}', "--wait").stderr


def test_a_payload_that_is_a_bare_word_is_told_of_quotes(plumd: Here) -> None:
    failed(plumd.plum("task", "run", "builtin.echo", "-p", "hello"), 2,
           """this is not JSON: Expecting value""", """a text has quotes: '"hello"'""")


def test_help_says_whole_sentences(plumd: Here) -> None:
    for words in ([], ["task"], ["device"], ["completion"]):
        said = ok(plumd.plum(*words, "--help"))
        assert not re.search(r"\w\.\.\.$", said, re.MULTILINE), said


def test_an_agent_offers_processes() -> None:
    assert offers({"tasks": ["!os_process"]}) == "(processes)"
    assert offers({"tasks": ["add", "sleep"]}) == "add, sleep"


def test_a_daemon_that_cannot_begin_says_what_to_do(shared_daemon: Running,
                                                     tmp_path: Path) -> None:
    def begun(data: Path, listen: str) -> Ran:
        return subprocess.run(
            [BIN / "plumd", "serve", "--data-dir", data, "--listen", listen],
            capture_output=True, text=True, timeout=60)

    taken = f"127.0.0.1:{shared_daemon.port}"
    failed(begun(tmp_path / "data", taken), 71, f"plumd: {taken}: Address already in use",
           "--listen takes another address")
    failed(begun(shared_daemon.data_dir, "127.0.0.1:0"), 73,
           f"another plumd uses {shared_daemon.data_dir.absolute()}", "--data-dir")
    failed(begun(Path("/proc/none"), "127.0.0.1:0"), 71, "plumd: /proc/none: No such file")


def test_errors_name_the_field(plumd: Here) -> None:
    failed(plumd.plum("def", "create", "-f", "-", given='{"name": "x", "priority": 12}'), 2,
           "plum: priority: ")


def test_a_daemon_that_is_not_there_is_6(plumd: Here) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    failed(plumd.plum("--server", nobody, "task", "list"), 6,
           f"{nobody} does not answer: Connection refused; does plumd run there? --server or "
           "PLUM_SERVER names another one")
    failed(plumd.plum("status", "--server", nobody, "--wait", "0.2"), 6)
    failed(plumd.plum("--server", nobody, "kv", "watch", "plant"), 6)
    failed(plumd.plum("kv", "watch", "a/b"), 2, "namespace: ")


def test_what_is_not_allowed_is_4(plumd: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"http://plum.example:{plumd.port}"
    real = socket.getaddrinfo
    monkeypatch.setattr("socket.getaddrinfo", lambda host, *more, **named: real(
        "127.0.0.1" if host == "plum.example" else host, *more, **named))
    failed(plumd.plum("--server", name, "task", "list"), 4, "Host", "forbidden")


# ---------------------------------------------------------------- hostile text, terminals

def test_control_characters_are_shown_not_sent() -> None:
    assert clean(HOSTILE) == r"\x1b]0;owned\x07\x9b31m\u202ered\x00"
    assert clean("a\tb\nc") == "a\tb\nc"
    assert line("a\tb\nc\r") == r"a\tb\nc\r"
    assert json.loads(json_text({"k": HOSTILE})) == {"k": HOSTILE}
    assert clean(json_text({"k" + HOSTILE: [HOSTILE]})) == json_text({"k" + HOSTILE: [HOSTILE]})


def assert_tame(text: str) -> None:
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text), repr(text)


def test_names_results_and_output_of_tasks_cannot_reach_the_terminal(plumd: Here) -> None:
    payload = json.dumps({"command": "printf", "args": [r"\033]0;owned\007\r\n\233x\303\244\n"]})
    task = ok(plumd.plum("task", "run", "print", "--executor", "os_process", "-p", payload,
                         "--wait", "-o", "name")).strip()
    assert ok(plumd.plum("task", "logs", task)) == "\\x1b]0;owned\\x07\n\\x9bxä\n"
    assert ok(plumd.plum("task", "logs", task, "--tail", "4")) == "xä\n"
    for words in (("task", "get", task), ("task", "get", task, "-o", "json"),
                  ("task", "result", task)):
        assert_tame(ok(plumd.plum(*words)))
    raw = subprocess.run([BIN / "plum", "--server", plumd.url, "task", "logs", task, "--raw"],
                         capture_output=True, check=True)
    assert raw.stdout == b"\x1b]0;owned\x07\r\n\x9bx\xc3\xa4\n"
    fail = plumd.plum("task", "run", "builtin.fail", "-p", json.dumps({"message": HOSTILE}),
                      "--wait")
    assert_tame(fail.stdout + fail.stderr)
    assert r"\x1b]0;owned" in fail.stdout


def on_terminal(running: Running, *words: str, environment: Mapping[str, str]) -> str:
    """What the program sends to a terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen([BIN / "plum", *words], stdin=theirs, stdout=theirs, stderr=theirs,
                          env=running.environment | {"PLUM_SERVER": running.url, "TERM": "xterm"}
                          | dict(environment)) as process:
        os.close(theirs)
        said = b""
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:     # how Linux says that the other side is closed
                break
            if not chunk:
                break
            said += chunk
        os.close(ours)
        assert process.wait() == 0
    return said.decode()


def test_colours_are_for_terminals_that_want_them(shared_daemon: Running) -> None:
    ok(shared_daemon.plum("task", "run", "builtin.echo", "--wait"))
    words = ("task", "list", "--limit", "1")
    assert "\x1b[" in on_terminal(shared_daemon, *words, environment={})
    assert "\x1b[3" not in on_terminal(shared_daemon, *words, environment={"NO_COLOR": "1"})
    assert "\x1b" not in ok(shared_daemon.plum(*words))
    waited = on_terminal(shared_daemon, "task", "run", "builtin.delay", "-p", "0.3", "--wait",
                         environment={})
    assert "Succeeded" in waited


@pytest.fixture
def _heeds_ctrl_c() -> Iterator[None]:
    """What is begun in the background of a shell ignores it, and so does what that begins."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_heeds_ctrl_c")
def test_ctrl_c_is_quiet(shared_daemon: Running) -> None:
    with subprocess.Popen([BIN / "plum", "--server", shared_daemon.url, "events", "--from", "1"],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr.read().strip() == b""


def test_a_reader_that_leaves_ends_it_quietly(shared_daemon: Running) -> None:
    for _ in range(5):
        ok(shared_daemon.plum("task", "run", "builtin.echo", "--wait"))
    with subprocess.Popen([BIN / "plum", "--server", shared_daemon.url, "events", "--from", "1"],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(30) == 141
        assert process.stderr.read() == b""


def test_profiles(plumd: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def plum(*words: str) -> Ran:
        return plumd.plum(*words, server=None)

    nobody = f"http://127.0.0.1:{free_port()}"
    path = tmp_path / "plum" / "profiles.toml"
    path.parent.mkdir()
    path.write_text(f'default = "here"\n[here]\nserver = "{plumd.url}"\noutput = "json"\n'
                    f'[gone]\nserver = "{nobody}"\n[words]\noutput = "name"\n', encoding="utf-8")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("PLUM_PROFILES", "PLUM_PROFILE", "PLUM_SERVER", "CONTROLLER_BASE"):
        monkeypatch.delenv(name, raising=False)
    assert value(plum("status"))["writes"] == "ok", "the default, and as it is shown there"
    assert plumd.url in ok(plum("-o", "table", "status"))
    for words in (("--profile", "gone", "status"), ("status", "--profile", "gone")):
        failed(plum(*words), 6, nobody)
    monkeypatch.setenv("PLUM_SERVER", nobody)
    failed(plum("status"), 6, nobody)
    assert value(plum("status", "--profile", "here"))["writes"] == "ok"
    assert value(plum("--server", plumd.url, "status", "--profile", "gone", "-o", "json"))
    monkeypatch.setenv("PLUM_PROFILE", "here")
    assert value(plum("status"))["writes"] == "ok"
    failed(plum("--profile", "nowhere", "status"), 2, "no profile 'nowhere'", str(path))
    for content, said in (("[here]\nport = 1", "here.port"), ("[here]\noutput = 'xml'", "output"),
                          ("here =", str(path)), ("here = 1", "no profile"), (b"\xff", "utf-8")):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        failed(plum("status"), 2, said)
    path.unlink()
    failed(plum("status"), 2, "No such file")
    monkeypatch.setenv("PLUM_PROFILES", "~no-such-user/profiles.toml")      # as without a home
    failed(plum("status"), 2, "No such file")
    monkeypatch.delenv("PLUM_PROFILE")
    monkeypatch.setenv("PLUM_SERVER", plumd.url)
    assert plumd.url in ok(plum("status"))


@pytest.mark.parametrize(("words", "said"), [
    ("status >/dev/full", "No space left"), ("-o json status >/dev/full", "No space left"),
    ("completion bash >/dev/full", "No space left"),
    ("support-bundle -f /no/such/place.zip", "/no/such/place.zip"),
])
def test_what_cannot_be_written_is_74(shared_daemon: Running, words: str, said: str) -> None:
    failed(in_shell(shared_daemon, words), 74, said)


def test_closed_descriptors_are_no_trouble(shared_daemon: Running) -> None:
    assert ok(in_shell(shared_daemon, "status >&-")) == ""
    failed(in_shell(shared_daemon, "task run builtin.echo -p - <&-"), 2, "this is not JSON")
    assert in_shell(shared_daemon, "task get 123 2>&-").returncode == 3


def in_shell(daemon: Running, words: str) -> Ran:
    """The program as a shell starts it."""
    return subprocess.run(["/bin/sh", "-c", f"exec {BIN}/plum {words}"], capture_output=True,
                          text=True, timeout=60,
                          env=daemon.environment | {"PLUM_SERVER": daemon.url})


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(plumd: Here, shell: str) -> None:
    assert "_PLUM_COMPLETE" in ok(plumd.plum("completion", shell))


def test_bash_completes_nouns_and_verbs(shared_daemon: Running) -> None:
    ran = shared_daemon.plum(environment={
        "_PLUM_COMPLETE": "bash_complete", "COMP_WORDS": "plum task ca", "COMP_CWORD": "2"})
    assert ok(ran).split() == ["plain,cancel"]


# ---------------------------------------------------------------- what the tests stand on

def test_where_ci_is_set_a_skipped_test_has_failed(tmp_path: Path) -> None:
    test = tmp_path / "test_skips.py"
    test.write_text("import pytest\n\n\ndef test_one():\n    pytest.skip('no tool')\n\n\n"
                    "@pytest.mark.xfail(reason='known')\ndef test_two():\n    assert False\n")
    whole = tmp_path / "test_whole.py"
    whole.write_text("import pytest\n\npytest.skip('no module', allow_module_level=True)\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p",
               "no:cacheprovider", "--continue-on-collection-errors", "--rootdir", str(tmp_path),
               "-c", os.devnull, str(test), str(whole)]
    for ci, code, counts in (("", 0, "2 skipped, 1 xfailed"),
                             ("1", 1, "1 failed, 1 xfailed, 1 error")):
        environment = {name: text for name, text in os.environ.items() if name != "CI"}
        ran = subprocess.run(command, env=environment | ({"CI": ci} if ci else {}),
                             capture_output=True, text=True, check=False)
        assert ran.returncode == code, ran.stdout
        assert counts in ran.stdout
