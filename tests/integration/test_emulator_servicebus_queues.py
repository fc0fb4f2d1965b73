"""Queues of the embedded Service Bus, by the real asynchronous client."""

import asyncio
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from azure.servicebus import ServiceBusMessage, ServiceBusReceiveMode, ServiceBusSubQueue
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.amqp import AmqpAnnotatedMessage, AmqpMessageBodyType
from azure.servicebus.exceptions import (
    MessageLockLostError,
    MessageNotFoundError,
    MessageSizeExceededError,
    MessagingEntityNotFoundError,
    ServiceBusAuthenticationError,
    ServiceBusError,
    ServiceBusQuotaExceededError,
)

from emulator.clock import SystemClock
from emulator.config import QueueConfig
from emulator.servicebus import Limits
from tests.support.servicebus import (
    SHORT_WAIT_S,
    body_of,
    client_of,
    message,
    next_session,
    nothing,
    receive,
    running,
    send,
)
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio

Q = QueueConfig(name="q", max_delivery_count=3)


async def test_message_keeps_every_property_and_its_bytes() -> None:
    sent = ServiceBusMessage(
        b"\x00\xffbody",
        message_id="m1",
        session_id="any",
        correlation_id="c1",
        subject="s",
        content_type="application/json",
        to="t",
        reply_to="r",
        reply_to_session_id="rs",
        time_to_live=timedelta(hours=2),
        application_properties={"text": "é", "number": 7, "flag": True, "real": 1.5, "id": uuid.UUID(int=5)},
    )
    async with running(Q) as server, client_of(server) as client:
        before = datetime.now(UTC)
        await send(client, "q", sent)
        async with client.get_queue_receiver("q") as receiver:
            (got,) = await receive(receiver, 1)
            assert b"".join(got.body) == b"\x00\xffbody"
            assert (got.message_id, got.session_id, got.correlation_id) == ("m1", "any", "c1")
            assert (got.subject, got.content_type, got.to) == ("s", "application/json", "t")
            assert (got.reply_to, got.reply_to_session_id, got.time_to_live) == ("r", "rs", timedelta(hours=2))
            assert got.application_properties == {
                b"text": "é".encode(),
                b"number": 7,
                b"flag": True,
                b"real": 1.5,
                b"id": uuid.UUID(int=5),
            }
            assert got.sequence_number == 1
            assert got.delivery_count == 0
            assert got.enqueued_time_utc is not None
            assert before - timedelta(seconds=1) <= got.enqueued_time_utc <= datetime.now(UTC)
            assert got.locked_until_utc is not None
            assert timedelta(seconds=55) < got.locked_until_utc - before < timedelta(seconds=62)
            await receiver.complete_message(got)
        assert server.engine.counts("q").active == 0


async def test_value_and_sequence_bodies_survive() -> None:
    async with running(Q) as server, client_of(server) as client, client.get_queue_sender("q") as sender:
        await sender.send_messages(AmqpAnnotatedMessage(value_body={"k": [1, "two"]}))
        await sender.send_messages(AmqpAnnotatedMessage(sequence_body=[[1, 2], ["x"]], annotations={"own": "kept"}))
        async with client.get_queue_receiver("q") as receiver:
            value, sequence = await receive(receiver, 2)
            assert value.body_type is AmqpMessageBodyType.VALUE
            assert value.body == {b"k": [1, b"two"]}
            assert list(sequence.body) == [[1, 2], [b"x"]]
            assert sequence.raw_amqp_message.annotations[b"own"] == b"kept"


async def test_bodies_larger_than_a_frame_survive() -> None:
    body = bytes(range(256)) * 900
    async with running(Q) as server, client_of(server) as client:
        await send(client, "q", ServiceBusMessage(body))
        async with client.get_queue_receiver("q") as receiver:
            (got,) = await receive(receiver, 1)
            assert b"".join(got.body) == body
            await receiver.complete_message(got)


