"""Pure: whether a text is a value of a type, as C and Python programs print them; how deep JSON
nests."""

from __future__ import annotations

import base64
import binascii
import re
from itertools import accumulate
from typing import Final

INT: Final = re.compile(r"[+-]?[0-9]{1,30}")
DOUBLE: Final = re.compile(
    r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]{1,9})?"
    r"|0x(?:[0-9a-f]+\.?[0-9a-f]*|\.[0-9a-f]+)(?:p[+-]?[0-9]{1,9})?)", re.IGNORECASE)
NOT_FINITE: Final = re.compile(r"[+-]?(?:inf(?:inity)?|nan(?:\([0-9a-z_]*\))?)", re.IGNORECASE)
BOOLS: Final = ("true", "false", "0", "1")
NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
"""A level down and a level up, as signed bytes."""


def wrong(kind: str, text: str) -> str:
    """Why a text is no value of this type, "" when it is one.

    kind: int (64 bits), double (also inf and nan, as C prints them), bool, bytes (base64);
    whatever else is text, which anything is.
    """
    if kind == "int":
        if not INT.fullmatch(text) or not -(1 << 63) <= int(text) < 1 << 63:
            return "it is no whole number of 64 bits"
    elif kind == "double":
        if NOT_FINITE.fullmatch(text) is None and finite(text) is None:
            return "it is no number, or too large for one"
    elif kind == "bool":
        if text.lower() not in BOOLS:
            return "it is none of true, false, 0 and 1"
    elif kind == "bytes":
        try:
            base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            return "it is not base64"
    return ""


def finite(text: str) -> float | None:
    """The finite number that a text is; None when it is none."""
    if not DOUBLE.fullmatch(text):
        return None
    try:
        number = float.fromhex(text) if "x" in text.lower() else float(text)
    except (OverflowError, ValueError):
        return None
    return number if abs(number) < float("inf") else None


def nests_deeper(body: bytes, levels: int) -> bool:
    """Whether lists and objects of a JSON text stand inside each other more than so many times.

    Strings are cut out and all but brackets is deleted; then one look at each bracket that is left,
    for a slow answer to one caller is slow for all. Whether they are the right ones is the
    decoder's to say, which stops at the first that is not.
    """
    if body.count(b"[") + body.count(b"{") <= levels:
        return False
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    brackets = b"".join(body.split(b'"')[::2]).translate(STEPS, NOT_BRACKETS)
    return max(accumulate(memoryview(brackets).cast("b")), default=0) > levels
