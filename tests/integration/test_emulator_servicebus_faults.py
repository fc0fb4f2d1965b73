"""Injected faults of the embedded Service Bus, as the real client meets them."""

import gc
import time
from collections.abc import Iterator

import pytest
from azure.servicebus import ServiceBusReceiveMode
from azure.servicebus.exceptions import (
    MessageLockLostError,
    OperationTimeoutError,
    ServiceBusAuthenticationError,
    ServiceBusConnectionError,
    ServiceBusError,
    ServiceBusServerBusyError,
    SessionLockLostError,
)

from emulator.config import QueueConfig
from emulator.faults import Answer, ApplyLate, ApplyThenDrop, DropBefore, Faults, Rule
from tests.support.servicebus import body_of, client_of, message, next_session, receive, running, send
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.anyio,
    # The client leaves its end of a connection that was dropped to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

Q = QueueConfig(name="q")
S = QueueConfig(name="s", requires_session=True)


@pytest.fixture(autouse=True)
def collect_what_the_client_leaves() -> Iterator[None]:
    """While the warnings about it are still ignored, not in some later test."""
    yield
    gc.collect()


def rule(operation: str, **fields: object) -> Rule:
    return Rule(service="servicebus", operation=operation, **fields)  # type: ignore[arg-type] # fields by name


async def test_refused_send_changes_nothing_and_the_clients_retry_gets_through() -> None:
    faults = Faults()
    async with running(Q, faults=faults) as server:
        faults.add(rule("send", times=1, effect=Answer(condition="com.microsoft:server-busy")))
        async with client_of(server) as client:
            with pytest.raises(ServiceBusServerBusyError):
                await send(client, "q", message("a"))
        assert server.engine.counts("q").active == 0
        faults.add(rule("send", times=1, effect=Answer(condition="amqp:internal-error")))
        async with client_of(server, retry_total=2) as client:
            await send(client, "q", message("b"))
        assert server.engine.counts("q").active == 1
        assert faults.requests["servicebus", "send"] == 3


async def test_send_that_is_applied_and_dropped_arrives_twice_through_the_clients_retry() -> None:
    faults = Faults()
    async with running(Q, faults=faults) as server, client_of(server, retry_total=2) as client:
        faults.add(rule("send", times=1, effect=ApplyThenDrop()))
        await send(client, "q", message("a", message_id="1"))
        assert [view.message_id for view in server.engine.messages("q")] == ["1", "1"]


async def test_send_that_is_dropped_before_is_not_applied() -> None:
    faults = Faults()
    async with running(Q, faults=faults) as server, client_of(server) as client:
        faults.add(rule("send", times=1, where={"entity": "q", "message_id": "1"}, effect=DropBefore()))
        with pytest.raises(ServiceBusConnectionError):
            await send(client, "q", message("a", message_id="1"))
        await send(client, "q", message("b", message_id="2"))
        assert [view.message_id for view in server.engine.messages("q")] == ["2"]


async def test_send_that_is_applied_late_arrives_after_the_connection_is_gone() -> None:
    faults = Faults()
    async with running(Q, faults=faults) as server, client_of(server) as client:
        faults.add(rule("send", times=1, effect=ApplyLate(delay_s=0.2)))
        with pytest.raises(ServiceBusConnectionError):
            await send(client, "q", message("late"))
        await wait_until(lambda: server.engine.counts("q").active == 1, "the message arrived")


async def test_latency_delays_and_keeps_the_order() -> None:
    faults = Faults()
    async with running(Q, faults=faults) as server, client_of(server) as client, client.get_queue_sender("q") as sender:
        await sender.send_messages(message("0"))
        faults.add(rule("send", times=1, latency_s=0.3))
        began = time.monotonic()
        await sender.send_messages(message("1"))
        assert time.monotonic() - began >= 0.3
        await sender.send_messages(message("2"))
        async with client.get_queue_receiver("q") as receiver:
            assert [body_of(each) for each in await receive(receiver, 3)] == ["0", "1", "2"]


