"""From a message as azure-servicebus gives it to a delivery."""

from typing import Any, Final

from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.amqp import AmqpMessageBodyType

from worker.sessions.base import RESUBMITTED, Delivery

_RESUBMITTED: Final = RESUBMITTED.encode()
"""As the client gives a property's name."""

_TRACE_PARENT, _DIAGNOSTIC_ID, _TRACE_STATE = _TRACE_NAMES = (b"traceparent", b"Diagnostic-Id", b"tracestate")
"""The trace context of a message; older .NET clients carry the first under the second name."""

_NO_PROPERTIES: Final[dict[str | bytes, Any]] = {}


def delivery_of(message: ServiceBusReceivedMessage, received_at_s: float) -> Delivery:
    """The delivery of a message that came at `received_at_s`, on the event loop's clock."""
    make_settleable(message)
    properties = message.application_properties or _NO_PROPERTIES
    binary = message.body_type == AmqpMessageBodyType.DATA
    return Delivery(
        body=b"".join(message.body) if binary else None,
        content_type=_text(message.content_type),
        message_id=_text(message.message_id),
        session_id=_text(message.session_id),
        reply_to=_text(message.reply_to),
        reply_to_session_id=_text(message.reply_to_session_id),
        enqueued_at=message.enqueued_time_utc,
        delivery_count=message.delivery_count or 0,
        is_resubmitted=_RESUBMITTED in properties,
        received_at_s=received_at_s,
        trace_parent=_text(properties.get(_TRACE_PARENT) or properties.get(_DIAGNOSTIC_ID)),
        trace_state=_text(properties.get(_TRACE_STATE)),
        raw=message,
    )


def make_settleable(message: ServiceBusReceivedMessage) -> None:
    """Take a trace context off a message that is not ASCII.

    azure-servicebus 7.15 decodes it when it settles the message, whether or not it traces, and raises
    UnicodeDecodeError: the message could never be settled at all.
    """
    properties: dict[str | bytes, Any] = message.application_properties or _NO_PROPERTIES
    for name in _TRACE_NAMES if properties else ():
        value = properties.get(name)
        if isinstance(value, bytes) and not value.isascii():
            del properties[name]


def _text(value: object) -> str | None:
    """A property as text. By AMQP an id may be a UUID or a number; what is not UTF-8, the client leaves as bytes."""
    if value is None or isinstance(value, str):
        return value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
