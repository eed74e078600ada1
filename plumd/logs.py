"""How the daemon's log lines look: text for people, JSON for machines, facts as fields."""

from __future__ import annotations

import logging
import sys
from collections import deque
from typing import Final

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


def set_up(level: str, form: str) -> None:
    """Log to stderr, and into RECENT."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler, RECENT]
    root.setLevel(logging.WARNING)
    logging.getLogger("plumd").setLevel(level.upper())
