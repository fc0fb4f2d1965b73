"""What the client puts on messages and spans for those who trace, and that it does nothing for those who do not."""

from collections.abc import Iterator

import pytest
from azure.servicebus.amqp import AmqpAnnotatedMessage
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, SpanKind, StatusCode, TraceFlags, TraceState

from brook_client import tracing
from brook_client.messages import command_message
from schemas.replies import Appended, ConcurrencyConflict, Rejected, Reply
from schemas.types import CommandId, Position
from tests.support.commands import command

TRACE_ID = 0x0AF7651916CD43DD8448EB211C80319C
SPAN_ID = 0xB7AD6B7169203331


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_TRACER", provider.get_tracer("test"))
    yield exporter
    provider.shutdown()


def properties_of(message: AmqpAnnotatedMessage) -> dict[str, object]:
    found = message.application_properties or {}
    return {name.decode() if isinstance(name, bytes) else name: value for name, value in found.items()}


def test_a_message_carries_the_context_of_the_span_that_it_is_made_in() -> None:
    state = TraceState([("vendor", "value")])
    parent = SpanContext(TRACE_ID, SPAN_ID, is_remote=False, trace_flags=TraceFlags(1), trace_state=state)
    with trace.use_span(trace.NonRecordingSpan(parent)):
        message = command_message(command())
    assert properties_of(message.raw_amqp_message) == {
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate": "vendor=value",
    }


def test_without_a_span_a_message_has_no_properties_and_nothing_is_recorded() -> None:
    assert tracing.properties() is None
    assert not properties_of(command_message(command()).raw_amqp_message)
    with tracing.append_span(command(), "commands") as span:
        tracing.note_outcome(span, Rejected(command_id=None, code="no-events", message="m"))
        assert not span.is_recording()
        assert tracing.properties() is None


def test_what_was_put_on_a_message_is_read_back_from_the_facts_of_a_reply() -> None:
    facts = {"traceparent": f"00-{TRACE_ID:032x}-{SPAN_ID:016x}-01", "tracestate": "vendor=value", "requestCharge": 5.5}
    found = trace.get_current_span(tracing.context_of(facts)).get_span_context()
    assert (found.trace_id, found.span_id, found.is_remote) == (TRACE_ID, SPAN_ID, True)
    assert found.trace_state["vendor"] == "value"


@pytest.mark.parametrize("facts", [{}, {"traceparent": "nonsense"}, {"traceparent": 7}, {"tracestate": "a=b"}])
def test_a_reply_without_a_readable_context_gives_none(facts: dict[str, object]) -> None:
    assert not trace.get_current_span(tracing.context_of(facts)).get_span_context().is_valid


def spanned(exported: InMemorySpanExporter, reply: Reply) -> ReadableSpan:
    with tracing.append_span(command(), "commands") as span:
        carried = tracing.properties()
        tracing.note_outcome(span, reply)
    [found] = exported.get_finished_spans()
    assert carried is not None
    context = found.get_span_context()
    assert context is not None
    assert f"{context.span_id:016x}" in str(carried[b"traceparent"]), "the worker's parent is this span"
    return found


def test_a_span_tells_where_to_which_command_and_what_became_of_it(exported: InMemorySpanExporter) -> None:
    reply = Appended(command_id=CommandId("c1"), first_position=Position(3), last_position=Position(4))
    found = spanned(exported, reply)
    assert (found.name, found.kind, found.status.status_code) == ("append", SpanKind.CLIENT, StatusCode.UNSET)
    assert dict(found.attributes or {}) == {
        "messaging.system": "servicebus",
        "messaging.destination.name": "commands",
        "messaging.message.id": "c1",
        "brook.name": "orders",
        "brook.events": 1,
        "brook.outcome": "appended",
        "brook.position.first": 3,
        "brook.position.last": 4,
    }


def test_a_conflict_is_no_error_and_a_rejection_is_one(exported: InMemorySpanExporter) -> None:
    conflict = ConcurrencyConflict(command_id=CommandId("c1"), expected="empty", actual=Position(9))
    found = spanned(exported, conflict)
    assert (found.attributes or {})["brook.outcome"] == "concurrency-conflict"
    assert found.status.status_code is StatusCode.UNSET
    exported.clear()
    found = spanned(exported, Rejected(command_id=CommandId("c1"), code="no-events", message="is empty"))
    assert (found.attributes or {})["brook.rejection"] == "no-events"
    assert found.status.status_code is StatusCode.ERROR


def test_what_ends_the_wait_ends_the_span_in_error_of_which_only_the_type_is_told(
    exported: InMemorySpanExporter,
) -> None:
    with pytest.raises(TimeoutError), tracing.append_span(command(), "commands"):
        raise TimeoutError("planted-secret")
    [found] = exported.get_finished_spans()
    assert found.status.status_code is StatusCode.ERROR
    assert (found.attributes or {})["error.type"] == "TimeoutError"
    assert "planted-secret" not in found.to_json()
