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

from emulator.servicebus.engine import sql_logic as logic
from emulator.servicebus.engine.message import Message
from emulator.servicebus.engine.sql_logic import Evaluator, Row

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


class _Property(NamedTuple):
    """A property reference: how to read it, and how to see whether it is there."""

    read: Evaluator
    exists: Evaluator


def compile_condition(expression: str) -> Callable[[Message], bool]:
    """A predicate of messages.

    Raises:
        ValueError: the expression is not in the dialect; the message says where and what was expected.
    """
    if len(expression) > _EXPRESSION_CHARS_MAX:
        raise ValueError(f"the condition has {len(expression)} characters; at most {_EXPRESSION_CHARS_MAX} are allowed")
    evaluate = _Parser(expression).whole()
    return lambda message: evaluate(Row(message)) is True


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

    def whole(self) -> Evaluator:
        made = self._or()
        if self._peek()[0] != "end":
            raise self._fail("AND, OR or the end")
        return made

    def _or(self) -> Evaluator:
        self._depth += 1
        if self._depth > _DEPTH_MAX:
            raise self._fail(f"fewer than {_DEPTH_MAX} levels of brackets")
        made = self._and()
        while self._take("OR"):
            made = logic.either(made, self._and())
        self._depth -= 1
        return made

    def _and(self) -> Evaluator:
        made = self._negation()
        while self._take("AND"):
            made = logic.both(made, self._negation())
        return made

    def _negation(self) -> Evaluator:
        negations = 0
        while self._take("NOT"):
            negations += 1
        made = self._predicate()
        return logic.inverted(made) if negations % 2 else made

    def _predicate(self) -> Evaluator:
        if self._take("EXISTS"):
            self._expect("(")
            exists = self._property().exists
            self._expect(")")
            return exists
        left = self._sum()
        if comparison := self._take(*_COMPARISONS):
            return logic.compared(_COMPARISONS[comparison], left, self._sum())
        if self._take("IS"):
            negated = self._take("NOT") is not None
            self._expect("NULL")
            return lambda row: (left(row) is None) is not negated
        negated = self._take("NOT") is not None
        if self._take("IN"):
            made = self._in(left)
        elif self._take("LIKE"):
            made = logic.like(left, self._text(), self._text() if self._take("ESCAPE") else None)
        elif negated:
            raise self._fail("IN or LIKE after NOT")
        else:
            return left
        return logic.inverted(made) if negated else made

    def _in(self, left: Evaluator) -> Evaluator:
        self._expect("(")
        made = logic.compared(operator.eq, left, self._sum())
        while self._take(","):
            made = logic.either(made, logic.compared(operator.eq, left, self._sum()))
        self._expect(")")
        return made

    def _text(self) -> str:
        kind, text = self._peek()
        if kind != "text":
            raise self._fail("a text in single quotes")
        self._next += 1
        return text[1:-1].replace("''", "'")

    def _sum(self) -> Evaluator:
        made = self._product()
        while sign := self._take(*_SUMS):
            made = logic.arithmetic(_SUMS[sign], made, self._product())
        return made

    def _product(self) -> Evaluator:
        made = self._signed()
        while sign := self._take(*_PRODUCTS):
            made = logic.arithmetic(_PRODUCTS[sign], made, self._signed())
        return made

    def _signed(self) -> Evaluator:
        minus = False
        while sign := self._take("-", "+"):
            minus ^= sign == "-"
        made = self._primary()
        return logic.arithmetic(operator.sub, lambda _row: 0, made) if minus else made

    def _primary(self) -> Evaluator:
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
