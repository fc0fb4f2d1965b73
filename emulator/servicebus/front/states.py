"""Delivery states (3.4) as outcomes: what a receiver says about a message, and how that is echoed."""

from typing import Any

from emulator.servicebus.amqp import frames_out as out
from emulator.servicebus.amqp import performatives as p
from emulator.servicebus.amqp.types import Described
from emulator.servicebus.engine.errors import invalid_field
from emulator.servicebus.engine.outcomes import Abandon, Complete, DeadLetter, Defer, Outcome, Release


def outcome_of(state: Any) -> tuple[Outcome, bytes]:
    """What a delivery state asks for, and how it is echoed. Raises ServiceBusError when it is no outcome."""
    if state is None:
        return Release(), out.RELEASED_STATE
    code = state.descriptor if isinstance(state, Described) else None
    fields = state.value if isinstance(state, Described) and isinstance(state.value, list) else []
    match code:
        case p.ACCEPTED:
            return Complete(), out.ACCEPTED_STATE
        case p.RELEASED:
            return Release(), out.RELEASED_STATE
        case p.REJECTED:
            return _dead_letter(fields[0] if fields else None), out.REJECTED_STATE
        case p.MODIFIED:
            failed, undeliverable, annotations = (*fields[:3], None, None, None)[:3]
            properties = _properties(annotations)
            echo = out.described(p.MODIFIED, (failed is True, undeliverable is True))
            return (Defer(properties) if undeliverable is True else Abandon(properties)), echo
        case _:
            raise invalid_field("The delivery state is no outcome.")


_REASON, _DESCRIPTION = "DeadLetterReason", "DeadLetterErrorDescription"


def _dead_letter(error: Any) -> DeadLetter:
    fields = error.value if isinstance(error, Described) and isinstance(error.value, list) else []
    _condition, description, info = (*fields[:3], None, None, None)[:3]
    properties = _properties(info)
    reason = properties.pop(_REASON, None)
    why = properties.pop(_DESCRIPTION, description)
    return DeadLetter(reason if isinstance(reason, str) else None, why if isinstance(why, str) else None, properties)


def _properties(found: Any) -> dict[str, Any]:
    """What a receiver adds to a message on settling it: strings are the only keys that there can be."""
    if not isinstance(found, dict):
        return {}
    return {str(key): value for key, value in found.items() if isinstance(key, str)}
