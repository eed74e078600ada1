"""The C client: tasks, key-value store, services, devices, examples, TLS."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from plumd.sdk.client import Client, Json, ProblemError
from tests.daemon.running import Running, free_port
from tests.sdk_c.building import (
    C99,
    EXAMPLES,
    HERE,
    ROOT,
    SDK,
    VARIANTS,
    Workshop,
    environment,
    run,
    tool,
)
from tests.sdk_c.programs import Program, until


class Tool:
    """What the client's tool prints for some words, when it ends with that code."""

    def __init__(self, program: Path, url: str) -> None:
        self.program = program
        self.url = url

    def __call__(self, *words: str, code: int = 0) -> str:
        return run(self.program, self.url, *words, code=code)



@pytest.fixture
def ask(shared_daemon: Running, workshop: Workshop) -> Tool:
    return Tool(workshop.program(HERE / "client_tool.c", "asan"), shared_daemon.url)


@pytest.fixture
def api(shared_daemon: Running) -> Iterator[Client]:
    with Client(shared_daemon.url) as client:
        yield client


def example(workshop: Workshop, name: str) -> Path:
    """An example, built with sanitizers."""
    return workshop.program(EXAMPLES / name, "asan")


def test_tasks(ask: Tool, api: Client) -> None:
    said = ask("submit", "builtin.echo", '{"é": "\\u0000"}', "10000")
    task_id, state, result = said.split(maxsplit=3)[:3]
    assert (state, result[:9]) == ("5", '{"echo":{')
    task = api.task(task_id)
    assert task["payload"] == {"é": "\0"}
    assert (task["priority"], task["timeoutSec"], task["maxRetries"]) == (7, 2.5, 2)
    assert (task["labels"], task["onLost"]) == ({"a": "1", "b": '"2"'}, "fail")
    assert ask("get", task_id).split()[1] == "5"
    assert "12 404 not_found" in ask("get", "77", code=12)
    waiting = str(api.submit("nobody-does-this")["taskId"])
    assert "status 7 " in ask("wait", waiting, "300", code=7)
    assert ask("cancel", waiting, "1000").split()[1] == "8"
    assert "13 409 wrong_state" in ask("cancel", task_id, "0", code=13)
    lines = ask("bulk", "builtin.echo", "builtin.nonsense", "builtin.echo").splitlines()
    assert re.fullmatch(r"[0-9a-f]+\|", lines[0])
    assert lines[1].startswith("|invalid 422 name: there is no builtin task")
    assert api.wait_task(lines[2].strip("|"), 30)["state"] == "Succeeded"


def test_failure_is_told(ask: Tool) -> None:
    said = ask("submit", "builtin.fail", '{"message": "as asked"}', "30000")
    assert said.split()[1] == "6"
    assert "as asked" in said


def test_key_value(ask: Tool) -> None:
    assert "version 1" in ask("kv-put", "c space/".rstrip("/"), "a/b c", "1 é", "string", "0")
    assert ask("kv-get", "c space", "a/b c").startswith("a/b c=1 é string v1\n")
    ask("kv-put", "c2", "keys", "7", "int", "0")    # the name of a route
    assert ask("kv-get", "c2", "keys").startswith("keys=7 int v1\n")
    assert "expires" in ask("kv-put", "c", "ttl", "5", "int", "60000") + ask("kv-get", "c", "ttl")
    assert "version 1" in ask("kv-bytes", "c", "raw")
    assert "raw=AP8= bytes v1" in ask("kv-get", "c", "raw")
    assert "status 12 " in ask("kv-get", "c", "nothing", code=12)
    assert "version 1" in ask("kv-cas", "c", "once", "0", "x")
    assert "status 14 412 precondition_failed" in ask("kv-cas", "c", "once", "0", "y", code=14)
    assert "version 2" in ask("kv-cas", "c", "once", "1", "y")
    assert "status 14 " in ask("kv-delete", "c", "once", "1", code=14)
    ask("kv-delete", "c", "once", "2")
    ask("kv-delete", "c", "once", "-1")
    assert "status 14 " in ask("kv-batch", "c", "put", "b1", "1", "0", "put", "ttl", "2", "99",
                               code=14)
    assert "b1" not in ask("kv-list", "c", "")
    ask("kv-batch", "c", "put", "b1", "1", "0", "put", "b2", "2", "-1", "delete", "raw", "1")
    assert ask("kv-list", "c", "b") == "b1=1 string v1\nb2=2 string v1\nstatus 0 200  \n"
    assert "status 15 422 invalid" in ask("kv-put", "c", "n", "x", "int", "0", code=15)