async def test_batch_arrives_in_order_under_rising_numbers() -> None:
    async with running(Q) as server, client_of(server) as client:
        await send(client, "q", *(message(str(number)) for number in range(250)))
        async with client.get_queue_receiver("q") as receiver:
            got = await receive(receiver, 250)
            assert [body_of(each) for each in got] == [str(number) for number in range(250)]
            assert [each.sequence_number for each in got] == list(range(1, 251))
            await asyncio.gather(*(receiver.complete_message(each) for each in got))
        assert server.engine.counts("q").active == 0


async def test_receive_and_delete_leaves_nothing() -> None:
    async with running(Q) as server, client_of(server) as client:
        await send(client, "q", message("a"), message("b"))
        async with client.get_queue_receiver("q", receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE) as receiver:
            assert [body_of(each) for each in await receive(receiver, 2)] == ["a", "b"]
        assert server.engine.messages("q") == []


async def test_abandoned_message_comes_next_and_is_dead_lettered_at_the_maximum() -> None:
    async with running(Q) as server, client_of(server) as client:
        await send(client, "q", message("poison"), message("fine"))
        async with client.get_queue_receiver("q") as receiver:
            for count in range(3):
                (got,) = await receive(receiver, 1)
                assert (body_of(got), got.delivery_count) == ("poison", count)
                await receiver.abandon_message(got)
            (after,) = await receive(receiver, 1)
            assert body_of(after) == "fine"
        async with client.get_queue_receiver("q", sub_queue=ServiceBusSubQueue.DEAD_LETTER) as receiver:
            (dead,) = await receive(receiver, 1)
            assert body_of(dead) == "poison"
            assert dead.dead_letter_reason == "MaxDeliveryCountExceeded"
            assert dead.dead_letter_error_description == "Message could not be consumed after 3 delivery attempts."
            assert dead.delivery_count == 3
            await receiver.complete_message(dead)
        assert server.engine.counts("q").dead_lettered == 0


async def test_dead_lettered_message_carries_reason_description_and_its_own_properties() -> None:
    async with running(Q) as server, client_of(server) as client:
        await send(client, "q", ServiceBusMessage("b", application_properties={"own": 1, "DeadLetterReason": "old"}))
        async with client.get_queue_receiver("q") as receiver:
            (got,) = await receive(receiver, 1)
            await receiver.dead_letter_message(got, reason="bad", error_description="very bad")
        async with client.get_queue_receiver("q", sub_queue=ServiceBusSubQueue.DEAD_LETTER) as receiver:
            (dead,) = await receive(receiver, 1)
            assert (dead.dead_letter_reason, dead.dead_letter_error_description) == ("bad", "very bad")
            assert dead.application_properties is not None
            assert dead.application_properties[b"own"] == 1
            assert dead.sequence_number == got.sequence_number


async def test_deferred_message_is_received_by_number_only() -> None:
    async with running(Q) as server, client_of(server) as client:
        await send(client, "q", message("later"))
        async with client.get_queue_receiver("q") as receiver:
            (got,) = await receive(receiver, 1)
            assert got.sequence_number is not None
            await receiver.defer_message(got)
            assert await nothing(receiver)
            (deferred,) = await receiver.receive_deferred_messages(got.sequence_number)
            assert body_of(deferred) == "later"
            with pytest.raises(MessageNotFoundError):
                await receiver.receive_deferred_messages(got.sequence_number)  # it is locked
            await receiver.abandon_message(deferred)
            (again,) = await receiver.receive_deferred_messages([got.sequence_number])
            assert again.delivery_count == 1
            await receiver.complete_message(again)
            with pytest.raises(MessageNotFoundError):
                await receiver.receive_deferred_messages(got.sequence_number)


async def test_peek_shows_all_states_and_takes_nothing() -> None:
    async with running(Q) as server, client_of(server) as client, client.get_queue_sender("q") as sender:
        await sender.send_messages([message("deferred"), message("locked"), message("free")])
        await sender.schedule_messages(message("scheduled"), datetime.now(UTC) + timedelta(hours=1))
        async with client.get_queue_receiver("q") as receiver:
            deferred, _locked = await receive(receiver, 2)
            await receiver.defer_message(deferred)
            peeked = await receiver.peek_messages(10, sequence_number=1)
            assert [(body_of(each), each.state.name) for each in peeked] == [
                ("deferred", "DEFERRED"),
                ("locked", "ACTIVE"),
                ("free", "ACTIVE"),
                ("scheduled", "SCHEDULED"),
            ]
            assert [body_of(each) for each in await receiver.peek_messages(2, sequence_number=2)] == ["locked", "free"]
            assert await receiver.peek_messages(2, sequence_number=100) == []


