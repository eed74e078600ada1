"""SIGHUP: the settings that can change do, the others are named, wrong ones change nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.daemon.plant import wait_for
from tests.daemon.running import Running


@pytest.mark.daemon
def test_the_settings_are_read_again(tmp_path: Path) -> None:
    file = tmp_path / "plumd.toml"
    file.write_text('log_level = "info"\n')
    daemon = Running(tmp_path / "data", environment={"PLUM_CONFIG": str(file)})

    def reload(text: str) -> None:
        file.write_text(text)
        os.kill(daemon.pid, signal.SIGHUP)

    def said() -> str:
        return daemon.log.read_text()

    with daemon:
        reload('log_level = "info"\nlog_format = "json"\nretention_days = 3\n')
        wait_for(lambda: '"need_a_restart":"retention_days"' in said(), "it says what waits")
        reload('log_level = "loud"\n')
        wait_for(lambda: "the settings are wrong" in said(), "it says what is wrong")
        assert "log_level" in said()
        reload('log_level = "info"\n')
        wait_for(lambda: "read again need_a_restart=none" in said(), "it serves as before")
        assert daemon.plum("status").returncode == 0
