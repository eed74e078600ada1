"""Logs of what has ended: one file an hour, however many they are, whole after any crash."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from plumd.attempt_logs import Said, append
from plumd.executors import hour_logs, process_log
from plumd.executors.hour_logs import (
    HOUR_MS,
    MOVED,
    ROOM_BYTES,
    HourLogs,
    Key,
    discard,
    discard_rest,
    mark_moved,
    read_log,
)
from plumd.executors.process_log import LogPage

T0_MS = 1_764_151_200_000       # 2025-11-26T10:00Z
PLENTY = 1 << 30


def written(path: Path, key: Key, *texts: str, bytes_max: int = 1 << 20) -> Path:
    """A directory with a log of these texts."""
    directory = path / "attempts" / f"{key[0]}" / f"{key[1]}"
    append(directory, [Said(T0_MS + n, text.encode()) for n, text in enumerate(texts)], bytes_max)
    return directory


def text_of(page: LogPage | None) -> str:
    assert page is not None
    return b"".join(entry.data for entry in page.entries).decode()


def everything(logs: HourLogs, key: Key) -> str:
    return text_of(logs.read(key, 0, 1 << 24))


def files(path: Path) -> list[str]:
    return sorted(file.name for file in (path / "logs").iterdir())


def test_ten_thousand_logs_are_two_files_an_hour(tmp_path: Path) -> None:
    logs = HourLogs(tmp_path / "logs", PLENTY)
    directory = written(tmp_path, (0, 1), "out of many, one\n")
    for hour in range(4):
        for at in range(0, 2_500, 500):
            ids = range(hour * 2_500 + at, hour * 2_500 + at + 500)
            logs.put([((number, 1), directory) for number in ids], T0_MS + hour * HOUR_MS)
    assert files(tmp_path) == [
        f"2025-11-26T{hour}.0.{ending}" for hour in (10, 11, 12, 13)
        for ending in (("idx", "log") if hour == 13 else ("key", "log"))]
    for again in (logs, HourLogs(tmp_path / "logs", PLENTY)):
        assert all(again.has((number, 1)) for number in range(10_000))
        assert not again.has((10_000, 1))
        assert not again.has((5, 2))
        assert everything(again, (2_501, 1)) == "out of many, one\n"
        assert everything(again, (9_999, 1)) == "out of many, one\n"


def test_a_page_is_what_it_was_in_the_directory(tmp_path: Path) -> None:
    """Whatever the offset, and with a gap in the middle, a negative offset, cut characters."""
    directory = written(tmp_path, (1, 1), *(f"{n:04} grüße\n" for n in range(2_000)),
                        bytes_max=16 * 1024)
    assert process_log.read_page(directory, 0, 1 << 20).left_out > 0
    logs = HourLogs(tmp_path / "logs", PLENTY)
    other = written(tmp_path, (2, 1), "another one\n")
    logs.put([((2, 1), other), ((1, 1), directory), ((3, 7), other)], T0_MS)
    (directory / process_log.STATUS).touch()
    size = process_log.log_size(directory)
    for offset in (0, 1, 8, 1023, 1024, 9_000, size - 5, size, size + 9, -1, -700, -size):
        for limit in (1, 7, 1_000, 1 << 20):
            assert logs.read((1, 1), offset, limit) == process_log.read_page(
                directory, offset, limit), (offset, limit)


def test_an_empty_log_and_one_that_is_not_there(tmp_path: Path) -> None:
    logs = HourLogs(tmp_path / "logs", PLENTY)
    assert logs.read((1, 1), 0, 10) is None
    logs.put([((1, 1), tmp_path / "nowhere")], T0_MS)
    assert logs.read((1, 1), 0, 10) == LogPage((), 0, 0, 0, finished=True)
    assert logs.read((1, 2), 0, 10) is None


@pytest.mark.parametrize("damage", ["entry", "half an entry", "bytes of a log", "both", "a bit"])
def test_what_a_crash_left_half_written_is_cut_off(tmp_path: Path, damage: str) -> None:
    logs = HourLogs(tmp_path / "logs", PLENTY)
    for number in (1, 2):
        logs.put([((number, 1), written(tmp_path, (number, 1), f"log {number}\n"))], T0_MS)
    stem = tmp_path / "logs" / "2025-11-26T10.0"
    index, log = stem.with_name(stem.name + ".idx"), stem.with_name(stem.name + ".log")
    good = index.read_bytes(), log.read_bytes()
    logs.put([((3, 1), written(tmp_path, (3, 1), "log 3\n"))], T0_MS)
    if damage == "entry":
        os.truncate(index, len(good[0]))
    if damage in ("half an entry", "both"):
        os.truncate(index, index.stat().st_size - 5)
    if damage in ("bytes of a log", "both"):
        os.truncate(log, log.stat().st_size - 3)
    if damage == "a bit":
        raw = bytearray(index.read_bytes())
        raw[-30] ^= 1
        index.write_bytes(raw)
    again = HourLogs(tmp_path / "logs", PLENTY)
    assert (index.read_bytes(), log.read_bytes()) == good
    assert [again.has((number, 1)) for number in (1, 2, 3)] == [True, True, False]
    again.put([((3, 1), tmp_path / "attempts" / "3" / "1")], T0_MS)
    assert [everything(again, (number, 1)) for number in (1, 2, 3)] == [
        "log 1\n", "log 2\n", "log 3\n"]


def test_a_crash_between_two_forms_of_an_index(tmp_path: Path) -> None:
    logs = HourLogs(tmp_path / "logs", PLENTY)
    logs.put([((1, 1), written(tmp_path, (1, 1), "log 1\n"))], T0_MS)
    index = tmp_path / "logs" / "2025-11-26T10.0.idx"
    raw = index.read_bytes()
    logs.put([((2, 1), written(tmp_path, (2, 1), "log 2\n"))], T0_MS + HOUR_MS)
    assert not index.exists()
    index.write_bytes(raw)
    again = HourLogs(tmp_path / "logs", PLENTY)
    assert not index.exists()
    assert [everything(again, (number, 1)) for number in (1, 2)] == ["log 1\n", "log 2\n"]


def test_a_disk_that_is_full_changes_nothing(tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    logs = HourLogs(tmp_path / "logs", PLENTY)
    logs.put([((1, 1), written(tmp_path, (1, 1), "log 1\n"))], T0_MS)
    log = tmp_path / "logs" / "2025-11-26T10.0.log"
    before, second = log.read_bytes(), written(tmp_path, (2, 1), "log 2, longer\n")
    write = os.write
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda fd, data: write(fd, data[:10]))
        with pytest.raises(OSError, match="full"):
            logs.put([((2, 1), second)], T0_MS)
    assert log.read_bytes() == before
    assert not logs.has((2, 1))
    logs.put([((2, 1), second)], T0_MS)
    assert [everything(logs, (n, 1)) for n in (1, 2)] == ["log 1\n", "log 2, longer\n"]


def test_what_would_fill_the_disk_is_not_begun(tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    logs = HourLogs(tmp_path / "logs", PLENTY)
    directory = written(tmp_path, (1, 1), "x" * 100_000)
    for free, fits in ((100_000, False), (100_000 + ROOM_BYTES, True)):
        usage = shutil.disk_usage(tmp_path)._replace(free=free)
        with monkeypatch.context() as patched:
            patched.setattr(shutil, "disk_usage", {tmp_path: usage, tmp_path / "logs": usage}.get)
            if not fits:
                with pytest.raises(OSError, match="100000 bytes of logs"):
                    logs.put([((1, 1), directory)], T0_MS)
                assert not (tmp_path / "logs").exists()
            else:
                logs.put([((1, 1), directory)], T0_MS)
    assert logs.has((1, 1))


def test_the_oldest_go_when_there_is_too_much(tmp_path: Path) -> None:
    logs = HourLogs(tmp_path / "logs", 1 << 20)
    directory = written(tmp_path, (0, 1), "x" * 50_000)
    for number in range(60):
        logs.put([((number, 1), directory)], T0_MS)
        there = sum(file.stat().st_size for file in (tmp_path / "logs").iterdir())
        assert there <= (1 << 20) * 1.2
    assert not logs.has((0, 1))
    assert logs.read((0, 1), 0, 10) is None
    kept = [number for number in range(60) if logs.has((number, 1))]
    assert len(kept) >= 15
    assert kept == list(range(60 - len(kept), 60))
    again = HourLogs(tmp_path / "logs", 1 << 20)
    assert [number for number in range(60) if again.has((number, 1))] == kept


def test_a_busy_hour_has_more_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hour_logs, "FILE_LOGS_MAX", 10)
    logs = HourLogs(tmp_path / "logs", PLENTY)
    directory = written(tmp_path, (0, 1), "a line\n")
    for number in range(120):
        logs.put([((number, 1), directory)], T0_MS)
    assert len(files(tmp_path)) == 24
    assert all(everything(logs, (number, 1)) == "a line\n" for number in range(120))
    logs.put([((120, 1), directory)], T0_MS - 5 * HOUR_MS)      # the clock was set back
    assert len(files(tmp_path)) == 26
    assert HourLogs(tmp_path / "logs", PLENTY).has((120, 1))


def test_hours_that_nobody_can_ask_for_go(tmp_path: Path) -> None:
    logs = HourLogs(tmp_path / "logs", PLENTY)
    directory = written(tmp_path, (0, 1), "a line\n")
    for hour in range(4):
        logs.put([((hour * 10 + n, 1), directory) for n in range(3)], T0_MS + hour * HOUR_MS)
    living = {1, 11, 31}
    assert logs.drop_dead(T0_MS + 30 * HOUR_MS, living.__contains__) == 1
    assert [logs.has((hour * 10, 1)) for hour in range(4)] == [True, True, False, True]
    living.clear()
    assert logs.drop_dead(T0_MS + 2 * HOUR_MS - 1, living.__contains__) == 1, "one is too young"
    assert logs.drop_dead(T0_MS + 30 * HOUR_MS, living.__contains__) == 1
    assert [logs.has((hour * 10, 1)) for hour in range(4)] == [False, False, False, True]


def test_a_log_is_found_wherever_it_is(tmp_path: Path) -> None:
    logs = HourLogs(tmp_path / "logs", PLENTY)
    directory = written(tmp_path, (1, 1), "moved\n")
    assert text_of(read_log(logs, (1, 1), directory, 0, 100)) == "moved\n"
    logs.put([((1, 1), directory)], T0_MS)
    mark_moved(directory)
    for file in directory.iterdir():
        if file.name != MOVED:
            file.unlink()
    assert text_of(read_log(logs, (1, 1), directory, 0, 100)) == "moved\n"
    gone = directory.with_name("1.gone")
    gone.mkdir()
    discard(directory)
    assert list(directory.parent.iterdir()) == []
    gone.mkdir()
    discard_rest(directory.parent)
    discard(directory)
    assert list(directory.parent.iterdir()) == []
    assert text_of(read_log(logs, (1, 1), directory, 0, 100)) == "moved\n"
    assert read_log(logs, (9, 1), tmp_path / "nowhere", 0, 100) is None
    assert read_log(None, (1, 1), tmp_path / "nowhere", 0, 100) is None


def test_the_last_log_of_an_owner(tmp_path: Path) -> None:
    logs = HourLogs(tmp_path / "logs", PLENTY)
    directory = written(tmp_path, (0, 1), "a line\n")
    keys = [(7, 1), (9, 1), (7, 2), (7, 12), (8, 3), (1 << 63, 5)]
    for at, key in enumerate(keys):
        logs.put([(key, directory)], T0_MS + at // 2 * HOUR_MS)
    for again in (logs, HourLogs(tmp_path / "logs", PLENTY)):
        assert [again.last(owner) for owner in (6, 7, 8, 9, 10, 1 << 63)] == [0, 12, 3, 1, 0, 5]


def test_a_full_disk_at_the_start_hinders_nothing(tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that could not be sorted when its hour was over is read as it is."""
    logs = HourLogs(tmp_path / "logs", PLENTY)
    for number in (1, 2):
        logs.put([((number, 1), written(tmp_path, (number, 1), f"log {number}\n"))], T0_MS)
    stem = tmp_path / "logs" / "2025-11-26T10.0"
    index = stem.with_name(stem.name + ".idx")
    raw = index.read_bytes()
    logs.put([((3, 1), written(tmp_path, (3, 1), "log 3\n"))], T0_MS + HOUR_MS)
    stem.with_name(stem.name + ".key").unlink()
    index.write_bytes(raw)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        again = HourLogs(tmp_path / "logs", PLENTY)
        with pytest.raises(OSError, match="full"):
            again.put([((4, 1), tmp_path)], T0_MS + HOUR_MS)
    assert [everything(again, (number, 1)) for number in (1, 2, 3)] == [
        "log 1\n", "log 2\n", "log 3\n"]
    assert again.drop_dead(T0_MS + 9 * HOUR_MS, set[int]().__contains__) == 0
    assert not list((tmp_path / "logs").glob("*.new"))


def full(_: int) -> None:
    raise OSError("the disk is full")
