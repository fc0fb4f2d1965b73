"""Reads the part of Bicep that deploy/bicep uses, strictly: what it does not know is an error, with its line.

No compiler: types and the properties that Azure's resources have are not known here. It tells what a compiler would
tell of brackets, names, parameters and modules, and gives the values, so that tests can compare them with the
product's own. A string within a string's `${}` is not read.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FUNCTIONS = frozenset(
    {"empty", "environment", "guid", "replace", "resourceGroup", "subscriptionResourceId", "toLower", "uniqueString"}
)
TYPES = frozenset({"array", "bool", "int", "object", "string"})
_TOKEN = re.compile(
    r"(?P<space>[ \t\r\n]+|//[^\n]*)|(?P<word>[A-Za-z_]\w*)|(?P<number>\d+)|(?P<sign>[@=:,.?!()\[\]{}-])"
)
_TEXT = re.compile(r"'(?:[^'\\\n]|\\.)*'")


class BicepError(ValueError):
    """The file is not what this reader takes for Bicep."""


@dataclass(frozen=True)
class Name:
    """A reference: a symbol and the properties behind it."""

    symbol: str
    path: tuple[str, ...] = ()


@dataclass(frozen=True)
class Call:
    """A function, its arguments, and the properties behind it."""

    function: str
    arguments: tuple[Any, ...]
    path: tuple[str, ...] = ()


@dataclass(frozen=True)
class Text:
    """A string with something inserted: literal parts and expressions, in order."""

    parts: tuple[Any, ...]


@dataclass(frozen=True)
class Choice:
    """condition ? yes : no."""

    condition: Any
    yes: Any
    no: Any


@dataclass
class Statement:
    """One declaration. `value` is what stands behind `=`; a loop's is its body."""

    kind: str
    name: str
    type: str
    value: Any
    condition: Any = None
    loop: tuple[str, Any] | None = None
    decorators: list[Call] = field(default_factory=list)


@dataclass
class Module:
    """One file."""

    path: Path
    statements: list[Statement]

    def named(self, kind: str) -> dict[str, Statement]:
        return {each.name: each for each in self.statements if each.kind == kind}


def read(path: Path) -> Module:
    """Read a file. Raises BicepError."""
    return Module(path, list(_Reader(path.read_text(encoding="utf-8"), str(path)).statements()))


def expressions(value: Any) -> Iterator[Name | Call]:
    """Every reference and call in a value."""
    match value:
        case dict():
            for inner in value.values():
                yield from expressions(inner)
        case list() | tuple():
            for inner in value:
                yield from expressions(inner)
        case Text(parts):
            yield from expressions(parts)
        case Choice(condition, yes, no):
            yield from expressions((condition, yes, no))
        case Call(_, arguments):
            yield value
            yield from expressions(arguments)
        case Name():
            yield value
        case _:
            pass


def _tokens(source: str, where: str) -> list[tuple[str, int]]:
    found, at = [], 0
    while at < len(source):
        match = _TEXT.match(source, at) or _TOKEN.match(source, at)
        if match is None:
            raise BicepError(f"{where}:{source.count(chr(10), 0, at) + 1}: {source[at : at + 20]!r} is not known here")
        if match.re is _TEXT or match.lastgroup != "space":
            found.append((match[0], source.count("\n", 0, at) + 1))
        at = match.end()
    return found


