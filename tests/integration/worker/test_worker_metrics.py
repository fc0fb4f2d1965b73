"""Every metric of the table moves when what it tells of happens: a worker as a process, on the embedded services."""

import itertools
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from azure.servicebus import ServiceBusMessage

from emulator.faults import Answer, ApplyThenDrop, Rule
from schemas.keys import BrookKey, partition_key, session_id_for
from tests.support.brooks import command
from tests.support.scraping import Endpoint, endpoint_of
from tests.support.site import Mail, Place, Site
from tests.support.waiting import wait_until
from tests.support.worker_process import WorkerProcess
from worker.protocol.writes import Create
from worker.telemetry.instruments import INSTRUMENTS, VERSION
from worker.telemetry.kinds import Histogram, Instrument

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

SOURCE = Path(__file__).read_text(encoding="utf-8")

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
async def running(shared: Place) -> AsyncIterator[WorkerProcess]:
    """One worker for all tests here. Its leases are renewed twice a second."""
    async with shared.ready_worker(
        http_port="0",
        store_time_max_s="1",
        cosmos_timeout_s="1",
        lease_acquire_timeout_s="0.5",
        lease_renew_after_s="0.5",
        batch_operations_max="10",
        max_concurrent_sessions="2",
    ) as worker:
        yield worker


@pytest.fixture(scope="module")
async def there(running: WorkerProcess) -> AsyncIterator[Endpoint]:
    async with endpoint_of(running) as it:
        yield it


@pytest.fixture(autouse=True)
async def worker(site: Site, running: WorkerProcess) -> AsyncIterator[WorkerProcess]:
    yield running
    await site.control.clear_rules()


@pytest.fixture
def key() -> BrookKey:
    return BrookKey("metrics", str(next(_numbers)))


def on(key: BrookKey) -> dict[str, str]:
    return {"partition_key": partition_key(key)}


def counted(histogram: str) -> str:
    return f"brook_worker_{histogram}_count"


async def test_a_command_that_is_appended_moves_all_that_there_is_on_its_way(
    there: Endpoint, mail: Mail, key: BrookKey
) -> None:
    ways: list[tuple[str, dict[str, str]]] = [
        ("brook_worker_commands_total", {"outcome": "appended", "attempt": "first"}),
        (counted("command_latency_from_enqueue_seconds"), {}),
        (counted("command_latency_from_receive_seconds"), {}),
        (counted("group_commands"), {}),
        (counted("stage_duration_seconds"), {"stage": "decide"}),
        (counted("stage_duration_seconds"), {"stage": "reply"}),
        (counted("stage_duration_seconds"), {"stage": "settle"}),
        ("brook_worker_plans_total", {"attempt": "first"}),
        (counted("batch_commands"), {}),
        (counted("batch_events"), {}),
        (counted("batch_size_bytes"), {}),
        ("brook_worker_events_total", {}),
        ("brook_worker_requests_total", {"service": "cosmos", "operation": "batch", "outcome": "ok"}),
        ("brook_worker_requests_total", {"service": "blob", "operation": "acquire", "outcome": "ok"}),
        ("brook_worker_requests_total", {"service": "servicebus", "operation": "accept", "outcome": "ok"}),
        ("brook_worker_requests_total", {"service": "servicebus", "operation": "send", "outcome": "ok"}),
        ("brook_worker_requests_total", {"service": "servicebus", "operation": "settle", "outcome": "ok"}),
        (counted("request_duration_seconds"), {"service": "cosmos", "operation": "batch"}),
        ("brook_worker_request_charge_total", {"operation": "batch"}),
        (counted("accept_duration_seconds"), {"outcome": "accepted"}),
        (counted("lease_wait_seconds"), {"outcome": "acquired"}),
        (counted("session_duration_seconds"), {}),
        (counted("loop_delay_seconds"), {}),
    ]
    before = [await there.value(name, **labels) for name, labels in ways]
    events = await there.value("brook_worker_events_total")
    client, _ = mail
    await client.append(key, command(events=3).events)
    for (name, labels), value in zip(ways, before, strict=True):
        await there.reaches(value + 1, name, **labels)
    assert await there.value("brook_worker_events_total") == events + 3


async def test_latencies_are_of_the_size_that_they_are(
    there: Endpoint, shared: Place, mail: Mail, key: BrookKey
) -> None:
    name = "brook_worker_command_latency_from_receive_seconds_sum"
    enqueued = "brook_worker_command_latency_from_enqueue_seconds_sum"
    before, queued_before = await there.value(name), await there.value(enqueued)
    client, _ = mail
    async with shared.rule(Rule(service="cosmos", operation="batch", where=on(key), latency_s=0.4)):
        await client.append(key, command().events)
    await there.reaches(before + 0.4, name)
    assert await there.value(name) < before + 5
    assert queued_before + 0.4 <= await there.value(enqueued) < queued_before + 5


