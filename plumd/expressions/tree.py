"""The nodes of an expression; each answers its value."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import msgspec

from plumd.expressions.values import (
    BINARY,
    FUNCTIONS,
    Failure,
    Path,
    Value,
    in_range,
    item_of,
    number,
    path_text,
    truth,
)

Look: TypeAlias = Callable[[str, Path], Value]
"""Answers what a reference (its root and path) stands for. Raises: Failure when it is nothing."""


class Literal(msgspec.Struct, frozen=True):
    """A value that stands in the source."""

    value: bool | int | float | str | None

    def eval(self, look: Look) -> Value:
        del look
        return self.value


class Ref(msgspec.Struct, frozen=True):
    """A name and a path of keys and indexes behind it."""

    root: str
    path: Path = ()

    def eval(self, look: Look) -> Value:
        return look(self.root, self.path)

    def __str__(self) -> str:
        return self.root + path_text(self.path)


class Index(msgspec.Struct, frozen=True):
    """`of[key]` with a key that is computed, or `.name` of what is no plain reference."""

    of: Expr
    key: Expr

    def eval(self, look: Look) -> Value:
        return item_of(self.of.eval(look), self.key.eval(look))


class Items(msgspec.Struct, frozen=True):
    """`[a, b]`."""

    items: tuple[Expr, ...]

    def eval(self, look: Look) -> Value:
        return [item.eval(look) for item in self.items]


class Unary(msgspec.Struct, frozen=True):
    """`!a` or `-a`."""

    sign: str
    of: Expr

    def eval(self, look: Look) -> Value:
        value = self.of.eval(look)
        if self.sign == "!":
            return not truth(value)
        return in_range(-number(value))


class Chain(msgspec.Struct, frozen=True):
    """`a + b - c` and the like, one level of precedence, from the left; no depth comes of it."""

    first: Expr
    rest: tuple[tuple[str, Expr], ...]

    def eval(self, look: Look) -> Value:
        value = self.first.eval(look)
        for sign, operand in self.rest:
            value = BINARY[sign](value, operand.eval(look))
        return value


class Logic(msgspec.Struct, frozen=True):
    """`a && b && c` (decides: False) or `a || b || c` (decides: True)."""

    decides: bool
    parts: tuple[Expr, ...]

    def eval(self, look: Look) -> Value:
        failure: Failure | None = None
        for part in self.parts:
            try:
                if truth(part.eval(look)) is self.decides:
                    return self.decides
            except Failure as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return not self.decides


class Choice(msgspec.Struct, frozen=True):
    """`a ? b : c`."""

    condition: Expr
    yes: Expr
    no: Expr

    def eval(self, look: Look) -> Value:
        return (self.yes if truth(self.condition.eval(look)) else self.no).eval(look)


class Has(msgspec.Struct, frozen=True):
    """`has(a.b)`: whether there is something there."""

    of: Expr

    def eval(self, look: Look) -> Value:
        try:
            self.of.eval(look)
        except Failure:
            return False
        return True


class Call(msgspec.Struct, frozen=True):
    """A function, or a method with its object as the first argument."""

    name: str
    arguments: tuple[Expr, ...]

    def eval(self, look: Look) -> Value:
        return FUNCTIONS[self.name][1]([one.eval(look) for one in self.arguments])


Expr: TypeAlias = ("Literal | Ref | Index | Items | Unary | Chain | Logic | Choice | Has | Call")


def references(expr: Expr) -> Iterator[Ref]:
    """Every reference in an expression."""
    waiting: list[Expr] = [expr]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Ref):
            yield one
        else:
            waiting.extend(parts_of(one))


def parts_of(one: Expr) -> Sequence[Expr]:
    """The expressions directly inside one."""
    if isinstance(one, Index):
        return one.of, one.key
    if isinstance(one, Items):
        return one.items
    if isinstance(one, Unary | Has):
        return (one.of,)
    if isinstance(one, Chain):
        return one.first, *(operand for _, operand in one.rest)
    if isinstance(one, Logic):
        return one.parts
    if isinstance(one, Choice):
        return one.condition, one.yes, one.no
    if isinstance(one, Call):
        return one.arguments
    return ()
