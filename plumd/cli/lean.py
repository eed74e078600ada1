"""Loads httpx without what it brings along only because it is installed: its own command line,
event loops, HTTP/2. This program uses none of it, and each call would wait for it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from types import ModuleType


class Absent(MetaPathFinder):
    """Says of some packages that they are not installed."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def find_spec(self, fullname: str, path: Sequence[str] | None,
                  target: ModuleType | None = None) -> None:
        """Raises ModuleNotFoundError for one of them; others may find the rest."""
        del path, target
        if fullname in self.names:
            raise ModuleNotFoundError(fullname, name=fullname)


def load(module: str, *without: str) -> None:
    """Load a module as if the others were not installed; what is loaded already stays."""
    absent = Absent(without)
    sys.meta_path.insert(0, absent)
    try:
        import_module(module)
    finally:
        sys.meta_path.remove(absent)


def load_transport() -> None:
    """What httpx needs when the first client is made."""
    load("httpcore", "trio", "anyio", "h2")


load("httpx", "pygments")