def test_watch_survives_the_daemon(daemon: Running, workshop: Workshop, tmp_path: Path) -> None:
    """What is there, what changes, and what changed while the line was down, deletions too."""
    program = workshop.program(HERE / "client_tool.c", "asan")

    def put(key: str, value: str) -> None:
        run(program, daemon.url, "kv-put", "w", key, value, "string", "0")

    put("k/1", "a")
    put("other", "x")
    with Program(tmp_path / "out", program, daemon.url, "kv-watch", "w", "k/") as watch:
        watch.wait_for("k/1=a string v1\ncurrent\n")
        put("k/2", "b")
        watch.wait_for("k/2=b string v1\n")
        run(program, daemon.url, "kv-delete", "w", "k/1", "-1")
        watch.wait_for("k/1= string v2 deleted\n")
        daemon.kill()
        daemon.start()
        watch.wait_for("current", 2)
        put("k/2", "c")
        watch.wait_for("k/2=c string v2\n")
        put("k/stop", "1")
        assert watch.process.wait(30) == 0, watch.said
        assert watch.said.count("k/2=b") == 1, "what is known is not told again"
        assert "other" not in watch.said


def test_discovery(ask: Tool) -> None:
    """Round robin takes turns, sticky stays, blame moves on, the daemon's own choice is asked."""
    said = ask("services", *"1111", *"22", "blame", "2", "2", *"000", "3", "leave").split()
    assert [sorted(said[:2]), sorted(said[2:4])] == [["9001", "9002"]] * 2
    assert said[4] == said[5] != said[6] == said[7]
    assert set(said[8:12]) <= {"9001", "9002"}


def test_a_kept_connection_that_was_closed(daemon: Running, workshop: Workshop) -> None:
    """A restart between two calls is not seen by the second; a daemon that is gone is."""
    program = workshop.program(HERE / "client_tool.c", "asan")
    with subprocess.Popen([program, daemon.url, "again", "/v1/services/list"], text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()) as tool:
        assert tool.stdin is not None
        assert tool.stdout is not None

        def call() -> str:
            assert tool.stdin is not None
            assert tool.stdout is not None
            tool.stdin.write("\n")
            tool.stdin.flush()
            return tool.stdout.readline()

        assert [call(), call()] == ["0 200\n"] * 2
        daemon.restart()
        assert call() == "0 200\n"
        daemon.kill()
        assert call() == "5 0\n"
        daemon.start()
        assert call() == "0 200\n"
        tool.stdin.close()
        tool.wait(30)


# ---------------------------------------------------------------- the examples of the guide

def test_the_guide_shows_the_examples() -> None:
    guide = (ROOT / "docs/c-sdk.md").read_text(encoding="utf-8")
    for path in EXAMPLES.iterdir():
        assert f"examples/{path.name}" in guide, path.name


def test_echo_worker(shared_daemon: Running, api: Client, workshop: Workshop,
                     tmp_path: Path) -> None:
    program = example(workshop, "echo_worker.c")
    with Program(tmp_path / "out", program, shared_daemon.url) as running:
        running.wait_for("registered")
        task = api.submit("echo", {"n": 1})
        assert api.wait_task(str(task["taskId"]), 30)["result"] == {"n": 1}
        running.end()


def test_file_worker(shared_daemon: Running, api: Client, workshop: Workshop,
                     tmp_path: Path) -> None:
    program = example(workshop, "file_worker.cpp")
    text = tmp_path / "text"
    text.write_text("one\ntwo\none two\n" * 20_000, encoding="utf-8")
    with Program(tmp_path / "out", program, shared_daemon.url, str(tmp_path)) as running:
        running.wait_for("registered")

        def count(payload: Json, **fields: int) -> tuple[object, object]:
            task = api.wait_task(str(api.submit("count-lines", payload, key=None,
                                                **fields)["taskId"]), 60)
            return task["result"], task["error"]

        result, _ = count({"path": str(text), "pattern": "two"})
        assert result == {"path": str(text), "lines": 60_000, "found": 40_000}
        _, error = count({"path": ""}, maxRetries=3)
        assert isinstance(error, dict)
        assert (error["code"], error["attempt"]) == ("bad_payload", 1)
        _, error = count({"path": "/nowhere"}, maxRetries=1)
        assert isinstance(error, dict)
        assert (error["code"], error["attempt"]) == ("no_file", 2)
        running.end()


