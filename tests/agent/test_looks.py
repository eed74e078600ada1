"""Looks at what instances print, when more wait for it than its keeper has lines for."""

from __future__ import annotations

import socket
from contextlib import closing
from pathlib import Path

import trio

from plumd.agent.assigned import folder_of
from plumd.agent.pages import LOOK_S, Pages
from plumd.executors.hour_logs import HourLogs
from plumd.sdk.protocol import Look

WAIT_S = 0.5


async def test_a_keeper_that_hangs_up_is_not_called_again_at_once(tmp_path: Path) -> None:
    run = tmp_path / "instances" / folder_of("i1") / "runs" / "1"
    run.mkdir(parents=True)
    (run / "log.000000000000").write_bytes(b"up\n")
    (run / "idx.000000000000").write_bytes(b"")
    calls = 0

    async def hang_up(door: trio.socket.SocketType) -> None:
        nonlocal calls
        while True:
            line, _ = await door.accept()
            line.close()
            calls += 1

    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) as door:
        door.bind(str(run / "sock"))
        door.listen()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hang_up, trio.socket.from_stdlib_socket(door))
            pages = Pages(tmp_path, HourLogs(tmp_path / "logs", 1 << 20))
            await pages.answer(Look("r", "i1", offset=3, wait_sec=WAIT_S), folder_of("i1"))
            nursery.cancel_scope.cancel()
    page = pages.take()
    assert page is not None
    assert page.next_offset == 3
    assert 0 < calls <= WAIT_S / LOOK_S + 1
