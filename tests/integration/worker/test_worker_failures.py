"""What the worker does when something fails, row by row: real clients, the services and the worker as processes."""

import itertools
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusReceiver, ServiceBusSender

from emulator.faults import Answer, ApplyThenDrop, DropBefore, Effect, Rule, Truncate
from schemas.codec import JSON, MSGPACK, decode_reply, encode_command
from schemas.commands import AppendCommand
from schemas.keys import BrookKey, partition_key, session_id_for
from schemas.replies import Appended, ConcurrencyConflict, Rejected
from schemas.types import CommandId, Position
from tests.support.brooks import command, event
from tests.support.site import Mail, Place, Replies, Site
from tests.support.waiting import wait_until
from tests.support.worker_process import WorkerProcess
from worker.locking.names import blob_name
from worker.protocol.writes import Create
from worker.storage.base import Written

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


_numbers = itertools.count(1)


@pytest.fixture(scope="module")
async def running(shared: Place) -> AsyncIterator[WorkerProcess]:
    async with shared.ready_worker(
        store_time_max_s="1",
        cosmos_timeout_s="1",
        lease_acquire_timeout_s="1",
        # Tests that keep a session busy must not lose it while this machine has much else to do.
        session_idle_s="2",
        max_concurrent_sessions="16",
    ) as it:
        yield it


@pytest.fixture
async def worker(site: Site, running: WorkerProcess) -> AsyncIterator[WorkerProcess]:
    """One worker for all tests here; a test's faults are over when it ends."""
    yield running
    await site.control.clear_rules()
    assert running.returncode is None, running.text()[-3000:]


class Raw:
    """Sends messages as they are, and takes their replies out of a session of their own."""

    def __init__(self, sender: ServiceBusSender, receiver: ServiceBusReceiver) -> None:
        self._sender = sender
        self._receiver = receiver

    async def exchange(self, body: bytes, **fields: Any) -> ServiceBusReceivedMessage:
        await self._sender.send_messages(ServiceBusMessage(body, reply_to_session_id="raw", **fields))
        (reply,) = await self._receiver.receive_messages(max_message_count=1, max_wait_time=20)
        await self._receiver.complete_message(reply)
        return reply


@pytest.fixture(scope="module")
async def raw(shared: Place) -> AsyncIterator[Raw]:
    async with (
        shared.broker.get_queue_sender(shared.command_queue) as sender,
        shared.broker.get_queue_receiver(shared.reply_queue, session_id="raw") as receiver,
    ):
        yield Raw(sender, receiver)


@pytest.fixture
def key() -> BrookKey:
    return BrookKey("failures", str(next(_numbers)))


async def dead_letter(place: Place, message_id: str) -> ServiceBusReceivedMessage:
    """The dead letter with an id, once it is there."""
    found: dict[str, ServiceBusReceivedMessage] = {}

    async def is_there() -> bool:
        found.update(await place.dead_letters())
        return message_id in found

    await wait_until(is_there, f"{message_id!r} is a dead letter")
    return found[message_id]


ROWS = {
    "undecodable": (b"{", {}, "send one command"),
    "unknown-version": (b'{"schemaVersion":7}', {}, "send version 1 or run a newer worker"),
    "unsupported-content-type": (b"<append/>", {"content_type": "text/xml"}, "use application/json"),
}


@pytest.mark.parametrize("reason", ROWS)
async def test_what_is_no_command_is_dead_lettered_and_its_sender_told(
    shared: Place, worker: WorkerProcess, raw: Raw, key: BrookKey, reason: str
) -> None:
    body, fields, remedy = ROWS[reason]
    fields = {"session_id": session_id_for(key), "message_id": f"{reason}-{key}", "content_type": JSON, **fields}
    answer = await raw.exchange(body, **fields)
    reply = decode_reply(b"".join(answer.body), answer.content_type)
    assert isinstance(reply, Rejected)
    assert (reply.code, answer.correlation_id) == (reason, f"{reason}-{key}")
    letter = await dead_letter(shared, f"{reason}-{key}")
    assert letter.dead_letter_reason == reason
    assert remedy in (letter.dead_letter_error_description or "")
    assert remedy in reply.message


async def test_a_command_in_another_brooks_session_is_dead_lettered(
    shared: Place, worker: WorkerProcess, raw: Raw, key: BrookKey
) -> None:
    one = command(command_id=f"stray-{key}", key=key)
    answer = await raw.exchange(encode_command(one), session_id="elsewhere", message_id=one.command_id)
    reply = decode_reply(b"".join(answer.body))
    assert isinstance(reply, Rejected)
    assert (reply.code, reply.command_id) == ("wrong-session", one.command_id)
    letter = await dead_letter(shared, one.command_id)
    assert letter.dead_letter_reason == "wrong-session"
    remedy = "set it to session_id_for(brook)"
    assert letter.dead_letter_error_description == f"sessionId: is not that of brook {key}; {remedy}"
    assert await shared.documents(key) == []


