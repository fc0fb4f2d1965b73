"""A trace from its producer through receive, plan, commit and reply to whoever reads the reply: over real sockets."""

import io
import itertools
import json
from collections.abc import AsyncIterator, Iterator, Mapping

import anyio
import pytest
import structlog
from azure.servicebus import ServiceBusMessage
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, SpanKind, StatusCode

from brook_client.messages import command_message
from emulator.faults import Answer, Rule
from schemas.keys import BrookKey, partition_key
from tests.support.brooks import command
from tests.support.site import Place, Site
from tests.support.waiting import wait_until
from worker.app import open_server
from worker.configuration import load_settings, variable
from worker.logs import configure_logs
from worker.provisioning import provision
from worker.sessions.stopping import Stopping
from worker.settings import Settings
from worker.telemetry.export import sampler
from worker.telemetry.scaling import ScalingSignal
from worker.telemetry.tracing import tracing

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    # The client leaves the stream of a session open whose acceptance is cancelled, as it is when the worker stops.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]

_numbers = itertools.count(1)

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
UNSAMPLED = f"00-{TRACE}-{SPAN}-00"
SAMPLED = f"00-{TRACE}-{SPAN}-01"


class Spans:
    """What was recorded, by the worker and by the producers of a test."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=sampler(0.0))
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    def children_of(self, span: ReadableSpan) -> set[str]:
        found = self._exporter.get_finished_spans()
        return {one.name for one in found if one.parent is not None and one.parent.span_id == context_of(span).span_id}

    def all(self) -> list[str]:
        return [span.name for span in self._exporter.get_finished_spans()]

    async def finished(self, name: str, count: int = 1) -> list[ReadableSpan]:
        await wait_until(lambda: len(self.named(name)) >= count, f"{count} spans {name!r} among {self.all()}")
        return self.named(name)


def context_of(span: ReadableSpan) -> SpanContext:
    context = span.get_span_context()
    assert context is not None
    return context


@pytest.fixture
def spans() -> Iterator[Spans]:
    it = Spans()
    tracing.install(it.provider)
    yield it
    tracing.install(None)
    it.provider.shutdown()


@pytest.fixture(scope="module")
async def shared(site: Site) -> AsyncIterator[Place]:
    """With a worker for all tests here, within this process, so that its spans can be looked at."""
    place = site.place()
    await provision(settings_of(place))
    stopping = Stopping()
    async with open_server(settings_of(place), ScalingSignal(4)) as server, anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, stopping)
        yield place
        stopping.set()


@pytest.fixture
def key() -> BrookKey:
    return BrookKey("traced", str(next(_numbers)))


def settings_of(place: Place) -> Settings:
    changes = {"session_idle_s": "0.1", "store_time_max_s": "1", "cosmos_timeout_s": "1"}
    return load_settings(environ={variable(name): value for name, value in place.settings(**changes).items()})


async def sent(place: Place, key: BrookKey, *parents: str | None, state: str | None = None) -> list[str]:
    """Send a command for each of these `traceparent`s, in one session; their ids."""
    messages = []
    ids: list[str] = []
    for number, parent in enumerate(parents):
        one = command(command_id=f"{key}-{number}-{next(_numbers)}", key=key)
        message = command_message(one, reply_to=place.reply_queue, reply_session_id="traces")
        given = {"traceparent": parent, "tracestate": state}
        message.application_properties = {name: value for name, value in given.items() if value is not None}
        messages.append(message)
        ids.append(one.command_id)
    await send(place, messages)
    return ids


async def send(place: Place, messages: list[ServiceBusMessage]) -> None:
    async with place.broker.get_queue_sender(place.command_queue) as sender:
        await sender.send_messages(messages)


async def replied(place: Place, ids: list[str]) -> dict[str, Mapping[str, object]]:
    """The application properties of the replies, by command."""
    found: dict[str, Mapping[str, object]] = {}
    async with place.broker.get_queue_receiver(place.reply_queue, session_id="traces") as receiver:
        with anyio.fail_after(20):
            while not found.keys() >= set(ids):
                for message in await receiver.receive_messages(10, max_wait_time=2):
                    properties = message.application_properties or {}
                    found[str(message.correlation_id)] = {
                        name.decode(): value.decode() if isinstance(value, bytes) else value
                        for name, value in properties.items()
                        if isinstance(name, bytes)
                    }
                    await receiver.complete_message(message)
    return found


async def test_a_trace_goes_from_the_producer_through_the_worker_to_the_reader_of_the_reply(
    shared: Place, key: BrookKey, spans: Spans
) -> None:
    producing = TracerProvider().get_tracer("test").start_as_current_span("place an order")
    async with shared.client() as (client, replies):
        with producing as producer:
            one = command(command_id=f"traced-{key}", key=key)
            await client.send(one)
        (reply,) = await replies.number(1, one.command_id)
    (span,) = await spans.finished("append command")
    (group,) = await spans.finished("append group")
    (finish,) = await spans.finished("finish")
    ours, theirs = context_of(span), producer.get_span_context()
    assert span.parent is not None
    assert (span.parent.span_id, ours.trace_id) == (theirs.span_id, theirs.trace_id)
    assert reply.facts["traceparent"] == f"00-{ours.trace_id:032x}-{ours.span_id:016x}-{ours.trace_flags:02x}"
    assert span.kind is SpanKind.CONSUMER
    assert (
        dict(span.attributes or {}).items()
        >= {
            "brook.outcome": "appended",
            "brook.attempt": "first",
            "messaging.message.id": one.command_id,
            "messaging.servicebus.message.delivery_count": 0,
        }.items()
    )
    assert span.start_time is not None
    assert span.end_time is not None
    assert 0 < span.end_time - span.start_time < 10e9
    assert group.parent is None
    assert context_of(group).trace_id != ours.trace_id
    assert [link.context.span_id for link in group.links] == [theirs.span_id]
    assert [link.context for link in span.links] == [context_of(group)]
    assert spans.children_of(group) >= {"receive", "plan", "cosmos batch", "finish"}
    assert spans.children_of(finish) == {"reply", "settle"}
    (batch,) = spans.named("cosmos batch")
    assert (batch.attributes or {})["http.response.status_code"] == 200


async def test_a_group_is_linked_to_each_producer_and_each_command_is_its_own_producers_child(
    shared: Place, key: BrookKey, spans: Spans
) -> None:
    parents = [f"00-{number:032x}-{number:016x}-01" for number in (1, 2, 3)]
    ids = await sent(shared, key, *parents, state="vendor=value")
    found = await replied(shared, ids)
    commands = await spans.finished("append command", 3)
    groups = spans.named("append group")
    assert {link.context.trace_id for group in groups for link in group.links} == {1, 2, 3}
    assert len(groups) < len(commands), "they came together"
    family = {(context_of(one).trace_id, one.parent.span_id) for one in commands if one.parent}
    assert family == {(1, 1), (2, 2), (3, 3)}
    for number, command_id in enumerate(ids, start=1):
        assert str(found[command_id]["traceparent"]).startswith(f"00-{number:032x}-")
        assert found[command_id]["tracestate"] == "vendor=value"


async def test_what_the_producer_does_not_record_is_not_recorded_and_its_context_goes_on(
    shared: Place, key: BrookKey, spans: Spans
) -> None:
    ids = await sent(shared, key, UNSAMPLED, None)
    found = await replied(shared, ids)
    assert found[ids[0]]["traceparent"] == UNSAMPLED
    assert "traceparent" not in found[ids[1]]
    assert spans.all() == []


async def test_older_clients_carry_the_context_under_another_name(shared: Place, key: BrookKey, spans: Spans) -> None:
    one = command(command_id=f"older-{key}", key=key)
    message = command_message(one, reply_to=shared.reply_queue, reply_session_id="traces")
    message.application_properties = {"Diagnostic-Id": SAMPLED}
    await send(shared, [message])
    found = await replied(shared, [one.command_id])
    (span,) = await spans.finished("append command")
    assert f"{context_of(span).trace_id:032x}" == TRACE
    assert str(found[one.command_id]["traceparent"]).startswith(f"00-{TRACE}-")


async def test_without_tracing_in_the_worker_the_producers_context_goes_on(shared: Place, key: BrookKey) -> None:
    assert not tracing.is_on
    ids = await sent(shared, key, SAMPLED, None)
    found = await replied(shared, ids)
    assert found[ids[0]]["traceparent"] == SAMPLED
    assert "traceparent" not in found[ids[1]]


@pytest.mark.parametrize(
    ("parent", "state"),
    [("garbage", "=,="), (f"00-{'0' * 32}-{SPAN}-01", "a=b"), ("é" * 55, None), (None, "é=é")],
    ids=("text", "zeros", "foreign-parent", "foreign-state"),
)
async def test_what_is_no_context_changes_nothing(
    shared: Place, key: BrookKey, spans: Spans, parent: str | None, state: str | None
) -> None:
    ids = await sent(shared, key, parent, state=state)
    found = await replied(shared, ids)
    assert "traceparent" not in found[ids[0]]
    assert spans.all() == []


async def test_a_group_that_the_store_fails_is_an_error_in_its_trace(
    shared: Place, key: BrookKey, spans: Spans
) -> None:
    where = {"partition_key": partition_key(key)}
    refused = Rule(service="cosmos", operation="batch", where=where, effect=Answer(status=503))
    async with shared.rule(refused):
        ids = await sent(shared, key, SAMPLED)
        (group, *_) = await spans.finished("append group")
    await replied(shared, ids)
    assert group.status.status_code is StatusCode.ERROR
    assert group.status.description == "TransientStoreError"
    assert not group.events, "the text of an error may tell what a trace is not to know"
    assert (await spans.finished("append command"))[-1].status.status_code is StatusCode.UNSET


async def test_log_lines_say_which_span_they_belong_to(shared: Place, key: BrookKey, spans: Spans) -> None:
    stream = io.StringIO()
    configure_logs(settings_of(shared), stream)
    try:
        ids = await sent(shared, key, SAMPLED)
        await replied(shared, ids)
        (group,) = await spans.finished("append group")
    finally:
        structlog.reset_defaults()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    (committed,) = [line for line in lines if line["event"] == "append.committed"]
    assert committed["trace_id"] == f"{context_of(group).trace_id:032x}"
    assert int(committed["span_id"], 16) == context_of(group).span_id
    assert all("trace_id" not in line for line in lines if line["event"] == "lease.blob-created")
