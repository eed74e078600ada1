"""The settings of an agent, from flags and environment, checked."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Final

import msgspec

NODE_ID_CHARS_MAX: Final = 190


class Settings(msgspec.Struct, frozen=True):
    """See `plumd agent --help`. sync_s: how often the assignments are looked at, if nothing wakes
    the agent."""

    controller: str
    node_id: str
    data_dir: Path
    ip: str = ""
    labels: dict[str, str] = {}
    slots: int = 64
    sync_s: float = 5.0
    beat_s: float = 5.0
    task_beat_s: float = 10.0
    token: str = ""
    cgroups: bool = True
    cache_bytes: int = 4 << 30
    logs_bytes: int = 2 << 30


def default_node_id() -> str:
    """This machine's name."""
    return socket.gethostname()


def labels_of(words: tuple[str, ...]) -> dict[str, str]:
    """Labels from key=value words. Raises ValueError."""
    labels: dict[str, str] = {}
    for word in words:
        for pair in filter(None, word.split(",")):
            key, equals, value = pair.partition("=")
            if not equals or not key.strip():
                raise ValueError(f"{pair!r}: a label is written key=value")
            labels[key.strip()] = value.strip()
    return labels


def check(settings: Settings) -> None:
    """Raises ValueError."""
    if not 0 < len(settings.node_id) <= NODE_ID_CHARS_MAX or "/" in settings.node_id:
        raise ValueError(f"a node's id has 1 to {NODE_ID_CHARS_MAX} characters, and no slash")
    if settings.slots < 1:
        raise ValueError("there must be at least one slot")
    if not settings.controller.startswith(("http://", "https://")):
        raise ValueError(f"{settings.controller!r} is not an http or https URL")
