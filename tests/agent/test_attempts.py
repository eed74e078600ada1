"""What an agent finds of attempts when it comes up."""

from __future__ import annotations

from pathlib import Path

import msgspec

from plumd.agent.attempts import Attempts, keep_attempt
from plumd.agent.pages import Pages
from plumd.executors.hour_logs import HourLogs
from plumd.executors.os_process import OsProcess
from plumd.model import attempt_text
from plumd.sdk.protocol import Attempt


def test_what_nobody_knows_of_is_removed(tmp_path: Path) -> None:
    """Like the rest of an attempt that was being removed, or one that never began."""
    processes = OsProcess(tmp_path)
    logs = HourLogs(tmp_path / "logs", 1 << 20)
    begun, never, rest = (processes.directory(number, 1) for number in (7, 8, 9))
    for number, directory in ((7, begun), (8, never)):
        keep_attempt(directory, Attempt(attempt_text(number, 1), "a.task", msgspec.Raw(b"null")))
    (begun / "claim").write_text("1\n")
    (rest / "work" / "d").mkdir(parents=True)
    attempts = Attempts(processes, "node:n1", Pages(tmp_path, logs))
    attempts.recover()
    assert set(attempts.running) == {attempt_text(7, 1)}
    assert [path.name for path in processes.root.iterdir()] == [begun.parent.name]
