"""Step instances by the names that people give them: `fetch`, `each[17].fetch`."""

from __future__ import annotations

import re
from typing import Final

from plumd.flow.graph import Node
from plumd.flow.machine import Machine
from plumd.flow.state import Frame

PART: Final = re.compile(r"([^.\[\]]{1,210})(?:\[([0-9]{1,6})\])?")
PARTS_MAX: Final = 10


def parts_of(name: str) -> list[tuple[str, int]] | None:
    """(id, iteration) of each part, the last one without (-1); None when it is no name."""
    found = []
    texts = name.split(".")
    for place, text in enumerate(texts[:PARTS_MAX]):
        match = PART.fullmatch(text)
        if match is None or (match[2] is None) != (place == len(texts) - 1):
            return None
        found.append((match[1], -1 if match[2] is None else int(match[2])))
    return found if len(texts) <= PARTS_MAX else None


def find(machine: Machine, name: str) -> tuple[Frame, Node] | None:
    """A step of a run that goes on; None when it is nothing, or its iteration is over."""
    parts = parts_of(name)
    for outer in (machine.root, *machine.after) if parts else ():
        frame: Frame | None = outer
        for step_id, number in parts or ():
            place = None if frame is None else frame.scope.places.get(step_id)
            if frame is None or place is None:
                break
            if number < 0:
                return frame, frame.scope.nodes[place]
            loop = machine.loops.get(frame.base + place)
            frame = None if loop is None else loop.active.get(number)
    return None