async def test_an_invalid_command_is_rejected_and_completed(
    shared: Place, worker: WorkerProcess, mail: Mail, key: BrookKey
) -> None:
    client, _ = mail
    reply = await client.append(key, [], command_id=f"empty-{key}")
    assert isinstance(reply, Rejected)
    assert reply.code == "no-events"
    await wait_until(shared.is_drained, "the queue is empty")
    assert f"empty-{key}" not in await shared.dead_letters()


async def test_another_expected_head_is_a_conflict_that_says_both(
    shared: Place, worker: WorkerProcess, mail: Mail, key: BrookKey
) -> None:
    client, _ = mail
    await client.append(key, command(events=3).events)
    reply = await client.append(key, command().events, expected=7, command_id=f"late-{key}")
    assert reply == ConcurrencyConflict(command_id=CommandId(f"late-{key}"), expected=7, actual=Position(2))
    await wait_until(shared.is_drained, "the queue is empty")


async def test_what_contradicts_itself_is_dead_lettered_with_a_remedy_and_nothing_deleted(
    shared: Place, worker: WorkerProcess, mail: Mail, key: BrookKey
) -> None:
    documents = [
        {"id": "head", "type": "head", "brookPartitionKey": partition_key(key), "position": 0, "pending": "lost"},
        {"id": "0", "type": "event", "brookPartitionKey": partition_key(key), "position": 0},
    ]
    assert isinstance(await shared.store.write(key, [Create(document) for document in documents]), Written)
    before = await shared.documents(key)
    client, _ = mail
    reply = await client.append(key, command().events, command_id=f"stuck-{key}")
    assert isinstance(reply, Rejected)
    assert reply.code == "contradiction"
    letter = await dead_letter(shared, f"stuck-{key}")
    assert letter.dead_letter_reason == "contradiction"
    assert "remove `pending` from the head" in (letter.dead_letter_error_description or "")
    assert await shared.documents(key) == before
    assert worker.lines("brook.contradiction")[-1]["brook"] == str(key)


async def test_messagepack_goes_in_and_comes_out(shared: Place, worker: WorkerProcess, raw: Raw, key: BrookKey) -> None:
    one = command(command_id=f"packed-{key}", events=2, key=key)
    answer = await raw.exchange(
        encode_command(one, MSGPACK),
        session_id=session_id_for(key),
        message_id=one.command_id,
        content_type=MSGPACK,
    )
    assert answer.content_type == MSGPACK
    assert decode_reply(b"".join(answer.body), MSGPACK) == Appended(
        command_id=one.command_id, first_position=Position(0), last_position=Position(1)
    )
    async with shared.client(MSGPACK) as (client, _):
        await client.append(key, [event(data=bytes(range(256)))])
    assert [stored.data for stored in await shared.events(key)] == [b"data", b"data", bytes(range(256))]


async def answered_after(place: Place, mail: Mail, one: AppendCommand, rule: Rule) -> dict[str, Any]:
    """Send a command while a fault acts; the facts of its reply, which must be that it was appended."""
    client, replies = mail
    async with place.rule(rule) as fired:
        await client.send(one)
        (reply, *more) = await replies.number(1, one.command_id)
        assert await fired() == rule.times
    assert not more
    assert reply.reply == Appended(command_id=one.command_id, first_position=Position(0), last_position=Position(0))
    assert [stored.command_id for stored in await place.events(one.brook)] == [one.command_id]
    return reply.facts


@pytest.mark.parametrize("status", [429, 449])
async def test_a_throttled_write_waits_as_told_and_counts_no_delivery(
    shared: Place, worker: WorkerProcess, mail: Mail, key: BrookKey, status: int
) -> None:
    one = command(command_id=f"throttled-{status}-{key}", key=key)
    rule = Rule(
        service="cosmos",
        operation="batch",
        where={"partition_key": partition_key(key)},
        times=3,
        effect=Answer(status=status, retry_after_ms=150),
    )
    started_s = anyio.current_time()
    facts = await answered_after(shared, mail, one, rule)
    assert anyio.current_time() - started_s >= 3 * 0.15
    assert (facts["deliveryCount"], facts["attempts"]) == (0, 4)


@pytest.mark.parametrize("effect", [ApplyThenDrop(), DropBefore(), Truncate(), Answer(status=408)])
async def test_a_write_with_an_unknown_outcome_takes_effect_once(
    shared: Place, worker: WorkerProcess, mail: Mail, key: BrookKey, effect: Effect
) -> None:
    one = command(command_id=f"ambiguous-{type(effect).__name__}-{key}", key=key)
    where = {"partition_key": partition_key(key)}
    rule = Rule(service="cosmos", operation="batch", where=where, times=1, effect=effect)
    facts = await answered_after(shared, mail, one, rule)
    assert facts["deliveryCount"] == 0


