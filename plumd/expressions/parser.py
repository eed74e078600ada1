"""Recursive descent over a bounded source."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from plumd.expressions.tree import (
    Call,
    Chain,
    Choice,
    Expr,
    Has,
    Index,
    Items,
    Literal,
    Logic,
    Ref,
    Unary,
)
from plumd.expressions.values import FUNCTIONS, INT_MAX, INT_MIN, METHODS, Failure, in_range

SOURCE_CHARS_MAX: Final = 2_000
DEPTH_MAX: Final = 40


class Wrong(ValueError):
    """The source is no expression of the subset. at: the character, from 0."""

    def __init__(self, message: str, at: int) -> None:
        super().__init__(f"{message} (character {at + 1})")
        self.at = at


TOKEN: Final = re.compile(r"""\s*(?:
    (?P<number>(?:[0-9]+\.[0-9]+(?:[eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+|[0-9]+))
  | (?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
  | (?P<name>[^\W\d]\w*)
  | (?P<sign>&&|\|\||==|!=|<=|>=|[-+*/%<>!?:.,()\[\]{}])
)""", re.VERBOSE)
ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "'": "'", '"': '"', "`": "`"}
LEVELS: Final = (("==", "!=", "<", "<=", ">", ">=", "in"), ("+", "-"), ("*", "/", "%"))


class Token(NamedTuple):
    """kind: number, text, name, sign, end."""

    kind: str
    text: str
    at: int


def tokens(source: str, start: int = 0) -> Iterator[Token]:
    """The tokens from a place on, and an end. Raises: Wrong."""
    at, limit = start, len(source)
    while True:
        found = TOKEN.match(source, at)
        if found is None or found.lastgroup is None:
            rest = source[at:].lstrip()
            if rest:
                raise Wrong(f"{rest[0]!r} does not belong here", limit - len(rest))
            yield Token("end", "", limit)
            return
        yield Token(found.lastgroup, found[found.lastgroup], found.start(found.lastgroup))
        at = found.end()


class Parser:
    """Recursive descent; how deep it goes is bounded by DEPTH_MAX."""

    def __init__(self, source: str, start: int = 0) -> None:
        self.tokens = tokens(source, start)
        self.depth = 0
        self.now = next(self.tokens)

    def step(self) -> Token:
        """Take the current token."""
        taken = self.now
        if taken.kind != "end":
            self.now = next(self.tokens)
        return taken

    def eat(self, sign: str) -> bool:
        """Take this sign if it stands here."""
        if self.now.kind == "sign" and self.now.text == sign:
            self.step()
            return True
        return False

    def need(self, sign: str) -> None:
        """Raises: Wrong unless this sign stands here."""
        if not self.eat(sign):
            raise Wrong(f"{sign!r} is missing", self.now.at)

    def whole(self) -> Expr:
        """An expression with nothing behind it."""
        found = self.expression()
        if self.now.kind != "end":
            raise Wrong(f"{self.now.text!r} does not belong here", self.now.at)
        return found

    def expression(self) -> Expr:
        self.depth += 1
        if self.depth > DEPTH_MAX:
            raise Wrong(f"it nests deeper than {DEPTH_MAX} levels", self.now.at)
        found = self.logic("||", True)
        if self.eat("?"):
            yes = self.expression()
            self.need(":")
            found = Choice(found, yes, self.expression())
        self.depth -= 1
        return found

    def logic(self, sign: str, decides: bool) -> Expr:
        def part() -> Expr:
            return self.logic("&&", False) if decides else self.chain(0)

        parts = [part()]
        while self.eat(sign):
            parts.append(part())
        return parts[0] if len(parts) == 1 else Logic(decides, tuple(parts))

    def chain(self, level: int) -> Expr:
        def part() -> Expr:
            return self.chain(level + 1) if level + 1 < len(LEVELS) else self.unary()

        first, rest = part(), []
        while self.now.kind in ("sign", "name") and self.now.text in LEVELS[level]:
            sign = self.step().text
            rest.append((sign, part()))
        return Chain(first, tuple(rest)) if rest else first

    def unary(self) -> Expr:
        signs = []
        while self.now.kind == "sign" and self.now.text in "!-":
            signs.append(self.step().text)
            if len(signs) > DEPTH_MAX:
                raise Wrong("too many signs in a row", self.now.at)
        found = self.postfix(self.primary())
        for sign in reversed(signs):
            value = found.value if isinstance(found, Literal) else None
            if sign == "-" and isinstance(value, int | float) and not isinstance(value, bool):
                found = Literal(-value)
            else:
                found = Unary(sign, found)
        if isinstance(found, Literal) and isinstance(found.value, int) \
                and not INT_MIN <= found.value <= INT_MAX:
            raise Wrong("a number is past 64 bits", self.now.at)
        return found

    def postfix(self, found: Expr) -> Expr:
        count = 0
        while True:
            count += 1
            if count > DEPTH_MAX:
                raise Wrong(f"a path takes at most {DEPTH_MAX} parts", self.now.at)
            if self.eat("."):
                name = self.step()
                if name.kind != "name":
                    raise Wrong("a name is missing behind the dot", name.at)
                if self.now.text == "(" and self.now.kind == "sign":
                    if name.text not in METHODS:
                        raise Wrong(f"there is no method {name.text!r}", name.at)
                    found = self.call(name, (found,))
                else:
                    found = deeper(found, Literal(name.text))
            elif self.eat("["):
                found = deeper(found, self.expression())
                self.need("]")
            else:
                return found

    def primary(self) -> Expr:
        token = self.step()
        if token.kind == "number":
            try:
                return Literal(int(token.text)) if token.text.isdigit() else Literal(
                    in_range(float(token.text)))
            except Failure as error:
                raise Wrong(str(error), token.at) from None
        if token.kind == "text":
            return Literal(unescape(token))
        if token.kind == "name":
            if token.text in CONSTANTS:
                return Literal(CONSTANTS[token.text])
            if self.now == Token("sign", "(", self.now.at):
                return self.has() if token.text == "has" else self.call(token, ())
            return Ref(token.text)
        if token == Token("sign", "(", token.at):
            found = self.expression()
            self.need(")")
            return found
        if token == Token("sign", "[", token.at):
            return Items(self.arguments("]"))
        raise Wrong("an expression ends too early" if token.kind == "end"
                    else f"{token.text!r} does not belong here", token.at)

    def has(self) -> Expr:
        self.need("(")
        at, inner = self.now.at, self.expression()
        self.need(")")
        if not isinstance(inner, Ref | Index):
            raise Wrong("has() asks for a path, as in has(a.b)", at)
        return Has(inner)

    def call(self, name: Token, before: tuple[Expr, ...]) -> Expr:
        if name.text not in FUNCTIONS or (not before and name.text in METHODS[1:]):
            raise Wrong(f"there is no function {name.text!r}", name.at)
        self.need("(")
        arguments = (*before, *self.arguments(")"))
        if len(arguments) != FUNCTIONS[name.text][0]:
            raise Wrong(f"{name.text} takes {FUNCTIONS[name.text][0] - len(before)} argument(s)",
                        name.at)
        return Call(name.text, arguments)

    def arguments(self, close: str) -> tuple[Expr, ...]:
        found: list[Expr] = []
        while not self.eat(close):
            if found:
                self.need(",")
            found.append(self.expression())
        return tuple(found)


CONSTANTS: Final[dict[str, bool | None]] = {"true": True, "false": False, "null": None}


def deeper(found: Expr, key: Expr) -> Expr:
    """A part more: a plain path stays one reference."""
    if isinstance(found, Ref) and isinstance(key, Literal) and type(key.value) in (str, int):
        assert isinstance(key.value, str | int)
        return Ref(found.root, (*found.path, key.value))
    return Index(found, key)


def unescape(token: Token) -> str:
    """The text between the quotes. Raises: Wrong."""
    out, inner, at = [], token.text[1:-1], 0
    while at < len(inner):
        if inner[at] == "\\":
            at += 1
            if inner[at] not in ESCAPES:
                raise Wrong(f"there is no escape \\{inner[at]}", token.at + at)
            out.append(ESCAPES[inner[at]])
        else:
            out.append(inner[at])
        at += 1
    return "".join(out)


def parse(source: str) -> Expr:
    """The expression that a source means. Raises: Wrong."""
    if len(source) > SOURCE_CHARS_MAX:
        raise Wrong(f"an expression takes at most {SOURCE_CHARS_MAX} characters",
                    SOURCE_CHARS_MAX)
    return Parser(source).whole()


def parse_reference(source: str, start: int) -> tuple[Expr, int]:
    """The expression from start up to its closing brace, and the place behind that.

    Raises: Wrong.
    """
    parser = Parser(source[:start + SOURCE_CHARS_MAX + 1], start)
    found = parser.expression()
    if not (parser.now.kind == "sign" and parser.now.text == "}"):
        raise Wrong("the closing } is missing", parser.now.at)
    return found, parser.now.at + 1
