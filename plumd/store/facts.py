"""What SQLite says of a database file; no row of it is read."""

from __future__ import annotations

from typing import Final

import apsw

PRAGMAS: Final = ("user_version", "page_size", "page_count", "freelist_count", "journal_mode",
                  "synchronous", "application_id", "cache_size", "compile_options")


def facts(db: apsw.Connection) -> dict[str, list[object]]:
    """The values of each."""
    return {name: [row[0] for row in db.execute(f"PRAGMA {name}")] for name in PRAGMAS}
