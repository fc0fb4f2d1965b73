"""Trees to functions of (document, parameters).

Three-valued logic as documented: a comparison across types, or with something that is not there, is undefined;
`false AND undefined` is false, `true OR undefined` is true; only what is exactly true passes a filter.
"""

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

from emulator.cosmos.errors import bad_request
from emulator.cosmos.sql import tree
from emulator.cosmos.sql.functions import FUNCTIONS, call, like_pattern
from emulator.cosmos.sql.parser import parse_condition
from emulator.cosmos.sql.tree import Expression
from emulator.cosmos.values import UNDEFINED, as_double, equal, is_number, order_key

Parameters = Mapping[str, Any]
Evaluator = Callable[[Any, Parameters], Any]

_EMPTY: Parameters = {}


def compile_expression(expression: Expression) -> Evaluator:  # noqa: C901, PLR0912 - one case for each node
    """A function that evaluates the expression; `UNDEFINED` where it has no value.

    Raises:
        CosmosError: 400 for an unknown function, a wrong number of arguments, or a misplaced aggregate.
    """
    match expression:
        case tree.Literal(value):
            return lambda _document, _parameters: value
        case tree.Parameter(name):
            return lambda _document, parameters: _parameter(parameters, name)
        case tree.Name():
            return lambda document, _parameters: document
        case tree.Member(base, key):
            return _member(base, key)
        case tree.Unary(sign, operand):
            return _unary(sign, compile_expression(operand))
        case tree.Logical(word, operands):
            return _logical(word, tuple(compile_expression(operand) for operand in operands))
        case tree.Binary(sign, left, right):
            return _binary(sign, compile_expression(left), compile_expression(right))
        case tree.In(needle, options):
            return _in(compile_expression(needle), tuple(compile_expression(option) for option in options))
        case tree.Between(value, low, high):
            return _between(compile_expression(value), compile_expression(low), compile_expression(high))
        case tree.Like(value, pattern):
            return _like(compile_expression(value), compile_expression(pattern))
        case tree.Call(name, arguments):
            return _call(name, arguments)
        case tree.Conditional(condition, then, otherwise):
            return _conditional(*(compile_expression(part) for part in (condition, then, otherwise)))
        case tree.ArrayOf(members):
            return _array(tuple(compile_expression(member) for member in members))
        case tree.ObjectOf(members):
            return _object(tuple((name, compile_expression(member)) for name, member in members))


def predicate(text: str) -> Callable[[dict[str, Any]], bool]:
    """A patch's condition as a function of the document.

    Raises:
        CosmosError: 400 where the condition is malformed.
    """
    _, where = parse_condition(text)
    if where is None:
        return lambda _document: True
    evaluator = compile_expression(where)
    return lambda document: evaluator(document, _EMPTY) is True


def _parameter(parameters: Parameters, name: str) -> Any:
    try:
        return parameters[name]
    except KeyError:
        raise bad_request(f"The query uses the parameter '{name}', which was not supplied.") from None


def _member(base: Expression, key: Expression) -> Evaluator:
    of = compile_expression(base)
    if isinstance(key, tree.Literal) and type(key.value) is str:
        name = key.value
        if isinstance(base, tree.Name):
            return lambda document, _parameters: document.get(name, UNDEFINED)

        def named(document: Any, parameters: Parameters) -> Any:
            value = of(document, parameters)
            return value.get(name, UNDEFINED) if type(value) is dict else UNDEFINED

        return named
    at = compile_expression(key)

    def computed(document: Any, parameters: Parameters) -> Any:
        value, step = of(document, parameters), at(document, parameters)
        if type(value) is dict and type(step) is str:
            return value.get(step, UNDEFINED)
        if type(value) is list and type(step) is int and 0 <= step < len(value):
            return value[step]
        return UNDEFINED

    return computed


def _unary(sign: str, operand: Evaluator) -> Evaluator:
    def negate(document: Any, parameters: Parameters) -> Any:
        value = operand(document, parameters)
        return not value if type(value) is bool else UNDEFINED

    def signed(document: Any, parameters: Parameters) -> Any:
        value = operand(document, parameters)
        if not is_number(value):
            return UNDEFINED
        if sign == "~":
            return ~_int32(value)
        return -value if sign == "-" else value

    return negate if sign == "NOT" else signed


def _logical(word: str, operands: tuple[Evaluator, ...]) -> Evaluator:
    decides = word == "OR"

    def evaluate(document: Any, parameters: Parameters) -> Any:
        result: Any = not decides
        for operand in operands:
            value = operand(document, parameters)
            if value is decides:
                return decides
            if type(value) is not bool:
                result = UNDEFINED
        return result

    return evaluate


_ORDERINGS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


def _kind(value: Any) -> int:
    """Values compare within a kind only; true and false are of one kind here."""
    rank = order_key(value)[0]
    return 2 if rank == 3 else rank  # noqa: PLR2004 - the rank of true