async def test_scheduled_message_comes_at_its_time_unless_cancelled() -> None:
    clock = SystemClock()
    async with running(Q, clock=clock) as server, client_of(server) as client, client.get_queue_sender("q") as sender:
        at = datetime.now(UTC) + timedelta(minutes=10)
        first, second = await sender.schedule_messages([message("kept"), message("cancelled")], at)
        await sender.cancel_scheduled_messages(second)
        with pytest.raises(MessageNotFoundError):
            await sender.cancel_scheduled_messages(second)
        await sender.send_messages(ServiceBusMessage("annotated", scheduled_enqueue_time_utc=at))
        assert server.engine.counts("q").scheduled == 2
        async with client.get_queue_receiver("q") as receiver:
            assert await nothing(receiver)
            clock.jump_s(601)
            got = await receive(receiver, 2)
            assert [body_of(each) for each in got] == ["kept", "annotated"]
            assert got[0].sequence_number != first  # a new number on activation


async def test_lock_that_expires_counts_a_delivery_and_cannot_settle() -> None:
    clock = SystemClock()
    async with running(Q, clock=clock) as server, client_of(server) as client:
        await send(client, "q", message("a"))
        async with client.get_queue_receiver("q") as receiver:
            (got,) = await receive(receiver, 1)
            clock.jump_s(61)
            await wait_until(lambda: not server.engine.messages("q")[0].is_locked, "the lock expired")
            with pytest.raises(MessageLockLostError):
                await receiver.complete_message(got)
            with pytest.raises(MessageLockLostError):
                await receiver.renew_message_lock(got)
            (again,) = await receive(receiver, 1)
            assert again.delivery_count == 1


async def test_renewed_lock_lasts() -> None:
    clock = SystemClock()
    async with running(Q, clock=clock) as server, client_of(server) as client:
        await send(client, "q", message("a"))
        async with client.get_queue_receiver("q") as receiver:
            (got,) = await receive(receiver, 1)
            clock.jump_s(40)
            until = await receiver.renew_message_lock(got)
            assert until - datetime.now(UTC) > timedelta(seconds=95)
            clock.jump_s(40)
            await receiver.complete_message(got)
        assert server.engine.counts("q").active == 0


async def test_closed_receiver_leaves_its_unsettled_message_locked() -> None:
    async with running(Q) as server, client_of(server) as client:
        await send(client, "q", message("a"))
        async with client.get_queue_receiver("q") as receiver:
            await receive(receiver, 1)
        async with client.get_queue_receiver("q") as other:
            assert await nothing(other)
        assert server.engine.messages("q")[0].is_locked


async def test_message_expires_with_and_without_dead_lettering() -> None:
    clock = SystemClock()
    queues = (
        QueueConfig(name="drops", default_message_ttl_s=60.0),
        QueueConfig(name="keeps", default_message_ttl_s=3600.0, dead_lettering_on_message_expiration=True),
    )
    async with running(*queues, clock=clock) as server, client_of(server) as client:
        await send(client, "drops", message("a"))
        await send(client, "keeps", ServiceBusMessage("b", time_to_live=timedelta(seconds=50)), message("stays"))
        clock.jump_s(61)
        await wait_until(lambda: server.engine.counts("drops").active == 0, "the message was dropped")
        await wait_until(lambda: server.engine.counts("keeps").dead_lettered == 1, "the message was dead-lettered")
        assert server.engine.counts("drops").dead_lettered == 0
        assert server.engine.counts("keeps").active == 1
        async with client.get_queue_receiver("keeps", sub_queue=ServiceBusSubQueue.DEAD_LETTER) as receiver:
            (dead,) = await receive(receiver, 1)
            assert dead.dead_letter_reason == "TTLExpiredException"
            assert dead.dead_letter_error_description == "The message expired and was dead lettered."


