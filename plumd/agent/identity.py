"""Who this agent is, over restarts: the key that owns its node's name, and its session's name."""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path
from typing import Final

import msgspec

FILE: Final = "identity"


class DataDirInUse(Exception):
    """Another agent has this data directory."""


class Identity(msgspec.Struct, frozen=True):
    """key: told with each heartbeat; whoever told it first owns the node's name. It is the
    machine's, whatever it is called.

    session: stays the same while the directory does, so that a new agent is the old one come back,
    and what it started is still its own.
    """

    node_id: str
    key: str
    session: str


def identity(data_dir: Path, node_id: str) -> Identity:
    """Who this agent is; drawn at its first start. By another node's name it is the same machine in
    a new session, so that it may have its old name again.

    Raises OSError.
    """
    path, key = data_dir / FILE, secrets.token_hex(16)
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Identity)
        if found.node_id == node_id:
            return found
        key = found.key
    except (FileNotFoundError, msgspec.DecodeError):
        pass
    drawn = Identity(node_id, key, secrets.token_hex(8))
    part = path.with_suffix(".new")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(drawn))
        file.flush()
        os.fsync(descriptor)
    part.replace(path)
    return drawn


def lock(data_dir: Path) -> int:
    """Take the data directory, for as long as the descriptor is open. Raises DataDirInUse."""
    descriptor = os.open(data_dir / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise DataDirInUse(f"another agent uses {data_dir}") from None
    return descriptor
