"""What a run of tests makes on an account of Azure, and that it leaves nothing: tried on the embedded services."""

from pathlib import Path

import pytest
from azure.servicebus.aio.management import ServiceBusAdministrationClient

from emulator.app import Emulator
from schemas.keys import BrookKey
from tests.support.brooks import command
from tests.support.places import Connections
from tests.support.servicebus_admin import PlainHttp
from tests.support.stacks import entities
from tests.support.stacks.azure import made_for_a_run

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


def admin_of(azure: Emulator) -> ServiceBusAdministrationClient:
    parts = dict(part.split("=", 1) for part in azure.servicebus_connection_string.rstrip(";").split(";"))
    address = azure.servicebus_admin_endpoint.removeprefix("http://")
    return ServiceBusAdministrationClient.from_connection_string(
        f"Endpoint=sb://{address};SharedAccessKeyName={parts['SharedAccessKeyName']};"
        f"SharedAccessKey={parts['SharedAccessKey']}",
        transport=PlainHttp(),
        retry_total=0,
    )


async def test_a_run_makes_its_own_entities_uses_them_and_leaves_nothing(tmp_path: Path) -> None:
    async with Emulator() as azure, admin_of(azure) as admin:
        connections = Connections(
            servicebus_connection_string=azure.servicebus_connection_string,
            cosmos_endpoint=azure.cosmos_endpoint,
            cosmos_key=azure.cosmos_key,
            blob_connection_string=azure.blob_connection_string,
        )
        async with made_for_a_run(tmp_path, connections, admin) as stack:
            one, other = await stack.place(), await stack.place()
            assert {one.command_queue, one.reply_queue}.isdisjoint({other.command_queue, other.reply_queue})
            queue = await admin.get_queue(one.command_queue)
            assert queue.requires_session
            assert (await admin.get_queue(one.detecting_queue)).requires_duplicate_detection
            assert await admin.get_subscription(one.topic, entities.SUBSCRIPTION)
            key = BrookKey("azure", "1")
            async with one.ready_worker(), one.client() as (client, replies):
                sent = command(key=key)
                await client.send(sent)
                await replies.to_each([sent])
            assert [event.command_id for event in await one.events(key)] == [sent.command_id]
            services = stack.services
            database = one.settings()["cosmos_database"]
            assert database in {row["id"] async for row in services.cosmos.list_databases()}
            names = {one.command_queue, one.reply_queue, other.command_queue, one.topic, database, one.lease_container}
            assert all(name.startswith("brook-test-") for name in names)
        assert [queue.name async for queue in admin.list_queues()] == []
        assert [topic.name async for topic in admin.list_topics()] == []
        async with made_for_a_run(tmp_path, connections, admin) as second:
            assert [row["id"] async for row in second.services.cosmos.list_databases()] == []
            assert [container.name async for container in second.services.blobs.list_containers()] == []
