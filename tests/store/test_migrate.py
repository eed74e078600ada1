"""Opening: what is ours is brought up to date, what is not is left alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from plumd.store import migrate


def test_a_fresh_database_is_ours_and_syncs_every_commit(tmp_path: Path) -> None:
    path = tmp_path / "plum.db"
    db = migrate.open_writer(path)
    assert db.pragma("application_id") == migrate.APPLICATION_ID
    assert db.pragma("user_version") == migrate.schema_files()[-1][0]
    assert db.pragma("journal_mode") == "wal"
    assert db.pragma("synchronous") == 2, "FULL"
    assert Path(f"{path}-wal").stat().st_size >= migrate.LOG_BYTES
    db.close()


def test_every_old_schema_is_brought_up_to_date(tmp_path: Path) -> None:
    newest = migrate.schema_files()[-1][0]
    for version in range(1, newest + 1):
        path = tmp_path / f"{version}.db"
        db = apsw.Connection(str(path))
        db.pragma("application_id", migrate.APPLICATION_ID)
        for number, text in migrate.schema_files()[:version]:
            db.execute(text)
            db.pragma("user_version", number)
        db.close()
        opened = migrate.open_writer(path, log_bytes=0)
        assert opened.pragma("user_version") == newest
        assert opened.pragma("integrity_check") == "ok"
        opened.close()


def test_the_log_with_zeros_behind_it_is_read_back(tmp_path: Path) -> None:
    path, copy = tmp_path / "plum.db", tmp_path / "copy.db"
    db = migrate.open_writer(path)
    for number in range(50):
        db.execute("INSERT INTO events VALUES (?, 1, 1, x'90')", (number + 1,))
    copy.write_bytes(path.read_bytes())
    Path(f"{copy}-wal").write_bytes(Path(f"{path}-wal").read_bytes())     # as after kill -9
    again = migrate.open_writer(copy)
    assert again.execute("SELECT count(*) FROM events").fetchall() == [(50,)]
    again.close()
    db.close()


FIRST_COMER = """
import fcntl, os, struct, sys
fd = os.open(sys.argv[1], os.O_RDWR)
lock = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 128, 1, 0)
sys.exit(fcntl.F_UNLCK != struct.unpack("hhqqi", fcntl.fcntl(fd, fcntl.F_GETLK, lock))[0])
"""
"""Exits with 0 when it could take itself for the first program that has the database open."""


def test_another_program_sees_that_the_database_is_open(tmp_path: Path) -> None:
    """Else it would cut off the log's index, and with it the memory that this process reads."""
    path = tmp_path / "plum.db"
    db = migrate.open_writer(path)
    index = Path(f"{path}-shm")
    assert index.stat().st_size >= migrate.INDEX_BYTES
    asked = [sys.executable, "-c", FIRST_COMER, str(index)]
    assert subprocess.run(asked, check=False).returncode == 1
    script = f"import sqlite3; sqlite3.connect({str(path)!r}).execute('SELECT * FROM tasks')"
    subprocess.run([sys.executable, "-c", script], check=True)
    assert index.stat().st_size >= migrate.INDEX_BYTES
    db.execute("INSERT INTO events VALUES (1, 1, 1, x'90')")
    db.close()


def files(path: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in path.iterdir()}


def test_another_applications_file_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    other = apsw.Connection(str(path))
    other.execute("CREATE TABLE notes (text)")
    other.close()
    before = files(tmp_path)
    with pytest.raises(migrate.Refused, match="another application"):
        migrate.open_writer(path)
    assert files(tmp_path) == before


def test_a_newer_schema_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "plum.db"
    migrate.open_writer(path, log_bytes=0).close()
    db = apsw.Connection(str(path))
    db.pragma("journal_mode", "delete")
    db.pragma("user_version", 999)
    db.close()
    before = files(tmp_path)
    with pytest.raises(migrate.Refused, match="newer program"):
        migrate.open_writer(path)
    assert files(tmp_path) == before
