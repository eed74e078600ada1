"""What the program shows: tables and cards for people, JSON for programs, ids for shells.

Names, results and output of tasks are hostile text. Whatever is shown passes `clean` or
`json_text`, so no terminal sees a control character that a task chose.
"""

from __future__ import annotations

import codecs
import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from plumd.sdk.client import Json, JsonObject

WIDE: Final = 100_000
"""Columns where nobody looks: what is piped is never cut or folded."""
VALUE_CHARS_MAX: Final = 20_000
STYLES: Final = {
    "Succeeded": "green", "Failed": "red", "Timeout": "red", "Canceled": "bright_black",
    "Running": "yellow", "Retrying": "yellow", "Pending": "blue", "Queued": "blue",
    "Skipped": "bright_black", "Healthy": "green", "Draining": "yellow", "Away": "yellow",
    "Offline": "red", "Unhealthy": "red", "ok": "green",
}
# C0 but newline and tab, DEL, C1; then what turns the direction of text or hides in it.
CONTROLS: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
BREAKS: Final = re.compile(r"[\n\t]")


class Column(NamedTuple):
    """A table's column: its title, and its text of an item."""

    title: str
    text: Callable[[JsonObject], str]


def clean(text: str) -> str:
    """Text with every control character shown as an escape; newlines and tabs stay."""
    return CONTROLS.sub(lambda found: escape(found[0]), text)


def line(text: str) -> str:
    """The same on one line."""
    return BREAKS.sub(lambda found: escape(found[0]), clean(text))


def escape(char: str) -> str:
    r"""How a control character is shown: \n, \x1b, \u202e."""
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")


def json_text(value: Json, *, indent: int | None = 2) -> str:
    """JSON that is safe to look at and still the same JSON: what is dangerous stands as \\uXXXX."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def word(item: JsonObject, name: str) -> str:
    """A field as one line of text; nothing for null."""
    value = item.get(name)
    if value is None:
        return ""
    if isinstance(value, str):
        return line(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return line(json.dumps(value, ensure_ascii=False))


def column(title: str, name: str) -> Column:
    """A column of a field."""
    return Column(title, lambda item: word(item, name))


def moment(item: JsonObject, name: str) -> str:
    """A time in Unix milliseconds as local time."""
    value = item.get(name)
    if not isinstance(value, int | float) or not value:
        return ""
    return datetime.fromtimestamp(value / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def moment_column(title: str, name: str) -> Column:
    """A column of a time."""
    return Column(title, lambda item: moment(item, name))


def duration(item: JsonObject) -> str:
    """From startedAt to finishedAt."""
    begun, over = item.get("startedAt"), item.get("finishedAt")
    if not isinstance(begun, int) or not isinstance(over, int):
        return ""
    return f"{(over - begun) / 1000:.3f} s"


def pairs(item: JsonObject, name: str) -> str:
    """An object field as key=value, key=value."""
    value = item.get(name)
    if not isinstance(value, dict):
        return ""
    return ", ".join(f"{line(key)}={line(str(text))}" for key, text in value.items())


def names(item: JsonObject, name: str) -> str:
    """A list field as a, b, c."""
    value = item.get(name)
    return ", ".join(line(str(one)) for one in value) if isinstance(value, list) else ""


def value_of(item: JsonObject, name: str) -> str:
    """A JSON value, readable; a very long one is cut."""
    value = item.get(name)
    if value is None:
        return ""
    text = json_text(value)
    if len(text) > VALUE_CHARS_MAX:
        return f"{text[:VALUE_CHARS_MAX]}\n... ({len(text)} characters; -o json shows all)"
    return text


class Out(Console):
    """A console that does not end the program when the reader is gone."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class Screen:
    """Where output goes, and in which form. output: table, json or name (ids alone)."""

    def __init__(self) -> None:
        self.output = "table"
        self.out = Out(markup=False, highlight=False, emoji=False, soft_wrap=False,
                       width=None if sys.stdout.isatty() else WIDE)
        self.err = Out(markup=False, highlight=False, emoji=False, stderr=True)

    def say(self, text: str) -> None:
        """A line of plain words, unless a program reads."""
        if self.output == "table":
            self.out.print(Text(clean(text)), soft_wrap=True)

    def complain(self, text: str) -> None:
        """A line on stderr."""
        self.err.print(Text(clean(f"plum: {text}"), style="red"), soft_wrap=True)

    def write(self, text: str) -> None:
        """Text as it is, and a newline."""
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def show(self, grid: Table) -> None:
        """A table or card; where a program reads, without the spaces that fill its cells up."""
        if self.out.is_terminal:
            self.out.print(grid)
            return
        with self.out.capture() as text:
            self.out.print(grid)
        self.write("\n".join(row.rstrip() for row in text.get().splitlines()))

    def json(self, value: Json, *, indent: int | None = 2) -> None:
        """A JSON value."""
        self.write(json_text(value, indent=indent))

    def item(self, item: JsonObject, ident: str, rows: Sequence[tuple[str, str]]) -> None:
        """One thing: a card of the rows that are not empty, its JSON, or its id."""
        if self.output == "json":
            self.json(item)
        elif self.output == "name":
            self.write(word(item, ident))
        else:
            self.show(card(rows))

    def items(self, items: Iterable[JsonObject], ident: str, columns: Sequence[Column]) -> None:
        """Many things: a table, a JSON array, or their ids."""
        if self.output == "json":
            self.json(list(items))
        elif self.output == "name":
            for item in items:
                self.write(word(item, ident))
        else:
            self.show(table(items, columns))

    def log(self, chunks: Iterable[bytes], *, raw: bool) -> None:
        """What a process wrote; raw: byte for byte, for files and for who trusts it."""
        for chunk in chunks if raw else cleaned(chunks):
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()


def card(rows: Sequence[tuple[str, str]]) -> Table:
    """Titles and texts, one below the other."""
    grid = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for title, text in rows:
        if text:
            grid.add_row(title, Text(text, style=STYLES.get(text, "")))
    return grid


def table(items: Iterable[JsonObject], columns: Sequence[Column]) -> Table:
    """A row an item."""
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for each in columns:
        grid.add_column(each.title, overflow="fold", no_wrap=each.title == "ID")
    for item in items:
        texts = [each.text(item) for each in columns]
        grid.add_row(*(Text(text, style=STYLES.get(text, "")) for text in texts))
    return grid


def cleaned(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Bytes of unknown origin as clean UTF-8; characters may be cut by chunks."""
    decode = io.IncrementalNewlineDecoder(
        codecs.getincrementaldecoder("utf-8")("backslashreplace"), translate=True)
    for chunk in chunks:
        yield clean(decode.decode(chunk)).encode()
    yield clean(decode.decode(b"", final=True)).encode()
