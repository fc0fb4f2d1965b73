"""Traces that go from the producer through the queue to the worker and back, by the OpenTelemetry API alone.

Without an OpenTelemetry SDK in the process all of this does nothing.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final
from uuid import UUID

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from schemas.commands import Command, event_count
from schemas.replies import Appended, ConcurrencyConflict, Rejected, Reply

TRACE_PARENT: Final = "traceparent"
TRACE_STATE: Final = "tracestate"
"""The application properties that carry a message's trace context: https://www.w3.org/TR/trace-context."""

Property = int | float | bytes | bool | str | UUID

_PROPAGATOR: Final = TraceContextTextMapPropagator()
_TRACER: Final = trace.get_tracer("brook_client")


def properties() -> dict[str | bytes, Property] | None:
    """The current span's context as application properties; None without a span.

    Their names are bytes, as azure-servicebus 7.15 has its own: with its tracing on, it keeps a property that is there.
    """
    if not trace.get_current_span().get_span_context().is_valid:
        return None
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return {name.encode(): value for name, value in carrier.items()}


def context_of(facts: Mapping[str, object]) -> Context:
    """The trace context that a reply came with, to make spans in: empty when it came with none.

    `facts` are those of a `ReceivedReply`.
    """
    carrier = {name: value for name in (TRACE_PARENT, TRACE_STATE) if isinstance(value := facts.get(name), str)}
    return _PROPAGATOR.extract(carrier, Context())


@contextmanager
def append_span(command: Command, queue: str) -> Iterator[Span]:
    """A span from sending a command to its reply. What is raised meanwhile ends it in error.

    Never the data of a command, nor the text of an error: names, ids and types only.
    """
    with _TRACER.start_as_current_span(
        "append", kind=SpanKind.CLIENT, record_exception=False, set_status_on_exception=False
    ) as span:
        if span.is_recording():
            span.set_attributes(
                {
                    "messaging.system": "servicebus",
                    "messaging.destination.name": queue,
                    "messaging.message.id": command.command_id,
                    "brook.name": command.brook.name,
                    "brook.events": event_count(command),
                }
            )
        try:
            yield span
        except Exception as error:
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


def note_outcome(span: Span, reply: Reply) -> None:
    """Write the outcome on the span. A conflict is an outcome like any other; a rejection is the sender's error."""
    if not span.is_recording():
        return
    match reply:
        case Appended():
            span.set_attribute("brook.outcome", "appended")
            span.set_attribute("brook.position.first", reply.first_position)
            span.set_attribute("brook.position.last", reply.last_position)
        case ConcurrencyConflict():
            span.set_attributes({"brook.outcome": "concurrency-conflict", "brook.head": reply.actual})
        case Rejected():
            span.set_attributes({"brook.outcome": "rejected", "brook.rejection": reply.code})
            span.set_status(Status(StatusCode.ERROR, f"rejected: {reply.code}"))
