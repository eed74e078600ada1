"""Lines on their way to a task's log: in order, bounded, from any thread."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from plumd.sdk.log_lines import MESSAGE_CHARS, WAITING_CHARS_MAX, LogLines
from plumd.sdk.protocol import LOG_CHARS_MAX, LOG_LINES_MAX


@given(st.lists(st.text(max_size=50), max_size=60))
def test_what_goes_in_comes_out_in_order(texts: list[str]) -> None:
    lines = LogLines()
    for text in texts:
        lines.add("1", text)
    assert len(lines) == len(texts)
    assert [line.text for line in lines.take()] == texts
    assert not lines
    assert lines.take() == []


def test_a_long_text_goes_as_several_lines() -> None:
    lines = LogLines()
    lines.add("1", "x" * (LOG_CHARS_MAX + 1))
    assert [len(line.text) for line in lines.take()] == [LOG_CHARS_MAX, 1]


def test_a_message_holds_so_much() -> None:
    lines = LogLines()
    for number in range(LOG_LINES_MAX + 1):
        assert lines.full_message == (number >= LOG_LINES_MAX)
        lines.add("1", str(number))
    assert len(lines.take()) == LOG_LINES_MAX
    assert [line.text for line in lines.take()] == [str(LOG_LINES_MAX)]
    for _ in range(100):
        lines.add("1", "x" * LOG_CHARS_MAX)
    assert lines.full_message
    taken = sum(len(line.text) for line in lines.take())
    assert MESSAGE_CHARS - LOG_CHARS_MAX <= taken <= MESSAGE_CHARS + LOG_CHARS_MAX


def test_the_oldest_go_when_too_much_waits_and_that_is_said() -> None:
    lines = LogLines()
    count = WAITING_CHARS_MAX // (LOG_CHARS_MAX + 1) + 50
    for number in range(count):
        lines.add("1", f"{number:04}".ljust(LOG_CHARS_MAX))
    kept = len(lines)
    assert kept * LOG_CHARS_MAX <= WAITING_CHARS_MAX
    note, first, *_ = lines.take()
    assert f"{count - kept} lines left out" in note.text
    assert int(first.text) == count - kept
    assert "left out" not in lines.take()[0].text


def test_threads_lose_nothing() -> None:
    lines = LogLines()

    def talk(name: str) -> None:
        for number in range(500):
            lines.add(name, str(number))

    threads = [threading.Thread(target=talk, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    taken = []
    while any(thread.is_alive() for thread in threads) or lines:
        taken += lines.take()
    for name in "abcd":
        assert [line.text for line in taken if line.id == name] == [str(n) for n in range(500)]
