"""How the output of a process is told: word for word the same, whoever tells it."""

from __future__ import annotations

from pathlib import Path

import trio

from plumd.agent.tail import BACKLOG_BYTES_MAX, TOLD, tell_output
from plumd.attempt_logs import LOG_BYTES_MAX, Said, append
from plumd.sdk.log_lines import WAITING_CHARS_MAX, LogLines

BEGIN = "häppy\n".encode() * 10
LONG = (b"0123456789" * BACKLOG_BYTES_MAX)[:3 * BACKLOG_BYTES_MAX]


class Controller:
    """Takes lines where they stand, and says so unless it is deaf."""

    def __init__(self) -> None:
        self.lines = LogLines()
        self.lines.acked = True
        self.log = b""
        self.deaf = False

    def wake(self) -> None:
        seq = 1
        while self.lines:
            seq, lines = self.lines.take()
            for line in lines:
                assert line.at is not None
                assert line.at <= len(self.log), "nothing is missing"
                self.log += line.text.encode()[len(self.log) - line.at:]
        if not self.deaf:
            self.lines.acknowledged(seq)

    def forget_agent(self) -> None:
        """The agent was killed; its successor knows what is on its disk."""
        self.lines = LogLines()
        self.lines.acked = True


async def test_what_is_left_out_at_the_end_is_left_out_for_good(tmp_path: Path) -> None:
    """An agent that is killed before its last words are known to have come: the next one says the
    same, for it does not come back to what the first one left out.
    """
    controller, ended, told = Controller(), trio.Event(), tmp_path / TOLD
    append(tmp_path, [Said(1, BEGIN)], LOG_BYTES_MAX)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tell_output, tmp_path, "1", controller, ended)
        while not told.exists():    # noqa: ASYNC110 - nobody tells when a file is there
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert controller.log == BEGIN
    assert told.read_text() == f"{len(BEGIN)} {len(BEGIN)}"
    append(tmp_path, [Said(2, LONG)], LOG_BYTES_MAX)
    controller.deaf = True
    ended.set()
    await tell_output(tmp_path, "1", controller, ended)
    left_out = len(LONG) - BACKLOG_BYTES_MAX
    assert left_out < WAITING_CHARS_MAX
    whole = BEGIN + b"[... %d bytes left out ...]\n" % left_out + LONG[left_out:]
    assert controller.log == whole
    controller.forget_agent()
    await tell_output(tmp_path, "1", controller, ended)
    assert controller.log == whole
