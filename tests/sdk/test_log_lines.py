"""Lines on their way to a task's log: in order, bounded, from any thread, kept till they are there.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumd.sdk.log_lines import LINE_CHARS, MESSAGE_CHARS, WAITING_CHARS_MAX, LogLines
from plumd.sdk.protocol import LOG_CHARS_MAX, LOG_LINES_MAX, LogLine


class One:
    """An attempt that says something."""

    def __init__(self, attempt_id: str = "1") -> None:
        self.id = attempt_id
        self.said_bytes = self.last_mark = 0


def taken(lines: LogLines) -> list[LogLine]:
    """The next message's."""
    return lines.take()[1]


def all_of(lines: LogLines) -> Iterator[list[LogLine]]:
    """Message after message."""
    while lines:
        yield taken(lines)


@given(st.lists(st.text(max_size=50), max_size=60))
def test_what_goes_in_comes_out_in_order(texts: list[str]) -> None:
    lines, one = LogLines(), One()
    for text in texts:
        lines.add(one, text)
    assert bool(lines) == bool(texts)
    assert [line.text for line in taken(lines)] == texts
    assert not lines
    assert lines.take() == (0, [])


def test_a_long_text_goes_as_several_lines() -> None:
    lines = LogLines()
    lines.add(One(), "x" * (LOG_CHARS_MAX + 1))
    assert [len(line.text) for line in taken(lines)] == [LOG_CHARS_MAX, 1]


def test_a_message_holds_so_much() -> None:
    lines, one = LogLines(), One()
    for number in range(LOG_LINES_MAX + 1):
        assert lines.full_message == (number >= LOG_LINES_MAX)
        lines.add(one, str(number))
    assert len(taken(lines)) == LOG_LINES_MAX
    assert [line.text for line in taken(lines)] == [str(LOG_LINES_MAX)]
    for _ in range(100):
        lines.add(one, "x" * LOG_CHARS_MAX)
    assert lines.full_message
    chars = sum(len(line.text) for line in taken(lines))
    assert MESSAGE_CHARS - LOG_CHARS_MAX <= chars <= MESSAGE_CHARS + LOG_CHARS_MAX


@pytest.mark.parametrize("acked", [False, True])
def test_the_oldest_go_when_too_much_waits_and_that_is_said(acked: bool) -> None:
    lines, one = LogLines(), One()
    lines.acked = acked
    lines.add(one, "sent")
    [sent] = taken(lines)
    count = WAITING_CHARS_MAX // (LOG_CHARS_MAX + 1) + 50
    for number in range(count):
        lines.add(one, f"{number:04}".ljust(LOG_CHARS_MAX))
    assert lines.half_full
    note, *kept = [line for message in all_of(lines) for line in message]
    assert (len(kept) - 1) * (LOG_CHARS_MAX + 1) <= WAITING_CHARS_MAX
    assert f"{count - len(kept)} lines left out" in note.text
    assert [int(line.text) for line in kept] == list(range(count - len(kept), count))
    lines.rewind()
    if acked:
        assert taken(lines) == [sent], "what went once is never left out"
        assert taken(lines)[0] == note
    else:
        assert not lines
        assert not lines.half_full


def test_each_says_where_in_its_log_it_stands() -> None:
    lines, one, other = LogLines(), One(), One("2")
    for text in ("a", "\u00e9\n", "", "\U0001d11e"):
        lines.add(one, text)
        lines.add(other, text, part=True)
    assert [(line.id, line.at) for line in taken(lines)] == [
        ("1", 0), ("2", 0), ("1", 2), ("2", 1), ("1", 5), ("2", 4), ("1", 6), ("2", 4)]
    assert (one.said_bytes, other.said_bytes) == (11, 8)


@given(st.lists(st.sampled_from(["add", "take", "ack", "rewind"]), max_size=60))
def test_what_is_not_acknowledged_is_sent_again_in_the_old_batches(acts: list[str]) -> None:
    """What comes to a daemon that takes each batch's lines where they stand is every line once."""
    lines, one = LogLines(), One()
    lines.acked = True
    log, seqs, count = "", [0], 0
    for act in [*acts, "rewind", "take", *(["take"] * 60)]:
        if act == "add":
            lines.add(one, str(count))
            count += 1
        elif act == "take":
            seq, batch = lines.take()
            assert not batch or seq > max(seqs)
            seqs += [seq] if batch else []
            for line in batch:
                assert line.at is not None
                assert line.at <= len(log)
                log = log[:line.at] + line.text + "\n" + log[line.at + len(line.text) + 1:]
        elif act == "ack" and len(seqs) > 1:
            lines.acknowledged(seqs[-2])
            assert lines.are_told(0)
        else:
            lines.rewind()
            seqs = [max(seqs)]
    assert log == "".join(f"{number}\n" for number in range(count))
    lines.acknowledged(max(seqs))
    assert lines.are_told(lines.mark)
    lines.rewind()
    assert not lines


def test_a_mark_is_told_when_what_came_before_it_is() -> None:
    lines, one = LogLines(), One()
    lines.acked = True
    lines.add(one, "1")
    mark = lines.mark
    first, _ = lines.take()
    lines.add(one, "2")
    assert not lines.are_told(mark)
    lines.acknowledged(first)
    assert lines.are_told(mark)
    assert not lines.are_told(lines.mark)
    lines.acked = False
    lines.take()
    assert lines.are_told(lines.mark)


def test_the_newest_line_is_kept_also_where_all_room_is_taken() -> None:
    """Else nobody hears that lines were left out, and a mark behind them is never told."""
    lines, one = LogLines(), One()
    lines.acked = True
    seq = 0
    for _ in range(WAITING_CHARS_MAX // LOG_CHARS_MAX + 1):
        lines.add(one, "x" * LOG_CHARS_MAX)
        seq, _ = lines.take()
    lines.add(one, "lost")
    lines.add(one, "last")
    lines.acknowledged(seq)
    seq, batch = lines.take()
    assert [line.text[:19] for line in batch] == ["[... 1 lines left o", "last"]
    lines.acknowledged(seq)
    assert lines.are_told(lines.mark)


def test_short_lines_are_bounded_too() -> None:
    """By what they take of the memory, not by their few characters."""
    lines, one = LogLines(), One()
    count = WAITING_CHARS_MAX // 16
    for _ in range(count):
        lines.add(one, "")
    note, *kept = [line for message in all_of(lines) for line in message]
    assert len(kept) == WAITING_CHARS_MAX // LINE_CHARS
    assert f"{count - len(kept)} lines left out" in note.text


def test_up_to_where_lines_are_said_on_a_line() -> None:
    lines, one, other = LogLines(), One(), One("2")
    lines.acked = True
    lines.add(one, "1")
    lines.add(other, "2")
    assert (one.last_mark, other.last_mark, lines.said) == (1, 2, 0)
    first, _ = lines.take()
    lines.add(one, "3")
    assert (one.last_mark, lines.said) == (3, 2)
    lines.take()
    assert lines.said == 3
    lines.acknowledged(first)
    lines.rewind()
    assert lines.said == 2
    lines.take()
    assert lines.said == 3


def test_threads_lose_nothing() -> None:
    lines = LogLines()

    def talk(name: str) -> None:
        one = One(name)
        for number in range(500):
            lines.add(one, str(number))

    threads = [threading.Thread(target=talk, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    said: list[LogLine] = []
    while any(thread.is_alive() for thread in threads) or lines:
        said += taken(lines)
    for name in "abcd":
        assert [line.text for line in said if line.id == name] == [str(n) for n in range(500)]
