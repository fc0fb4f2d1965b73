"""What else the unmodified `azure.cosmos` asks of the service: partitions, plans, feeds, offers, sessions."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from azure.cosmos import CosmosClient as SyncCosmosClient
from azure.cosmos import PartitionKey, ThroughputProperties
from azure.cosmos.aio import ContainerProxy, CosmosClient, DatabaseProxy
from azure.cosmos.exceptions import (
    CosmosAccessConditionFailedError,
    CosmosBatchOperationError,
    CosmosHttpResponseError,
    CosmosResourceExistsError,
    CosmosResourceNotFoundError,
)
from azure.cosmos.partition_key import NonePartitionKeyValue, NullPartitionKeyValue

from emulator.clock import ManualClock
from emulator.cosmos import CosmosServer
from emulator.faults import Faults
from emulator.journal import MemoryJournal

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
async def server(clock: ManualClock, faults: Faults) -> AsyncIterator[CosmosServer]:
    server = CosmosServer(clock=clock, journal=MemoryJournal(), faults=faults)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def client(server: CosmosServer) -> AsyncIterator[CosmosClient]:
    async with CosmosClient(server.endpoint, server.key) as client:
        yield client


@pytest.fixture
async def database(client: CosmosClient) -> DatabaseProxy:
    return await client.create_database("brooks")


@pytest.fixture
async def spread(database: DatabaseProxy) -> ContainerProxy:
    """A container of three physical partitions with 60 items in 20 logical ones."""
    container = await database.create_container("spread", PartitionKey("/pk"), offer_throughput=30_000)
    for brook in range(20):
        operations: list[Any] = [
            ("create", ({"id": str(n), "pk": f"brook|{brook}", "n": brook * 3 + n},)) for n in range(3)
        ]
        await container.execute_item_batch(operations, partition_key=f"brook|{brook}")
    return container


async def rows(pages: Any) -> list[Any]:
    return [row async for row in pages]


# --- several physical partitions ---


async def test_queries_over_several_physical_partitions(spread: ContainerProxy) -> None:
    ranges = [found async for found in spread.read_feed_ranges()]
    assert len(ranges) == 3
    assert await rows(spread.query_items("SELECT VALUE c.n FROM c ORDER BY c.n")) == list(range(60))
    assert await rows(spread.query_items("SELECT VALUE c.n FROM c ORDER BY c.n DESC", max_item_count=4)) == list(
        range(59, -1, -1)
    )
    assert await rows(spread.query_items("SELECT c.n FROM c ORDER BY c.n OFFSET 10 LIMIT 3")) == [
        {"n": 10},
        {"n": 11},
        {"n": 12},
    ]
    assert len(await rows(spread.query_items("SELECT TOP 7 * FROM c"))) == 7
    assert await rows(spread.query_items("SELECT VALUE COUNT(1) FROM c WHERE c.n < 30")) == [30]
    assert await rows(spread.query_items("SELECT VALUE SUM(c.n) FROM c")) == [sum(range(60))]
    assert await rows(spread.query_items("SELECT VALUE SUM(c.n) FROM c ORDER BY c.n")) == [sum(range(60))]
    assert await rows(spread.query_items("SELECT VALUE SUM(c.pk) FROM c")) == [None]  # the client's word for nothing
    assert await rows(spread.query_items("SELECT VALUE MIN(c.n) FROM c")) == [0]
    assert await rows(spread.query_items("SELECT VALUE AVG(c.n) FROM c")) == [29.5]
    assert len(await rows(spread.query_items("SELECT DISTINCT VALUE c.pk FROM c"))) == 20
    assert len(await rows(spread.query_items("SELECT * FROM c", max_item_count=7))) == 60
    assert len(await rows(spread.read_all_items(max_item_count=9))) == 60


async def test_distinct_rows_in_order_are_skipped_and_limited_after_they_are_merged(database: DatabaseProxy) -> None:
    container = await database.create_container("c", PartitionKey("/pk"), offer_throughput=30_000)
    for number in range(10):
        await container.create_item({"id": "x", "pk": number, "third": number // 3})
    text = "SELECT DISTINCT c.third FROM c ORDER BY c.pk OFFSET {} LIMIT {}"
    for offset, limit, expected in ((0, 2, [0, 1]), (2, 2, [2, 3]), (4, 3, [])):
        found = container.query_items(text.format(offset, limit))
        assert [row["third"] async for row in found] == expected
    assert await rows(container.query_items("SELECT TOP 10 VALUE COUNT(c.id) FROM c")) == [10]


async def test_pages_of_a_cross_partition_query_go_on_from_their_token(spread: ContainerProxy) -> None:
    found: list[int] = []
    token = None
    while True:
        pages = spread.query_items("SELECT * FROM c", max_item_count=8).by_page(token)
        page = await pages.__anext__()
        found += [row["n"] async for row in page]
        token = pages.continuation_token  # type: ignore[attr-defined]  # of azure.core's page iterator
        if token is None:
            break
    assert sorted(found) == list(range(60))


async def test_feed_ranges_can_be_queried_one_by_one(spread: ContainerProxy) -> None:
    text = "SELECT VALUE c.n FROM c"
    found = [
        await rows(spread.query_items(text, feed_range=feed_range)) async for feed_range in spread.read_feed_ranges()
    ]
    assert all(found)
    assert sorted(n for part in found for n in part) == list(range(60))


async def test_read_many_in_one_and_in_many_partitions(spread: ContainerProxy) -> None:
    wanted = [(str(n), f"brook|{brook}") for brook in range(20) for n in (2, 0)]
    found = await spread.read_items([*wanted, ("missing", "brook|1")])
    assert {(row["id"], row["pk"]) for row in found} == set(wanted)
    within = await spread.read_items([("1", "brook|7"), ("0", "brook|7")])
    assert [row["n"] for row in within] == [22, 21]


async def test_the_sync_client_must_ask_for_cross_partition_queries(
    server: CosmosServer, spread: ContainerProxy
) -> None:
    def work() -> None:
        with SyncCosmosClient(server.endpoint, server.key) as client:
            container = client.get_database_client("brooks").get_container_client("spread")
            text = "SELECT VALUE c.n FROM c ORDER BY c.n"
            with pytest.raises(CosmosHttpResponseError, match="Cross partition query is required") as refused:
                list(container.query_items(text))
            assert refused.value.status_code == 400
            found = container.query_items(text, enable_cross_partition_query=True)
            assert list(found) == list(range(60))  # type: ignore[comparison-overlap]  # VALUE yields numbers
            pinned = container.query_items("SELECT * FROM c WHERE c.pk = 'brook|3'")
            assert len(list(pinned)) == 3

    await asyncio.to_thread(work)


async def test_an_aggregate_that_is_no_value_cannot_be_merged(spread: ContainerProxy) -> None:
    with pytest.raises(CosmosHttpResponseError, match="VALUE"):
        await rows(spread.query_items("SELECT COUNT(1) AS n FROM c"))
    within = spread.query_items("SELECT COUNT(1) AS n FROM c", partition_key="brook|3")
    assert await rows(within) == [{"n": 3}]


async def test_a_malformed_query_is_400_with_the_place_of_the_error(spread: ContainerProxy) -> None:
    with pytest.raises(CosmosHttpResponseError, match="Syntax error") as refused:
        await rows(spread.query_items("SELECT * FROM c WHERE", partition_key="brook|3"))
    assert refused.value.status_code == 400


# --- change feed ---


async def test_the_change_feed_from_the_beginning_and_from_now(spread: ContainerProxy) -> None:
    beginning = spread.query_items_change_feed(start_time="Beginning", max_item_count=10)
    assert sorted([row["n"] async for row in beginning]) == list(range(60))
    now = spread.query_items_change_feed(start_time="Now")
    assert await rows(now) == []
    token = str(spread.client_connection.last_response_headers["etag"])
    await spread.create_item({"id": "new", "pk": "brook|1", "n": 99})
    await spread.upsert_item({"id": "0", "pk": "brook|2", "n": 6})
    later = [row["id"] async for row in spread.query_items_change_feed(continuation=token)]
    assert sorted(later) == ["0", "new"]
    one = [row["n"] async for row in spread.query_items_change_feed(start_time="Beginning", partition_key="brook|2")]
    assert one == [7, 8, 6]


async def test_the_change_feed_since_a_time(spread: ContainerProxy, clock: ManualClock) -> None:
    clock.jump_s(100)
    await spread.create_item({"id": "late", "pk": "brook|1", "n": 99})
    since = datetime.fromtimestamp(clock.now_s() - 50, tz=UTC)
    found = spread.query_items_change_feed(start_time=since)
    assert [row["id"] async for row in found] == ["late"]


async def test_the_change_feed_of_one_feed_range(spread: ContainerProxy) -> None:
    counts = []
    async for feed_range in spread.read_feed_ranges():
        found = spread.query_items_change_feed(feed_range=feed_range, start_time="Beginning")
        counts.append(len(await rows(found)))
    assert sum(counts) == 60
    assert all(counts)


# --- hierarchical keys ---


async def test_hierarchical_partition_keys(database: DatabaseProxy) -> None:
    container = await database.create_container(
        "tree", PartitionKey(["/tenant", "/user"], kind="MultiHash"), offer_throughput=20_000
    )
    for tenant in ("a", "b"):
        for user in ("x", "y"):
            await container.create_item({"id": "1", "tenant": tenant, "user": user})
    assert (await container.read_item("1", ["a", "y"]))["user"] == "y"
    operations: list[Any] = [("create", ({"id": "2", "tenant": "a", "user": "x"},))]
    await container.execute_item_batch(operations, partition_key=["a", "x"])
    assert len(await rows(container.query_items("SELECT * FROM c", partition_key=["a", "x"]))) == 2
    assert len(await rows(container.query_items("SELECT * FROM c", partition_key=["a"]))) == 3
    found = await container.read_items([("1", ["a", "x"]), ("1", ["b", "y"])])
    assert len(found) == 2
    with pytest.raises(CosmosHttpResponseError) as refused:
        await container.execute_item_batch(operations, partition_key=["a"])
    assert refused.value.status_code == 400
    assert "doesn't correspond to definition in the collection" in str(refused.value.message)


# --- items ---


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("key", [NonePartitionKeyValue, NullPartitionKeyValue, None, "text", "x" * 90, 1.5, True, ""])
async def test_every_kind_of_key_works_everywhere(database: DatabaseProxy, version: int, key: Any) -> None:
    container = await database.create_container("c", PartitionKey("/pk", version=version), offer_throughput=30_000)
    fields = {} if key is NonePartitionKeyValue else {"pk": None if key is NullPartitionKeyValue else key}
    await container.create_item({"id": "1", **fields})
    await container.upsert_item({"id": "1", "n": 1, **fields})
    operations: list[Any] = [("create", ({"id": "2", **fields},))]
    await container.execute_item_batch(operations, partition_key=key)
    assert (await container.read_item("1", key))["n"] == 1
    assert len(await container.read_items([("1", key)])) == 1
    feed_range = await container.feed_range_from_partition_key(key)
    assert len(await rows(container.query_items("SELECT * FROM c", feed_range=feed_range))) == 2
    if key is not None:  # which the client takes for "not given"
        assert len(await rows(container.query_items("SELECT * FROM c", partition_key=key))) == 2
    changes = container.query_items_change_feed(feed_range=feed_range, start_time="Beginning")
    assert len(await rows(changes)) == 2
    await container.delete_item("1", key)


async def test_a_missing_partition_key_is_a_key_of_its_own(database: DatabaseProxy) -> None:
    container = await database.create_container("c", PartitionKey("/pk"))
    await container.create_item({"id": "1"})
    await container.create_item({"id": "1", "pk": None})
    assert len(await rows(container.query_items("SELECT * FROM c"))) == 2
    assert (await container.read_item("1", None)).get("pk", "none") is None


async def test_every_kind_of_operation_in_one_batch(database: DatabaseProxy) -> None:
    container = await database.create_container("c", PartitionKey("/pk"))
    old = await container.create_item({"id": "old", "pk": "p", "n": 1})
    operations: list[Any] = [
        ("create", ({"id": "new", "pk": "p"},)),
        ("read", ("old",)),
        ("patch", ("old", [{"op": "incr", "path": "/n", "value": 1}]), {"filter_predicate": "from c where c.n = 1"}),
        ("upsert", ({"id": "up", "pk": "p"},)),
        ("replace", ("old", {"id": "old", "pk": "p", "n": 9})),
        ("delete", ("new",)),
    ]
    results = await container.execute_item_batch(operations, partition_key="p")
    assert [result["statusCode"] for result in results] == [201, 200, 200, 201, 200, 204]
    assert results[1]["resourceBody"] == old
    assert results[2]["resourceBody"]["n"] == 2
    assert "resourceBody" not in results[5]
    failing: list[Any] = [
        ("create", ({"id": "never", "pk": "p"},)),
        ("patch", ("old", [{"op": "incr", "path": "/n", "value": 1}]), {"filter_predicate": "from c where c.n = 1"}),
    ]
    with pytest.raises(CosmosBatchOperationError) as failed:
        await container.execute_item_batch(failing, partition_key="p")
    assert (failed.value.status_code, failed.value.error_index) == (412, 1)


async def test_no_response_asks_for_no_body(database: DatabaseProxy) -> None:
    container = await database.create_container("c", PartitionKey("/pk"))
    created = await container.create_item({"id": "1", "pk": "p"}, no_response=True)
    assert created == {}
    assert created.get_response_headers()["etag"] == (await container.read_item("1", "p"))["_etag"]
    operations: list[Any] = [("create", ({"id": "2", "pk": "p"},)), ("read", ("1",))]
    results = await container.execute_item_batch(operations, partition_key="p", no_response=True)
    assert [result["statusCode"] for result in results] == [201, 200]


async def test_patch_with_a_condition(database: DatabaseProxy) -> None:
    container = await database.create_container("c", PartitionKey("/pk"))
    await container.create_item({"id": "1", "pk": "p", "n": 1})
    increment = [{"op": "incr", "path": "/n", "value": 1}]
    patched = await container.patch_item("1", "p", increment, filter_predicate="from c where c.n = 1")
    assert patched["n"] == 2
    with pytest.raises(CosmosAccessConditionFailedError):
        await container.patch_item("1", "p", increment, filter_predicate="from c where c.n = 1")


async def test_time_to_live_and_unique_keys(database: DatabaseProxy, clock: ManualClock) -> None:
    unique = {"uniqueKeys": [{"paths": ["/eventId"]}]}
    container = await database.create_container("c", PartitionKey("/pk"), default_ttl=-1, unique_key_policy=unique)
    await container.create_item({"id": "1", "pk": "p", "eventId": "e", "ttl": 30})
    with pytest.raises(CosmosResourceExistsError):
        await container.create_item({"id": "2", "pk": "p", "eventId": "e"})
    clock.jump_s(31)
    with pytest.raises(CosmosResourceNotFoundError):
        await container.read_item("1", "p")
    await container.create_item({"id": "2", "pk": "p", "eventId": "e"})


# --- sessions ---


async def test_session_tokens_grow_and_a_client_that_is_ahead_is_told(database: DatabaseProxy) -> None:
    container = await database.create_container("c", PartitionKey("/pk"))
    first = await container.create_item({"id": "1", "pk": "p"})
    operations: list[Any] = [("create", ({"id": "2", "pk": "p"},))]
    second = await container.execute_item_batch(operations, partition_key="p")
    tokens = [found.get_response_headers()["x-ms-session-token"] for found in (first, second)]
    assert tokens == ["0:-1#1", "0:-1#2"]
    read = await container.read_item("2", "p", session_token=tokens[1])
    assert read["id"] == "2"
    with pytest.raises(CosmosResourceNotFoundError) as ahead:
        await container.read_item("2", "p", session_token="0:-1#999")
    assert ahead.value.sub_status == 1002


async def test_the_client_sends_back_the_token_of_its_own_writes(database: DatabaseProxy, server: CosmosServer) -> None:
    container = await database.create_container("c", PartitionKey("/pk"))
    await container.create_item({"id": "1", "pk": "p"})
    engine_container = server.engine.account.container("brooks", "c")
    engine_container.ranges[0].lsn = 0  # as if a replica were behind
    with pytest.raises(CosmosResourceNotFoundError) as behind:
        await container.read_item("1", "p")
    assert behind.value.sub_status == 1002


# --- databases, containers, offers ---


async def test_databases_and_containers(client: CosmosClient, database: DatabaseProxy) -> None:
    assert [found["id"] async for found in client.list_databases()] == ["brooks"]
    query = client.query_databases(
        "SELECT * FROM root r WHERE r.id = @id", parameters=[{"name": "@id", "value": "brooks"}]
    )
    assert [found["id"] async for found in query] == ["brooks"]
    with pytest.raises(CosmosResourceExistsError):
        await client.create_database("brooks")
    container = await database.create_container("c", PartitionKey("/pk"), default_ttl=100)
    properties = await container.read()
    assert properties["partitionKey"] == {"paths": ["/pk"], "kind": "Hash", "version": 2}
    assert properties["indexingPolicy"]["includedPaths"] == [{"path": "/*"}]
    assert properties["defaultTtl"] == 100
    await container.create_item({"id": "1", "pk": "p"})
    quota = await container.read(populate_quota_info=True)
    assert quota.get_response_headers()["x-ms-resource-usage"] == "documentsCount=1;"
    replaced = await database.replace_container("c", PartitionKey("/pk"), default_ttl=-1)
    assert (await replaced.read())["defaultTtl"] == -1
    assert [found["id"] async for found in database.list_containers()] == ["c"]
    await database.delete_container("c")
    with pytest.raises(CosmosResourceNotFoundError):
        await container.read()
    await client.delete_database("brooks")
    assert await rows(client.list_databases()) == []


async def test_throughput_is_read_and_replaced(database: DatabaseProxy) -> None:
    container = await database.create_container("c", PartitionKey("/pk"), offer_throughput=500)
    assert (await container.get_throughput()).offer_throughput == 500
    await container.replace_throughput(900)
    assert (await container.get_throughput()).offer_throughput == 900
    scaled = await database.create_container(
        "scaled", PartitionKey("/pk"), offer_throughput=ThroughputProperties(auto_scale_max_throughput=4000)
    )
    assert (await scaled.get_throughput()).auto_scale_max_throughput == 4000


async def test_a_container_that_was_created_anew_is_noticed(server: CosmosServer, database: DatabaseProxy) -> None:
    container = await database.create_container("c", PartitionKey("/pk"))
    await container.create_item({"id": "1", "pk": "p"})
    async with CosmosClient(server.endpoint, server.key) as other:
        elsewhere = other.get_database_client("brooks")
        await elsewhere.delete_container("c")
        await elsewhere.create_container("c", PartitionKey("/pk"))
    with pytest.raises(CosmosResourceNotFoundError):
        await container.read_item("1", "p")
    await container.create_item({"id": "1", "pk": "p"})


async def test_what_is_not_covered_says_so(database: DatabaseProxy) -> None:
    container = await database.create_container("c", PartitionKey("/pk"))
    with pytest.raises(CosmosHttpResponseError, match="not covered") as refused:
        await rows(container.scripts.list_stored_procedures())
    assert refused.value.status_code == 400
    with pytest.raises(CosmosHttpResponseError, match="not covered"):
        await container.delete_all_items_by_partition_key("p")


async def test_the_account_has_one_write_region(client: CosmosClient, server: CosmosServer) -> None:
    account = await client.client_connection.GetDatabaseAccount()
    assert [found["databaseAccountEndpoint"] for found in account._WritableLocations] == [server.endpoint]
    assert account._EnableMultipleWritableLocations is False
    assert account.ConsistencyPolicy == {"defaultConsistencyLevel": "Session"}


async def test_requests_are_counted_by_operation(database: DatabaseProxy, faults: Faults) -> None:
    container = await database.create_container("c", PartitionKey("/pk"))
    faults.requests.clear()
    await container.create_item({"id": "1", "pk": "p"})
    await container.upsert_item({"id": "1", "pk": "p"})
    await container.read_item("1", "p")
    operations: list[Any] = [("create", ({"id": "2", "pk": "p"},))]
    await container.execute_item_batch(operations, partition_key="p")
    await rows(container.query_items("SELECT * FROM c", partition_key="p"))
    counted = {operation: count for (_, operation), count in faults.requests.items()}
    for operation in ("create-item", "upsert-item", "read-item", "batch", "query"):
        assert counted[operation] == 1, operation
