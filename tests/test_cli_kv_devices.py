"""`plum kv` and `plum device` against the real daemon: output, files, exit codes, hostile text."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from plumd.sdk import KV, Device, OperationFailed
from tests.daemon.running import Running
from tests.test_cli import HOSTILE, Here, failed, ok, value, values

pytestmark = pytest.mark.daemon


@pytest.fixture
def plumd(shared_daemon: Running) -> Here:
    return Here(shared_daemon)


# ---------------------------------------------------------------- kv

def test_put_get_list_delete(plumd: Here) -> None:
    assert ok(plumd.plum("kv", "put", "cli", "a/b", "12.5", "--type", "double")) == (
        "a/b is at version 1\n")
    assert ok(plumd.plum("kv", "get", "cli", "a/b")) == "12.5\n"
    entry = value(plumd.plum("-o", "json", "kv", "put", "cli", "a/b", "13", "--type", "double"))
    assert (entry["version"], entry["value"], entry["type"]) == (2, "13", "double")
    assert value(plumd.plum("-o", "json", "kv", "get", "cli", "a/b")) == entry
    ok(plumd.plum("kv", "put", "cli", "z", "x", "--ttl", "3600"))
    shown = ok(plumd.plum("kv", "list", "cli"))
    assert "KEY" in shown
    assert "a/b" in shown
    assert ok(plumd.plum("kv", "list", "cli", "--prefix", "a/", "-o", "name")) == "a/b\n"
    assert ok(plumd.plum("kv", "list", "cli", "--limit", "1", "-o", "name")) == "a/b\n"
    assert "expiresAt" in values(plumd.plum("-o", "json", "kv", "list", "cli", "--limit", "0"))[1]
    assert "cli" in ok(plumd.plum("kv", "list", "-o", "name")).split("\n")
    ok(plumd.plum("kv", "delete", "cli", "a/b", "z", "never"))
    failed(plumd.plum("kv", "get", "cli", "a/b"), 3, "no such key")
    assert ok(plumd.plum("kv", "list", "cli", "-o", "name")) == ""


def test_compare_and_set(plumd: Here) -> None:
    ok(plumd.plum("kv", "cas", "cas", "k", "0", "mine"))
    failed(plumd.plum("kv", "cas", "cas", "k", "0", "other"), 5, "precondition_failed")
    failed(plumd.plum("kv", "delete", "cas", "k", "--if-version", "7"), 5)
    ok(plumd.plum("kv", "cas", "cas", "k", "1", "again"))
    assert ok(plumd.plum("kv", "get", "cas", "k")) == "again\n"
    ok(plumd.plum("kv", "delete", "cas", "k", "--if-version", "2"))


def test_values_from_files_and_stdin(plumd: Here, shared_daemon: Running, tmp_path: Path) -> None:
    data = bytes(range(256))
    file = tmp_path / "data"
    file.write_bytes(data)
    ok(plumd.plum("kv", "put", "files", "bin", f"@{file}", "--type", "bytes"))
    with KV("files", shared_daemon.url) as kv:
        assert kv.get("bin") == data
        ok(plumd.plum("kv", "put", "files", "text", "-", given="two\nlines\n"))
        assert kv.get("text") == "two\nlines\n"
        ok(plumd.plum("kv", "put", "files", "n", "-", "--type", "int", given="7\n"))
        assert kv.get("n") == 7
    failed(plumd.plum("kv", "put", "files", "bad", f"@{file}"), 2, "not UTF-8")
    failed(plumd.plum("kv", "put", "files", "bad", f"@{file}.none"), 2, "No such file")
    failed(plumd.plum("kv", "put", "files", "bad", "x", "--type", "int"), 2, "value: ")
    failed(plumd.plum("kv", "put", "a/b", "bad", "x"), 2, "namespace: ")
    failed(plumd.plum("kv", "get", "files", "bad"), 3)


def test_raw_values(shared_daemon: Running, plumd: Here) -> None:
    with KV("raw", shared_daemon.url) as kv:
        kv.put("bytes", b"a\x1b\n")
        kv.put("text", HOSTILE)
    assert ok(shared_daemon.plum("kv", "get", "raw", "bytes", "--raw")) == "a\x1b\n"
    shown = ok(plumd.plum("kv", "get", "raw", "text"))
    assert "\x1b" not in shown
    assert "\\x1b" in shown


def test_hostile_keys_and_values_are_shown_as_escapes(shared_daemon: Running, plumd: Here) -> None:
    hostile = HOSTILE.replace("\0", "")
    with KV("hostile", shared_daemon.url) as kv:
        kv.put(hostile, HOSTILE)
    for words in (("kv", "list", "hostile"), ("-o", "json", "kv", "list", "hostile"),
                  ("-o", "name", "kv", "list", "hostile"),
                  ("kv", "watch", "hostile", "--count", "1"),
                  ("-o", "json", "kv", "watch", "hostile", "--count", "1"),
                  ("-o", "name", "kv", "watch", "hostile", "--count", "1")):
        shown = ok(plumd.plum(*words))
        assert shown
        assert not {"\x1b", "\x07", "\x9b", "\u202e", "\0"} & set(shown), words


def test_watch(shared_daemon: Running, plumd: Here) -> None:
    with KV("watched", shared_daemon.url) as kv:
        kv.put("a", 1)
        kv.put("other", 1)
        lines = ok(plumd.plum("-o", "json", "kv", "watch", "watched", "--prefix", "a",
                              "--count", "1")).splitlines()
        assert json.loads(lines[0]) == {"key": "a", "version": 1, "type": "int", "value": "1"}
        thread = threading.Thread(target=lambda: kv.delete("a"))
        started = ok(plumd.plum("kv", "watch", "watched", "--count", "2"))
        assert started.splitlines()[0].split() == ["1", "a", "1"]
        thread.start()
        thread.join()
    shown = ok(plumd.plum("events", "--topics", "kv", "--from", "1", "--count", "2"))
    assert "version 1" in shown


# ---------------------------------------------------------------- devices

@contextmanager
def serving(device: Device) -> Iterator[None]:
    """A device in a thread of its own."""
    ready = threading.Event()

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(device.serve)
            ready.set()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    try:
        ready.wait()
        yield
    finally:
        device.stop()
        thread.join()


def test_devices(shared_daemon: Running, plumd: Here) -> None:
    device = Device("cli-1", shared_daemon.url, type="lamp", node_id="n7")
    device.state("power", unit="%")

    @device.operation("set-power", type="int", unit="%", min=0, max=100)
    def set_power(value: int) -> None:
        if value == 13:
            raise OperationFailed("unlucky")
        device.report({"power": value})

    with serving(device):
        assert "cli-1" in ok(plumd.plum("device", "list", "--type", "lamp"))
        assert ok(plumd.plum("device", "list", "--node", "n7", "-o", "name")) == "cli-1\n"
        assert ok(plumd.plum("device", "list", "--health", "unhealthy", "-o", "name")) == ""
        assert ok(plumd.plum("device", "op", "cli-1", "set-power=42")) == "done by cli-1\n"
        while "42 %" not in (shown := ok(plumd.plum("device", "get", "cli-1"))):
            pass
        assert "int 0 .. 100 %" in shown
        assert "power=42" in ok(plumd.plum("device", "states", "cli-1"))
        failed(plumd.plum("device", "op", "cli-1", "set-power=101"), 2, "operations[0].value")
        failed(plumd.plum("device", "op", "cli-1", "fly=1"), 2, "operations[0].name")
        failed(plumd.plum("device", "op", "cli-1", "set-power=13"), 6, "unlucky", "409")
        failed(plumd.plum("device", "op", "cli-1", "nonsense"), 2, "KEY=VALUE")
    found = value(plumd.plum("-o", "json", "device", "get", "cli-1"))
    states = found["states"]
    assert isinstance(states, dict)
    assert states["power"]["value"] == "42"
    ok(plumd.plum("device", "delete", "cli-1"))
    failed(plumd.plum("device", "get", "cli-1"), 3, "no such device")
    failed(plumd.plum("device", "delete", "cli-1"), 3)
    failed(plumd.plum("device", "states", "cli-1"), 3)
    failed(plumd.plum("device", "list", "--health", "well"), 2, "health")
