"""The SQL conditions of subscription filters, compiled into functions of a message.

Covered: comparison of properties (`sys.Label`, `user.kind`, `kind`, `[a key]`) and literals, AND, OR, NOT, IN, LIKE,
IS NULL, EXISTS(property), arithmetic. As in the documented dialect, an absent property makes a comparison unknown,
and a filter takes a message only when its condition is true.
https://learn.microsoft.com/azure/service-bus-messaging/service-bus-messaging-sql-filter
"""

import operator
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from emulator.servicebus.engine.message import Message

_SYSTEM = {
    "contenttype": "content_type",
    "correlationid": "correlation_id",
    "label": "subject",
    "subject": "subject",
    "messageid": "message_id",
    "replyto": "reply_to",
    "replytosessionid": "reply_to_session_id",
    "sessionid": "session_id",
    "to": "to",
}
_DEPTH_MAX = 64
_EXPRESSION_CHARS_MAX = 1_024

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<text>'(?:[^']|'')*')
      | (?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)
      | (?P<quoted>\[(?:[^\]]|\]\])+\]|"(?:[^"]|"")+")
      | (?P<name>[A-Za-z_@\#][A-Za-z0-9_@\#$]*)
      | (?P<sign><>|!=|<=|>=|[=<>+\-*/%(),.])
    )""",
    re.VERBOSE,
)


class _Row:
    """A message whose properties are decoded when the first one is asked for."""

    def __init__(self, message: Message) -> None:
        self._message = message
        self._own: dict[str, Any] | None = None

    def system(self, name: str) -> Any:
        value = self._message.system_property(name)
        return None if value is None else str(value)

    def own(self) -> dict[str, Any]:
        if self._own is None:
            self._own = self._message.application_properties()
        return self._own


_Evaluator = Callable[[_Row], Any]


class _Property(NamedTuple):
    """A property reference: how to read it, and how to see whether it is there."""

    read: _Evaluator
    exists: _Evaluator


def compile_condition(expression: str) -> Callable[[Message], bool]:
    """A predicate of messages.

    Raises:
        ValueError: the expression is not in the dialect; the message says where and what was expected.
    """
    if len(expression) > _EXPRESSION_CHARS_MAX:
        raise ValueError(f"the condition has {len(expression)} characters; at most {_EXPRESSION_CHARS_MAX} are allowed")
    evaluate = _Parser(expression).whole()
    return lambda message: evaluate(_Row(message)) is True


# --- three-valued logic: None is unknown -----------------------------------------------------------------------


def _and(left: _Evaluator, right: _Evaluator) -> _Evaluator:
    def evaluate(row: _Row) -> bool | None:
        first = left(row)
        if first is False:
            return False
        second = right(row)
        if second is False:
            return False
        return True if first is True and second is True else None

    return evaluate


def _or(left: _Evaluator, right: _Evaluator) -> _Evaluator:
    def evaluate(row: _Row) -> bool | None:
        first = left(row)
        if first is True:
            return True
        second = right(row)
        if second is True:
            return True
        return False if first is False and second is False else None

    return evaluate


def _not(inner: _Evaluator) -> _Evaluator:
    def evaluate(row: _Row) -> bool | None:
        value = inner(row)
        return not value if isinstance(value, bool) else None

    return evaluate


def _kind(value: Any) -> str | None:
    """The family within which values can be compared."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return "text" if isinstance(value, str) else None


def _compare(compare: Callable[[Any, Any], bool], left: _Evaluator, right: _Evaluator) -> _Evaluator:
    def evaluate(row: _Row) -> bool | None:
        first, second = left(row), right(row)
        kind = _kind(first)
        return compare(first, second) if kind is not None and kind == _kind(second) else None

    return evaluate


def _arithmetic(calculate: Callable[[Any, Any], Any], left: _Evaluator, right: _Evaluator) -> _Evaluator:
    def evaluate(row: _Row) -> Any:
        first, second = left(row), right(row)
        if _kind(first) == _kind(second) == "number":
            try:
                return calculate(first, second)
            except (ZeroDivisionError, OverflowError):
                return None
        return first + second if calculate is operator.add and _kind(first) == _kind(second) == "text" else None

    return evaluate


def _like(value: _Evaluator, pattern: str, escape: str | None) -> _Evaluator:
    parts: list[str] = []
    characters = iter(pattern)
    for character in characters:
        if character == escape:
            parts.append(re.escape(next(characters, "")))
        else:
            parts.append({"%": ".*", "_": "."}.get(character) or re.escape(character))
    matches = re.compile("".join(parts), re.DOTALL).fullmatch

    def evaluate(row: _Row) -> bool | None:
        text = value(row)
        return matches(text) is not None if isinstance(text, str) else None

    return evaluate


_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "<>": operator.ne,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_SUMS: dict[str, Callable[[Any, Any], Any]] = {"+": operator.add, "-": operator.sub}
_PRODUCTS: dict[str, Callable[[Any, Any], Any]] = {"*": operator.mul, "/": operator.truediv, "%": operator.mod}
_CONSTANTS = {"TRUE": True, "FALSE": False, "NULL": None}
_RESERVED = frozenset({"AND", "OR", "NOT", "IN", "LIKE", "IS", "ESCAPE", "EXISTS"})


class _Parser:
    """Recursive descent over the tokens of one expression."""

    def __init__(self, expression: str) -> None:
        self._expression = expression
        self._tokens: list[tuple[str, str, int]] = []
        self._next = 0
        self._depth = 0
        position, text = 0, expression.rstrip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise self._error(position, "a property, a literal or an operator")
            kind = match.lastgroup or ""
            self._tokens.append((kind, match[kind], match.start(kind)))
            position = match.end()

    def _error(self, position: int, expected: str) -> ValueError:
        return ValueError(
            f"the condition {self._expression!r} cannot be understood at character {position + 1};"
            f" write {expected} there"
        )

    def _fail(self, expected: str) -> ValueError:
        end = len(self._expression)
        return self._error(self._tokens[self._next][2] if self._next < len(self._tokens) else end, expected)

    def _peek(self) -> tuple[str, str]:
        """Kind and text of the next token; names in capitals."""
        if self._next >= len(self._tokens):
            return "end", ""
        kind, text, _ = self._tokens[self._next]
        return kind, text.upper() if kind == "name" else text

    def _take(self, *texts: str) -> str | None:
        """The next token if it is one of these operators or words."""
        kind, text = self._peek()
        if kind in ("name", "sign") and text in texts:
            self._next += 1
            return text
        return None

    def _expect(self, text: str) -> None:
        if self._take(text) is None:
            raise self._fail(f"'{text}'")

    def whole(self) -> _Evaluator:
        made = self._or()
        if self._peek()[0] != "end":
            raise self._fail("AND, OR or the end")
        return made

    def _or(self) -> _Evaluator:
        self._depth += 1
        if self._depth > _DEPTH_MAX:
            raise self._fail(f"fewer than {_DEPTH_MAX} levels of brackets")
        made = self._and()
        while self._take("OR"):
            made = _or(made, self._and())
        self._depth -= 1
        return made

    def _and(self) -> _Evaluator:
        made = self._negation()
        while self._take("AND"):
            made = _and(made, self._negation())
        return made

    def _negation(self) -> _Evaluator:
        negations = 0
        while self._take("NOT"):
            negations += 1
        made = self._predicate()
        return _not(made) if negations % 2 else made

    def _predicate(self) -> _Evaluator:
        if self._take("EXISTS"):
            self._expect("(")
            exists = self._property().exists
            self._expect(")")
            return exists
        left = self._sum()
        if comparison := self._take(*_COMPARISONS):
            return _compare(_COMPARISONS[comparison], left, self._sum())
        if self._take("IS"):
            negated = self._take("NOT") is not None
            self._expect("NULL")
            return lambda row: (left(row) is None) is not negated
        negated = self._take("NOT") is not None
        if self._take("IN"):
            made = self._in(left)
        elif self._take("LIKE"):
            made = _like(left, self._text(), self._text() if self._take("ESCAPE") else None)
        elif negated:
            raise self._fail("IN or LIKE after NOT")
        else:
            return left
        return _not(made) if negated else made

    def _in(self, left: _Evaluator) -> _Evaluator:
        self._expect("(")
        made = _compare(operator.eq, left, self._sum())
        while self._take(","):
            made = _or(made, _compare(operator.eq, left, self._sum()))
        self._expect(")")
        return made

    def _text(self) -> str:
        kind, text = self._peek()
        if kind != "text":
            raise self._fail("a text in single quotes")
        self._next += 1
        return text[1:-1].replace("''", "'")

    def _sum(self) -> _Evaluator:
        made = self._product()
        while sign := self._take(*_SUMS):
            made = _arithmetic(_SUMS[sign], made, self._product())
        return made

    def _product(self) -> _Evaluator:
        made = self._signed()
        while sign := self._take(*_PRODUCTS):
            made = _arithmetic(_PRODUCTS[sign], made, self._signed())
        return made

    def _signed(self) -> _Evaluator:
        minus = False
        while sign := self._take("-", "+"):
            minus ^= sign == "-"
        made = self._primary()
        return _arithmetic(operator.sub, lambda _row: 0, made) if minus else made

    def _primary(self) -> _Evaluator:
        kind, text = self._peek()
        if self._take("("):
            made = self._or()
            self._expect(")")
            return made
        if kind == "text":
            literal: Any = self._text()
            return lambda _row: literal
        if kind == "number":
            self._next += 1
            number = int(text) if text.isdecimal() else float(text)
            return lambda _row: number
        if kind == "name" and text in _CONSTANTS:
            self._next += 1
            constant = _CONSTANTS[text]
            return lambda _row: constant
        return self._property().read

    def _property(self) -> _Property:
        scope, name = "user", self._identifier()
        if self._take("."):
            scope, name = name.lower(), self._identifier()
        if scope == "user":
            return _Property(lambda row: row.own().get(name), lambda row: name in row.own())
        if scope != "sys":
            raise self._fail("a property as name, user.name or sys.name")
        field = _SYSTEM.get(name.lower())
        if field is None:
            raise self._fail(f"a system property that exists ({name} does not)")
        return _Property(lambda row: row.system(field), lambda row: row.system(field) is not None)

    def _identifier(self) -> str:
        kind, text = self._peek()
        if kind == "quoted":
            self._next += 1
            return text[1:-1].replace("]]", "]") if text[0] == "[" else text[1:-1].replace('""', '"')
        if kind != "name" or text in _RESERVED:
            raise self._fail("a property or a literal")
        self._next += 1
        return self._tokens[self._next - 1][1]
