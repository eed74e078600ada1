"""What expressions work on: JSON's values, and the operators and functions over them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import msgspec

TEXT_CHARS_MAX: Final = 1 << 20
ITEMS_MAX: Final = 100_000
INT_MIN: Final = -(1 << 63)
INT_MAX: Final = (1 << 63) - 1
DOUBLE_BITS: Final = 1_023
NAME: Final = re.compile(r"[^\W\d]\w*")

Value: TypeAlias = "bool | int | float | str | list[Value] | dict[str, Value] | None"
Path: TypeAlias = tuple[str | int, ...]


class Failure(ValueError):
    """An evaluation that has no value: nothing there, a wrong type, a number out of range."""


def path_text(path: Path) -> str:
    """A path as it is written: `.a[0]["b c"]`."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" if NAME.fullmatch(key)
                   else f"[{msgspec.json.encode(key).decode()}]" for key in path)


def type_of(value: Value) -> str:
    """What people call the type."""
    if value is None:
        return "null"
    names = {bool: "bool", int: "int", float: "double", str: "string", list: "list", dict: "map"}
    return names[type(value)]


def truth(value: Value) -> bool:
    """Raises: Failure unless it is true or false."""
    if isinstance(value, bool):
        return value
    raise Failure(f"a condition is true or false, not {type_of(value)}")


def number(value: Value) -> int | float:
    """Raises: Failure unless it is a number, and one that a double could be near to."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if isinstance(value, int) and value.bit_length() > DOUBLE_BITS:
            raise Failure("a number left the range of doubles")
        return value
    raise Failure(f"a number is needed, not {type_of(value)}")


def in_range(value: float) -> int | float:
    """Raises: Failure past 64 bits, or when it is no number any more."""
    if isinstance(value, int):
        if not INT_MIN <= value <= INT_MAX:
            raise Failure("a number left the range of 64 bits")
    elif not math.isfinite(value):
        raise Failure("a number left the range of doubles")
    return value


def item_of(value: Value, key: Value) -> Value:
    """`value[key]`. Raises: Failure when there is none."""
    if isinstance(value, dict):
        if isinstance(key, str):
            if key in value:
                return value[key]
            raise Failure(f"there is no {key!r}")
        raise Failure(f"a map has strings for keys, not {type_of(key)}")
    if isinstance(value, list):
        if isinstance(key, int) and not isinstance(key, bool):
            if 0 <= key < len(value):
                return value[key]
            raise Failure(f"there is no item {key}; there are {len(value)}")
        raise Failure(f"a list has whole numbers for indexes, not {type_of(key)}")
    raise Failure(f"{type_of(value)} has nothing inside it")


def walk(value: Value, path: Path) -> Value:
    """What stands at a path inside a value. Raises: Failure when nothing does."""
    for key in path:
        value = item_of(value, key)
    return value


def same(left: Value, right: Value) -> bool:
    """Equal in type and value; whole and floating numbers are one type here."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, int | float) and isinstance(right, int | float):
        return left == right
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    return type(left) is type(right) and left == right


def less(left: Value, right: Value) -> bool:
    """left < right. Raises: Failure when they cannot be compared."""
    if isinstance(left, str) and isinstance(right, str):
        return left < right
    return number(left) < number(right)


def not_more(left: Value, right: Value) -> bool:
    """left <= right."""
    return less(left, right) or same(left, right)


def add(left: Value, right: Value) -> Value:
    if isinstance(left, str) and isinstance(right, str):
        return bounded_text(left + right)
    if isinstance(left, list) and isinstance(right, list):
        if len(left) + len(right) > ITEMS_MAX:
            raise Failure(f"a list takes at most {ITEMS_MAX} items")
        return left + right
    return in_range(number(left) + number(right))


def bounded_text(text: str) -> str:
    """Raises: Failure when it has grown too long."""
    if len(text) > TEXT_CHARS_MAX:
        raise Failure(f"a text takes at most {TEXT_CHARS_MAX} characters")
    return text


def divide(left: Value, right: Value) -> Value:
    """Whole numbers are divided towards zero."""
    above, below = number(left), number(right)
    if below == 0:
        raise Failure("division by zero")
    if isinstance(above, int) and isinstance(below, int):
        quotient = abs(above) // abs(below)
        return in_range(quotient if (above < 0) == (below < 0) else -quotient)
    return in_range(above / below)


def remainder(left: Value, right: Value) -> Value:
    above, below = number(left), number(right)
    if not (isinstance(above, int) and isinstance(below, int)):
        raise Failure("% is for whole numbers")
    if below == 0:
        raise Failure("division by zero")
    rest = abs(above) % abs(below)
    return -rest if above < 0 else rest


def inside(left: Value, right: Value) -> bool:
    """left in right."""
    if isinstance(right, dict):
        return isinstance(left, str) and left in right
    if isinstance(right, list):
        return any(same(left, item) for item in right)
    raise Failure(f"`in` looks into a list or a map, not {type_of(right)}")


BINARY: Final[dict[str, Callable[[Value, Value], Value]]] = {
    "+": add, "-": lambda a, b: in_range(number(a) - number(b)),
    "*": lambda a, b: in_range(number(a) * number(b)), "/": divide, "%": remainder,
    "<": less, ">": lambda a, b: less(b, a), "<=": not_more,
    ">=": lambda a, b: not_more(b, a), "==": same, "!=": lambda a, b: not same(a, b),
    "in": inside,
}


def size(value: Value) -> Value:
    if isinstance(value, str | list | dict):
        return len(value)
    raise Failure(f"{type_of(value)} has no size")


def text_of(value: Value) -> str:
    """A value inside a text: strings as they are, null as nothing, anything else as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def whole(value: Value) -> Value:
    """int(x)."""
    if isinstance(value, str):
        if len(value) <= 20 and re.fullmatch(r"[+-]?[0-9]+", value):
            return in_range(int(value))
        raise Failure(f"{value[:40]!r} is no whole number")
    if isinstance(value, bool):
        return int(value)
    return in_range(int(number(value)))


def floating(value: Value) -> Value:
    """double(x)."""
    if isinstance(value, str):
        try:
            return in_range(float(value[:400]))
        except ValueError:
            raise Failure(f"{value[:40]!r} is no number") from None
    return in_range(float(number(value)))


def word(value: Value) -> str:
    """Raises: Failure unless it is a string."""
    if isinstance(value, str):
        return value
    raise Failure(f"a string is needed, not {type_of(value)}")


FUNCTIONS: Final[dict[str, tuple[int, Callable[[Sequence[Value]], Value]]]] = {
    "size": (1, lambda given: size(given[0])), "string": (1, lambda given: text_of(given[0])),
    "int": (1, lambda given: whole(given[0])), "double": (1, lambda given: floating(given[0])),
    "contains": (2, lambda given: word(given[1]) in word(given[0])),
    "startsWith": (2, lambda given: word(given[0]).startswith(word(given[1]))),
    "endsWith": (2, lambda given: word(given[0]).endswith(word(given[1]))),
}
"""name -> (how many arguments, what it does)"""
METHODS: Final = ("size", "contains", "startsWith", "endsWith")
