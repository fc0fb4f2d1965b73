"""Subscription rules as functions of a message."""

from collections.abc import Callable

from emulator.servicebus.engine.message import Message
from emulator.servicebus.engine.sql import compile_condition
from emulator.servicebus.entities import CorrelationFilter, FalseFilter, Filter, SqlFilter, TrueFilter

Predicate = Callable[[Message], bool]


def compile_filter(rule_filter: Filter) -> Predicate:
    """The filter as a predicate.

    Raises:
        ValueError: a SQL condition cannot be understood.
    """
    match rule_filter:
        case TrueFilter():
            return lambda _message: True
        case FalseFilter():
            return lambda _message: False
        case SqlFilter(expression=expression):
            return compile_condition(expression)
        case CorrelationFilter():
            return _correlation(rule_filter)


def _correlation(rule_filter: CorrelationFilter) -> Predicate:
    system = [(name, value) for name, value in rule_filter.system().items() if value is not None]
    own = list(rule_filter.properties.items())

    def predicate(message: Message) -> bool:
        for name, value in system:
            found = message.system_property(name)
            if (None if found is None else str(found)) != value:
                return False
        if not own:
            return True
        properties = message.application_properties()
        return all(_equal(properties.get(name), value) for name, value in own)

    return predicate


def _equal(found: object, wanted: object) -> bool:
    """Equality without Python's `True == 1`."""
    return isinstance(found, bool) == isinstance(wanted, bool) and found == wanted
