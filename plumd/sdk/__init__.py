"""The Python SDK: `from plumd.sdk import Worker`, and `Client`, `Device`, `KV` likewise; for Trio
programs there are `AsyncClient` and `AsyncKV`, and a Worker and a Device have `serve`.

The names are looked up when they are first used, so that a script with a Client, like the program
`plum`, does not wait for the worker's modules to be read.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from plumd.sdk.aio import AsyncClient
    from plumd.sdk.client import Client
    from plumd.sdk.device import Device, DeviceReplaced, OperationFailed
    from plumd.sdk.handlers import Canceled, Context, TaskFailed
    from plumd.sdk.keys import Change, Conflict, Delete, Entry, Put
    from plumd.sdk.kv import KV, AsyncKV
    from plumd.sdk.locks import Lock, LockLost
    from plumd.sdk.talk import TurnedAway
    from plumd.sdk.wire import (
        ClientError,
        Event,
        ProblemError,
        UnreachableError,
        WaitTimeoutError,
    )
    from plumd.sdk.worker import Worker

__all__ = [
    "KV", "AsyncClient", "AsyncKV", "Canceled", "Change", "Client", "ClientError", "Conflict",
    "Context", "Delete", "Device", "DeviceReplaced", "Entry", "Event", "Lock", "LockLost",
    "OperationFailed", "ProblemError", "Put", "TaskFailed", "TurnedAway", "UnreachableError",
    "WaitTimeoutError", "Worker",
]

ROOMS: Final = {
    "aio": ("AsyncClient",),
    "client": ("Client",),
    "device": ("Device", "DeviceReplaced", "OperationFailed"),
    "handlers": ("Canceled", "Context", "TaskFailed"),
    "keys": ("Change", "Conflict", "Delete", "Entry", "Put"),
    "kv": ("KV", "AsyncKV"),
    "locks": ("Lock", "LockLost"),
    "talk": ("TurnedAway",),
    "wire": ("ClientError", "Event", "ProblemError", "UnreachableError", "WaitTimeoutError"),
    "worker": ("Worker",),
}
HOMES: Final = {name: room for room, names in ROOMS.items() for name in names}


def __getattr__(name: str) -> object:
    home = HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = found
    return found
