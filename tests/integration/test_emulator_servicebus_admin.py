"""The administration interface of the embedded Service Bus, by the real administration client and as JSON."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import aiohttp
import pytest
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
)
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio.management import ServiceBusAdministrationClient
from azure.servicebus.exceptions import MessagingEntityNotFoundError
from azure.servicebus.management import SqlRuleFilter

from emulator.config import QueueConfig, RuleConfig, SqlFilter, SubscriptionConfig, TopicConfig
from emulator.servicebus import AdminServer, ServiceBusServer
from tests.support.servicebus import body_of, client_of, message, next_session, receive, running, send
from tests.support.servicebus_admin import PlainHttp
from tests.support.servicebus_engine import Bench, RowJournal

pytestmark = pytest.mark.anyio

Q = QueueConfig(name="q", default_message_ttl_s=3600.0)
TOPIC = TopicConfig(name="t", subscriptions=(SubscriptionConfig(name="s"),))


@asynccontextmanager
async def administering(
    server: ServiceBusServer, key: str | None = None
) -> AsyncIterator[ServiceBusAdministrationClient]:
    admin = AdminServer(server)
    await admin.start()
    name, right_key = next(iter(server.tokens.keys.items()))
    try:
        async with ServiceBusAdministrationClient.from_connection_string(
            f"Endpoint=sb://{admin.address};SharedAccessKeyName={name};SharedAccessKey={key or right_key}",
            transport=PlainHttp(),
            retry_total=0,
        ) as client:
            yield client
    finally:
        await admin.stop()


@asynccontextmanager
async def asking(server: ServiceBusServer) -> AsyncIterator[aiohttp.ClientSession]:
    """A session of plain JSON, without a signature."""
    admin = AdminServer(server)
    await admin.start()
    try:
        async with aiohttp.ClientSession(admin.endpoint, headers={"Accept": "application/json"}) as http:
            yield http
    finally:
        await admin.stop()


async def test_queue_is_created_used_counted_listed_and_deleted() -> None:
    async with running(Q) as server, administering(server) as admin, client_of(server) as client:
        made = await admin.create_queue(
            "new",
            requires_session=True,
            lock_duration=timedelta(seconds=30),
            max_delivery_count=7,
            default_message_time_to_live=timedelta(hours=2),
            dead_lettering_on_message_expiration=True,
            requires_duplicate_detection=True,
            duplicate_detection_history_time_window=timedelta(minutes=1),
            max_size_in_megabytes=2_048,
        )
        assert made.max_size_in_megabytes == 2_048
        assert (made.name, made.requires_session, made.max_delivery_count) == ("new", True, 7)
        assert made.lock_duration == timedelta(seconds=30)
        assert made.default_message_time_to_live == timedelta(hours=2)
        assert made.dead_lettering_on_message_expiration
        assert made.requires_duplicate_detection
        await send(client, "new", message("a", "1"), message("b", "1"))
        async with next_session(client, "new") as receiver:
            (got,) = await receive(receiver, 1)
            await receiver.dead_letter_message(got)
        runtime = await admin.get_queue_runtime_properties("new")
        assert (runtime.active_message_count, runtime.dead_letter_message_count) == (1, 1)
        assert runtime.size_in_bytes is not None
        assert 2 < runtime.size_in_bytes < 1_000
        assert runtime.total_message_count == 1
        assert [queue.name async for queue in admin.list_queues()] == ["q", "new"]
        await admin.delete_queue("new")
        with pytest.raises(MessagingEntityNotFoundError):
            await send(client, "new", message("c", "1"))
        with pytest.raises(ResourceNotFoundError):
            await admin.get_queue("new")
        with pytest.raises(ResourceNotFoundError):
            await admin.delete_queue("new")


async def test_topic_and_subscription_are_created_used_listed_and_deleted() -> None:
    async with running(topics=[TOPIC]) as server, administering(server) as admin, client_of(server) as client:
        await admin.create_topic("new")
        await admin.create_subscription("new", "sub", max_delivery_count=3)
        assert (await admin.get_subscription("new", "sub")).max_delivery_count == 3
        assert [topic.name async for topic in admin.list_topics()] == ["t", "new"]
        assert [each.name async for each in admin.list_subscriptions("new")] == ["sub"]
        assert (await admin.get_topic_runtime_properties("new")).subscription_count == 1
        await send(client, "new", message("a"))
        assert (await admin.get_subscription_runtime_properties("new", "sub")).active_message_count == 1
        async with client.get_subscription_receiver("new", "sub") as receiver:
            assert body_of((await receive(receiver, 1))[0]) == "a"
        await admin.delete_subscription("new", "sub")
        with pytest.raises(ResourceNotFoundError):
            await admin.get_subscription("new", "sub")
        await admin.delete_topic("new")
        with pytest.raises(ResourceNotFoundError):
            await admin.get_topic("new")


async def test_what_is_refused() -> None:
    async with running(Q) as server, administering(server) as admin:
        with pytest.raises(ResourceExistsError):
            await admin.create_queue("Q")
        with pytest.raises(HttpResponseError, match="lock duration"):
            await admin.create_queue("long", lock_duration=timedelta(minutes=6))
        with pytest.raises(HttpResponseError, match="not forwarded"):
            await admin.create_queue("forwarding", forward_to="q")
        with pytest.raises(HttpResponseError, match="not updated"):
            await admin.update_queue(await admin.get_queue("q"))
        await admin.create_topic("t")
        await admin.create_subscription("t", "s")
        with pytest.raises(HttpResponseError, match="rules are not changed"):
            await admin.create_rule("t", "s", "r", filter=SqlRuleFilter("1 = 1"))
        assert (await admin.get_namespace_properties()).name == "sbemulatorns"


async def test_wrong_key_is_refused() -> None:
    async with running(Q) as server, administering(server, key="d3Jvbmc=") as admin:
        with pytest.raises(ClientAuthenticationError):
            await admin.get_queue("q")


async def test_json_says_the_same() -> None:
    async with running(Q, topics=[TOPIC]) as server, asking(server) as http:
        async with http.put("/made", json={"type": "queue", "requires_session": True}) as answer:
            assert answer.status == 201
            made = await answer.json()
        assert made["requires_session"] is True
        assert made["counts"] == {"active": 0, "deferred": 0, "scheduled": 0, "dead_lettered": 0, "locked": 0}
        async with http.put("/wrong", json={"max_delivery_count": 0}) as answer:
            assert (answer.status, "out of range" in (await answer.json())["detail"]) == (400, True)
        async with http.put("/xml", data=b"<!DOCTYPE x><x/>") as answer:
            assert answer.status == 400
        for wrong in (b"{", b"[]", b"\xff"):
            async with http.put("/x", data=wrong, headers={"Content-Type": "application/json"}) as answer:
                assert answer.status == 400
        async with http.get("/$Resources/queues?$skip=x") as answer:
            assert answer.status == 400
        async with http.get("/t/Subscriptions/s") as answer:
            assert (await answer.json())["rules"][0]["name"] == "$Default"
        async with http.get("/nothing") as answer:
            assert answer.status == 404


@pytest.mark.parametrize(
    "rule_filter",
    [{"type": "sql", "expression": "colour = 'red'"}, {"type": "correlation", "properties": {"colour": "red"}}],
)
async def test_subscription_is_made_with_its_rules(rule_filter: dict[str, Any]) -> None:
    async with running(topics=[TOPIC]) as server, asking(server) as http, client_of(server) as client:
        rules = [{"name": "red", "filter": rule_filter}]
        async with http.put("/t/subscriptions/reds", json={"rules": rules}) as answer:
            assert answer.status == 201
            assert (await answer.json())["rules"][0]["filter"]["type"] == rule_filter["type"]
        async with http.put(
            "/t/subscriptions/wrong", json={"rules": [{"filter": {"type": "sql", "expression": "= 1"}}]}
        ) as answer:
            assert (answer.status, "cannot be understood" in (await answer.json())["detail"]) == (400, True)
        async with client.get_topic_sender("t") as sender:
            await sender.send_messages(
                [ServiceBusMessage(each, application_properties={"colour": each}) for each in ("blue", "red")]
            )
        assert [view.properties for view in server.engine.messages("t/Subscriptions/reds")] == [{"colour": "red"}]
        assert server.engine.counts("t/Subscriptions/s").active == 2


async def test_default_rule_in_atom_is_refused_and_not_ignored() -> None:
    space = "http://schemas.microsoft.com/netservices/2010/10/servicebus/connect"
    body = (
        f'<entry xmlns="http://www.w3.org/2005/Atom"><content><SubscriptionDescription xmlns="{space}">'
        "<DefaultRuleDescription/></SubscriptionDescription></content></entry>"
    )
    async with running(topics=[TOPIC]) as server, asking(server) as http:
        async with http.put("/t/subscriptions/new", data=body) as answer:
            assert (answer.status, "in JSON" in (await answer.json())["detail"]) == (400, True)
        assert server.engine.entities.paths() == ["t/Subscriptions/s"]


async def test_atom_without_a_signature_and_json_with_a_wrong_one_are_refused() -> None:
    async with running(Q) as server, asking(server) as http:
        async with http.get("/q", headers={"Accept": "application/xml"}) as answer:
            assert answer.status == 401
        async with http.get("/q", headers={"Authorization": "SharedAccessSignature sr=x"}) as answer:
            assert answer.status == 401


async def test_deleting_a_queue_closes_its_receivers() -> None:
    async with running(QueueConfig(name="s", requires_session=True)) as server, client_of(server) as client:
        await send(client, "s", message("a", "1"))
        async with next_session(client, "s") as receiver:
            await receive(receiver, 1)
            server.engine.entities.delete("s")
            with pytest.raises(MessagingEntityNotFoundError):
                await receiver.receive_messages(1, max_wait_time=2)
        assert server.engine.next_deadline_s() is None


async def test_deleting_a_topic_leaves_queues_of_similar_names() -> None:
    bench = Bench(Q, QueueConfig(name="t/x"), topics=(TOPIC,))
    assert bench.engine.entities.paths() == ["q", "t/x", "t/Subscriptions/s"]
    bench.engine.entities.delete("T")
    assert bench.engine.entities.paths() == ["q", "t/x"]


async def test_entities_made_while_running_outlive_a_restart() -> None:
    bench = Bench(Q, topics=(TOPIC,), journal=RowJournal())
    rules = (RuleConfig(name="r", filter=SqlFilter("a = 1")),)
    bench.engine.entities.create_queue(QueueConfig(name="made", max_delivery_count=4))
    bench.engine.entities.create_topic(TopicConfig(name="topic"))
    bench.engine.entities.create_subscription("topic", SubscriptionConfig(name="sub", rules=rules))
    bench.engine.entities.create_queue(QueueConfig(name="gone"))
    bench.engine.entities.delete("gone")
    bench.restart()
    assert bench.engine.entities.queues["made"].max_delivery_count == 4
    assert bench.engine.entities.subscription("topic", "sub").config.rules == rules
    assert bench.engine.queue("topic/Subscriptions/sub").path == "topic/Subscriptions/sub"
    assert "gone" not in bench.engine.entities.queues
