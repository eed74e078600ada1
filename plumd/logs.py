"""How the daemon's log lines look: text for people, JSON for machines, facts as fields.

Where stderr is systemd's journal, text goes there by its own protocol, with facts as fields of the
entry.  Source: systemd, "Native Journal Protocol", 252.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, TextIO

import msgspec

OWN: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def facts_of(record: logging.LogRecord) -> dict[str, object]:
    """What was given as `extra`."""
    return {name: value for name, value in record.__dict__.items() if name not in OWN}


class TextFormatter(logging.Formatter):
    """`2026-01-31 12:00:00,123 info plumd.engine: a commit failed reason=...`"""

    def format(self, record: logging.LogRecord) -> str:
        facts = "".join(f" {name}={value}" for name, value in facts_of(record).items())
        text = (f"{self.formatTime(record)} {record.levelname.lower()} {record.name}: "
                f"{record.getMessage()}{facts}")
        return text + "\n" + self.formatException(record.exc_info) if record.exc_info else text


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": round(record.created * 1000), "level": record.levelname.lower(),
            "logger": record.name, "message": record.getMessage()}
        line |= {name: str(value) for name, value in facts_of(record).items()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


class Recent(logging.Handler):
    """Keeps the newest lines in memory, for those who ask what happened."""

    LINES: Final = 2_000
    CHARS: Final = 2_000

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(TextFormatter())
        self.kept: deque[str] = deque(maxlen=self.LINES)

    def emit(self, record: logging.LogRecord) -> None:
        """One line more, cut where it is endless."""
        self.kept.append(self.format(record)[:self.CHARS])


RECENT: Final = Recent()
JOURNAL: Final = "/run/systemd/journal/socket"
PRIORITIES: Final = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
"""Levels as syslog counts them; what is below is 7."""


class Journal(logging.StreamHandler[TextIO]):
    """Entries of the journal: MESSAGE is the line without time and level, a fact `task_id` is the
    field PLUM_TASK_ID. What the journal does not take goes to stderr. Raises OSError."""

    def __init__(self, path: str = JOURNAL) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(TextFormatter())
        self._line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            self._line.setblocking(False)
            self._line.connect(path)
        except OSError:
            self._line.close()
            raise

    def emit(self, record: logging.LogRecord) -> None:
        """One entry."""
        try:
            self._line.send(entry_of(record))
        except OSError:             # it is too long, or nobody reads
            super().emit(record)

    def close(self) -> None:
        """Say nothing more."""
        self._line.close()
        super().close()


def entry_of(record: logging.LogRecord) -> bytes:
    """A record as a datagram of the journal's."""
    facts = facts_of(record)
    message = record.getMessage() + "".join(f" {name}={value}" for name, value in facts.items())
    if record.exc_info:
        message += "\n" + logging.Formatter().formatException(record.exc_info)
    priority = next((number for level, number in PRIORITIES if record.levelno >= level), 7)
    fields = {"MESSAGE": message, "PRIORITY": priority, "SYSLOG_IDENTIFIER": "plumd",
              "PLUM_LOGGER": record.name}
    fields |= {"PLUM_" + re.sub("[^A-Z0-9_]", "_", name.upper())[:58]: value
               for name, value in facts.items()}
    return b"".join(field(name, str(value)) for name, value in fields.items())


def field(name: str, value: str) -> bytes:
    """One field: a line, or with its length where the value has several lines."""
    raw = value.encode(errors="backslashreplace")
    if b"\n" not in raw:
        return name.encode() + b"=" + raw + b"\n"
    return name.encode() + b"\n" + len(raw).to_bytes(8, "little") + raw + b"\n"


def is_journal(environ: Mapping[str, str], descriptor: int) -> bool:
    """Whether what is written there goes to the journal: it tells which file that is."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM", "") == f"{found.st_dev}:{found.st_ino}"


def set_up(level: str, form: str) -> None:
    """Log to stderr, or the journal behind it, and into RECENT."""
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    if form == "text" and is_journal(os.environ, sys.stderr.fileno()):
        with suppress(OSError):
            handler = Journal()
    root = logging.getLogger()
    for old in root.handlers:
        if old is not RECENT:
            old.close()
    root.handlers[:] = [handler, RECENT]
    root.setLevel(logging.WARNING)
    logging.getLogger("plumd").setLevel(level.upper())
