"""The three-valued logic of Service Bus SQL: functions of a message that give a value, or None for "unknown"."""

import operator
import re
from collections.abc import Callable
from typing import Any

from emulator.servicebus.engine.message import Message


class Row:
    """A message whose properties are decoded when the first one is asked for."""

    def __init__(self, message: Message) -> None:
        self._message = message
        self._own: dict[str, Any] | None = None

    def system(self, name: str) -> Any:
        """A field of the message itself, as text; None where it is absent."""
        value = self._message.system_property(name)
        return None if value is None else str(value)

    def own(self) -> dict[str, Any]:
        """The application properties."""
        if self._own is None:
            self._own = self._message.application_properties()
        return self._own


Evaluator = Callable[[Row], Any]


def both(left: Evaluator, right: Evaluator) -> Evaluator:
    """AND: false as soon as one side is false, true when both are true."""
    return _decided(False, left, right)


def either(left: Evaluator, right: Evaluator) -> Evaluator:
    """OR: true as soon as one side is true, false when both are false."""
    return _decided(True, left, right)


def _decided(decisive: bool, left: Evaluator, right: Evaluator) -> Evaluator:  # noqa: FBT001 - a value, not a switch
    """`decisive` as soon as one side is, its opposite when both are that, else unknown."""

    def evaluate(row: Row) -> bool | None:
        first: object = left(row)
        if first is decisive:
            return decisive
        second: object = right(row)
        if second is decisive:
            return decisive
        return not decisive if isinstance(first, bool) and isinstance(second, bool) else None

    return evaluate


def inverted(inner: Evaluator) -> Evaluator:
    """NOT: what is unknown stays unknown."""

    def evaluate(row: Row) -> bool | None:
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


def compared(compare: Callable[[Any, Any], bool], left: Evaluator, right: Evaluator) -> Evaluator:
    """A comparison; unknown unless both values are of one family."""

    def evaluate(row: Row) -> bool | None:
        first, second = left(row), right(row)
        kind = _kind(first)
        return compare(first, second) if kind is not None and kind == _kind(second) else None

    return evaluate


def arithmetic(calculate: Callable[[Any, Any], Any], left: Evaluator, right: Evaluator) -> Evaluator:
    """A calculation with numbers, or `+` of texts; unknown for anything else, division by zero included."""

    def evaluate(row: Row) -> Any:
        first, second = left(row), right(row)
        if _kind(first) == _kind(second) == "number":
            try:
                return calculate(first, second)
            except (ZeroDivisionError, OverflowError):
                return None
        return first + second if calculate is operator.add and _kind(first) == _kind(second) == "text" else None

    return evaluate


def like(value: Evaluator, pattern: str, escape: str | None) -> Evaluator:
    """LIKE: `%` is any text and `_` any character, unless `escape` stands before it."""
    parts: list[str] = []
    characters = iter(pattern)
    for character in characters:
        if character == escape:
            parts.append(re.escape(next(characters, "")))
        else:
            parts.append({"%": ".*", "_": "."}.get(character) or re.escape(character))
    matches = re.compile("".join(parts), re.DOTALL).fullmatch

    def evaluate(row: Row) -> bool | None:
        text = value(row)
        return matches(text) is not None if isinstance(text, str) else None

    return evaluate
