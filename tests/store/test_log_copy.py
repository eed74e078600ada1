"""The write-ahead log is copied into the database beside the writer."""

from __future__ import annotations

from pathlib import Path

from plumd.store.store import Change, Store, Tx


def large_row(number: int) -> Change:
    """A commit that takes some pages of the log."""
    def write(tx: Tx) -> None:
        tx.db.execute("INSERT INTO task_inputs (id, payload) VALUES (?, zeroblob(50000))",
                      (number,))
    return Change(1, calls=[write])


def test_a_checkpoint_beside_the_writer_copies_the_log(tmp_path: Path) -> None:
    """Or else the writer has to do it all, and everybody waits for it."""
    store = Store(tmp_path / "plum.db")
    try:
        before = store.path.stat().st_size
        for number in range(20):
            store.commit_now(large_row(number + 1))
        store._copy_log()
        assert store.path.stat().st_size - before > 20 * 50_000
    finally:
        store.close()
