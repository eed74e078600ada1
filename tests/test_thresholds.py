"""When alarms are raised and cleared, against a plain reading of the rule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumd.thresholds import Op, Phase, Rule, Watch, clears, holds

S = 10**9


def rule(op: Op = ">", value: float | str | bool = 80, hysteresis: float = 0,
         for_sec: float = 0) -> Rule:
    return Rule("r", "temp", op, value, hysteresis, for_sec)


@pytest.mark.parametrize(("op", "value", "text", "held"), [
    (">", 80, "80", False), (">", 80, "80.5", True), (">=", 80, "80", True), ("<", 5, "4", True),
    ("<=", 5, "5", True), ("==", "open", "open", True), ("!=", "open", "shut", True),
    ("==", True, "true", True), ("==", 1, "true", True), ("==", 1, "1.0", True),
    (">", 80, "rubbish", None), (">", 80, "", None), (">", 80, "nan", None),
    ("==", 80, "rubbish", False), ("!=", 80, "rubbish", True), (">", 80, "inf", None),
])
def test_conditions(op: Op, value: float | str | bool, text: str, held: bool | None) -> None:
    assert holds(rule(op, value), text) is held


@pytest.mark.parametrize(("op", "text", "over"), [
    (">", "79", False), (">", "75.1", False), (">", "75", True), (">=", "75", False),
    (">=", "74.9", True), ("<", "84.9", False), ("<", "85", True), ("<=", "85", False),
    ("<=", "85.1", True),
])
def test_hysteresis(op: Op, text: str, over: bool) -> None:
    assert clears(rule(op, 80, 5), text) is over


STEPS = st.lists(st.tuples(st.integers(0, 4), st.one_of(
    st.integers(60, 100).map(str), st.sampled_from(("rubbish", "")), st.none())), max_size=40)


@given(STEPS, st.integers(0, 6), st.integers(0, 10))
def test_any_values_at_any_times(steps: list[tuple[int, str | None]], for_sec: int,
                                 hysteresis: int) -> None:
    one, watch, now = rule(hysteresis=hysteresis, for_sec=for_sec), Watch(), 0
    above_since: int | None = None
    raised = False
    for seconds, text in steps:
        # what time alone does on the way there
        if not raised and above_since is not None and now + seconds - above_since >= for_sec:
            due = watch.due_ns(one)
            assert due == (above_since + for_sec) * S
            assert watch.tick(one, due)
            raised = True
        now += seconds
        if text is None:
            assert not watch.tick(one, now * S)
            continue
        number = int(text) if text.isdigit() else None
        changed = watch.see(one, text, now * S)
        if raised:
            over = number is not None and number <= 80 - hysteresis
            assert changed == over
            if over:
                raised, above_since = False, None
        elif number is None:
            assert not changed
        elif number > 80:
            above_since = now if above_since is None else above_since
            assert changed == (now - above_since >= for_sec)
            raised = changed
        else:
            assert not changed
            above_since = None
        assert (watch.phase is Phase.RAISED) == raised
        assert (watch.phase is Phase.PENDING) == (not raised and above_since is not None)