async def test_duplicates_vanish_within_the_window_only() -> None:
    clock = SystemClock()
    queue = QueueConfig(name="d", requires_duplicate_detection=True, duplicate_detection_window_s=30.0)
    async with running(queue, clock=clock) as server, client_of(server) as client:
        await send(client, "d", message("a", message_id="1"), message("twin", message_id="1"))
        await send(client, "d", message("again", message_id="1"), message("b", message_id="2"))
        assert [view.message_id for view in server.engine.messages("d")] == ["1", "2"]
        clock.jump_s(31)
        await send(client, "d", message("late", message_id="1"))
        assert [view.message_id for view in server.engine.messages("d")] == ["1", "2", "1"]


async def test_two_receivers_share_a_queue_without_sharing_a_message() -> None:
    async with running(Q) as server, client_of(server) as client:
        await send(client, "q", *(message(str(number)) for number in range(40)))
        async with client.get_queue_receiver("q") as one, client.get_queue_receiver("q") as two:
            got = await asyncio.gather(receive(one, 20), receive(two, 20))
            bodies = sorted(int(body_of(each)) for part in got for each in part)
            assert bodies == list(range(40))


async def test_full_queue_refuses_with_the_quota_until_something_is_read() -> None:
    async with (
        running(QueueConfig(name="small", max_size_bytes=1_000)) as server,
        client_of(server) as client,
        client.get_queue_sender("small") as sender,
        client.get_queue_receiver("small") as receiver,
    ):
        await sender.send_messages(message("x" * 1_000))
        with pytest.raises(ServiceBusQuotaExceededError, match="maximum entity size has been reached or exceeded"):
            await sender.send_messages(message("y"))
        await receiver.complete_message((await receive(receiver, 1))[0])
        await sender.send_messages(message("y"))
        assert body_of((await receive(receiver, 1))[0]) == "y"


async def test_message_over_the_limit_is_refused_as_too_large() -> None:
    async with (
        running(Q, limits=Limits(message_bytes_max=10_000)) as server,
        client_of(server) as client,
        client.get_queue_sender("q") as sender,
    ):
        with pytest.raises(MessageSizeExceededError):
            await sender.send_messages(ServiceBusMessage(b"x" * 10_001))
        batch = await sender.create_message_batch()
        assert batch.max_size_in_bytes == 10_000
        assert server.engine.counts("q").active == 0


async def test_unknown_entities_are_not_found() -> None:
    async with running(Q) as server, client_of(server) as client:
        with pytest.raises(MessagingEntityNotFoundError):
            await send(client, "nowhere", message("a"))
        with pytest.raises(MessagingEntityNotFoundError):
            async with client.get_queue_receiver("nowhere"):
                pass
        with pytest.raises(MessagingEntityNotFoundError):
            async with client.get_subscription_receiver("nowhere", "nothing"):
                pass


async def test_addresses_are_matched_whatever_their_case() -> None:
    async with running(QueueConfig(name="Orders")) as server, client_of(server) as client:
        await send(client, "oRDERS", message("a"))
        async with client.get_queue_receiver("ORDERS") as receiver:
            assert body_of((await receive(receiver, 1))[0]) == "a"
            assert len(await receiver.peek_messages(1, sequence_number=1)) == 1


async def test_session_receiver_is_refused_on_a_queue_without_sessions() -> None:
    async with running(Q) as server, client_of(server) as client:
        with pytest.raises(ServiceBusError, match="does not require sessions"):
            async with next_session(client, "q", SHORT_WAIT_S):
                pass


@pytest.mark.parametrize("fault", ["SharedAccessKeyName=Nobody", "SharedAccessKey=d3Jvbmc="])
async def test_put_token_with_an_unknown_key_name_or_a_wrong_key_is_refused(fault: str) -> None:
    name, _, value = fault.partition("=")
    async with running(Q) as server:
        parts = dict(part.split("=", 1) for part in server.connection_string.strip(";").split(";"))
        parts[name] = value
        forged = ";".join(f"{key}={each}" for key, each in parts.items()) + ";"
        async with ServiceBusClient.from_connection_string(forged, retry_total=0) as client:
            with pytest.raises(ServiceBusAuthenticationError):
                await send(client, "q", message("a"))
        assert server.engine.counts("q").active == 0
