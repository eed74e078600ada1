"""Which failures count as the same one."""

from __future__ import annotations

import msgspec
import pytest

from plumd.failures import fingerprint, grouped, plain
from plumd.model import TaskError


@pytest.mark.parametrize(("message", "expected"), [
    ("exit status 3 after 12.5 s", "exit status <n> after <n> s"),
    ("no such file: /var/lib/plum/jobs/688281c7/out.csv", "no such file: <path>"),
    (r"cannot open C:\data\run 7", r"cannot open <path> <n>"),
    ("GET http://10.0.0.7:8080/x?id=5 answered 503", "GET <url> answered <n>"),
    ("connect 10.0.0.7:5432 refused", "connect <address> refused"),
    ("task 688281c7d0c0000 failed at 0x7ffde3", "task <hex> failed at <hex>"),
    ("id 3f2504e0-4f89-11d3-9a0c-0305e82c3301 is gone", "id <id> is gone"),
    ("at 2026-11-25T20:10:11.5Z it  broke\n twice", "at <time> it broke twice"),
    ("deadbeef is a word, facade too", "deadbeef is a word, facade too"),
    ("1/2 of a/b failed", "<n>/<n> of a/b failed"), ("", ""),
])
def test_what_differs_from_time_to_time_is_left_out(message: str, expected: str) -> None:
    assert plain(message) == expected
    assert plain(plain(message)) == plain(message)


def test_a_long_message_takes_no_time() -> None:
    for piece in ("/a", "0x1", "a1", "::", "http://", "12.", "\\\\"):
        assert len(plain(piece * 100_000)) <= 10_000


def test_what_makes_a_difference() -> None:
    error = TaskError("failed", "exit status 3", exit_code=3)
    same = TaskError("failed", "exit status 4", attempt=2, worker="w", exit_code=3)
    assert fingerprint("job", error) == fingerprint("job", same)
    for other in (TaskError("lost", "exit status 3", exit_code=3),
                  TaskError("failed", "exit status 3", exit_code=4),
                  TaskError("failed", "exit status 3", exit_code=3, signal="SIGKILL"),
                  TaskError("failed", "something else", exit_code=3)):
        assert fingerprint("job", error) != fingerprint("job", other)
    assert fingerprint("job", error) != fingerprint("other job", error)


def test_groups() -> None:
    def row(number: int, at_ms: int, message: str) -> tuple[int, str, int, int, str]:
        return number, "job", 5, at_ms, msgspec.json.encode(TaskError("e", message)).decode()

    groups = grouped([row(9, 50, "row 7 is bad"), row(8, 70, "other"), row(7, 60, "row 8 is bad"),
                      (6, "job", 5, 10, None), row(5, 20, "row 9 is bad")])
    assert [(group.count, group.first_at, group.last_at, group.last_task_id[-1], group.message)
            for group in groups] == [
        (1, 70, 70, "8", "other"), (3, 20, 60, "7", "row 8 is bad"), (1, 10, 10, "6", "")]
    assert len({group.fingerprint for group in groups}) == 3
