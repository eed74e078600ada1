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

from plumd.errors import Invalid, Malformed
from plumd.expressions import Value

TEXT_CHARS_MAX: Final = 4 << 20
DOCUMENTS_MAX: Final = 500

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
    from plumd.flow.yaml_reader import Reader  # here, for most daemons never read one

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

_WORD: Final = re.compile(r"[^\W\d][\w./-]*")
_SHOWN: Final = (r"\x20-\x7e\xa1-\u061b\u061d-\u200a\u2010-\u2027\u202f-\u205f\u2070-\ud7ff"
                 r"\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff")
"""What stands for itself: no control characters, and none that turns the direction of text."""
_PLAIN: Final = rf"[\w$/.(][{_SHOWN}]*"
_LITERAL: Final = rf"(?=\S)[\t\n{_SHOWN}]*"
_ESCAPED: Final = rf"[^{_SHOWN}]|[\"\\]"
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
    if body.endswith("\n") or not re.fullmatch(_LITERAL, body):
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
    if (re.fullmatch(_PLAIN, text) and ": " not in text and " #" not in text
            and not text.endswith((":", " ")) and not text.startswith("...")
            and text.lower() not in _OLD_WORDS and is_text(text)):
        return text
    return '"' + re.sub(_ESCAPED, escape, text) + '"'


def is_text(text: str) -> bool:
    """Whether a plain scalar is read as a string; what other YAMLs take for a number is none."""
    if text[0].isdigit() or text[0] == ".":
        return False
    return text not in (*_NULL, *_TRUE, *_FALSE)


def escape(found: re.Match[str]) -> str:
    """A character that does not stand for itself in double quotes."""
    char = found[0]
    return _SHORT.get(char) or f"\\u{ord(char):04x}"
