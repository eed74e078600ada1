"""Apps: uploaded artifacts, whose bytes are files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeAlias

import apsw
import msgspec

from plumd.errors import Exists, NotFound
from plumd.model import id_text
from plumd.store import sql
from plumd.store.store import Tx

SQL: Final = sql.load("apps")
ENCODE: Final = msgspec.json.Encoder().encode
BEGIN: Final = (1 << 63) - 1

Row: TypeAlias = tuple[int, str, str, str, str, int, str, int]


class PortDecl(msgspec.Struct, frozen=True, rename="camel"):
    """A service that an app says it offers: `service=name:protocol:port` of its meta.ini."""

    service: str
    protocol: str
    port: int


class AppRow(msgspec.Struct, frozen=True):
    """An artifact."""

    number: int
    name: str
    version: str
    file: str
    sha256: str
    size_bytes: int
    ports: tuple[PortDecl, ...]
    created_ms: int

    @property
    def url(self) -> str:
        """Where it is, below the controller's address."""
        return f"/artifacts/{self.file}"


DECODE: Final = msgspec.json.Decoder(tuple[PortDecl, ...]).decode


def _app(row: Row) -> AppRow:
    return AppRow(*row[:6], DECODE(row[6]), row[7])


def _one(db: apsw.Connection, statement: str, *values: int | str) -> AppRow | None:
    found: Iterator[Row] = sql.rows(db, statement, values)
    return next((_app(row) for row in found), None)


def get(db: apsw.Connection, number: int) -> AppRow | None:
    """One app by id, or None."""
    return _one(db, SQL["get"], number)


def by_file(db: apsw.Connection, file: str) -> AppRow | None:
    """One app by the name of its file, or None."""
    return _one(db, SQL["by_file"], file)


def exact(db: apsw.Connection, name: str, version: str) -> AppRow | None:
    """One app by name and version, or None."""
    return _one(db, SQL["exact"], name, version)


def page(db: apsw.Connection, name: str, before: int, limit: int) -> list[AppRow]:
    """One page, newest first; before 0 = from the newest; of a name if it is not ""."""
    before = before or BEGIN
    found: Iterator[Row] = (sql.rows(db, SQL["by_name"], (name, before, limit)) if name
                            else sql.rows(db, SQL["page"], (before, limit)))
    return [_app(row) for row in found]


def files(db: apsw.Connection) -> set[str]:
    """The names of all files that belong to an app."""
    found: Iterator[tuple[str]] = sql.rows(db, SQL["files"])
    return {name for name, in found}


def create(tx: Tx, app: AppRow) -> None:
    """Add an app whose file is there. Raises: Exists."""
    if exact(tx.db, app.name, app.version) is not None:
        raise Exists(f"version {app.version!r} of the app {app.name!r} exists", field="version")
    tx.db.execute(SQL["insert"], (app.number, app.name, app.version, app.file, app.sha256,
                                  app.size_bytes, ENCODE(app.ports).decode(), app.created_ms))
    tx.emit("app", id_text(app.number), "created", app.name, app.version, tx.now_ms)


def delete(tx: Tx, app: AppRow) -> None:
    """Forget an app. Raises: NotFound."""
    tx.db.execute(SQL["delete"], (app.number,))
    if not tx.db.changes():
        raise NotFound("no such app")
    tx.emit("app", id_text(app.number), "deleted", app.name, app.version, tx.now_ms)
