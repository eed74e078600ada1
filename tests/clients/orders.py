"""What a task's payload can ask of every worker of this suite; the workers obey in all languages.

echo: the result is `with`.  who: the result is the process id.  big: a text of `size` x.
fail: it fails, saying `with`; retry=false: for good.  hold: it runs until a file `gate` exists, or
until it is told to stop; the result is "held".
"""

from __future__ import annotations

from pathlib import Path

from plumd.sdk.client import JsonObject
from plumd.sdk.wire import Json


def echo(value: Json) -> JsonObject:
    """Answer with this."""
    return {"do": "echo", "with": value}


def who() -> JsonObject:
    """Answer with your process id."""
    return {"do": "who"}


def big(size: int) -> JsonObject:
    """Answer with a text so long."""
    return {"do": "big", "size": size}


def fail(text: str, *, retry: bool = True) -> JsonObject:
    """Fail."""
    return {"do": "fail", "with": text, "retry": retry}


def hold(gate: Path) -> JsonObject:
    """Run until this file is there."""
    return {"do": "hold", "gate": str(gate)}