@pytest.mark.parametrize("callback", [False, True], ids=["poll", "callback"])
def test_radar_device(callback: bool, daemon: Running, workshop: Workshop,
                      tmp_path: Path) -> None:
    program, name = example(workshop, "radar_device.c"), f"radar-{callback}"
    where = ["127.0.0.1:0"] if callback else []
    with Client(daemon.url) as api, Program(tmp_path / "out", program, daemon.url, name,
                                            *where) as running:

        def states() -> dict[str, Json]:
            shown = api.get("/v1/resources/states", {"resourceId": name, "limit": 100})
            assert isinstance(shown, list)
            found: dict[str, Json] = {}
            for entry in reversed(shown):
                assert isinstance(entry, dict)
                told = entry["states"]
                assert isinstance(told, dict)
                found.update(told)
            return found

        refusals: list[str] = []

        def operate(operation: str, value: str) -> int:
            body: Json = {"operations": [{"name": operation, "value": value}]}
            try:
                return api.request("POST", "/v1/resources/operation", body,
                                   query={"resourceId": name}).status_code
            except ProblemError as error:
                refusals.append(str(error))
                return error.status

        running.wait_for("registered")
        until(lambda: states() == {"azimuth": "12.5", "range": "120"})
        assert operate("range", "77") == 204
        until(lambda: states()["range"] == "77")
        assert operate("range", "301") == 422
        assert operate("selfTest", "") == 502
        assert "the antenna is stuck" in refusals[-1]
        daemon.kill()
        daemon.start()
        until(lambda: operate("range", "78") == 204)
        until(lambda: states()["range"] == "78")
        running.end()


def test_two_devices_of_one_name(shared_daemon: Running, workshop: Workshop,
                                 tmp_path: Path) -> None:
    program = example(workshop, "radar_device.c")
    with Program(tmp_path / "one", program, shared_daemon.url, "twin") as one:
        one.wait_for("registered")
        with Program(tmp_path / "two", program, shared_daemon.url, "twin") as two:
            assert one.process.wait(30) == 1
            assert "another process took over" in one.said
            two.end()


def test_a_device_that_the_daemon_does_not_take(shared_daemon: Running, workshop: Workshop,
                                                tmp_path: Path) -> None:
    """Another try would not change it, and the log says what is wrong."""
    program = example(workshop, "radar_device.c")
    with Program(tmp_path / "out", program, shared_daemon.url, "a\nb") as running:
        assert running.process.wait(30) == 1
        assert "refused the request: resourceId: " in running.said


def test_kv_checkpoint(shared_daemon: Running, workshop: Workshop) -> None:
    program = example(workshop, "kv_checkpoint.c")
    assert run(program, shared_daemon.url, "job", "5") == "from step 0\ndone at step 5\n"
    assert run(program, shared_daemon.url, "job", "9") == "from step 5\ndone at step 9\n"


def test_service_client(shared_daemon: Running, workshop: Workshop) -> None:
    said = run(example(workshop, "service_client.c"), shared_daemon.url)
    assert "images is at http://127.0.0.1:9000\n" in said
    assert 'result: {"echo":{"hello": "world"}}' in said


# ---------------------------------------------------------------- TLS

TLS_TOOL = """
#include <plum_openssl.h>
#include <stdio.h>
#include <string.h>
static void say(void *context, int level, const char *text) {
  printf("%s%d %s\\n", (const char *)context, level, text);
}
static void echo(plum_attempt *attempt, void *context) {
  size_t size;
  const char *payload = plum_attempt_payload(attempt, &size);
  plum_attempt_finish(attempt, payload, size);
  plum_worker_drain(context);
}
int main(int argc, char **argv) {
  plum_transport *tls;
  plum_client *client;
  plum_worker *worker;
  plum_reply *reply = NULL;
  plum_status status;
  if (argc < 4 || plum_openssl_new(argv[2], &tls) != PLUM_OK
      || plum_client_new(argv[1], &client) != PLUM_OK
      || plum_worker_new(argv[1], &worker) != PLUM_OK)
    return 2;
  if (plum_openssl_set_identity(tls, NULL, NULL) != PLUM_E_INVALID
      || plum_openssl_set_identity(tls, "/no/such", "/no/such") != PLUM_E_INVALID)
    return 3;
  status = plum_client_call(client, "GET", "/readyz", NULL, NULL, 0, &reply);
  printf("%d ", (int)status);
  plum_client_set_transport(client, tls);
  plum_openssl_set_log(tls, say, "why: ");
  status = plum_client_call(client, "GET", "/readyz", NULL, NULL, 0, &reply);
  printf("%d\\n", (int)status);
  fflush(stdout);
  plum_reply_free(reply);
  if (status == PLUM_OK && strcmp(argv[3], "work") == 0) {
    plum_worker_set_transport(worker, tls);
    plum_worker_add_task(worker, "over-tls", echo, worker);
    status = plum_worker_run(worker, 1);
    printf("%d\\n", (int)status);
  }
  plum_worker_free(worker);
  plum_client_free(client);
  plum_openssl_free(tls);
  return 0;
}
"""


