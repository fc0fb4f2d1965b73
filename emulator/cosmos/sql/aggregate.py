"""COUNT, MIN, MAX, SUM and AVG over the items that pass the filter."""

from typing import Any

from emulator.cosmos.errors import bad_request
from emulator.cosmos.sql import tree
from emulator.cosmos.sql.evaluate import Evaluator, Parameters, compile_expression
from emulator.cosmos.sql.tree import Expression
from emulator.cosmos.values import UNDEFINED, as_double, is_number, order_key


class Accumulator:
    """One aggregate call while it is fed."""

    def __init__(self, function: str, argument: Evaluator) -> None:
        self._function = function
        self._argument = argument
        self._count = 0
        self._sum: Any = 0
        self._best: Any = UNDEFINED
        self._spoilt = False

    def feed(self, document: Any, parameters: Parameters) -> None:
        """Take one item in."""
        value = self._argument(document, parameters)
        if value is UNDEFINED:
            return
        self._count += 1
        if self._function in ("SUM", "AVG"):
            if is_number(value):
                self._sum += value
            else:
                self._spoilt = True
        elif self._function in ("MIN", "MAX") and self._beats(value):
            self._best = value

    def _beats(self, value: Any) -> bool:
        if self._best is UNDEFINED:
            return True
        if self._function == "MIN":
            return order_key(value) < order_key(self._best)
        return order_key(value) > order_key(self._best)

    def result(self) -> Any:
        """The aggregate; undefined for MIN, MAX and AVG of nothing and for sums over anything but numbers."""
        if self._function == "COUNT":
            return self._count
        if self._function in ("MIN", "MAX"):
            return self._best
        if self._spoilt:
            return UNDEFINED
        if not self._count:
            return UNDEFINED
        try:
            return as_double(self._sum if self._function == "SUM" else self._sum / self._count)
        except (OverflowError, ValueError):
            return UNDEFINED


class Aggregation:
    """A SELECT clause with aggregates: `feed` every item, then `result` once."""

    def __init__(self, select: Expression) -> None:
        self._accumulators: list[Accumulator] = []
        self._result = self._compile(select)

    def _compile(self, expression: Expression) -> Evaluator:
        """The expression over finished aggregates: what is left of the tree once they are values."""
        match expression:
            case tree.Call(name, arguments) if name in tree.AGGREGATES:
                if len(arguments) != 1:
                    raise bad_request(f"The aggregate {name} takes one argument.")
                accumulator = Accumulator(name, compile_expression(arguments[0]))
                self._accumulators.append(accumulator)
                return lambda _document, _parameters: accumulator.result()
            case tree.ObjectOf(members):
                parts = [(name, self._compile(member)) for name, member in members]
                return lambda document, parameters: {
                    name: value for name, part in parts if (value := part(document, parameters)) is not UNDEFINED
                }
            case tree.ArrayOf(members):
                inner = [self._compile(member) for member in members]
                return lambda document, parameters: [
                    value for part in inner if (value := part(document, parameters)) is not UNDEFINED
                ]
            case tree.Literal() | tree.Parameter():
                return compile_expression(expression)
            case _:
                raise bad_request(
                    "A SELECT clause with aggregates must not hold other properties, or arithmetic over aggregates."
                )

    def feed(self, document: Any, parameters: Parameters) -> None:
        """Take one item in."""
        for accumulator in self._accumulators:
            accumulator.feed(document, parameters)

    def result(self, parameters: Parameters) -> Any:
        """The one row of the answer; undefined where `SELECT VALUE` has no value."""
        return self._result(None, parameters)
