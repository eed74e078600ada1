"""Calls that make no sense, and what the environment and the network do: the C SDK says so."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from plumd.sdk.client import Client
from tests.daemon.running import Running
from tests.sdk_c.building import (
    C99,
    EXAMPLES,
    HERE,
    SDK,
    VARIANTS,
    Workshop,
    environment,
    run,
    tool,
)
from tests.sdk_c.programs import Program, until


@pytest.fixture
def api(shared_daemon: Running) -> Iterator[Client]:
    with Client(shared_daemon.url) as client:
        yield client


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_wrong_arguments_are_told(compiler: str, workshop: Workshop, tmp_path: Path) -> None:
    """Under both sanitizers, for each knows undefined behaviour that the other does not."""
    program = tmp_path / "misuse"
    source = [workshop.sdk("asan")] if compiler == "gcc" else [SDK / "plum.c"]
    run(tool(compiler), *C99, *VARIANTS["asan"], f"-I{SDK}", HERE / "misuse.c", *source, "-o",
        program, "-lpthread")
    assert run(program) == "0 wrong\n"


def test_where_the_daemon_is_by_the_environment(shared_daemon: Running, workshop: Workshop) -> None:
    """The same names, in the same order, as for everything else of Plum."""
    program = workshop.program(EXAMPLES / "kv_checkpoint.c", "asan")
    for names in ({"PLUM_SERVER": shared_daemon.url, "CONTROLLER_BASE": "http://127.0.0.1:1"},
                  {"PLUM_SERVER": "", "CONTROLLER_BASE": shared_daemon.url}):
        done = subprocess.run([program], env=environment() | names, capture_output=True, text=True)
        assert "done at step 10" in done.stdout, done


def test_waiting_goes_on_through_a_restart(daemon: Running, workshop: Workshop,
                                           tmp_path: Path) -> None:
    program = workshop.program(HERE / "client_tool.c", "asan")
    with Client(daemon.url) as client:
        task = str(client.submit("builtin.delay", {"seconds": 2})["taskId"])
        with Program(tmp_path / "out", program, daemon.url, "wait", task, "60000") as waiting:
            until(lambda: client.task(task)["state"] == "Running")
            daemon.kill()
            assert waiting.process.poll() is None
            daemon.start()
            assert waiting.process.wait(30) == 0
            assert waiting.said.split()[1] == "5", waiting.said


def test_several_workers_in_one_process_and_a_handler_that_calls_back(
        shared_daemon: Running, api: Client, workshop: Workshop, tmp_path: Path) -> None:
    source = tmp_path / "several.c"
    source.write_text(SEVERAL, encoding="utf-8")
    program = workshop.program(source, "tsan")
    with Program(tmp_path / "out", program, shared_daemon.url) as running:
        running.wait_for("registered", 2)
        tasks = [api.submit("one"), api.submit("two")]
        results = [api.wait_task(str(task["taskId"]), 30)["result"] for task in tasks]
        assert results == ["one", "two"]
        late = api.submit("late")
        assert api.wait_task(str(late["taskId"]), 30)["result"] == "late"
        running.end(signal.SIGTERM)


SEVERAL = """
#include <plum.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
static plum_worker *workers[2];
static void on_signal(int number) {
  (void)number;
  plum_worker_drain(workers[0]);
  plum_worker_drain(workers[1]);
}
static void say(void *context, int level, const char *text) {
  plum_worker_figures figures;
  plum_worker_look(*(plum_worker **)context, &figures);
  printf("%d %s\\n", level, text);
  fflush(stdout);
}
static void answer(plum_attempt *attempt, void *context) {
  plum_worker *worker = *(plum_worker **)context;
  plum_worker_figures figures;
  plum_worker_look(worker, &figures);
  plum_worker_add_task(worker, "late", answer, context);
  if (plum_worker_run(worker, 1) != PLUM_E_STATE
      || plum_worker_step(worker) != PLUM_E_STATE
      || plum_worker_set_capacity(worker, 2) != PLUM_E_STATE || figures.running == 0)
    plum_attempt_fail(attempt, "wrong", "a call from a handler", 0, -1, NULL);
  else
    plum_attempt_finish_text(attempt, plum_attempt_name(attempt), PLUM_Z);
}
static void *serve(void *context) {
  plum_worker *worker = *(plum_worker **)context;
  if (worker == workers[0])
    plum_worker_run(worker, 2);
  else
    plum_worker_run(worker, 0);     /* handlers in the loop itself */
  return NULL;
}
int main(int argc, char **argv) {
  static const char *const names[2] = {"one", "two"};
  pthread_t threads[2];
  int i;
  for (i = 0; i < 2; i++) {
    if (argc < 2 || plum_worker_new(argv[1], &workers[i]) != PLUM_OK)
      return 2;
    plum_worker_set_log(workers[i], say, &workers[i]);
    plum_worker_add_task(workers[i], names[i], answer, &workers[i]);
  }
  signal(SIGTERM, on_signal);
  for (i = 0; i < 2; i++)
    if (pthread_create(&threads[i], NULL, serve, &workers[i]) != 0)
      return 2;
  for (i = 0; i < 2; i++) {
    pthread_join(threads[i], NULL);
    plum_worker_free(workers[i]);
  }
  return 0;
}
"""


def serve_once(server: socket.socket, answer: bytes) -> None:
    """Answer each connection alike, as a proxy does whose daemon is away."""
    while True:
        try:
            peer, _ = server.accept()
        except OSError:
            return
        with peer:
            peer.recv(65536)
            peer.sendall(answer)


@pytest.mark.parametrize("words", [("0",), ("0", "poll")], ids=["stream", "poll"])
def test_a_proxy_that_answers_502(words: tuple[str, ...], workshop: Workshop,
                                  tmp_path: Path) -> None:
    """It says so, tries again, and can be ended."""
    answer = (b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\r\n"
              b"<html></html>")
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve_once, args=(server, answer), daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        program = workshop.program(HERE / "scenarios.c", "asan")
        with Program(tmp_path / "out", program, url, "behind", *words) as running:
            running.wait_for("HTTP 502 <html></html>", 2)
            running.end(signal.SIGTERM)
        tool_said = run(workshop.program(HERE / "client_tool.c", "asan"), url, "get", "1", code=18)
        assert "status 18 502" in tool_said
        server.shutdown(socket.SHUT_RDWR)


def test_an_ipv6_url(workshop: Workshop) -> None:
    try:
        server = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        # There is nothing to connect to; where CI is set this counts as a failure (conftest.py).
        pytest.skip("this machine has no IPv6")
    answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    with server:
        threading.Thread(target=serve_once, args=(server, answer), daemon=True).start()
        url = f"http://[::1]:{server.getsockname()[1]}"
        assert "status 12 404" in run(workshop.program(HERE / "client_tool.c", "asan"), url, "get",
                                      "1", code=12)
        server.shutdown(socket.SHUT_RDWR)


def test_a_disk_that_takes_no_more(shared_daemon: Running, api: Client, workshop: Workshop,
                                   tmp_path: Path) -> None:
    """Results go on in memory, and the log says so."""
    kept = tmp_path / "kept"
    kept.mkdir()
    program = workshop.program(HERE / "scenarios.c", "asan")
    small = ("/bin/sh", "-c", "trap '' XFSZ; ulimit -f 64; exec \"$@\"", "sh")     # 32 KiB a file
    with Program(tmp_path / "out", *small, program, shared_daemon.url, "full", "2", f"dir={kept}",
                 "name=full") as running:
        running.wait_for("1 registered as")
        for size in (10, 200_000, 300_000, 10):
            task = api.submit("full", {"do": "big", "size": size})
            assert api.wait_task(str(task["taskId"]), 30)["state"] == "Succeeded", running.said
        assert "results are in memory alone" in running.said
        running.end(signal.SIGTERM)
    assert not (kept / "plum.journal").exists(), "nothing is owed"


def test_directories_that_cannot_be_used_say_why(shared_daemon: Running, workshop: Workshop,
                                                 tmp_path: Path) -> None:
    program = workshop.program(HERE / "scenarios.c", "asan")
    (tmp_path / "file").write_text("", encoding="utf-8")
    (tmp_path / "odd" / "plum.journal").mkdir(parents=True)
    for folder, why in (("none", "No such file"), ("file", "Not a directory"),
                        ("odd", "Is a directory")):
        said = run(program, shared_daemon.url, "w", "0", f"dir={tmp_path / folder}", code=11)
        assert why in said, said
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn/plum.journal").write_bytes(b"\xff" * 40)
    with Program(tmp_path / "out", program, shared_daemon.url, "torn", "0",
                 f"dir={tmp_path / 'torn'}") as running:
        running.wait_for("1 registered as")
        assert "the last 40 bytes of" in running.said
        running.end(signal.SIGTERM)


def test_a_drain_while_nobody_takes_the_results(daemon: Running, workshop: Workshop,
                                                tmp_path: Path) -> None:
    """It ends all the same, says that something is owed, and the next life hands it in."""
    kept, notes = tmp_path / "kept", tmp_path / "notes"
    kept.mkdir()
    program = workshop.program(HERE / "scenarios.c", "asan")
    words = (program, daemon.url, "owes", "2", f"dir={kept}", f"notes={notes}", "name=owed")
    with Client(daemon.url) as client:
        with Program(tmp_path / "one", *words) as running:
            running.wait_for("1 registered as")
            gate = tmp_path / "gate"
            task = str(client.submit("owed", {"do": "hold", "gate": str(gate)})["taskId"])
            until(lambda: client.task(task)["state"] == "Running")
            daemon.kill()
            gate.touch()
            assert "ended 21" in running.end(signal.SIGTERM, code=21)
        assert (kept / "plum.journal").exists()
        daemon.start()
        with Program(tmp_path / "two", *words) as running:
            running.wait_for("1 results of before the restart are kept")
            done = client.wait_task(task, 30)
            assert (done["state"], done["result"], done["attempt"]) == ("Succeeded", "held", 1)
            running.end(signal.SIGTERM)
        assert notes.read_text(encoding="ascii").split() == [task, f"-{task}"], "carried out once"
