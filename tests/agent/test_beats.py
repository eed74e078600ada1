"""The heartbeat, where the machine around it is slow."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from plumd.agent.beats import Beats
from plumd.agent.http import Http
from plumd.agent.identity import Identity
from plumd.agent.settings import Settings
from tests.agent.acting import Controller

WAIT_S = 20.0


async def test_a_name_server_that_is_silent_holds_up_no_beat(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answers, patient = socket.getaddrinfo, threading.Event(), []

    def slow(host: str, port: int, *more: int, **named: int) -> object:
        if named.get("type") == socket.SOCK_DGRAM:      # the question for our own address
            patient.append(answers.wait(WAIT_S))
        return asked(host, port, *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    with Controller() as controller:
        http = Http(controller.url)
        beats = Beats(Settings(controller.url, "n1", tmp_path), Identity("n1", "key", "session"),
                      http)
        for _ in range(3):
            assert await beats.beat(5.0) is not None
        assert [one["ip"] for one in controller.beats] == ["", "", ""]
        answers.set()
        while controller.beats[-1]["ip"] != "127.0.0.1":
            assert await beats.beat(5.0) is not None
        assert all(patient)
        await http.close()