async def test_what_is_in_hand_shows_while_it_is(there: Endpoint, shared: Place, mail: Mail, key: BrookKey) -> None:
    gauges = ("commands_in_hand", "slots_busy", "sessions_active")
    client, replies = mail
    one = command(command_id=f"slow-{key}", key=key)
    async with shared.rule(Rule(service="cosmos", operation="batch", where=on(key), latency_s=0.8)):
        await client.send(one)
        for gauge in gauges:
            await there.reaches(1, f"brook_worker_{gauge}")
        await replies.number(1, one.command_id)

    async def all_back() -> bool:
        return [await there.value(f"brook_worker_{gauge}") for gauge in gauges] == [0, 0, 0]

    await wait_until(all_back, "nothing in hand")
    assert await there.value("brook_worker_slots") == 2
    assert 0 < await there.value("brook_worker_slots_wanted") <= 2


async def test_what_the_worker_is_shows(there: Endpoint) -> None:
    assert await there.value("brook_worker_info", version=VERSION) == 1
    assert await there.value("brook_worker_start_time_seconds") > 1.7e9
    assert await there.value("brook_worker_state", state="running") == 1
    assert await there.value("brook_worker_state") == 1, "one state at a time"


async def test_conflicts_rejections_and_dead_letters_are_told_apart(
    there: Endpoint, shared: Place, mail: Mail, key: BrookKey
) -> None:
    client, _ = mail
    async with there.moving("brook_worker_commands_total", outcome="conflict", attempt="first"):
        await client.append(key, command().events, expected=7)
    async with (
        there.moving("brook_worker_commands_total", outcome="rejected"),
        there.moving("brook_worker_rejections_total", reason="no-events"),
    ):
        await client.append(key, [])
    async with (
        there.moving("brook_worker_commands_total", outcome="dead-lettered"),
        there.moving("brook_worker_dead_letters_total", reason="undecodable"),
        shared.broker.get_queue_sender(shared.command_queue) as sender,
    ):
        await sender.send_messages(ServiceBusMessage(b"{", session_id=session_id_for(key), message_id=f"bad-{key}"))


async def test_a_command_that_is_sent_again_is_a_repeated_one(there: Endpoint, mail: Mail, key: BrookKey) -> None:
    client, replies = mail
    one = command(command_id=f"twice-{key}", key=key)
    async with there.moving("brook_worker_commands_total", outcome="appended", attempt="repeated"):
        for times in (1, 2):
            await client.send(one)
            await replies.number(times, one.command_id)


async def test_a_large_append_is_counted_as_one(there: Endpoint, mail: Mail, key: BrookKey) -> None:
    client, _ = mail
    batches = await there.value(counted("batch_events"))
    async with there.moving("brook_worker_large_appends_total"), there.moving("brook_worker_events_total", 30):
        await client.append(key, command(events=30).events)
    assert await there.value(counted("batch_events")) == batches


async def test_a_contradiction_is_a_decision(there: Endpoint, shared: Place, mail: Mail, key: BrookKey) -> None:
    head = {"id": "head", "type": "head", "brookPartitionKey": partition_key(key), "position": -1, "pending": "lost"}
    await shared.store.write(key, [Create(head)])
    client, _ = mail
    async with there.moving("brook_worker_recovery_decisions_total", decision="contradiction"):
        await client.append(key, command().events)


async def test_a_write_whose_answer_was_lost_is_ambiguous_retried_and_planned_anew(
    there: Endpoint, shared: Place, mail: Mail, key: BrookKey
) -> None:
    client, _ = mail
    async with (
        there.moving("brook_worker_ambiguous_writes_total", reason="connection"),
        there.moving("brook_worker_retries_total", service="cosmos", reason="connection"),
        there.moving("brook_worker_plans_total", attempt="repeated"),
        there.moving("brook_worker_requests_total", service="cosmos", operation="batch", outcome="connection"),
        shared.rule(Rule(service="cosmos", operation="batch", where=on(key), times=1, effect=ApplyThenDrop())),
    ):
        await client.append(key, command().events)


async def test_throttled_requests_are_told_apart(there: Endpoint, shared: Place, mail: Mail, key: BrookKey) -> None:
    client, _ = mail
    throttled = Answer(status=429, retry_after_ms=10)
    async with (
        there.moving("brook_worker_retries_total", 2, service="cosmos", reason="throttled"),
        there.moving("brook_worker_requests_total", 2, service="cosmos", operation="batch", outcome="throttled"),
        shared.rule(Rule(service="cosmos", operation="batch", where=on(key), times=2, effect=throttled)),
    ):
        await client.append(key, command().events)


