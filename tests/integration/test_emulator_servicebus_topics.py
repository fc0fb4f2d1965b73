"""Topics of the embedded Service Bus by the real clients: the asynchronous one, and the synchronous one in a thread."""

import pytest
from anyio import to_thread
from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusClient, ServiceBusMessage, ServiceBusSubQueue

from emulator.config import (
    CorrelationFilter,
    QueueConfig,
    RuleConfig,
    SqlFilter,
    SubscriptionConfig,
    TopicConfig,
)
from tests.support.servicebus import body_of, client_of, message, receive, running, send

pytestmark = pytest.mark.anyio

TOPIC = TopicConfig(
    name="replies",
    subscriptions=(
        SubscriptionConfig(name="all"),
        SubscriptionConfig(
            name="orders", rules=(RuleConfig(name="sql", filter=SqlFilter("kind = 'order' AND n > 1")),)
        ),
        SubscriptionConfig(
            name="greetings", rules=(RuleConfig(name="label", filter=CorrelationFilter(subject="greet")),)
        ),
        SubscriptionConfig(name="sessions", requires_session=True),
    ),
)


async def test_subscriptions_get_what_their_rules_take() -> None:
    async with running(topics=[TOPIC]) as server, client_of(server) as client:
        async with client.get_topic_sender("replies") as sender:
            await sender.send_messages(
                [
                    ServiceBusMessage("a", session_id="1", application_properties={"kind": "order", "n": 1}),
                    ServiceBusMessage("b", session_id="1", application_properties={"kind": "order", "n": 2}),
                    ServiceBusMessage("c", session_id="2", subject="greet"),
                ]
            )
        for name, expected in (("all", ["a", "b", "c"]), ("orders", ["b"]), ("greetings", ["c"])):
            async with client.get_subscription_receiver("replies", name) as receiver:
                got = await receive(receiver, len(expected))
                assert [body_of(each) for each in got] == expected
        async with client.get_subscription_receiver(
            "replies", "sessions", session_id=NEXT_AVAILABLE_SESSION, max_wait_time=5
        ) as receiver:
            assert receiver.session.session_id == "1"
            assert [body_of(each) for each in await receive(receiver, 2)] == ["a", "b"]


async def test_subscription_has_a_dead_letter_queue_of_its_own() -> None:
    async with running(topics=[TOPIC]) as server, client_of(server) as client:
        await send(client, "replies", message("a", "1"))
        async with client.get_subscription_receiver("replies", "all") as receiver:
            await receiver.dead_letter_message((await receive(receiver, 1))[0], reason="r")
        async with client.get_subscription_receiver(
            "replies", "all", sub_queue=ServiceBusSubQueue.DEAD_LETTER
        ) as receiver:
            (dead,) = await receive(receiver, 1)
            assert dead.dead_letter_reason == "r"


async def test_synchronous_client_works_as_well() -> None:
    queues = (QueueConfig(name="q"), QueueConfig(name="s", requires_session=True))

    def use(connection_string: str) -> list[str]:
        seen = []
        with ServiceBusClient.from_connection_string(connection_string, retry_total=0) as client:
            with client.get_queue_sender("q") as sender:
                sender.send_messages([ServiceBusMessage("a"), ServiceBusMessage("b")])
            with client.get_queue_receiver("q", max_wait_time=5) as receiver:
                for got in receiver.receive_messages(2, max_wait_time=5):
                    seen.append(str(got))
                    receiver.complete_message(got)
            with client.get_queue_sender("s") as sender:
                sender.send_messages(ServiceBusMessage("c", session_id="1"))
            with client.get_queue_receiver("s", session_id=NEXT_AVAILABLE_SESSION, max_wait_time=5) as receiver:
                (got,) = receiver.receive_messages(1, max_wait_time=5)
                receiver.session.set_state(b"kept")
                seen += [str(got), receiver.session.session_id or "", receiver.session.get_state().decode()]
                receiver.session.renew_lock()
                receiver.dead_letter_message(got, reason="r")
        return seen

    async with running(*queues) as server:
        assert await to_thread.run_sync(use, server.connection_string) == ["a", "b", "c", "1", "kept"]
        assert server.engine.counts("q").active == 0
        assert server.engine.counts("s").dead_lettered == 1
