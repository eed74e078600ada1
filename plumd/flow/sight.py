"""What references stand for, seen from a place in a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plumd.expressions import Failure, Path, Value, path_text, walk
from plumd.flow.rules import state_text

if TYPE_CHECKING:
    from plumd.flow.machine import Machine
    from plumd.flow.state import Frame


class Sight:
    """What references stand for, seen from a frame."""

    __slots__ = ("frame", "machine")

    def __init__(self, machine: Machine, frame: Frame) -> None:
        self.machine = machine
        self.frame = frame

    def __call__(self, root: str, path: Path) -> Value:
        """Raises: Failure when it is nothing."""
        try:
            if root == "params":
                return walk(self.machine.params, path)
            if root == "run":
                return walk(dict(self.machine.facts), path)
            if root == "steps":
                return self.of_step(str(path[0]), path[1:])
            if root == "item":
                return walk(self.item(self.frame), path)
            if root == "loop":
                return self.of_loop(self.frame, path)
        except Failure as failure:
            raise Failure(f"{root}{path_text(path)}: {failure}") from None
        raise Failure(f"{root} is nothing")

    def of_step(self, name: str, path: Path) -> Value:
        """What is kept of the end of a step, in this frame or one around it."""
        frame: Frame | None = self.frame
        while frame is not None:
            place = frame.scope.places.get(name)
            if place is not None:
                return self.kept(frame, place, path)
            frame = None if frame.loop is None else frame.loop.frame
        root = self.machine.root
        place = root.scope.places.get(name)
        if place is None:
            raise Failure("there is no such step")
        return self.kept(root, place, path)

    def kept(self, frame: Frame, at: int, path: Path) -> Value:
        state = frame.states[at]
        if path[0] == "state":
            return state_text(state)
        values = frame.values.get(at, {})
        if path in values:
            return values[path]
        if len(path) == 1:
            return None
        raise Failure(f"there is none; the step is {state_text(state)}")

    def item(self, frame: Frame) -> Value:
        """The item of the iteration; without a list its index."""
        loop = frame.loop
        if loop is None:
            raise Failure("there is no loop around it")
        return frame.number if loop.items is None else loop.items[frame.number]

    def of_loop(self, frame: Frame, path: Path) -> Value:
        loop = frame.loop
        if loop is None:
            raise Failure("there is no loop around it")
        if path[0] == "index":
            return frame.number
        if path[0] == "item":
            return walk(self.item(frame), path[1:])
        if path[0] == "last":
            return walk(loop.last, path[1:])
        return self.of_loop(loop.frame, path[1:])
