"""Log lines in systemd's journal: facts are fields, and nothing is lost where it takes nothing."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from plumd.logs import Journal, is_journal


def parsed(raw: bytes) -> dict[str, str]:
    """A datagram as the journal reads it."""
    found = dict[str, str]()
    while raw:
        line, _, rest = raw.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(rest[:8], "little")
            value, rest = rest[8:8 + size], rest[8 + size + 1:]
        found[name.decode()], raw = value.decode(), rest
    return found


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "journal"))
        made.setblocking(False)
        yield made


@pytest.fixture
def log(listener: socket.socket) -> Iterator[logging.Logger]:
    made = logging.Logger("plumd.test")
    handler = Journal(listener.getsockname())
    made.addHandler(handler)
    yield made
    handler.close()


def test_facts_are_fields(log: logging.Logger, listener: socket.socket) -> None:
    log.warning("a task of %d", 7, extra={"task_id": "688", "odd-name": "a=b", "text": "x\ny=z"})
    assert parsed(listener.recv(10_000)) == {
        "MESSAGE": "a task of 7 task_id=688 odd-name=a=b text=x\ny=z", "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "plumd", "PLUM_LOGGER": "plumd.test", "PLUM_TASK_ID": "688",
        "PLUM_ODD_NAME": "a=b", "PLUM_TEXT": "x\ny=z"}


def test_every_level_has_its_number_and_a_fault_its_lines(
        log: logging.Logger, listener: socket.socket) -> None:
    told = []
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        log.log(level, "so")
        told.append(parsed(listener.recv(10_000))["PRIORITY"])
    assert told == ["7", "6", "4", "3", "3"]
    try:
        int("\udcff")
    except ValueError:
        log.exception("it failed")
    message = parsed(listener.recv(10_000))["MESSAGE"]
    assert message.startswith("it failed\nTraceback")
    assert message.endswith("ValueError: invalid literal for int() with base 10: '\\udcff'")


def test_what_the_journal_does_not_take_goes_to_stderr(
        log: logging.Logger, listener: socket.socket, capsys: pytest.CaptureFixture[str]) -> None:
    handler = log.handlers[0]
    assert isinstance(handler, Journal)
    handler.setStream(sys.stderr)
    log.info("x" * 4_000_000)
    assert "info plumd.test: xxxx" in capsys.readouterr().err
    listener.close()
    log.info("nobody reads")
    assert "nobody reads" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError):
        Journal("/nowhere/journal")


def test_only_the_journals_own_stream_is_it(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        found = os.fstat(file.fileno())
        stream = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        assert is_journal(stream, file.fileno())
        assert not is_journal({}, file.fileno())
        assert not is_journal({"JOURNAL_STREAM": "1:2"}, file.fileno())
    assert not is_journal(stream, -1)


def test_without_a_journal_lines_are_as_ever() -> None:
    program = ("import logging; from plumd import logs; logs.set_up('info', 'text'); "
               "logging.getLogger('plumd.x').info('here', extra={'a': 1})")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                          check=True)
    assert done.stderr.endswith(" info plumd.x: here a=1\n")
