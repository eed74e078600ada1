"""The values of a YAML text, from the events of its parser; see yaml_form.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import yaml

from plumd.errors import Malformed
from plumd.expressions import Value
from plumd.flow.yaml_form import Document, at, scalar

VALUES_MAX: Final = 200_000
CHARS_A_VALUE: Final = 20
"""Long texts count as several values, so that copies of them are bounded too."""
DEPTH_MAX: Final = 48
LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Reader:
    """Makes values of the parser's events."""

    def __init__(self, text: str) -> None:
        self.events = events_of(text)
        self.count = 0
        self.places: dict[str, tuple[int, int]] = {}
        self.anchors: dict[str, tuple[Value, int]] = {}

    def document(self) -> Document | None:
        """The next one, None at the end. Raises: Malformed."""
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                self.places, self.anchors = {}, {}
                line, _ = mark_of(event)
                return Document(self.value(next(self.events), "", 0), self.places, line)
        return None

    def value(self, event: yaml.Event, path: str, depth: int) -> Value:
        """The value that begins with an event. Raises: Malformed."""
        line, column = mark_of(event)
        if path not in self.places:
            self.places[path] = (line, column)
        if depth > DEPTH_MAX:
            raise at(line, column, f"it nests deeper than {DEPTH_MAX} levels")
        if isinstance(event, yaml.AliasEvent):
            copy, size = self.anchors.get(event.anchor or "", (None, -1))
            if size < 0:
                raise at(line, column, f"there is no anchor {event.anchor!r} before it")
            self.take(size, line, column)
            return copy
        before = self.count
        self.take(1 + len(getattr(event, "value", "")) // CHARS_A_VALUE, line, column)
        if getattr(event, "tag", None) not in (None, "!"):
            raise at(line, column, "tags are not taken")
        value: Value
        if isinstance(event, yaml.ScalarEvent):
            value = scalar(event.value, plain=event.style in (None, ""), line=line, column=column)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self.items(path, depth)
        else:
            value = self.fields(path, depth)
        if isinstance(event, yaml.NodeEvent) and event.anchor:
            self.anchors[event.anchor] = (value, self.count - before)
        return value

    def take(self, count: int, line: int, column: int) -> None:
        """Raises: Malformed when there are too many values, copies counted."""
        self.count += count
        if self.count > VALUES_MAX:
            raise at(line, column, f"there are more than {VALUES_MAX} values in it")

    def items(self, path: str, depth: int) -> Value:
        found: list[Value] = []
        for event in self.events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            found.append(self.value(event, f"{path}[{len(found)}]", depth + 1))
        return found

    def fields(self, path: str, depth: int) -> Value:
        found: dict[str, Value] = {}
        for event in self.events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            line, column = mark_of(event)
            if not isinstance(event, yaml.ScalarEvent) or event.tag is not None:
                raise at(line, column, "a key is a plain text")
            key = event.value
            if key in found:
                raise at(line, column, f"the key {key[:60]!r} comes twice")
            if key == "<<" and event.style in (None, ""):
                raise at(line, column, "merge keys are not taken; write the fields out")
            inner = f"{path}.{key}" if path else key
            self.places[inner] = (line, column)
            found[key] = self.value(next(self.events), inner, depth + 1)
        return found


def mark_of(event: yaml.Event) -> tuple[int, int]:
    """(line, column) of its beginning, from 1."""
    mark = event.start_mark
    return (1, 1) if mark is None else (mark.line + 1, mark.column + 1)


def events_of(text: str) -> Iterator[yaml.Event]:
    """The parser's events. Raises: Malformed."""
    try:
        yield from yaml.parse(text, Loader=LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        detail = " ".join(part for part in (error.context, error.problem) if part)
        if mark is None:
            raise Malformed(f"it is no YAML: {detail}") from None
        raise at(mark.line + 1, mark.column + 1, f"it is no YAML: {detail}") from None
    except (yaml.YAMLError, UnicodeError) as error:
        raise Malformed(f"it is no YAML: {str(error)[:200]}") from None
