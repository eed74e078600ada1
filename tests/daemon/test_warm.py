"""A plumd begun warm is the plumd that was asked for: its words, its environment, its end."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from tests.daemon import warm
from tests.daemon.running import Running, clean_environment

pytestmark = pytest.mark.daemon


def ended(said: Path, *words: str, **environment: str) -> int:
    """Run it to its end; its exit code."""
    with said.open("wb") as output:
        return warm.begin(words, clean_environment() | environment, output.fileno()).wait(30)


def test_words_and_environment_are_its_own(tmp_path: Path) -> None:
    said = tmp_path / "said"
    assert ended(said, "serve", "--print-config", PLUMD_NODE_ID="of-the-environment") == 0
    assert "of-the-environment" in said.read_text()
    assert ended(said, "serve", "--print-config") == 0
    assert "of-the-environment" not in said.read_text()
    assert ended(said, "serve", "--check-config", PLUMD_NODE_TTL_SEC="no number") == 78
    assert "node_ttl_sec" in said.read_text()
    assert ended(said, "no-such-word") == 2


def test_it_dies_of_what_kills_it(tmp_path: Path) -> None:
    with Running(tmp_path / "data") as daemon:
        process = daemon.process
        assert process is not None
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0)
        process.kill()
        assert process.wait(30) == -signal.SIGKILL
        process.kill()      # is gone: nothing to kill, and no error
        assert process.poll() == -signal.SIGKILL
        daemon.start()
        assert daemon.stop() == 0
