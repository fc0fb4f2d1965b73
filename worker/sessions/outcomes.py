"""What becomes of commands, told where they are decided and where they are settled: in metrics, and in their traces.

Everything is done a group at a time; for one command of a full group it adds about a microsecond.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter
from typing import Final

import anyio
import msgspec
from opentelemetry.trace import INVALID_SPAN_CONTEXT, Span, SpanContext

from schemas.replies import Appended, ConcurrencyConflict, Rejected, Reply
from worker.handlers.brook import BatchFacts
from worker.sessions.base import DeadLetter, Delivery, Settlement
from worker.telemetry.instruments import (
    BATCH_COMMANDS,
    BATCH_EVENTS,
    BATCH_SIZE,
    COMMANDS,
    DEAD_LETTERS,
    EVENTS,
    GROUP_COMMANDS,
    LARGE_APPENDS,
    LATENCY_FROM_ENQUEUE,
    LATENCY_FROM_RECEIVE,
    PLANS,
    REJECTIONS,
)
from worker.telemetry.stages import stages
from worker.telemetry.tracing import context_of, current_context, failed, properties_of, tracing

Outcome = tuple[str, str]
"""What became of a command, and whether it had been delivered or decided before: attributes of `COMMANDS`."""

_ATTEMPTS: Final = ("first", "repeated")
_OUTCOMES: Final = {
    outcome: tuple((outcome, attempt) for attempt in _ATTEMPTS) for outcome in COMMANDS.attributes["outcome"]
}


class CommandTrace(msgspec.Struct, frozen=True):
    """A command's span until its end, and the context of the span that it was decided in."""

    span: Span
    decided_in: SpanContext


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What is told of one command once it is settled. `code` is that of a rejection."""

    outcome: Outcome = _OUTCOMES["abandoned"][0]
    code: str | None = None
    trace: CommandTrace | None = None


def told(delivery: Delivery, reply: Reply, settlement: Settlement, trace: CommandTrace | None, *, before: bool) -> Told:
    """What is to be told of a command that got `reply`; `before` says that it had taken effect before."""
    repeated = before or delivery.may_be_decided
    match reply:
        case Appended():
            return _APPENDED[repeated] if trace is None else Told(outcome=_OUTCOMES["appended"][repeated], trace=trace)
        case ConcurrencyConflict():
            return Told(outcome=_OUTCOMES["conflict"][repeated], trace=trace)
        case Rejected(code=code):
            outcome = "dead-lettered" if isinstance(settlement, DeadLetter) else "rejected"
            return Told(outcome=_OUTCOMES[outcome][repeated], code=code, trace=trace)


_APPENDED: Final = tuple(Told(outcome=outcome) for outcome in _OUTCOMES["appended"])


def abandoned(delivery: Delivery) -> Told:
    """What is to be told of a command that met a bug."""
    return Told(outcome=_OUTCOMES["abandoned"][delivery.may_be_decided])


def tell_group(commands: int, batches: Sequence[BatchFacts], plans: int) -> None:
    """Tell of the commands of one brook that were decided together, and of the batches that carried them out."""
    GROUP_COMMANDS.record(commands)
    PLANS.add(1, "first")
    if plans > 1:
        PLANS.add(plans - 1, "repeated")
    for facts in batches:
        EVENTS.add(facts.events)
        if facts.batches > 1:
            LARGE_APPENDS.add(1)
        else:
            BATCH_COMMANDS.record(facts.commands)
            BATCH_EVENTS.record(facts.events)
            BATCH_SIZE.record(facts.request_bytes)


@contextmanager
def deciding(deliveries: Sequence[Delivery]) -> Iterator[None]:
    """Around deciding on a group and committing: its span is linked to those of the producers."""
    with stages.doing("decide"):
        if not tracing.is_on:
            yield
            return
        contexts = (context_of(one.trace_parent, one.trace_state) for one in deliveries)
        producers = [context for context in contexts if context is not None and context.trace_flags.sampled]
        count = len(deliveries)
        with tracing.group("append group", producers, **{"messaging.batch.message_count": count}):
            if (received_at_s := deliveries[0].received_at_s) is not None:
                tracing.past_part("receive", received_at_s)
            yield


def traced(delivery: Delivery) -> tuple[CommandTrace | None, dict[str, str]]:
    """The span of one command, and the application properties that carry its context on to whoever reads the reply.

    Where no span is made here, the producer's own context goes on, so that its trace is not cut in two.
    """
    if delivery.trace_parent is None and not tracing.is_on:
        return None, _NOTHING
    producer = context_of(delivery.trace_parent, delivery.trace_state)
    group = current_context()
    parent = producer or (group if group.trace_flags.sampled else None)
    if parent is None:
        return None, _NOTHING
    if not tracing.is_on or not parent.trace_flags.sampled:
        return None, properties_of(parent)
    started_at_s = anyio.current_time() if delivery.received_at_s is None else delivery.received_at_s
    span = tracing.command(parent, group, started_at_s)
    return CommandTrace(span, group), properties_of(span.get_span_context())


_NOTHING: Final[dict[str, str]] = {}


class Finishing:
    """Around replying to and settling commands: they are told once both are done. Errors end their spans too."""

    def __init__(self, deliveries: Sequence[Delivery], told: Sequence[Told]) -> None:
        self._deliveries = deliveries
        self._told = told
        self._replied_at_s: float | None = None
        self._traces = [one.trace for one in told if one.trace is not None] if tracing.is_on else []

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Reply and settle within this."""
        try:
            with self._span():
                yield
        except BaseException as error:
            for trace in self._traces:
                failed(trace.span, type(error).__name__)
                trace.span.end()
            raise
        self._tell()

    def replied(self) -> None:
        """Say that all replies are with the broker."""
        self._replied_at_s = anyio.current_time()

    @contextmanager
    def _span(self) -> Iterator[None]:
        groups = list({trace.decided_in.span_id: trace.decided_in for trace in self._traces}.values())
        first, *others = groups or [INVALID_SPAN_CONTEXT]
        if not first.trace_flags.sampled:
            yield
            return
        with tracing.later_part("finish", first, others):
            yield

    def _tell(self) -> None:
        for outcome, count in Counter(map(attrgetter("outcome"), self._told)).items():
            COMMANDS.add(count, *outcome)
        for (outcome, _), code in [(one.outcome, one.code) for one in self._told if one.code is not None]:
            (DEAD_LETTERS if outcome == "dead-lettered" else REJECTIONS).add(1, code)
        replied_at_s = self._replied_at_s or anyio.current_time()
        replied_at = time.time() - (anyio.current_time() - replied_at_s)
        LATENCY_FROM_ENQUEUE.record_all(
            max(0.0, replied_at - one.enqueued_at.timestamp())
            for one in self._deliveries
            if one.enqueued_at is not None
        )
        LATENCY_FROM_RECEIVE.record_all(
            replied_at_s - one.received_at_s for one in self._deliveries if one.received_at_s is not None
        )
        if self._traces:
            self._end_spans()

    def _end_spans(self) -> None:
        for delivery, one in zip(self._deliveries, self._told, strict=True):
            if one.trace is not None:
                one.trace.span.set_attributes(
                    {
                        "messaging.system": "servicebus",
                        "messaging.message.id": delivery.message_id or "",
                        "messaging.servicebus.message.delivery_count": delivery.delivery_count,
                        "brook.session": delivery.session_id or "",
                        "brook.outcome": one.outcome[0],
                        "brook.attempt": one.outcome[1],
                    }
                )
                if one.code is not None:
                    one.trace.span.set_attribute("brook.rejection", one.code)
                one.trace.span.end()
