"""What a task's payload can ask of every worker of this suite; the workers obey in all languages.

echo: the result is `with`.  who: the result is the process id.  big: a text of `size` x.
fail: it fails, saying `with`; retry=false: for good.  hold: it runs until a file `gate` exists, or
until it is told to stop; the result is "held".  talk: as hold, and meanwhile it says `line`s of its
log, one a millisecond; the result is how many.
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


def talk(gate: Path) -> JsonObject:
    """Say lines until this file is there."""
    return {"do": "talk", "gate": str(gate)}


def line(number: int) -> str:
    """The line with this number, from 0; odd ones bring their own line break."""
    return f'{number} "\u00e9\U0001d11e\u2028"\t\\' + "\n" * (number % 2)


def hold(gate: Path) -> JsonObject:
    """Run until this file is there."""
    return {"do": "hold", "gate": str(gate)}