async def test_a_store_that_is_away_for_a_while_burns_no_delivery_and_loses_nothing(
    shared: Place, worker: WorkerProcess, mail: Mail, key: BrookKey
) -> None:
    commands = [command(command_id=f"outage-{key}-{number}", key=key) for number in range(20)]
    client, replies = mail
    async with shared.rule(Rule(service="cosmos", effect=Answer(status=503))):
        await client.send_many(commands)
        await wait_until(lambda: len(ends(worker, key)) >= 2, "given up twice")
    await replies.to_each(commands)
    assert set(ends(worker, key)) == {"TransientStoreError"}
    for one in commands:
        (reply,) = replies.by_command[one.command_id]
        assert (type(reply.reply), reply.facts["deliveryCount"]) == (Appended, 0)
    assert [stored.command_id for stored in await shared.events(key)] == [one.command_id for one in commands]


async def test_a_lease_service_that_is_away_for_a_while_burns_no_delivery_and_loses_nothing(
    shared: Place, worker: WorkerProcess, mail: Mail, key: BrookKey
) -> None:
    commands = [command(command_id=f"leaseless-{key}-{number}", key=key) for number in range(20)]
    client, replies = mail
    async with shared.rule(Rule(service="blob", effect=Answer(status=503))):
        await client.send_many(commands)
        await wait_until(lambda: len(ends(worker, key)) >= 2, "given up twice")
    await replies.to_each(commands)
    assert set(ends(worker, key)) == {"LeaseUnavailableError"}
    for one in commands:
        (reply,) = replies.by_command[one.command_id]
        assert (type(reply.reply), reply.facts["deliveryCount"]) == (Appended, 0)
    assert [stored.command_id for stored in await shared.events(key)] == [one.command_id for one in commands]


def slow_commit(key: BrookKey) -> Rule:
    """Holds the next write to a brook up for long enough to do something meanwhile."""
    where = {"partition_key": partition_key(key)}
    return Rule(service="cosmos", operation="batch", where=where, times=1, latency_s=0.7)


async def test_a_lost_session_lock_stops_that_session_and_the_commands_come_again_to_one_effect(
    shared: Place, worker: WorkerProcess, mail: Mail, key: BrookKey
) -> None:
    commands = [command(command_id=f"lost-{key}-{number}", key=key) for number in range(5)]
    client, replies = mail
    async with shared.rule(slow_commit(key)) as fired:
        await client.send_many(commands)
        await wait_until(lambda: _is(fired, 1), "the write is under way")
        await shared.control.take_session_lock(shared.command_queue, session_id_for(key))
        await wait_until(lambda: bool(ends(worker, key)), "the session has ended")
        await wait_until(lambda: all(is_answered_again(replies, one) for one in commands), "replies to the second time")
    assert all(len(set(replies.bodies(one.command_id))) == 1 for one in commands)
    assert ends(worker, key)[0] == "SessionLostError"
    assert [stored.command_id for stored in await shared.events(key)] == [one.command_id for one in commands]


async def test_a_broken_lease_stops_that_session_and_the_commands_come_again_to_one_effect(
    shared: Place, worker: WorkerProcess, mail: Mail, key: BrookKey
) -> None:
    """Found at the renewal, which the session must still be there for: commands keep it busy."""
    blob = blob_name(session_id_for(key))
    sent = 0
    client, replies = mail
    await client.append(key, command().events, command_id=f"first-{key}")
    await shared.control.break_lease(shared.lease_container, blob)

    async def found() -> bool:
        nonlocal sent
        sent += 1
        await client.append(key, command().events, command_id=f"busy-{key}-{sent}")
        return bool(ends(worker, key))

    await wait_until(found, "the broken lease is found at the next renewal", 15)
    assert all(len(set(replies.bodies(command_id))) == 1 for command_id in replies.by_command)
    assert ends(worker, key)[0] == "LeaseLostError"
    expected = [f"first-{key}", *(f"busy-{key}-{number}" for number in range(1, sent + 1))]
    assert [stored.command_id for stored in await shared.events(key)] == expected


async def test_a_connection_that_is_lost_at_the_end_of_a_group_brings_it_again_to_one_effect(
    shared: Place, worker: WorkerProcess, mail: Mail, key: BrookKey
) -> None:
    commands = [command(command_id=f"dropped-{key}-{number}", key=key) for number in range(5)]
    rule = Rule(
        service="servicebus",
        operation="settle",
        where={"entity": shared.command_queue},
        times=1,
        effect=DropBefore(),
    )
    client, replies = mail
    async with shared.rule(rule):
        await client.send_many(commands)
        await replies.number(2, commands[0].command_id)
        await wait_until(shared.is_drained, "every command settled")
    assert all(len(set(replies.bodies(one.command_id))) == 1 for one in commands)
    assert [stored.command_id for stored in await shared.events(key)] == [one.command_id for one in commands]


def is_answered_again(replies: Replies, one: AppendCommand) -> bool:
    """Whether a reply to the second delivery has come; the first delivery may have got none."""
    return any(reply.facts["deliveryCount"] == 1 for reply in replies.by_command[one.command_id])


def ends(worker: WorkerProcess, key: BrookKey) -> list[str]:
    """Why the sessions of a brook ended, where not of themselves."""
    return [line["error"] for line in worker.lines("session.ended") if line["session"] == session_id_for(key)]


async def _is(fired: Any, count: int) -> bool:
    return bool(await fired() == count)