async def test_a_lease_that_is_taken_away_is_a_loss_and_renewals_before_were_in_time(
    there: Endpoint, shared: Place, mail: Mail, key: BrookKey
) -> None:
    client, replies = mail
    one = command(command_id=f"lost-{key}", key=key)
    held = Rule(service="cosmos", operation="batch", where=on(key), latency_s=0.9, effect=Answer(status=503), times=5)
    async with (
        there.moving("brook_worker_losses_total", what="lease"),
        shared.rule(held),
        there.moving(counted("renewal_lateness_seconds"), what="lease"),
    ):
        await client.send(one)
        await there.reaches(1, "brook_worker_commands_in_hand")
        await shared.end_lease(session_id_for(key))
    await replies.number(1, one.command_id)


async def test_a_session_lock_that_is_taken_away_is_a_loss(
    there: Endpoint, shared: Place, mail: Mail, key: BrookKey
) -> None:
    client, replies = mail
    one = command(command_id=f"unlocked-{key}", key=key)
    async with there.moving("brook_worker_losses_total", what="lock"):
        async with shared.rule(Rule(service="cosmos", operation="batch", where=on(key), times=1, latency_s=0.8)):
            await client.send(one)
            await there.reaches(1, "brook_worker_commands_in_hand")
            await shared.control.take_session_lock(shared.command_queue, session_id_for(key))
        await replies.number(1, one.command_id)


async def test_a_store_outage_opens_the_breaker_and_the_worker_is_not_ready_until_it_is_over(
    there: Endpoint, shared: Place, mail: Mail
) -> None:
    client, replies = mail
    commands = [command(command_id=f"outage-{n}", key=BrookKey("outage", str(n))) for n in range(3)]
    assert await there.reasons() == []
    async with (
        there.moving("brook_worker_session_failures_total", why="store"),
        there.moving("brook_worker_breaker_changes_total", to="open"),
        there.moving("brook_worker_breaker_changes_total", to="closed"),
    ):
        async with shared.rule(Rule(service="cosmos", effect=Answer(status=503))):
            await client.send_many(commands)
            await there.reaches(1, "brook_worker_breaker_open")
            status, body = await there.json("/readyz")
            assert (status, body["ok"], body["state"]) == (503, False, "running")
            assert [reason["code"] for reason in body["reasons"]] == ["breaker-open"]
            assert "503" in body["reasons"][0]["detail"]
            assert (await there.json("/scaling"))[1]["held"] is True
            assert await there.reasons("/healthz") == [], "an outage is no reason to be started anew"
        await replies.to_each(commands)
    assert await there.reasons() == []
    assert await there.value("brook_worker_breaker_open") == 0


async def test_no_name_but_those_of_the_table_is_emitted_and_no_series_beyond_it(
    there: Endpoint, mail: Mail, key: BrookKey
) -> None:
    client, _ = mail
    await client.append(key, command().events)
    ours = [one for one in await there.samples() if one.name.startswith("brook")]
    known: dict[str, Instrument] = {}
    for instrument in INSTRUMENTS:
        endings = ("_bucket", "_sum", "_count") if isinstance(instrument, Histogram) else ("",)
        known |= {f"{instrument.prometheus_name}{ending}": instrument for ending in endings}
    assert {one.name for one in ours} <= set(known)
    for one in ours:
        attributes = known[one.name].attributes
        assert set(one.labels) - {"le"} == set(attributes), one
        assert all(value in (*attributes[name], "other") for name, value in one.labels.items() if name != "le"), one
    assert str(key) not in str(ours)
    assert session_id_for(key) not in str(ours)


async def test_no_metric_of_the_table_is_left_out_here() -> None:
    source = SOURCE
    names = {one.prometheus_name.removeprefix("brook_worker_") for one in INSTRUMENTS}
    assert {name for name in names if f'"{name}"' not in source and f'"brook_worker_{name}"' not in source} == set()


async def test_in_the_drain_the_worker_says_so_until_it_ends(
    there: Endpoint, shared: Place, mail: Mail, key: BrookKey, worker: WorkerProcess
) -> None:
    client, _ = mail
    async with shared.rule(Rule(service="cosmos", operation="batch", where=on(key), latency_s=0.9)):
        await client.send(command(command_id=f"draining-{key}", key=key))
        await there.reaches(1, "brook_worker_commands_in_hand")
        worker.send_signal(signal.SIGTERM)
        await there.reaches(1, "brook_worker_state", state="draining")
        assert await there.reasons() == ["draining"]
        assert await there.value("brook_worker_drain_duration_seconds") > 0
        with anyio.fail_after(15):
            assert await worker.ended() == 0
