"""Which texts are values of a type; against Python's own readers where these say the same."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumd.values import finite, wrong


@given(st.integers(-(1 << 65), 1 << 65))
def test_whole_numbers_have_64_bits(number: int) -> None:
    assert (wrong("int", str(number)) == "") == (-(1 << 63) <= number < 1 << 63)


@given(st.floats())
def test_every_double_as_python_and_c_print_it(number: float) -> None:
    for text in (repr(number), f"{number:f}", f"{number:.17g}", f"{number:E}", number.hex()):
        assert wrong("double", text) == "", text
    if number - number == 0:
        assert finite(repr(number)) == finite(number.hex()) == number
    else:
        assert finite(repr(number)) is None


@given(st.binary())
def test_bytes_are_base64(data: bytes) -> None:
    assert wrong("bytes", base64.b64encode(data).decode()) == ""


@given(st.text())
def test_anything_is_text_and_nothing_raises(text: str) -> None:
    for kind in ("int", "double", "bool", "bytes"):
        assert isinstance(wrong(kind, text), str)
    assert wrong("string", text) == wrong("enum", text) == ""


@pytest.mark.parametrize(("kind", "text"), [
    ("int", "1_0"), ("int", "0x10"), ("int", "\n1"), ("double", "1e"), ("double", "."),
    ("double", "0x"), ("double", "1e400"), ("double", "0x1p5000"), ("bool", "2"),
    ("bytes", "====")])
def test_what_is_none(kind: str, text: str) -> None:
    assert wrong(kind, text)