def carry(source: socket.socket, target: socket.socket) -> None:
    """Bytes of one direction, until it ends."""
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for each in (source, target):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def hang_up(listener: socket.socket) -> None:
    """On whoever comes first."""
    listener.accept()[0].close()


@contextmanager
def tls_before(port: int, folder: Path, name: str) -> Iterator[tuple[int, Path]]:
    """A TLS front before a port, with a certificate of that name: (its port, the authority)."""
    key, certificate = folder / f"{name}.key", folder / f"{name}.pem"
    run(tool("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt",
        "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key, "-out", certificate, "-days",
        "2", "-subj", f"/CN={name}", "-addext",
        f"subjectAltName={'IP' if name[0].isdigit() else 'DNS'}:{name}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    open_sockets: list[socket.socket] = []

    def serve(server: socket.socket) -> None:
        while True:
            try:
                plain, _ = server.accept()
            except OSError:
                return
            try:
                front = context.wrap_socket(plain, server_side=True)
                back = socket.create_connection(("127.0.0.1", port))
            except OSError:
                plain.close()
                continue
            open_sockets.extend((front, back))
            for pair in ((front, back), (back, front)):
                threading.Thread(target=carry, args=pair, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        try:
            yield server.getsockname()[1], certificate
        finally:
            server.shutdown(socket.SHUT_RDWR)
            for each in open_sockets:
                each.close()


def test_tls(shared_daemon: Running, api: Client, workshop: Workshop, tmp_path: Path) -> None:
    """By OpenSSL, when it is asked for: certificates and names are checked."""
    source, program = tmp_path / "tls_tool.c", tmp_path / "tls_tool"
    source.write_text(TLS_TOOL, encoding="utf-8")
    run(tool("gcc"), *C99, *VARIANTS["asan"], f"-I{SDK}", source, SDK / "plum_openssl.c",
        workshop.sdk("asan"), "-o", program, "-lssl", "-lcrypto", "-lpthread")
    with tls_before(shared_daemon.port, tmp_path, "127.0.0.1") as (port, authority):
        url = f"https://127.0.0.1:{port}"
        with Program(tmp_path / "out", program, url, str(authority), "work") as running:
            task = api.submit("over-tls", {"large": "é" * 100_000})
            assert api.wait_task(str(task["taskId"]), 30)["result"] == {"large": "é" * 100_000}
            assert running.process.wait(30) == 0
            assert running.said == "10 0\n0\n"
        with tls_before(shared_daemon.port, tmp_path, "elsewhere") as (other, wrong):
            for_another = run(program, f"https://127.0.0.1:{other}", str(wrong), "ask")
            assert re.fullmatch(r"10 why: 0 no TLS handshake: .*address mismatch\n10\n",
                                for_another, re.IGNORECASE), "a certificate of another name"
            unknown = run(program, f"https://127.0.0.1:{other}", str(authority), "ask")
            assert re.fullmatch(r"10 why: 0 no TLS handshake: .*certificate.*\n10\n", unknown), \
                "an authority that nobody trusts"
            with closing(socket.create_server(("127.0.0.1", 0))) as deaf:
                hangs_up = threading.Thread(target=hang_up, args=(deaf,))
                hangs_up.start()
                url = f"https://127.0.0.1:{deaf.getsockname()[1]}"
                assert re.fullmatch(r"10 why: 0 no TLS handshake: .+\n10\n",
                                    run(program, url, str(authority), "ask"))
                hangs_up.join()


@pytest.mark.parametrize(("header", "said"), [
    ("Retry-After: 7\r\n", "again in 7000 ms\n"), ("", ""), ("Retry-After: soon\r\n", "")])
def test_a_daemon_that_asks_to_come_later(workshop: Workshop, header: str, said: str) -> None:
    program = workshop.program(HERE / "client_tool.c", "asan")
    answer = f"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n{header}\r\n{{}}".encode()
    with closing(socket.create_server(("127.0.0.1", 0))) as busy:

        def refuse() -> None:
            with busy.accept()[0] as line:
                line.recv(65536)
                line.sendall(answer)

        refusing = threading.Thread(target=refuse)
        refusing.start()
        url = f"http://127.0.0.1:{busy.getsockname()[1]}"
        assert run(program, url, "get", "1", code=17) == "status 17 503  \n" + said
        refusing.join()


def test_nobody_there(workshop: Workshop) -> None:
    program = workshop.program(HERE / "client_tool.c", "asan")
    assert "status 5 0" in run(program, f"http://127.0.0.1:{free_port()}", "get", "1", code=5)
