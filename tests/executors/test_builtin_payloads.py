"""How texts of the store compare with JSON values, and sums of numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumd.errors import Invalid
from plumd.executors.builtin_payloads import Op, added, holds, json_value, text_of
from plumd.values import wrong

WHOLE = st.integers(-(1 << 63), (1 << 63) - 1)


@given(WHOLE, WHOLE)
def test_whole_numbers_compare_exactly(left: int, right: int) -> None:
    ops: dict[Op, bool] = {"==": left == right, "!=": left != right, "<": left < right,
                           "<=": left <= right, ">": left > right, ">=": left >= right}
    for op, expected in ops.items():
        assert holds(op, str(left), right) == expected


@given(st.text(max_size=5), st.text(max_size=5))
def test_either_it_holds_or_its_opposite(left: str, right: str) -> None:
    assert holds("==", left, right) != holds("!=", left, right)
    assert holds("<", left, right) != holds(">=", left, right)
    assert holds(">", left, right) != holds("<=", left, right)


@pytest.mark.parametrize(("have", "value", "equal"), [
    ("10", 10.0, True), ("10.0", 10, True), ("1e1", "10", True), ("true", True, True),
    ("ten", 10, False), ("", "", True), ("nan", "nan", True), ("0x10", 16, True),
    ("9007199254740993", 9007199254740992, False),
])
def test_numbers_are_numbers_however_they_are_written(have: str, value: str | float,
                                                      equal: bool) -> None:
    assert holds("==", have, value) is equal


@given(WHOLE, WHOLE)
def test_sums_stay_within_64_bits(old: int, by: int) -> None:
    if -(1 << 63) <= old + by < 1 << 63:
        assert added("int", str(old), by) == ("int", str(old + by))
    else:
        with pytest.raises(Invalid):
            added("int", str(old), by)


@given(st.one_of(WHOLE, st.floats(-1e300, 1e300), st.booleans(), st.text(max_size=20)))
def test_values_come_back_as_they_were(value: float | str) -> None:
    kind = ("bool" if isinstance(value, bool) else "int" if isinstance(value, int)
            else "double" if isinstance(value, float) else "string")
    text = text_of(value)
    assert wrong(kind, text) == ""
    assert json_value(kind, text) == value
