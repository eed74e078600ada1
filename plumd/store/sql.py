"""Reads the named statements of an .sql file: the one place where SQL text comes from."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from typing import Final, TypeAlias, TypeVar, cast

import apsw

R = TypeVar("R")
SQLiteValue: TypeAlias = int | float | str | bytes | None

MARK: Final = "-- name: "


def rows(db: apsw.Connection, statement: str, values: tuple[SQLiteValue, ...] = ()) -> Iterator[R]:
    """Run a statement whose rows have the shape that the caller names; STRICT tables hold it."""
    return cast("Iterator[R]", db.execute(statement, values))


def number(db: apsw.Connection, statement: str, values: tuple[SQLiteValue, ...] = ()) -> int:
    """The one integer that a statement answers."""
    found: Iterator[tuple[int]] = rows(db, statement, values)
    return next(found)[0]


def load(subject: str) -> dict[str, str]:
    """name -> statement of `<subject>.sql`; each begins with a line `-- name: <name>`."""
    text = (files("plumd.store") / f"{subject}.sql").read_text(encoding="utf-8")
    statements: dict[str, str] = {}
    for part in text.split(MARK)[1:]:
        name, _, body = part.partition("\n")
        assert name not in statements, f"{subject}.sql names {name!r} twice"
        statements[name.strip()] = alone(body)
    return statements


def alone(body: str) -> str:
    """A statement without what stands behind it, which SQLite would read anew at every execution:
    its semicolon, and the remark on the statement that follows."""
    lines = body.strip().split("\n")
    while lines[-1].startswith("--") or not lines[-1]:
        lines.pop()
    return "\n".join(lines).removesuffix(";")
