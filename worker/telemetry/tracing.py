"""Spans, by the OpenTelemetry API alone: without a provider all of this costs a look at a flag.

A command carries its producer's context in the application properties `traceparent` and `tracestate`, as
https://www.w3.org/TR/trace-context has them. What is done for several commands at once is a span of its own with links
to the producers' contexts; what becomes of one command is a child of its producer's span, whose own context its reply
carries.
"""

import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, Final

import anyio
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN,
    INVALID_SPAN_CONTEXT,
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TracerProvider,
    TraceState,
)
from opentelemetry.util.types import AttributeValue

TRACE_PARENT: Final = "traceparent"
TRACE_STATE: Final = "tracestate"
TRACE_NAMES: Final = frozenset({TRACE_PARENT, TRACE_STATE})

_PARENT: Final = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_MEMBER: Final = r"[a-z0-9][a-z0-9_*/@-]{0,255}=[ -+\--<>-~]{0,255}[!-+\--<>-~]"
_STATE: Final = re.compile(rf"{_MEMBER}(,{_MEMBER}){{0,31}}")
"""Looked at before OpenTelemetry does, which logs a warning for each message that it does not like."""
_STATE_LENGTH_MAX: Final = 512
_FLAGS: Final = 0b11
"""Sampled, and random. What other flags mean is not known, and they are not handed on."""
_LINKS_MAX: Final = 128
"""What an SDK keeps by default."""

_ROOT: Final = Context()


class Tracing:
    """Makes spans once a provider is installed; until then `is_on` is False and nothing else need be asked."""

    def __init__(self) -> None:
        self.is_on = False
        self._tracer: trace.Tracer = trace.NoOpTracer()

    def install(self, provider: TracerProvider | None) -> None:
        """Make spans with `provider` from now on; with None, none."""
        self.is_on = provider is not None
        self._tracer = provider.get_tracer("brook-worker") if provider is not None else trace.NoOpTracer()

    @contextmanager
    def group(self, name: str, producers: Iterable[SpanContext], **attributes: AttributeValue) -> Iterator[Span]:
        """A span for several commands at once: of a trace of its own, with a link to each producer's context."""
        # A context with a trace state has no hash.
        distinct = {(context.trace_id, context.span_id): context for context in producers}
        links = [Link(context) for context in islice(distinct.values(), _LINKS_MAX)]
        with self._current(name, _ROOT, kind=SpanKind.CONSUMER, links=links, attributes=attributes) as span:
            yield span

    @contextmanager
    def part(self, name: str, kind: SpanKind = SpanKind.INTERNAL) -> Iterator[Span]:
        """A span within the current one; where that is not recorded, this is not made either."""
        current = trace.get_current_span() if self.is_on else INVALID_SPAN
        if not current.is_recording():
            yield current
            return
        with self._current(name, kind=kind) as span:
            yield span

    @contextmanager
    def later_part(self, name: str, of: SpanContext, others: Iterable[SpanContext] = ()) -> Iterator[Span]:
        """A span within one that has ended meanwhile, and linked to `others`."""
        links = [Link(context) for context in others]
        parent = trace.set_span_in_context(NonRecordingSpan(of), _ROOT)
        with self._current(name, parent, links=links) as span:
            yield span

    def past_part(self, name: str, started_at_s: float) -> None:
        """A span within the current one that began at `anyio.current_time() == started_at_s` and ends now."""
        if trace.get_current_span().is_recording():
            self._tracer.start_span(name, start_time=wall_ns(started_at_s)).end()

    def command(self, producer: SpanContext, group: SpanContext, started_at_s: float) -> Span:
        """The span of one command, as a child of its producer's and linked to its group's. Whoever asked ends it."""
        parent = trace.set_span_in_context(NonRecordingSpan(producer), _ROOT)
        links = [Link(group)] if group.is_valid and group.trace_id != producer.trace_id else []
        return self._tracer.start_span(
            "append command", parent, kind=SpanKind.CONSUMER, links=links, start_time=wall_ns(started_at_s)
        )

    @contextmanager
    def _current(self, name: str, parent: Context | None = None, **options: Any) -> Iterator[Span]:
        """Make a span the current one. What is raised ends it in error, by its type: its text may tell secrets."""
        with self._tracer.start_as_current_span(
            name, parent, record_exception=False, set_status_on_exception=False, **options
        ) as span:
            try:
                yield span
            except Exception as error:
                failed(span, type(error).__name__)
                raise


tracing: Final = Tracing()
"""The process's."""


def context_of(parent: str | None, state: str | None = None) -> SpanContext | None:
    """Read the context that a message carries; None for what is none, whoever wrote it.

    A third of the time that OpenTelemetry's propagator takes, which builds a carrier and a context around it.
    """
    if parent is None or (found := _PARENT.fullmatch(parent)) is None or (found[1] == "00" and found[5]):
        return None
    known = TraceState.from_header([state]) if state and _is_state(state) else None
    return SpanContext(int(found[2], 16), int(found[3], 16), True, TraceFlags(int(found[4], 16) & _FLAGS), known)


def properties_of(context: SpanContext) -> dict[str, str]:
    """The application properties that carry `context`; none of what is not valid."""
    if not context.is_valid:
        return {}
    found = {TRACE_PARENT: f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"}
    if context.trace_state:
        found[TRACE_STATE] = context.trace_state.to_header()
    return found


def current_context() -> SpanContext:
    """The current span's context, or the invalid one."""
    return trace.get_current_span().get_span_context() if tracing.is_on else INVALID_SPAN_CONTEXT


def failed(span: Span, reason: str) -> None:
    """Mark a span as failed."""
    span.set_status(Status(StatusCode.ERROR, reason))


def _is_state(state: str) -> bool:
    return len(state) <= _STATE_LENGTH_MAX and _STATE.fullmatch(state) is not None


def wall_ns(at_s: float) -> int:
    """The time of day, in nanoseconds since 1970, of a moment on the event loop's clock."""
    return time.time_ns() - int((anyio.current_time() - at_s) * 1e9)
