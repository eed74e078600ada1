"""Workflows as YAML text: the same values as their JSON, read with the place of each, and written
so that reading gives the same values again.

What is read is YAML 1.2's core schema, so `on: true` is what it looks like: the words of YAML 1.1
(yes, no, on, off) are strings. Anchors stand for copies and count as such; tags, keys that are no
strings and keys that come twice are refused. However hostile a text is, it is read in bounded time:
the parser gives one event after the other, and whoever counts them stops early.

Source: YAML 1.2.2, chapter 10.3 (core schema).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

import yaml

from plumd.errors import Invalid, Malformed
from plumd.expressions import Value

TEXT_CHARS_MAX: Final = 4 << 20
VALUES_MAX: Final = 200_000
CHARS_A_VALUE: Final = 20
"""Long texts count as several values, so that copies of them are bounded too."""
DEPTH_MAX: Final = 48
DOCUMENTS_MAX: Final = 500
LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_NULL: Final = ("", "~", "null", "Null", "NULL")
_TRUE: Final = ("true", "True", "TRUE")
_FALSE: Final = ("false", "False", "FALSE")
_INT: Final = re.compile(r"[-+]?[0-9]+")
_OTHER_INT: Final = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NO_NUMBER: Final = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_DIGITS_MAX: Final = 400


class Document(NamedTuple):
    """One document. places: field, like `steps[0].when` -> (line, column), both from 1."""

    value: Value
    places: dict[str, tuple[int, int]]
    line: int

    def place(self, field: str | None) -> tuple[int, int]:
        """Where a field stands, or what it is in."""
        text = field or ""
        while text and text not in self.places:
            text = text[:max(text.rfind("."), text.rfind("["), 0)]
        return self.places.get(text, (self.line, 1))


def at(line: int, column: int, detail: str) -> Malformed:
    """A refusal that names the place."""
    return Malformed(f"line {line}, column {column}: {detail}")


def located(document: Document, error: Invalid) -> Invalid:
    """What is wrong with a value, with its line."""
    line, column = document.place(error.field)
    return Invalid(f"line {line}, column {column}: {error.detail}", field=error.field)


def read(text: str) -> list[Document]:
    """All documents of a text; empty ones are left out. Raises: Malformed, with the place."""
    if len(text) > TEXT_CHARS_MAX:
        raise Malformed(f"a YAML text takes at most {TEXT_CHARS_MAX} characters")
    found: list[Document] = []
    reader = Reader(text)
    while (document := reader.document()) is not None:
        if document.value is not None:
            found.append(document)
        if len(found) > DOCUMENTS_MAX:
            raise Malformed(f"a YAML text takes at most {DOCUMENTS_MAX} documents")
    return found


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


def scalar(text: str, *, plain: bool, line: int, column: int) -> Value:
    """The value of a scalar. Raises: Malformed for numbers that JSON does not have."""
    if not plain or len(text) > _DIGITS_MAX:
        return text
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if _INT.fullmatch(text) or _OTHER_INT.fullmatch(text):
        whole = int(text, 0 if text.startswith(("0o", "0x")) else 10)
        if not -(1 << 63) <= whole < 1 << 64:
            raise at(line, column, "a whole number has at most 64 bits")
        return whole
    if _FLOAT.fullmatch(text):
        number = float(text)
        if not math.isfinite(number):
            raise at(line, column, "this number is too large")
        return number
    if _NO_NUMBER.fullmatch(text):
        raise at(line, column, "JSON has no such number; quote it if it is a text")
    return text


# ---------------------------------------------------------------- writing

_WORD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_SHOWN: Final = (r"\x20-\x7e\xa1-\u061b\u061d-\u200a\u2010-\u2027\u202f-\u205f\u2070-\ud7ff"
                 r"\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff")
"""What stands for itself: no control characters, and none that turns the direction of text."""
_PLAIN: Final = re.compile(rf"[A-Za-z0-9_$/.(][{_SHOWN}]*")
_LITERAL: Final = re.compile(rf"(?=\S)[\t\n{_SHOWN}]*")
_ESCAPED: Final = re.compile(rf"[^{_SHOWN}]|[\"\\]")
_SHORT: Final = {"\n": "\\n", "\t": "\\t", "\r": "\\r", '"': '\\"', "\\": "\\\\"}
_OLD_WORDS: Final = frozenset({"yes", "no", "on", "off"})
"""Other programs read these as true and false, so they are quoted."""
LINE_MAX: Final = 80


def write(value: Value) -> str:
    """A document. Reading it gives an equal value."""
    if isinstance(value, dict | list) and value:
        return "\n".join(block(value, "")) + "\n"
    return text_of(value) + "\n"


def block(value: Value, indent: str) -> Iterator[str]:
    """The lines of a list or an object that holds something."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from entry(f"{indent}{quoted(key)}:", item, indent)
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, dict | list) and item and inline(item) is None:
                lines = list(block(item, indent + "  "))
                yield f"{indent}- {lines[0][len(indent) + 2:]}"
                yield from lines[1:]
            else:
                yield from entry(f"{indent}-", item, indent)


def entry(head: str, item: Value, indent: str) -> Iterator[str]:
    """A key or dash with what is behind it."""
    if isinstance(item, str) and "\n" in item and (lines := literal(item)) is not None:
        yield f"{head} {lines[0]}"
        yield from (f"{indent}  {line}" if line else "" for line in lines[1:])
    elif isinstance(item, dict | list) and item:
        short = inline(item)
        if short is not None and len(head) + len(short) < LINE_MAX:
            yield f"{head} {short}"
        else:
            yield head
            yield from block(item, indent + "  ")
    else:
        yield f"{head} {text_of(item)}"


def inline(value: Value) -> str | None:
    """A short list of simple words on one line; None for anything else."""
    if not isinstance(value, list) or not value or not all(
            isinstance(item, str) and _WORD.fullmatch(item) for item in value):
        return None
    short = f"[{', '.join(quoted(item) for item in value if isinstance(item, str))}]"
    return short if len(short) < LINE_MAX - 20 else None


def literal(text: str) -> list[str] | None:
    """A text of several lines as a literal block: its head and lines; None where it cannot be."""
    body = text[:-1] if text.endswith("\n") else text
    if body.endswith("\n") or not _LITERAL.fullmatch(body):
        return None
    return ["|" if text.endswith("\n") else "|-", *body.split("\n")]


def text_of(value: Value) -> str:
    """A scalar, or what is empty."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        text = repr(value)
        return text if "." in text else text.replace("e", ".0e")    # as YAML 1.1 wants it
    if isinstance(value, str):
        return quoted(value)
    return "{}" if isinstance(value, dict) else "[]"


def quoted(text: str) -> str:
    """A string, in quotes where it would be read as something else without them."""
    if (_PLAIN.fullmatch(text) and ": " not in text and " #" not in text
            and not text.endswith((":", " ")) and not text.startswith("...")
            and text.lower() not in _OLD_WORDS and is_text(text)):
        return text
    return '"' + _ESCAPED.sub(escape, text) + '"'


def is_text(text: str) -> bool:
    """Whether a plain scalar is read as a string; what other YAMLs take for a number is none."""
    if text[0].isdigit() or text[0] == ".":
        return False
    return text not in (*_NULL, *_TRUE, *_FALSE)


def escape(found: re.Match[str]) -> str:
    """A character that does not stand for itself in double quotes."""
    char = found[0]
    return _SHORT.get(char) or f"\\u{ord(char):04x}"
