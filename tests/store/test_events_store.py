"""The event log read backwards, some at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from plumd.store import events, migrate
from plumd.store.events import Event


@pytest.mark.parametrize("looked_at_max", [1, 4, 1000])
@pytest.mark.parametrize("limit", [1, 3, 1000])
@pytest.mark.parametrize("topics", [("a", "b"), ("b",), ("c",)])
def test_backwards_to_the_beginning(tmp_path: Path, limit: int, looked_at_max: int,
                                    topics: tuple[str, ...]) -> None:
    db = migrate.open_writer(tmp_path / "plum.db", log_bytes=0)
    expected: list[tuple[int, Event]] = []
    seq = 1
    for commit in range(12):
        items: list[Event] = [("b" if i % 4 == 3 else "a", commit, i) for i in range(commit % 5)]
        expected += [(seq + i, item) for i, item in enumerate(items) if item[0] in topics]
        seq += events.insert(db, seq, 1000 + commit, items).count
    found: list[tuple[int, Event]] = []
    below = seq
    while below:
        some, following = events.before(db, below, lambda event: event[0] in topics, limit,
                                        looked_at_max=looked_at_max)
        assert len(some) <= limit
        assert following < below, "it gets on"
        found += [(past.seq, past.event) for past in some]
        assert all(past.at_ms == 1000 + int(past.event[1]) for past in some)
        below = following
    assert found == expected[::-1]
    db.close()
