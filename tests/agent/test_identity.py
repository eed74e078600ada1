"""Who an agent is: a machine, over restarts and names."""

from __future__ import annotations

from pathlib import Path

from plumd.agent.identity import FILE, identity


def test_a_machine_may_have_its_old_name_again(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    first = identity(tmp_path / "one", "a")
    assert identity(tmp_path / "one", "a") == first
    renamed = identity(tmp_path / "one", "b")
    assert (renamed.node_id, renamed.key) == ("b", first.key)
    assert renamed.session != first.session, "what it held as another is not its own"
    again = identity(tmp_path / "one", "a")
    assert (again.node_id, again.key) == ("a", first.key)
    assert identity(tmp_path / "two", "a").key != first.key


def test_what_cannot_be_read_is_drawn_anew(tmp_path: Path) -> None:
    first = identity(tmp_path, "a")
    (tmp_path / FILE).write_bytes(b"{")
    assert identity(tmp_path, "a").key != first.key
