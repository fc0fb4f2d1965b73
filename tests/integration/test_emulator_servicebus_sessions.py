"""Sessions of the embedded Service Bus, by the real asynchronous client."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from azure.servicebus import ServiceBusSubQueue
from azure.servicebus.aio import AutoLockRenewer
from azure.servicebus.exceptions import (
    MessageNotFoundError,
    OperationTimeoutError,
    ServiceBusError,
    SessionCannotBeLockedError,
    SessionLockLostError,
)

from emulator.clock import SystemClock
from emulator.config import QueueConfig
from tests.support.servicebus import (
    SHORT_WAIT_S,
    WAIT_S,
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

S = QueueConfig(name="s", requires_session=True, max_delivery_count=3)


async def test_named_session_delivers_its_messages_in_order() -> None:
    async with running(S) as server, client_of(server) as client:
        await send(client, "s", *(message(f"{key}{n}", key) for n in range(3) for key in "ab"))
        async with client.get_queue_receiver("s", session_id="b") as receiver:
            assert receiver.session.session_id == "b"
            assert [body_of(each) for each in await receive(receiver, 3)] == ["b0", "b1", "b2"]
            assert await nothing(receiver)


@pytest.mark.slow
async def test_next_available_session_is_the_one_free_for_longest() -> None:
    async with running(S) as server, client_of(server) as client:
        for key in "cab":
            await send(client, "s", message("1", key))
        got = []
        for _ in range(3):
            async with next_session(client, "s") as receiver:
                got.append(receiver.session.session_id)
                await receiver.complete_message((await receive(receiver, 1))[0])
        assert got == ["c", "a", "b"]


async def test_accepted_session_says_until_when_it_is_locked() -> None:
    async with (
        running(S) as server,
        client_of(server) as client,
        client.get_queue_receiver("s", session_id="empty") as receiver,
    ):
        until = receiver.session.locked_until_utc
        assert until is not None
        assert timedelta(seconds=55) < until - datetime.now(UTC) <= timedelta(seconds=60)


async def test_waiting_acceptor_gets_the_session_that_appears() -> None:
    async with running(S) as server, client_of(server) as client:
        receiver = next_session(client, "s")
        opening = asyncio.create_task(receiver.__aenter__())
        await wait_until(lambda: server.faults.requests["servicebus", "accept-session"] == 1, "the acceptor waits")
        await send(client, "s", message("a", "late"))
        await opening
        assert receiver.session.session_id == "late"
        await receiver.close()


async def test_acceptor_times_out_when_there_is_no_session() -> None:
    async with running(S) as server, client_of(server) as client:
        with pytest.raises(OperationTimeoutError):
            async with next_session(client, "s", SHORT_WAIT_S):
                pass
        assert server.engine.next_deadline_s() is None  # nobody waits any more


async def test_second_receiver_of_a_locked_session_is_refused_until_the_first_closes() -> None:
    async with running(S) as server, client_of(server) as client:
        async with client.get_queue_receiver("s", session_id="a"):
            with pytest.raises(SessionCannotBeLockedError):
                async with client.get_queue_receiver("s", session_id="a"):
                    pass
        async with client.get_queue_receiver("s", session_id="a") as receiver:
            assert receiver.session.session_id == "a"


async def test_session_closed_with_unsettled_messages_starts_again_without_counting_a_delivery() -> None:
    async with running(S) as server, client_of(server) as client:
        await send(client, "s", *(message(str(n), "a") for n in range(4)))
        async with next_session(client, "s") as receiver:
            first = await receive(receiver, 3)
            await receiver.complete_message(first[1])
        async with next_session(client, "s") as receiver:
            again = await receive(receiver, 3)
            assert [(body_of(each), each.delivery_count) for each in again] == [("0", 0), ("2", 0), ("3", 0)]


async def test_connection_that_is_cut_frees_its_session() -> None:
    async with running(S) as server, client_of(server) as client:
        await send(client, "s", message("x", "a"))
        receiver = client.get_queue_receiver("s", session_id="a")
        await receiver.__aenter__()
        await receive(receiver, 1)
        receiver._handler._connection._transport.writer.transport.abort()
        await wait_until(lambda: server.engine.session_holder("s", "a") is None, "the session is free")
        async with client.get_queue_receiver("s", session_id="a") as other:
            (got,) = await receive(other, 1)
            assert got.delivery_count == 0
        await receiver.close()


async def test_abandoned_message_comes_next_and_is_dead_lettered_at_the_maximum() -> None:
    async with running(S) as server, client_of(server) as client:
        await send(client, "s", message("poison", "a"), message("fine", "a"))
        async with next_session(client, "s") as receiver:
            for count in range(3):
                (got,) = await receive(receiver, 1)
                assert (body_of(got), got.delivery_count) == ("poison", count)
                await receiver.abandon_message(got)
            assert body_of((await receive(receiver, 1))[0]) == "fine"
        async with client.get_queue_receiver("s", sub_queue=ServiceBusSubQueue.DEAD_LETTER) as receiver:
            (dead,) = await receive(receiver, 1)
            assert dead.dead_letter_reason == "MaxDeliveryCountExceeded"
            assert dead.session_id == "a"


async def test_lock_that_expires_ends_the_receiver_and_counts_a_delivery() -> None:
    clock = SystemClock()
    async with running(S, clock=clock) as server, client_of(server) as client:
        await send(client, "s", message("x", "a"))
        async with next_session(client, "s") as receiver:
            (got,) = await receive(receiver, 1)
            clock.jump_s(61)
            await wait_until(lambda: server.engine.session_holder("s", "a") is None, "the lock expired")
            with pytest.raises(SessionLockLostError):
                await receiver.complete_message(got)
        async with next_session(client, "s") as receiver:
            (got,) = await receive(receiver, 1)
            assert got.delivery_count == 1


async def test_lock_taken_away_refuses_settling_renewing_and_state() -> None:
    async with running(S) as server, client_of(server) as client:
        await send(client, "s", message("x", "a"))
        async with next_session(client, "s") as receiver:
            await receive(receiver, 1)
            server.engine.take_session_lock("s", "a")
            with pytest.raises(SessionLockLostError):
                await receiver.session.renew_lock()
        async with next_session(client, "s") as receiver:
            server.engine.take_session_lock("s", "a")
            with pytest.raises(SessionLockLostError):
                await receiver.session.set_state(b"x")


async def test_renewed_session_lock_lasts() -> None:
    clock = SystemClock()
    async with running(S, clock=clock) as server, client_of(server) as client:
        await send(client, "s", message("x", "a"))
        async with next_session(client, "s") as receiver:
            (got,) = await receive(receiver, 1)
            clock.jump_s(40)
            until = await receiver.session.renew_lock()
            assert until - datetime.now(UTC) > timedelta(seconds=95)
            clock.jump_s(40)
            await receiver.complete_message(got)
        assert server.engine.counts("s").active == 0


@pytest.mark.slow
async def test_session_state_is_kept_for_the_next_holder_and_listed() -> None:
    async with running(S) as server, client_of(server) as client:
        async with client.get_queue_receiver("s", session_id="a") as receiver:
            assert await receiver.session.get_state() is None
            await receiver.session.set_state(b"half way")
        await send(client, "s", message("x", "b"))
        assert [each async for each in client.list_queue_sessions("s")] == ["a", "b"]
        async with client.get_queue_receiver("s", session_id="a") as receiver:
            assert await receiver.session.get_state() == b"half way"
            await receiver.session.set_state(None)
        assert [each async for each in client.list_queue_sessions("s")] == ["b"]


async def test_deferred_message_of_a_session_is_received_by_its_holder() -> None:
    async with running(S) as server, client_of(server) as client:
        await send(client, "s", message("x", "a"), message("other", "b"))
        async with client.get_queue_receiver("s", session_id="a") as receiver:
            (got,) = await receive(receiver, 1)
            assert got.sequence_number is not None
            await receiver.defer_message(got)
        async with client.get_queue_receiver("s", session_id="b") as receiver:
            with pytest.raises(MessageNotFoundError):
                await receiver.receive_deferred_messages(got.sequence_number)
        async with client.get_queue_receiver("s", session_id="a") as receiver:
            (deferred,) = await receiver.receive_deferred_messages(got.sequence_number)
            await receiver.complete_message(deferred)
        assert [view.session_id for view in server.engine.messages("s")] == ["b"]


async def test_peek_stays_within_the_session() -> None:
    async with running(S) as server, client_of(server) as client:
        await send(client, "s", message("a0", "a"), message("b0", "b"), message("a1", "a"))
        async with client.get_queue_receiver("s", session_id="a") as receiver:
            assert [body_of(each) for each in await receiver.peek_messages(10)] == ["a0", "a1"]


async def test_message_without_session_id_is_refused() -> None:
    async with running(S) as server, client_of(server) as client:
        with pytest.raises(ServiceBusError, match="SessionId was not set"):
            await send(client, "s", message("x"))
        assert server.engine.messages("s") == []


async def test_receiver_without_session_is_refused() -> None:
    async with running(S) as server, client_of(server) as client:
        with pytest.raises(ServiceBusError, match="requires sessions"):
            async with client.get_queue_receiver("s"):
                pass


async def test_settling_and_renewing_at_the_same_time_lose_nothing() -> None:
    async with running(S) as server, client_of(server) as client:
        await send(client, "s", *(message(str(n), "a") for n in range(30)))
        async with next_session(client, "s") as receiver:
            got = await receive(receiver, 30)
            await asyncio.gather(
                *(receiver.dead_letter_message(each, reason="r") for each in got[:15]),
                *(receiver.session.renew_lock() for _ in range(5)),
                *(receiver.complete_message(each) for each in got[15:]),
            )
        counts = server.engine.counts("s")
        assert (counts.active, counts.dead_lettered) == (0, 15)


@pytest.mark.slow
async def test_many_acceptors_share_the_sessions_and_keep_each_in_order() -> None:
    async with running(S) as server, client_of(server) as client:
        for key in range(6):
            await send(client, "s", *(message(f"{n}", str(key)) for n in range(5)))
        seen: dict[str, list[str]] = {}

        async def worker() -> None:
            while server.engine.counts("s").active:
                try:
                    async with next_session(client, "s", 1.0) as receiver:
                        assert receiver.session.session_id is not None
                        got = await receive(receiver, 5, WAIT_S)
                        seen.setdefault(receiver.session.session_id, []).extend(map(body_of, got))
                        await asyncio.gather(*(receiver.complete_message(each) for each in got))
                except OperationTimeoutError:
                    continue

        await asyncio.gather(*(worker() for _ in range(3)))
        assert seen == {str(key): ["0", "1", "2", "3", "4"] for key in range(6)}


@pytest.mark.slow
async def test_automatic_renewal_keeps_a_short_lock() -> None:
    queue = QueueConfig(name="s", requires_session=True, lock_duration_s=2.5)
    async with running(queue) as server, client_of(server) as client, AutoLockRenewer() as renewer:
        await send(client, "s", message("x", "a"))
        async with next_session(client, "s") as receiver:
            renewer.register(receiver, receiver.session, max_lock_renewal_duration=30)
            (got,) = await receive(receiver, 1)
            requests = server.faults.requests
            await wait_until(lambda: requests["servicebus", "renew-session-lock"] >= 3, "the lock was renewed")
            await receiver.complete_message(got)
        assert server.engine.counts("s").active == 0


async def test_prefetched_messages_come_in_order_and_are_settled() -> None:
    async with running(S) as server, client_of(server) as client:
        await send(client, "s", *(message(str(n), "a") for n in range(30)))
        async with next_session(client, "s", prefetch_count=20) as receiver:
            got = await receive(receiver, 30)
            assert [body_of(each) for each in got] == [str(n) for n in range(30)]
            for each in got:
                await receiver.complete_message(each)
        assert server.engine.counts("s").active == 0
