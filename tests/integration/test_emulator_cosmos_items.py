"""Items and batches through the unmodified `azure.cosmos`, async and sync."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from azure.core import MatchConditions
from azure.cosmos import CosmosClient as SyncCosmosClient
from azure.cosmos import PartitionKey
from azure.cosmos.aio import ContainerProxy, CosmosClient
from azure.cosmos.exceptions import (
    CosmosAccessConditionFailedError,
    CosmosBatchOperationError,
    CosmosHttpResponseError,
    CosmosResourceExistsError,
    CosmosResourceNotFoundError,
)

from emulator.clock import ManualClock
from emulator.cosmos import CosmosServer
from emulator.faults import Faults
from emulator.journal import MemoryJournal

pytestmark = pytest.mark.anyio

PK = "orders|1"


@pytest.fixture
async def server() -> AsyncIterator[CosmosServer]:
    server = CosmosServer(clock=ManualClock(), journal=MemoryJournal(), faults=Faults())
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def container(server: CosmosServer) -> AsyncIterator[ContainerProxy]:
    async with CosmosClient(server.endpoint, server.key) as client:
        database = await client.create_database("brooks")
        yield await database.create_container("events", PartitionKey("/brookPartitionKey"))


def event(item_id: str, **more: Any) -> dict[str, Any]:
    return {"id": item_id, "brookPartitionKey": PK, **more}


@pytest.mark.parametrize("endpoint_discovery", [True, False])
async def test_client_works_with_endpoint_discovery_on_and_off(server: CosmosServer, endpoint_discovery: bool) -> None:
    async with CosmosClient(server.endpoint, server.key, enable_endpoint_discovery=endpoint_discovery) as client:
        database = await client.create_database_if_not_exists("brooks")
        container = await database.create_container_if_not_exists("events", PartitionKey("/brookPartitionKey"))
        await container.create_item(event("head"))
        assert (await container.read_item("head", PK))["id"] == "head"


async def test_wrong_key_is_refused(server: CosmosServer) -> None:
    wrong = CosmosClient(server.endpoint, "d3Jvbmc=", retry_total=0)
    with pytest.raises(CosmosHttpResponseError, match="wrong key") as refused:
        async with wrong:
            pass
    await wrong.close()
    assert refused.value.status_code == 401


async def test_a_created_item_has_the_system_properties_of_the_service(container: ContainerProxy) -> None:
    created = await container.create_item(event("0"))
    assert {"_rid", "_self", "_etag", "_attachments", "_ts"} <= created.keys()
    assert created["_ts"] == 1_700_000_000
    assert created.get_response_headers()["etag"] == created["_etag"]
    with pytest.raises(CosmosResourceExistsError):
        await container.create_item(event("0"))


async def test_an_item_is_found_by_its_self_link_too(container: ContainerProxy) -> None:
    created = await container.create_item(event("0", n=1))  # given the whole item, the client uses its _self
    assert (await container.read_item(created, PK))["n"] == 1
    await container.replace_item(created, event("0", n=2))
    await container.delete_item(created, PK)
    with pytest.raises(CosmosResourceNotFoundError):
        await container.read_item(created, PK)


async def test_a_stale_etag_never_overwrites(container: ContainerProxy) -> None:
    old = await container.create_item(event("head", position=0))
    condition = {"etag": old["_etag"], "match_condition": MatchConditions.IfNotModified}
    new = await container.replace_item("head", event("head", position=1), **condition)
    assert new["_etag"] != old["_etag"]
    with pytest.raises(CosmosAccessConditionFailedError):
        await container.replace_item("head", event("head", position=2), **condition)
    with pytest.raises(CosmosAccessConditionFailedError):
        await container.upsert_item(event("head", position=2), **condition)
    with pytest.raises(CosmosAccessConditionFailedError):
        await container.delete_item("head", PK, **condition)
    with pytest.raises(CosmosAccessConditionFailedError):
        await container.patch_item("head", PK, [{"op": "incr", "path": "/position", "value": 1}], **condition)
    assert (await container.read_item("head", PK))["position"] == 1


async def test_a_batch_applies_all_operations_and_reports_each(container: ContainerProxy) -> None:
    head = await container.create_item(event("head", position=-1))
    operations: list[Any] = [
        ("replace", ("head", event("head", position=1)), {"if_match_etag": head["_etag"]}),
        ("create", (event("0", position=0),)),
        ("create", (event("1", position=1),)),
    ]
    results = await container.execute_item_batch(operations, partition_key=PK)
    assert [result["statusCode"] for result in results] == [200, 201, 201]
    assert all(result["eTag"] == result["resourceBody"]["_etag"] for result in results)
    charge = float(results.get_response_headers()["x-ms-request-charge"])
    assert charge == pytest.approx(sum(result["requestCharge"] for result in results))


async def test_a_failed_operation_undoes_the_whole_batch(container: ContainerProxy) -> None:
    head = await container.create_item(event("head", position=-1))
    await container.replace_item("head", event("head", position=5))
    operations: list[Any] = [
        ("create", (event("0"),)),
        ("replace", ("head", event("head", position=0)), {"if_match_etag": head["_etag"]}),
        ("create", (event("1"),)),
    ]
    with pytest.raises(CosmosBatchOperationError) as failed:
        await container.execute_item_batch(operations, partition_key=PK)
    assert failed.value.error_index == 1
    assert failed.value.status_code == 412
    assert [result["statusCode"] for result in failed.value.operation_responses] == [424, 412, 424]
    assert all(result.keys() == {"statusCode", "requestCharge"} for result in failed.value.operation_responses)
    assert (await container.read_item("head", PK))["position"] == 5
    for item_id in ("0", "1"):
        with pytest.raises(CosmosResourceNotFoundError):
            await container.read_item(item_id, PK)


@pytest.mark.parametrize("count", [0, 101])
async def test_a_batch_of_none_or_more_than_100_operations_is_refused(container: ContainerProxy, count: int) -> None:
    operations: list[Any] = [("create", (event(str(index)),)) for index in range(count)]
    with pytest.raises(CosmosHttpResponseError) as refused:
        await container.execute_item_batch(operations, partition_key=PK)
    assert refused.value.status_code == 400


async def test_a_batch_over_two_megabytes_is_413_and_changes_nothing(container: ContainerProxy) -> None:
    operations: list[Any] = [("create", (event(str(at), data="x" * 700_000),)) for at in range(3)]
    with pytest.raises(CosmosHttpResponseError) as refused:
        await container.execute_item_batch(operations, partition_key=PK)
    assert refused.value.status_code == 413
    results = await container.execute_item_batch(operations[:2], partition_key=PK)
    assert [result["statusCode"] for result in results] == [201, 201]


async def test_names_and_ids_may_be_anything_that_the_service_allows(server: CosmosServer) -> None:
    async with CosmosClient(server.endpoint, server.key) as client:
        database = await client.create_database("bröoks & co")
        container = await database.create_container("évents 100%+", PartitionKey("/brookPartitionKey"))
        for item_id in ("é ü", "a%20b", "x+y&z=1", "'quoted' \"twice\"", "日本語", "a|b:c;d,e@f!(g)[h]{i}"):
            key = f"orders|{item_id}/\\?#"
            await container.create_item({"id": item_id, "brookPartitionKey": key, "n": 1})
            read = await container.read_item(item_id, key)
            assert (read["id"], read["brookPartitionKey"]) == (item_id, key)
            await container.patch_item(item_id, key, [{"op": "incr", "path": "/n", "value": 1}])
            found = container.query_items(
                "SELECT VALUE c.n FROM c WHERE c.id = @id",
                parameters=[{"name": "@id", "value": item_id}],
                partition_key=key,
            )
            assert [n async for n in found] == [2]
            await container.delete_item(item_id, key)


async def test_a_brook_is_read_in_order_and_in_pages(container: ContainerProxy) -> None:
    for start in (0, 100, 200):
        operations: list[Any] = [("create", (event(str(at), position=at),)) for at in range(start, start + 100)]
        await container.execute_item_batch(operations, partition_key=PK)
    pages = container.query_items(
        "SELECT * FROM c WHERE c.position >= @first AND c.position <= @last ORDER BY c.position",
        parameters=[{"name": "@first", "value": 10}, {"name": "@last", "value": 250}],
        partition_key=PK,
        max_item_count=50,
    ).by_page()
    sizes, positions = [], []
    async for page in pages:
        found = [item["position"] async for item in page]
        sizes.append(len(found))
        positions += found
    assert positions == list(range(10, 251))
    assert sizes == [50, 50, 50, 50, 41]


async def test_the_sync_client_works_too(server: CosmosServer) -> None:
    def work() -> list[int]:
        with SyncCosmosClient(server.endpoint, server.key) as client:
            database = client.create_database("brooks")
            container = database.create_container("events", PartitionKey("/brookPartitionKey"))
            container.create_item(event("0", position=0))
            operations: list[Any] = [("create", (event(str(at), position=at),)) for at in range(1, 5)]
            container.execute_item_batch(operations, partition_key=PK)
            found = container.query_items("SELECT VALUE c.position FROM c ORDER BY c.position DESC", partition_key=PK)
            return list(found)  # type: ignore[arg-type]  # the stub says dicts; VALUE yields what it selects

    assert await asyncio.to_thread(work) == [4, 3, 2, 1, 0]