async def test_refused_settlement_leaves_the_message_locked() -> None:
    faults = Faults()
    async with running(Q, faults=faults) as server, client_of(server) as client:
        await send(client, "q", message("a"))
        faults.add(rule("settle", times=1, effect=Answer(condition="com.microsoft:message-lock-lost")))
        async with client.get_queue_receiver("q") as receiver:
            (got,) = await receive(receiver, 1)
            with pytest.raises(MessageLockLostError):
                await receiver.complete_message(got)
        assert server.engine.messages("q")[0].is_locked


async def test_settlement_that_is_applied_and_dropped_is_settled() -> None:
    faults = Faults()
    async with running(S, faults=faults) as server, client_of(server) as client:
        await send(client, "s", message("a", "1"))
        faults.add(rule("settle", where={"session_id": "1", "outcome": "complete"}, effect=ApplyThenDrop()))
        receiver = next_session(client, "s")
        async with receiver:
            (got,) = await receive(receiver, 1)
            with pytest.raises(ServiceBusError):
                await receiver.complete_message(got)
        assert server.engine.messages("s") == []


async def test_session_lock_renewal_can_be_refused_and_delayed() -> None:
    faults = Faults()
    async with running(S, faults=faults) as server, client_of(server) as client:
        await send(client, "s", message("a", "1"))
        async with next_session(client, "s") as receiver:
            refusal = Answer(condition="com.microsoft:session-lock-lost", status=410)
            faults.add(rule("renew-session-lock", where={"session_id": "1"}, times=1, effect=refusal))
            with pytest.raises(SessionLockLostError):
                await receiver.session.renew_lock()
        assert faults.requests["servicebus", "renew-session-lock"] == 1


async def test_accepting_a_session_can_be_refused() -> None:
    faults = Faults()
    async with running(S, faults=faults) as server, client_of(server) as client:
        await send(client, "s", message("a", "1"))
        faults.add(rule("accept-session", times=1, effect=Answer(condition="com.microsoft:timeout", status=408)))
        with pytest.raises(OperationTimeoutError):
            async with next_session(client, "s"):
                pass
        async with next_session(client, "s") as receiver:
            assert receiver.session.session_id == "1"


async def test_delivery_that_is_applied_and_dropped_loses_what_is_deleted_on_delivery() -> None:
    faults = Faults()
    async with running(Q, faults=faults) as server, client_of(server) as client:
        await send(client, "q", message("a"))
        faults.add(rule("receive", times=1, effect=ApplyThenDrop()))
        async with client.get_queue_receiver("q", receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE) as receiver:
            with pytest.raises(ServiceBusError):
                await receiver.receive_messages(1, max_wait_time=2)
        assert server.engine.messages("q") == []


async def test_opening_and_claims_can_be_refused() -> None:
    faults = Faults()
    async with running(Q, faults=faults) as server, client_of(server) as client:
        faults.add(rule("open-connection", times=1, effect=Answer(condition="amqp:connection:forced")))
        with pytest.raises(ServiceBusError):
            await send(client, "q", message("a"))
        faults.add(rule("cbs-put-token", times=1, effect=Answer(status=401)))
        with pytest.raises(ServiceBusAuthenticationError):
            await send(client, "q", message("a"))
        faults.add(rule("open-sender", times=1, effect=Answer(condition="com.microsoft:entity-disabled")))
        with pytest.raises(ServiceBusError):
            await send(client, "q", message("a"))
        faults.add(rule("open-connection", times=1, latency_s=0.3))
        began = time.monotonic()
        await send(client, "q", message("a"))
        assert time.monotonic() - began >= 0.3
        assert server.engine.counts("q").active == 1


async def test_every_request_is_counted() -> None:
    faults = Faults()
    async with running(S, faults=faults) as server, client_of(server) as client:
        await send(client, "s", message("a", "1"), message("b", "1"))
        async with next_session(client, "s") as receiver:
            for got in await receive(receiver, 2):
                await receiver.complete_message(got)
            await receiver.session.get_state()
        counted = {operation: count for (_, operation), count in faults.requests.items() if operation != "receive"}
        assert counted == {
            "open-connection": 2,
            "cbs-put-token": 2,
            "open-sender": 1,
            "send": 1,
            "accept-session": 1,
            "settle": 2,
            "get-session-state": 1,
        }
