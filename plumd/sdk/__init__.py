"""The Python SDK: `from plumd.sdk import Worker` and `from plumd.sdk import Client`.

The names are looked up when they are first used, so that a script with a Client, like the program
`plum`, does not wait for the worker's modules to be read.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from plumd.sdk.client import (
        Client,
        ClientError,
        Event,
        ProblemError,
        UnreachableError,
        WaitTimeoutError,
    )
    from plumd.sdk.handlers import Canceled, Context, TaskFailed
    from plumd.sdk.talk import TurnedAway
    from plumd.sdk.worker import Worker

__all__ = [
    "Canceled", "Client", "ClientError", "Context", "Event", "ProblemError", "TaskFailed",
    "TurnedAway", "UnreachableError", "WaitTimeoutError", "Worker",
]

HOMES: Final = {
    "Client": "client", "ClientError": "client", "Event": "client", "ProblemError": "client",
    "UnreachableError": "client", "WaitTimeoutError": "client", "Canceled": "handlers",
    "Context": "handlers", "TaskFailed": "handlers", "TurnedAway": "talk", "Worker": "worker",
}


def __getattr__(name: str) -> object:
    home = HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = found
    return found