def compare(sign: str, left: Any, right: Any) -> Any:
    """A comparison: true, false or undefined."""
    if type(left) is str and type(right) is str and sign in ("=", "!="):
        return (left == right) is (sign == "=")
    kind = _kind(left)
    if kind == 0 or kind != _kind(right):
        return UNDEFINED
    if sign in ("=", "!="):
        return equal(left, right) is (sign == "=")
    if type(left) in (list, dict):
        return UNDEFINED
    if left is None:
        return sign in ("<=", ">=")
    return _ORDERINGS[sign](left, right)


def _binary(sign: str, left: Evaluator, right: Evaluator) -> Evaluator:
    if sign in ("=", "!=", "<", "<=", ">", ">="):
        return lambda document, parameters: compare(sign, left(document, parameters), right(document, parameters))
    if sign == "??":

        def coalesce(document: Any, parameters: Parameters) -> Any:
            value = left(document, parameters)
            return right(document, parameters) if value is UNDEFINED else value

        return coalesce
    return lambda document, parameters: _arithmetic(sign, left(document, parameters), right(document, parameters))


def _int32(value: Any) -> int:
    return (int(value) + 2**31) % 2**32 - 2**31


_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": lambda left, right: left / right if right else UNDEFINED,
    "%": lambda left, right: math.fmod(left, right) if right else UNDEFINED,
    "|": lambda left, right: _int32(left) | _int32(right),
    "&": lambda left, right: _int32(left) & _int32(right),
    "^": lambda left, right: _int32(left) ^ _int32(right),
    "<<": lambda left, right: _int32(_int32(left) << (_int32(right) & 31)),
    ">>": lambda left, right: _int32(left) >> (_int32(right) & 31),
    ">>>": lambda left, right: (_int32(left) & 0xFFFFFFFF) >> (_int32(right) & 31),
}


def _arithmetic(sign: str, left: Any, right: Any) -> Any:
    if sign == "||":
        return left + right if type(left) is str and type(right) is str else UNDEFINED
    if not is_number(left) or not is_number(right):
        return UNDEFINED
    try:
        value = as_double(_ARITHMETIC[sign](left, right))
    except (OverflowError, ValueError):
        return UNDEFINED  # infinite or not a number: JSON has neither
    return value


def _in(needle: Evaluator, options: tuple[Evaluator, ...]) -> Evaluator:
    def evaluate(document: Any, parameters: Parameters) -> Any:
        value = needle(document, parameters)
        if value is UNDEFINED:
            return UNDEFINED
        return any(compare("=", value, option(document, parameters)) is True for option in options)

    return evaluate


def _between(value: Evaluator, low: Evaluator, high: Evaluator) -> Evaluator:
    def evaluate(document: Any, parameters: Parameters) -> Any:
        between = value(document, parameters)
        least = compare(">=", between, low(document, parameters))
        most = compare("<=", between, high(document, parameters))
        if least is False or most is False:
            return False
        return True if least is True and most is True else UNDEFINED

    return evaluate


def _like(value: Evaluator, pattern: Evaluator) -> Evaluator:
    def evaluate(document: Any, parameters: Parameters) -> Any:
        text, like = value(document, parameters), pattern(document, parameters)
        if type(text) is not str or type(like) is not str:
            return UNDEFINED
        return like_pattern(like).fullmatch(text) is not None

    return evaluate


def _call(name: str, arguments: tuple[Expression, ...]) -> Evaluator:
    if name in tree.AGGREGATES:
        raise bad_request(f"The aggregate {name} is only allowed in the SELECT clause, and not inside of another.")
    if name not in FUNCTIONS:
        raise bad_request(f"'{name}' is not a recognized built-in function name.")
    function, least, most = FUNCTIONS[name]
    if not least <= len(arguments) <= most:
        raise bad_request(f"The function '{name}' does not take {len(arguments)} argument(s).")
    evaluators = tuple(compile_expression(argument) for argument in arguments)
    return lambda document, parameters: call(function, [evaluator(document, parameters) for evaluator in evaluators])


def _conditional(condition: Evaluator, then: Evaluator, otherwise: Evaluator) -> Evaluator:
    return lambda document, parameters: (then if condition(document, parameters) is True else otherwise)(
        document, parameters
    )


def _array(members: tuple[Evaluator, ...]) -> Evaluator:
    def evaluate(document: Any, parameters: Parameters) -> Any:
        values = [member(document, parameters) for member in members]
        return [value for value in values if value is not UNDEFINED]

    return evaluate


def _object(members: tuple[tuple[str, Evaluator], ...]) -> Evaluator:
    def evaluate(document: Any, parameters: Parameters) -> Any:
        values = {name: member(document, parameters) for name, member in members}
        return {name: value for name, value in values.items() if value is not UNDEFINED}

    return evaluate
