"""The program that looks at endpoints: it comes when it is needed, and never stays behind."""

from __future__ import annotations

import socket

import msgspec
import psutil
import pytest

from tests.daemon.plant import Api, resident_mb, wait_for
from tests.daemon.running import Running

pytestmark = pytest.mark.daemon


class Shown(msgspec.Struct, frozen=True, rename="camel"):
    """An endpoint as it is shown."""

    instance_id: str
    healthy: bool
    why: str = ""


def lookouts(daemon: Running) -> list[psutil.Process]:
    """A daemon's."""
    return [one for one in psutil.Process(daemon.pid).children()
            if "plumd.lookout" in one.cmdline()]


def lives(process: psutil.Process) -> bool:
    """Whether it runs; what nobody has waited for does not."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def register(api: Api, instance: str, port: int, kind: str) -> None:
    """An endpoint that is looked at, again and again."""
    answer = api.post("/v1/services/register", {
        "instanceId": instance, "ip": "127.0.0.1", "endpoints": [
            {"serviceName": "s", "port": port, "protocol": "http",
             "labels": {"healthCheck": kind}}]})
    assert answer.status < 300, answer


def shown(api: Api, instance: str) -> Shown:
    """How it is."""
    found = msgspec.json.decode(api.get("/v1/services"), type=list[Shown])
    return next(one for one in found if one.instance_id == instance)


def test_it_comes_with_the_first_look_and_goes_with_the_daemon(daemon: Running) -> None:
    assert lookouts(daemon) == []
    with socket.socket() as door, socket.create_server(("127.0.0.1", 0)) as silent, \
            Api(daemon) as api:
        door.bind(("127.0.0.1", 0))
        register(api, "hangs", silent.getsockname()[1], "http")     # nobody accepts, so it hangs
        register(api, "late", door.getsockname()[1], "tcp")
        wait_for(lambda: "refused" in shown(api, "late").why, "somebody looked")
        first, = lookouts(daemon)
        assert resident_mb(first.pid) < 48
        first.kill()
        door.listen()
        wait_for(lambda: shown(api, "late").healthy, "another one looked")
        wait_for(lambda: "no answer" in shown(api, "hangs").why, "what hangs is given up")
        second, = lookouts(daemon)
        assert second != first
        daemon.kill()
        wait_for(lambda: not lives(second), "it went with the daemon that was killed")
        daemon.start()
        api.close()
        wait_for(lambda: len(lookouts(daemon)) == 1, "the next daemon has its own")
        third, = lookouts(daemon)
    assert daemon.stop() == 0
    assert not lives(third)
    log = daemon.log.read_text()
    assert "a program beside the daemon ended" in log
    assert "Traceback" not in log