class _Reader:
    def __init__(self, source: str, where: str, line: int = 0) -> None:
        self._tokens = _tokens(source, where)
        self._where = where
        self._line = line
        self._at = 0

    def statements(self) -> Iterator[Statement]:
        while self._at < len(self._tokens):
            decorators = []
            while self._taken("@"):
                call = self._expression()
                if not isinstance(call, Call):
                    raise self._error("a decorator is a call")
                decorators.append(call)
            made = self._statement()
            if made is not None:
                made.decorators = decorators
                yield made

    def _statement(self) -> Statement | None:
        match kind := self._word():
            case "targetScope":
                self._take("=")
                self._expression()
                return None
            case "param":
                name, type_ = self._word(), self._word()
                return Statement(kind, name, type_, self._expression() if self._taken("=") else None)
            case "var":
                name = self._word()
                self._take("=")
                return Statement(kind, name, "", self._expression())
            case "output":
                name, type_ = self._word(), self._word()
                self._take("=")
                return Statement(kind, name, type_, self._expression())
            case "resource" | "module":
                return self._resource(kind)
            case _:
                raise self._error(f"{kind!r} begins no statement")

    def _resource(self, kind: str) -> Statement:
        name = self._word()
        type_ = self._expression()
        if not isinstance(type_, str):
            raise self._error(f"the type of {name} is no plain string")
        self._take("=")
        condition, loop = None, None
        if self._taken("["):
            self._take("for")
            each = self._word()
            self._take("in")
            loop = (each, self._expression())
            self._take(":")
        elif self._taken("if"):
            self._take("(")
            condition = self._expression()
            self._take(")")
        value = self._expression()
        if not isinstance(value, dict):
            raise self._error(f"the body of {name} is no object")
        if loop is not None:
            self._take("]")
        return Statement(kind, name, type_, value, condition, loop)

    def _expression(self) -> Any:
        value = self._unary()
        if self._taken("?"):
            yes = self._expression()
            self._take(":")
            return Choice(value, yes, self._expression())
        return value

    def _unary(self) -> Any:
        if self._taken("!"):
            return Call("!", (self._unary(),))
        if self._taken("-"):
            return -int(self._next())
        return self._postfix()

    def _postfix(self) -> Any:
        token = self._next()
        if token == "{":
            return self._object()
        if token == "[":
            return self._array()
        if token == "(":
            value = self._expression()
            self._take(")")
            return value
        if token.startswith("'"):
            return self._text(token[1:-1])
        if token.isdecimal():
            return int(token)
        if token in ("true", "false"):
            return token == "true"
        if not token[0].isalpha():
            raise self._error(f"{token!r} begins no value")
        arguments = tuple(self._arguments()) if self._taken("(") else None
        path = []
        while self._taken("."):
            path.append(self._word())
        return Name(token, tuple(path)) if arguments is None else Call(token, arguments, tuple(path))

    def _arguments(self) -> Iterator[Any]:
        while not self._taken(")"):
            yield self._expression()
            if self._peek() != ")":
                self._take(",")

    def _array(self) -> list[Any]:
        items = []
        while not self._taken("]"):
            items.append(self._expression())
            self._taken(",")
        return items

    def _object(self) -> dict[str, Any]:
        members: dict[str, Any] = {}
        while not self._taken("}"):
            key = self._word()
            if key in members:
                raise self._error(f"{key} stands twice in an object")
            self._take(":")
            members[key] = self._expression()
            self._taken(",")
        return members

    def _text(self, raw: str) -> Any:
        """A plain string, or one with expressions in `${}`; braces in those do not nest here."""
        pieces = re.split(r"\$\{((?:[^{}])*)\}", raw)
        if len(pieces) == 1:
            return raw
        return Text(
            tuple(
                _Reader(piece, self._where)._expression() if index % 2 else piece for index, piece in enumerate(pieces)
            )
        )

    def _peek(self) -> str:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else ""

    def _next(self) -> str:
        if self._at == len(self._tokens):
            raise self._error("it ends too soon")
        self._at += 1
        return self._tokens[self._at - 1][0]

    def _taken(self, token: str) -> bool:
        if self._peek() != token:
            return False
        self._at += 1
        return True

    def _take(self, token: str) -> None:
        if not self._taken(token):
            raise self._error(f"{token!r} is wanted, not {self._peek()!r}")

    def _word(self) -> str:
        token = self._next()
        if not re.fullmatch(r"[A-Za-z_]\w*", token):
            raise self._error(f"a name is wanted, not {token!r}")
        return token

    def _error(self, text: str) -> BicepError:
        line = self._tokens[min(self._at, len(self._tokens) - 1)][1] if self._tokens else 0
        return BicepError(f"{self._where}:{line}: {text}")
