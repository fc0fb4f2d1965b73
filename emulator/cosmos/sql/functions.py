"""Scalar functions of the query language: values in, a value out, undefined for arguments that do not fit."""

import math
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from emulator.cosmos.values import UNDEFINED, as_double, encode, equal, is_number

Scalar = Callable[..., Any]


def _text(function: Callable[[str], Any]) -> Scalar:
    return lambda value: function(value) if type(value) is str else UNDEFINED


def _number(function: Callable[[Any], Any]) -> Scalar:
    return lambda value: function(value) if is_number(value) else UNDEFINED


def _two_texts(function: Callable[[str, str], Any]) -> Scalar:
    """A function of two strings with an optional third argument that asks to ignore case."""

    def call(one: Any, other: Any, ignore_case: Any = None) -> Any:
        if type(one) is not str or type(other) is not str:
            return UNDEFINED
        return function(one.lower(), other.lower()) if ignore_case is True else function(one, other)

    return call


def _array_contains(array: Any, needle: Any, partial: Any = None) -> Any:
    if type(array) is not list:
        return UNDEFINED
    if partial is True and type(needle) is dict:
        return any(
            type(member) is dict and all(key in member and equal(member[key], value) for key, value in needle.items())
            for member in array
        )
    return any(equal(member, needle) for member in array)


def _substring(text: Any, start: Any, length: Any) -> Any:
    if type(text) is not str or not is_number(start) or not is_number(length):
        return UNDEFINED
    begin = max(0, int(start))
    return text[begin : begin + max(0, int(length))]


def _concat(*parts: Any) -> Any:
    return "".join(parts) if all(type(part) is str for part in parts) else UNDEFINED


def _array_concat(*arrays: Any) -> Any:
    if not all(type(array) is list for array in arrays):
        return UNDEFINED
    return [member for array in arrays for member in array]


def _array_slice(array: Any, start: Any, length: Any = None) -> Any:
    if type(array) is not list or not is_number(start) or not (length is None or is_number(length)):
        return UNDEFINED
    begin = int(start) if start >= 0 else max(0, len(array) + int(start))
    return array[begin:] if length is None else array[begin : begin + max(0, int(length))]


def _side(*, left: bool) -> Scalar:
    def call(text: Any, length: Any) -> Any:
        if type(text) is not str or not is_number(length):
            return UNDEFINED
        count = max(0, int(length))
        return text[:count] if left else text[max(0, len(text) - count) :]

    return call


def _replace(text: Any, old: Any, new: Any) -> Any:
    if not (type(text) is str and type(old) is str and type(new) is str):
        return UNDEFINED
    return text.replace(old, new) if old else text


def _round(value: Any) -> Any:
    return math.copysign(math.floor(abs(value) + 0.5), value)


def _to_string(value: Any) -> Any:
    if value is UNDEFINED:
        return UNDEFINED
    return value if type(value) is str else encode(value).decode()


def _to_number(text: Any) -> Any:
    if type(text) is not str or not re.fullmatch(r"\s*-?\d+(\.\d+)?([eE][+-]?\d+)?\s*", text):
        return UNDEFINED
    return float(text)


def _power(base: Any, exponent: Any) -> Any:
    if not is_number(base) or not is_number(exponent):
        return UNDEFINED
    try:
        result = float(base) ** float(exponent)
    except (OverflowError, ZeroDivisionError):
        return UNDEFINED
    return result if type(result) is float else UNDEFINED


def _is(*kinds: type) -> Scalar:
    return lambda value: type(value) in kinds


FUNCTIONS: Final[dict[str, tuple[Scalar, int, int]]] = {
    "IS_DEFINED": (lambda value: value is not UNDEFINED, 1, 1),
    "IS_NULL": (lambda value: value is None, 1, 1),
    "IS_NUMBER": (_is(int, float), 1, 1),
    "IS_INTEGER": (lambda value: is_number(value) and float(value).is_integer(), 1, 1),
    "IS_STRING": (_is(str), 1, 1),
    "IS_BOOL": (_is(bool), 1, 1),
    "IS_ARRAY": (_is(list), 1, 1),
    "IS_OBJECT": (_is(dict), 1, 1),
    "IS_PRIMITIVE": (_is(str, int, float, bool, type(None)), 1, 1),
    "STARTSWITH": (_two_texts(str.startswith), 2, 3),
    "ENDSWITH": (_two_texts(str.endswith), 2, 3),
    "CONTAINS": (_two_texts(lambda text, part: part in text), 2, 3),
    "STRINGEQUALS": (_two_texts(lambda one, other: one == other), 2, 3),
    "INDEX_OF": (_two_texts(str.find), 2, 2),
    "LOWER": (_text(str.lower), 1, 1),
    "UPPER": (_text(str.upper), 1, 1),
    "LENGTH": (_text(len), 1, 1),
    "REVERSE": (_text(lambda text: text[::-1]), 1, 1),
    "TRIM": (_text(str.strip), 1, 1),
    "LTRIM": (_text(str.lstrip), 1, 1),
    "RTRIM": (_text(str.rstrip), 1, 1),
    "LEFT": (_side(left=True), 2, 2),
    "RIGHT": (_side(left=False), 2, 2),
    "SUBSTRING": (_substring, 3, 3),
    "REPLACE": (_replace, 3, 3),
    "CONCAT": (_concat, 2, 100),
    "TOSTRING": (_to_string, 1, 1),
    "STRINGTONUMBER": (_to_number, 1, 1),
    "ARRAY_CONTAINS": (_array_contains, 2, 3),
    "ARRAY_LENGTH": (lambda array: len(array) if type(array) is list else UNDEFINED, 1, 1),
    "ARRAY_CONCAT": (_array_concat, 2, 100),
    "ARRAY_SLICE": (_array_slice, 2, 3),
    "ABS": (_number(abs), 1, 1),
    "FLOOR": (_number(math.floor), 1, 1),
    "CEILING": (_number(math.ceil), 1, 1),
    "ROUND": (_number(_round), 1, 1),
    "TRUNC": (_number(math.trunc), 1, 1),
    "SIGN": (_number(lambda value: (value > 0) - (value < 0)), 1, 1),
    "SQRT": (_number(lambda value: math.sqrt(value) if value >= 0 else UNDEFINED), 1, 1),
    "POWER": (_power, 2, 2),
}
"""Name to (function, least and most number of arguments)."""


def call(function: Scalar, arguments: list[Any]) -> Any:
    """Call a function of the table."""
    try:
        return as_double(function(*arguments))
    except (OverflowError, ValueError):
        return UNDEFINED  # infinite or not a number: JSON has neither


@lru_cache(maxsize=256)
def like_pattern(pattern: str) -> re.Pattern[str]:
    """A LIKE pattern (`%`, `_`, `[a-z]`, `[^a]`) as a regular expression."""
    parts = []
    at = 0
    while at < len(pattern):
        character = pattern[at]
        end = pattern.find("]", at + 1) if character == "[" else -1
        if character == "%":
            parts.append(".*")
        elif character == "_":
            parts.append(".")
        elif end > at + 1:
            inside = pattern[at + 1 : end].replace("\\", "\\\\").replace("[", "\\[")
            parts.append(f"[{inside}]")
            at = end
        else:
            parts.append(re.escape(character))
        at += 1
    return re.compile("".join(parts), re.DOTALL)
