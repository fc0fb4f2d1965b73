"""The syntax tree of a query."""

from typing import Any

import msgspec


class Literal(msgspec.Struct, frozen=True):
    """A constant; `UNDEFINED` for the keyword of that name."""

    value: Any


class Parameter(msgspec.Struct, frozen=True):
    """`@name`."""

    name: str


class Name(msgspec.Struct, frozen=True):
    """The alias of the container."""

    text: str


class Member(msgspec.Struct, frozen=True):
    """`base.key` or `base[key]`."""

    base: "Expression"
    key: "Expression"


class Unary(msgspec.Struct, frozen=True):
    """`NOT`, `-`, `+` or `~`."""

    operator: str
    operand: "Expression"


class Logical(msgspec.Struct, frozen=True):
    """`AND` or `OR` over two operands or more: flat, so that long lists of alternatives need no deep recursion."""

    operator: str
    operands: tuple["Expression", ...]


class Binary(msgspec.Struct, frozen=True):
    """Two operands; `??` is among the operators."""

    operator: str
    left: "Expression"
    right: "Expression"


class In(msgspec.Struct, frozen=True):
    """`needle IN (…)`."""

    needle: "Expression"
    options: tuple["Expression", ...]


class Between(msgspec.Struct, frozen=True):
    """`value BETWEEN low AND high`."""

    value: "Expression"
    low: "Expression"
    high: "Expression"


class Like(msgspec.Struct, frozen=True):
    """`value LIKE pattern`."""

    value: "Expression"
    pattern: "Expression"


class Call(msgspec.Struct, frozen=True):
    """A function, its name in capitals."""

    function: str
    arguments: tuple["Expression", ...]


class Conditional(msgspec.Struct, frozen=True):
    """`condition ? then : otherwise`."""

    condition: "Expression"
    then: "Expression"
    otherwise: "Expression"


class ArrayOf(msgspec.Struct, frozen=True):
    """`[…]`."""

    members: tuple["Expression", ...]


class ObjectOf(msgspec.Struct, frozen=True):
    """`{"name": …}`."""

    members: tuple[tuple[str, "Expression"], ...]


Expression = (
    Literal
    | Parameter
    | Name
    | Member
    | Unary
    | Logical
    | Binary
    | In
    | Between
    | Like
    | Call
    | Conditional
    | ArrayOf
    | ObjectOf
)


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """A whole query. `select` is the tuple of (expression, name), a single expression for VALUE, or None for `*`."""

    alias: str
    select: tuple[tuple[Expression, str], ...] | Expression | None
    distinct: bool = False
    top: Expression | None = None
    where: Expression | None = None
    order_by: tuple[tuple[Expression, bool], ...] = ()
    """(expression, descending)."""
    offset: Expression | None = None
    limit: Expression | None = None


AGGREGATES = frozenset({"COUNT", "MIN", "MAX", "SUM", "AVG"})


def children(expression: Expression) -> tuple[Expression, ...]:  # noqa: C901 - one case for each node
    """The direct parts of an expression."""
    match expression:
        case Literal() | Parameter() | Name():
            return ()
        case Member(base, key):
            return (base, key)
        case Unary(_, operand):
            return (operand,)
        case Logical(_, operands):
            return operands
        case Binary(_, left, right):
            return (left, right)
        case In(needle, options):
            return (needle, *options)
        case Between(value, low, high):
            return (value, low, high)
        case Like(value, pattern):
            return (value, pattern)
        case Call(_, arguments):
            return arguments
        case Conditional(condition, then, otherwise):
            return (condition, then, otherwise)
        case ArrayOf(members):
            return members
        case ObjectOf(members):
            return tuple(value for _, value in members)


def has_aggregate(expression: Expression) -> bool:
    """Whether an aggregate function occurs anywhere in it."""
    if isinstance(expression, Call) and expression.function in AGGREGATES:
        return True
    return any(has_aggregate(child) for child in children(expression))


def selected(query: Query) -> tuple[Expression, ...]:
    """The expressions of the SELECT clause; none for `*`."""
    if query.select is None:
        return ()
    if isinstance(query.select, tuple):
        return tuple(expression for expression, _ in query.select)
    return (query.select,)


def property_path(expression: Expression, alias: str) -> tuple[str | int, ...] | None:
    """The path of a plain property such as `c.a["b"]`; `()` for the alias itself; None for anything else."""
    match expression:
        case Name(text):
            return () if text == alias else None
        case Member(base, Literal(value)) if type(value) in (str, int):
            steps = property_path(base, alias)
            return None if steps is None else (*steps, value)
        case _:
            return None
