"""Logs of what workers said: in files like those of processes, bounded, off everybody's path."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from plumd.attempt_logs import LOG_BYTES_MAX, QUEUE_BYTES_MAX, SEGMENTS, AttemptLogs, Said, append
from plumd.executors.process_log import LogPage, read_page
from plumd.model import id_text


@asynccontextmanager
async def running(path: Path, bytes_max: int = LOG_BYTES_MAX) -> AsyncIterator[AttemptLogs]:
    logs = AttemptLogs(path, bytes_max=bytes_max)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(logs.run)
        yield logs
        nursery.cancel_scope.cancel()


def text_of(page: LogPage | None) -> str:
    assert page is not None
    return b"".join(entry.data for entry in page.entries).decode()


async def test_lines_are_kept_in_order_with_their_times(tmp_path: Path) -> None:
    async with running(tmp_path) as logs:
        logs.note((1, 1), 5_000, ["one\n", "two\n"])
        logs.note((1, 2), 5_000, ["of the second attempt\n"])
        await logs.settled()
        logs.note((1, 1), 5_100, ["drei ü\n"])
        logs.note((1, 1), 9_000, ["\n"])
        await logs.settled()
        page = logs.read(1, 1, 0, 1 << 20)
        assert page is not None
        assert text_of(page) == "one\ntwo\ndrei ü\n\n"
        assert [(entry.offset, entry.time_ms, entry.stream) for entry in page.entries] == [
            (0, 5_000, "stdout"), (8, 5_100, "stdout"), (16, 9_000, "stdout")]
        assert text_of(logs.read(1, 2, 0, 1 << 20)) == "of the second attempt\n"
        assert text_of(logs.read(1, 1, 4, 4)) == "two\n"
        assert logs.read(2, 1, 0, 100) is None
    directory = tmp_path / "attempts" / id_text(1) / "1"
    assert directory.stat().st_mode & 0o77 == 0
    assert all(path.stat().st_mode & 0o77 == 0 for path in directory.rglob("*"))


async def test_what_waits_at_the_end_is_written(tmp_path: Path) -> None:
    async with running(tmp_path) as logs:
        logs.note((1, 1), 1, ["last words\n"])
    assert text_of(logs.read(1, 1, 0, 100)) == "last words\n"


def test_head_and_tail_of_a_long_log_are_kept(tmp_path: Path) -> None:
    cap = SEGMENTS * 1_000
    lines = [f"{number:09}\n".encode() for number in range(10_000)]
    for at in range(0, len(lines), 77):         # batches that do not end where segments do
        append(tmp_path, [Said(1_000 * at, b"".join(lines[at:at + 77]))], cap)
    kept = sum(path.stat().st_size for path in tmp_path.glob("log.*"))
    assert cap - 2_000 <= kept <= cap
    assert len(list(tmp_path.glob("idx.*"))) == len(list(tmp_path.glob("log.*"))) == SEGMENTS
    page = read_page(tmp_path, 0, 1 << 20)
    whole = b"".join(lines)
    assert page.size == page.next_offset == len(whole)
    assert page.left_out == len(whole) - kept
    shown = b"".join(entry.data for entry in page.entries)
    assert whole.startswith(shown[:8_000])
    assert whole.endswith(shown[8_000:])


def test_one_large_batch_goes_over_several_segments(tmp_path: Path) -> None:
    data = os.urandom(50_000).hex().encode()
    append(tmp_path, [Said(1, data[:10]), Said(2, data[10:])], SEGMENTS * 10_000)
    assert len(list(tmp_path.glob("log.*"))) == 10
    page = read_page(tmp_path, 0, 1 << 20)
    assert b"".join(entry.data for entry in page.entries) == data


def test_a_new_process_goes_on_where_the_old_one_ended(tmp_path: Path) -> None:
    for number in range(3):
        append(tmp_path, [Said(number, b"%d\n" % number)], 1 << 20)
    assert [path.name for path in tmp_path.glob("log.*")] == ["log.000000000000"]
    page = read_page(tmp_path, 0, 100)
    assert [(entry.data, entry.time_ms) for entry in page.entries] == [
        (b"0\n", 0), (b"1\n", 1), (b"2\n", 2)]


def shown(directory: Path) -> bytes:
    return b"".join(entry.data for entry in read_page(directory, 0, 1 << 20).entries)


def test_what_is_there_is_not_written_twice(tmp_path: Path) -> None:
    append(tmp_path, [Said(1, b"one\n", 0), Said(1, b"two\n", 4)], 1 << 20)
    append(tmp_path, [Said(2, b"one\ntwo\n", 0)], 1 << 20)
    append(tmp_path, [Said(2, b"two\nthree\n", 4), Said(2, b"one\n", 0), Said(2, b"4\n", 14)],
           1 << 20)
    assert shown(tmp_path) == b"one\ntwo\nthree\n4\n"
    append(tmp_path, [Said(3, b"not counted\n")], 1 << 20)
    assert shown(tmp_path).endswith(b"4\nnot counted\n")


def test_what_was_cut_in_the_middle_of_a_write_is_made_whole(tmp_path: Path) -> None:
    append(tmp_path, [Said(1, b"one\ntwo\n", 0)], 1 << 20)
    os.truncate(tmp_path / "log.000000000000", 5)
    append(tmp_path, [Said(2, b"one\ntwo\n", 0), Said(2, b"three\n", 8)], 1 << 20)
    assert shown(tmp_path) == b"one\ntwo\nthree\n"


@pytest.mark.parametrize("gap", [1, 34, 35, 36, 5_000])
def test_what_never_came_is_a_gap(tmp_path: Path, gap: int) -> None:
    append(tmp_path, [Said(1, b"one\n", 0), Said(2, b"later\n", 4 + gap)], 1 << 20)
    append(tmp_path, [Said(3, b"later\nlast\n", 4 + gap)], 1 << 20)
    note = b"[... %d bytes left out ...]\n" % gap
    assert shown(tmp_path) == b"one\n" + (note if gap >= len(note) else b"") + b"later\nlast\n"
    page = read_page(tmp_path, 0, 1 << 20)
    assert page.left_out == (gap - len(note) if gap >= len(note) else gap)
    assert page.size == page.next_offset == 4 + gap + 11


async def test_a_disk_that_is_too_slow_leaves_a_gap(tmp_path: Path) -> None:
    logs = AttemptLogs(tmp_path)        # not running: the disk takes nothing
    size = QUEUE_BYTES_MAX // 2
    for number in range(4):
        logs.note((1, 1), 1, ["x" * size], number * size)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(logs.run)
        await logs.settled()
        logs.note((1, 1), 2, ["again\n"], 4 * size)
        await logs.settled()
        nursery.cancel_scope.cancel()
    assert text_of(logs.read(1, 1, 2 * size, 1 << 20)) == (
        f"[... {2 * size} bytes left out ...]\nagain\n")


async def test_who_asks_is_told_when_lines_are_in_their_files(tmp_path: Path) -> None:
    told: list[str] = []
    async with running(tmp_path) as logs:
        logs.note((1, 1), 1, ["one\n"])
        logs.when_written(lambda: told.append(text_of(logs.read(1, 1, 0, 100))))
        assert not told
        await logs.settled()
        logs.when_written(lambda: told.append("none waited"))
        await trio.testing.wait_all_tasks_blocked()
        assert told == ["one\n", "none waited"]
        logs.when_written(lambda: told.append("at the end"))
    assert told[2:] == ["at the end"]


async def test_a_slow_disk_costs_lines_and_nobody_waits(tmp_path: Path) -> None:
    logs = AttemptLogs(tmp_path)        # not running: the disk takes nothing
    line = "x" * (1 << 20)
    count = QUEUE_BYTES_MAX // len(line) + 5
    for _ in range(count):
        logs.note((1, 1), 1, [line])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(logs.run)
        await logs.settled()
        logs.note((1, 1), 2, ["again\n"])
        await logs.settled()
        nursery.cancel_scope.cancel()
    text = text_of(logs.read(1, 1, 0, 64 << 20))
    kept = text.count(line)
    assert kept < count
    assert f"[... {count - kept} lines left out: the disk was too slow ...]\nagain\n" in text


async def test_a_disk_that_fails_is_said_once_and_ends_nothing(
        tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "attempts").mkdir()
    (tmp_path / "attempts" / id_text(1)).write_text("in the way")
    async with running(tmp_path) as logs:
        for _ in range(3):
            logs.note((1, 1), 1, ["lost\n"])
            await logs.settled()
        logs.note((2, 1), 1, ["kept\n"])
        await logs.settled()
        assert text_of(logs.read(2, 1, 0, 100)) == "kept\n"
    assert [record.message for record in caplog.records] == ["lines of a task's log are lost"]
