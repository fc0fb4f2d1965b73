"""The Azure clients as the worker sets them up, against the embedded services."""

from collections.abc import AsyncIterator

import anyio
import pytest
from azure.core.exceptions import AzureError
from azure.cosmos import PartitionKey
from azure.cosmos.aio import ContainerProxy, CosmosClient

from emulator.app import Emulator
from emulator.config import QueueConfig, ServiceBusConfig
from emulator.faults import Answer, ApplyThenDrop, Rule
from tests.support.proxy import Proxy
from tests.support.worker_settings import worker_settings
from worker.clients import blob_service_client, cosmos_client, servicebus_client
from worker.errors import StartError
from worker.redaction import Secret
from worker.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
async def azure() -> AsyncIterator[Emulator]:
    async with Emulator(config=ServiceBusConfig(queues=(QueueConfig(name="commands", requires_session=True),))) as it:
        yield it


@pytest.fixture
def settings(azure: Emulator) -> Settings:
    return worker_settings(
        servicebus_connection_string=Secret(azure.servicebus_connection_string),
        cosmos_endpoint=azure.cosmos_endpoint,
        cosmos_key=Secret(azure.cosmos_key),
        cosmos_timeout_s=1.0,
        blob_connection_string=Secret(azure.blob_connection_string),
    )


async def made(client: CosmosClient) -> ContainerProxy:
    database = await client.create_database_if_not_exists("brooks")
    return await database.create_container_if_not_exists("events", PartitionKey("/brookPartitionKey"))


async def test_a_batch_is_sent_once_when_told_so(settings: Settings, azure: Emulator) -> None:
    """The SDK would send again what the service had applied already: azure-cosmos retries reads of the answer."""
    async with cosmos_client(settings) as client:
        container = await made(client)
        azure.faults.add(Rule(service="cosmos", operation="batch", effect=ApplyThenDrop()))
        operations = [("create", ({"id": "0", "brookPartitionKey": "orders|1"},))]
        with pytest.raises(AzureError):
            await container.execute_item_batch(operations, "orders|1", retry_connect=0, retry_read=0)
    assert azure.faults.requests["cosmos", "batch"] == 1


async def test_a_throttled_request_comes_back_at_once(settings: Settings, azure: Emulator) -> None:
    """The SDK would send it nine times more by itself, waiting for up to half a minute."""
    async with cosmos_client(settings) as client:
        container = await made(client)
        azure.faults.add(Rule(service="cosmos", effect=Answer(status=429, retry_after_ms=50)))
        operations = [("create", ({"id": "0", "brookPartitionKey": "orders|1"},))]
        with pytest.raises(AzureError):
            await container.execute_item_batch(operations, "orders|1", retry_connect=0, retry_read=0)
        rows = container.query_items("SELECT * FROM c", partition_key="orders|1")
        with pytest.raises(AzureError):
            await anext(aiter(rows))
    assert azure.faults.requests["cosmos", "batch"] == 1
    assert azure.faults.requests["cosmos", "query"] == 1


async def test_documents_are_sent_in_as_few_bytes_as_they_are_budgeted(settings: Settings, azure: Emulator) -> None:
    """Characters of three bytes each: 1.9 MB as UTF-8; written as `\\uXXXX` they would be twice that, and refused."""
    async with cosmos_client(settings) as client:
        container = await made(client)
        item = {"id": "0", "brookPartitionKey": "orders|1", "text": "€" * (1_900_000 // 3)}
        await container.execute_item_batch([("create", (item,))], "orders|1", retry_connect=0, retry_read=0)
        assert (await container.read_item("0", "orders|1"))["text"] == item["text"]


async def test_an_unanswered_cosmos_request_ends_after_its_time(settings: Settings, azure: Emulator) -> None:
    port = int(azure.cosmos_endpoint.rstrip("/").rpartition(":")[2])
    async with Proxy(port).running() as proxy:
        through_proxy = worker_settings(
            cosmos_endpoint=f"http://127.0.0.1:{proxy.port}/", cosmos_key=settings.cosmos_key, cosmos_timeout_s=0.3
        )
        async with cosmos_client(through_proxy) as client:
            container = await made(client)
            proxy.holding = True
            started_s = anyio.current_time()
            operations = [("create", ({"id": "0", "brookPartitionKey": "orders|1"},))]
            with pytest.raises(AzureError):
                await container.execute_item_batch(operations, "orders|1", retry_connect=0, retry_read=0)
            assert anyio.current_time() - started_s < 2


async def test_a_service_that_is_not_there_stops_the_start_and_names_the_setting() -> None:
    with pytest.raises(StartError, match=r"Cosmos DB at http://127\.0\.0\.1:1 does not answer; check cosmos_endpoint"):
        async with cosmos_client(worker_settings()):
            pass


async def test_a_silent_service_stops_the_start_in_time(azure: Emulator) -> None:
    port = int(azure.cosmos_endpoint.rstrip("/").rpartition(":")[2])
    async with Proxy(port).running() as proxy:
        proxy.holding = True
        silent = worker_settings(cosmos_endpoint=f"http://127.0.0.1:{proxy.port}/", cosmos_timeout_s=0.3)
        started_s = anyio.current_time()
        with pytest.raises(StartError, match="does not answer"):
            async with cosmos_client(silent):
                pass
        assert anyio.current_time() - started_s < 2


async def test_a_wrong_key_stops_the_start_and_is_not_shown(settings: Settings) -> None:
    wrong = worker_settings(cosmos_endpoint=settings.cosmos_endpoint, cosmos_key=Secret("cGxhbnRlZA=="))
    with pytest.raises(StartError, match="refuses the key; check cosmos_key") as caught:
        async with cosmos_client(wrong):
            pass
    assert "cGxhbnRlZA" not in str(caught.value)


async def test_an_account_that_is_busy_at_the_start_is_told_by_its_answer(settings: Settings, azure: Emulator) -> None:
    azure.faults.add(Rule(service="cosmos", effect=Answer(status=500)))
    with pytest.raises(StartError, match="answers 500; check cosmos_endpoint"):
        async with cosmos_client(settings):
            pass


async def test_clients_close_while_the_program_is_cancelled(settings: Settings) -> None:
    async with anyio.create_task_group() as tasks:

        async def work() -> None:
            async with cosmos_client(settings) as cosmos, blob_service_client(settings) as blob:
                await made(cosmos)
                assert [container async for container in blob.list_containers()] == []
                async with (
                    servicebus_client(settings) as broker,
                    broker.get_queue_receiver("commands", session_id="s"),
                ):
                    tasks.cancel_scope.cancel()
                    await anyio.sleep_forever()

        tasks.start_soon(work)
