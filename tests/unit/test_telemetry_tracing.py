"""Reading and writing trace contexts, whoever wrote them; and that without tracing next to nothing is done."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import INVALID_SPAN, SpanContext, TraceFlags, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from worker.telemetry.export import sampler
from worker.telemetry.tracing import Tracing, context_of, properties_of

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

hexes = st.text(alphabet="0123456789abcdefABCDEFg-", min_size=0, max_size=34)


def by_propagator(parent: str) -> SpanContext | None:
    found = TraceContextTextMapPropagator().extract({"traceparent": parent}, Context())
    context = get_current_span(found).get_span_context()
    return context if context.is_valid else None


def same(one: SpanContext | None, other: SpanContext | None) -> bool:
    if one is None or other is None:
        return one is other
    sampled = (one.trace_flags.sampled, other.trace_flags.sampled)
    return (one.trace_id, one.span_id) == (other.trace_id, other.span_id) and sampled in ((True, True), (False, False))


@given(st.one_of(st.text(max_size=70), st.builds("-".join, st.lists(hexes, min_size=3, max_size=5))))
def test_what_is_read_is_what_the_propagator_reads(parent: str) -> None:
    ours, theirs = context_of(parent), by_propagator(parent)
    assert ours is None or same(ours, theirs)


@pytest.mark.parametrize(
    "parent",
    [PARENT, PARENT[:-2] + "00", PARENT[:-2] + "03", "cc" + PARENT[2:], "cc" + PARENT[2:] + "-more"],
)
def test_contexts_of_this_and_later_versions_are_read(parent: str) -> None:
    assert same(context_of(parent), by_propagator(parent))
    assert context_of(parent) is not None


NONE = (None, "", "00", PARENT.upper(), f" {PARENT}", PARENT + "\n", PARENT + "-more", "ff" + PARENT[2:], PARENT[:-1])
ZEROS = (f"00-{'0' * 32}-b7ad6b7169203331-01", f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01")


@pytest.mark.parametrize("parent", [*NONE, *ZEROS])
def test_what_is_no_context_is_none(parent: str | None) -> None:
    assert context_of(parent) is None


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.booleans())
def test_a_context_that_is_written_is_read_again(trace_id: int, span_id: int, sampled: bool) -> None:
    context = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(int(sampled)))
    assert context_of(properties_of(context)["traceparent"]) == context


@pytest.mark.parametrize("state", ["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", "a=b"])
def test_a_state_goes_on_as_it_came(state: str) -> None:
    context = context_of(PARENT, state)
    assert context is not None
    assert properties_of(context) == {"traceparent": PARENT, "tracestate": state}


@pytest.mark.parametrize("state", ["", "=", "a", "a=b,", "A=b", "a=é", "a=" + "b" * 600, "a=b\n"])
def test_a_state_that_is_none_is_left_out_without_a_word(state: str, caplog: pytest.LogCaptureFixture) -> None:
    context = context_of(PARENT, state)
    assert context is not None
    assert properties_of(context) == {"traceparent": PARENT}
    assert caplog.records == []


@pytest.mark.parametrize(("came", "goes"), [("00", "00"), ("01", "01"), ("03", "03"), ("ff", "03"), ("fc", "00")])
def test_flags_that_are_not_known_are_not_handed_on(came: str, goes: str) -> None:
    context = context_of(PARENT[:-2] + came)
    assert context is not None
    assert properties_of(context)["traceparent"] == PARENT[:-2] + goes


def test_nothing_is_written_of_no_context() -> None:
    assert properties_of(INVALID_SPAN.get_span_context()) == {}


def recorded(ratio: float, *producers: str) -> list[str]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=sampler(ratio))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing = Tracing()
    tracing.install(provider)
    contexts = [context for producer in producers if (context := context_of(producer)) is not None]
    with tracing.group("group", contexts), tracing.part("part"):
        pass
    provider.shutdown()
    return [span.name for span in exporter.get_finished_spans()]


@pytest.mark.parametrize(
    ("ratio", "producers", "names"),
    [
        (0.0, [], []),
        (0.0, [PARENT[:-2] + "00"], []),
        (0.0, [PARENT[:-2] + "00", PARENT], ["part", "group"]),
        (1.0, [], ["part", "group"]),
    ],
)
def test_a_group_is_recorded_where_a_producer_records_or_as_often_as_is_asked(
    ratio: float, producers: list[str], names: list[str]
) -> None:
    assert recorded(ratio, *producers) == names


def test_more_producers_than_a_span_has_room_for_are_cut_off() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing = Tracing()
    tracing.install(provider)
    producers = [SpanContext(1, number, is_remote=True, trace_flags=TraceFlags(1)) for number in range(1, 300)]
    with tracing.group("group", [*producers, *producers]):
        pass
    (span,) = exporter.get_finished_spans()
    assert (len(span.links), span.dropped_links) == (128, 0)
    provider.shutdown()


def test_without_a_provider_nothing_is_made() -> None:
    tracing = Tracing()
    with tracing.part("part") as span:
        assert span is INVALID_SPAN
    assert not tracing.is_on
