"""Which items a query has to look at: constraints on the partition key, on ids and on one sorted path.

What is found here only narrows the search; the whole filter is evaluated on every candidate.
"""

from typing import Any, Final

import msgspec

from emulator.cosmos.epk import Key
from emulator.cosmos.errors import CosmosError
from emulator.cosmos.partitionkey import Definition, to_component
from emulator.cosmos.sql import tree
from emulator.cosmos.sql.tree import Expression, Query, property_path
from emulator.cosmos.values import UNDEFINED, is_number

Path = tuple[str | int, ...]

_RANGE_OPERATORS: Final = frozenset({"=", "<", "<=", ">", ">="})
_MIRRORED: Final = {"=": "=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}


class Interval(msgspec.Struct, frozen=True):
    """Numbers at `path` between two bounds, each inclusive or not; None is no bound."""

    path: Path
    low: float | None = None
    low_inclusive: bool = True
    high: float | None = None
    high_inclusive: bool = True

    def narrowed(self, operator: str, value: float) -> "Interval":
        """With one more comparison."""
        low, low_inclusive, high, high_inclusive = self.low, self.low_inclusive, self.high, self.high_inclusive
        if operator in ("=", ">", ">=") and (low is None or value > low or (value == low and operator == ">")):
            low, low_inclusive = value, operator != ">"
        if operator in ("=", "<", "<=") and (high is None or value < high or (value == high and operator == "<")):
            high, high_inclusive = value, operator != "<"
        return Interval(self.path, low, low_inclusive, high, high_inclusive)


class Members(msgspec.Struct, frozen=True):
    """Strings of which one stands at `path`."""

    path: Path
    values: tuple[str, ...]


class Access(msgspec.Struct, frozen=True):
    """`keys` and `ids`: None for any. `points`: exactly these (key, id); then the others are None."""

    keys: tuple[Key, ...] | None = None
    ids: tuple[str, ...] | None = None
    points: tuple[tuple[Key, str], ...] | None = None
    intervals: tuple[Interval, ...] = ()
    members: tuple[Members, ...] = ()


def access_for(query: Query, parameters: dict[str, Any], definition: Definition) -> Access:
    """The narrowest access that the filter allows."""
    if query.where is None:
        return Access()
    where = query.where
    if isinstance(where, tree.Logical) and where.operator == "OR":
        points: list[tuple[Key, str]] = []
        for alternative in where.operands:
            found = _conjunction(alternative, query.alias, parameters, definition)
            if found.keys is None or found.ids is None:
                return Access()
            points += [(key, item_id) for key in found.keys for item_id in found.ids]
        return Access(points=tuple(dict.fromkeys(points)))
    return _conjunction(where, query.alias, parameters, definition)


def _conjunction(where: Expression, alias: str, parameters: dict[str, Any], definition: Definition) -> Access:
    parts = where.operands if isinstance(where, tree.Logical) and where.operator == "AND" else (where,)
    equalities: dict[Path, Any] = {}
    ids: tuple[str, ...] | None = None
    intervals: dict[Path, Interval] = {}
    members: list[Members] = []
    for part in parts:
        members += _members(part, alias, parameters)
        ids = _ids(part, alias, parameters) if ids is None else ids
        for path, operator, value in _comparisons(part, alias, parameters):
            if operator == "=":
                equalities.setdefault(path, value)
            if is_number(value):
                intervals[path] = intervals.get(path, Interval(path)).narrowed(operator, value)
    return Access(_keys(equalities, definition), ids, None, tuple(intervals.values()), tuple(members))


def _keys(equalities: dict[Path, Any], definition: Definition) -> tuple[Key, ...] | None:
    if not all(path in equalities for path in definition.paths):
        return None
    try:
        return (tuple(to_component(equalities[path]) for path in definition.paths),)
    except CosmosError:
        return None  # an array or an object is no key: nothing matches, and the filter will say so


def _constant(expression: Expression, parameters: dict[str, Any]) -> Any:
    if isinstance(expression, tree.Literal):
        return expression.value
    if isinstance(expression, tree.Parameter):
        return parameters.get(expression.name, UNDEFINED)
    if isinstance(expression, tree.Unary) and expression.operator == "-":
        value = _constant(expression.operand, parameters)
        return -value if is_number(value) else UNDEFINED
    return UNDEFINED


def _comparisons(part: Expression, alias: str, parameters: dict[str, Any]) -> list[tuple[Path, str, Any]]:
    """What a conjunct says about a property: (path, operator, constant)."""
    found = []
    match part:
        case tree.Binary(operator, left, right) if operator in _RANGE_OPERATORS:
            found = [(left, operator, right), (right, _MIRRORED[operator], left)]
        case tree.Between(value, low, high):
            found = [(value, ">=", low), (value, "<=", high)]
        case _:
            pass
    comparisons = []
    for expression, operator, other in found:
        path = property_path(expression, alias)
        value = _constant(other, parameters)
        if path and value is not UNDEFINED:
            comparisons.append((path, operator, value))
    return comparisons


def _members(part: Expression, alias: str, parameters: dict[str, Any]) -> list[Members]:
    """What a conjunct says about a property by IN or `=`, where it is about strings only."""
    match part:
        case tree.In(needle, options):
            path, values = property_path(needle, alias), [_constant(option, parameters) for option in options]
        case tree.Binary("=", left, right) if property_path(left, alias):
            path, values = property_path(left, alias), [_constant(right, parameters)]
        case tree.Binary("=", left, right):
            path, values = property_path(right, alias), [_constant(left, parameters)]
        case _:
            return []
    if not path or not all(type(value) is str for value in values):
        return []
    return [Members(path, tuple(dict.fromkeys(values)))]


def _ids(part: Expression, alias: str, parameters: dict[str, Any]) -> tuple[str, ...] | None:
    options: tuple[Expression, ...] = ()
    match part:
        case tree.In(needle, choices) if property_path(needle, alias) == ("id",):
            options = choices
        case tree.Binary("=", left, right) if property_path(left, alias) == ("id",):
            options = (right,)
        case tree.Binary("=", left, right) if property_path(right, alias) == ("id",):
            options = (left,)
        case _:
            return None
    values = [_constant(option, parameters) for option in options]
    if any(value is UNDEFINED for value in values):
        return None
    return tuple(dict.fromkeys(value for value in values if type(value) is str))
