"""Injected faults, as the unmodified client meets them."""

import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from azure.core.exceptions import AzureError, IncompleteReadError
from azure.cosmos import PartitionKey
from azure.cosmos.aio import ContainerProxy, CosmosClient
from azure.cosmos.exceptions import (
    CosmosBatchOperationError,
    CosmosHttpResponseError,
    CosmosResourceExistsError,
    CosmosResourceNotFoundError,
)

from emulator.clock import SystemClock
from emulator.cosmos import CosmosServer
from emulator.faults import Answer, ApplyLate, ApplyThenDrop, DropBefore, Effect, Faults, ReadBehind, Rule, Truncate
from emulator.journal import MemoryJournal
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio

ONCE: dict[str, Any] = {"retry_connect": 0, "retry_read": 0, "retry_total": 0}
"""A write that the client does not send again by itself."""


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
async def server(faults: Faults) -> AsyncIterator[CosmosServer]:
    server = CosmosServer(clock=SystemClock(), journal=MemoryJournal(), faults=faults)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def container(server: CosmosServer, faults: Faults) -> AsyncIterator[ContainerProxy]:
    async with CosmosClient(server.endpoint, server.key, retry_total=2, retry_backoff_factor=0.01) as client:
        database = await client.create_database("brooks")
        container = await database.create_container("events", PartitionKey("/pk"))
        await container.create_item({"id": "0", "pk": "p"})
        yield container


@contextlib.contextmanager
def injected(faults: Faults, effect: Effect, **matching: Any) -> Iterator[int]:
    rule = faults.add(Rule(service="cosmos", effect=effect, **matching))
    yield rule
    faults.remove(rule)


async def send_batch(container: ContainerProxy, item_id: str = "1") -> Any:
    operations: list[Any] = [("create", ({"id": item_id, "pk": "p"},))]
    return await container.execute_item_batch(operations, partition_key="p", **ONCE)


def stored(server: CosmosServer) -> set[str]:
    partitions = server.engine.account.container("brooks", "events").partitions.values()
    return {item_id for partition in partitions for item_id in partition.items}


@pytest.mark.parametrize(
    ("status", "sub_status"), [(408, 0), (410, 1007), (449, 0), (500, 0), (503, 21015), (403, 1014)]
)
async def test_any_status_and_sub_status_can_be_answered(
    server: CosmosServer, container: ContainerProxy, faults: Faults, status: int, sub_status: int
) -> None:
    answer = Answer(status=status, sub_status=sub_status)
    with injected(faults, answer, operation="batch"), pytest.raises(CosmosHttpResponseError) as refused:
        await send_batch(container)
    assert refused.value.status_code == status
    assert (refused.value.sub_status or 0) == sub_status
    assert stored(server) == {"0"}


async def test_throttling_carries_its_waiting_time_and_the_client_obeys(
    container: ContainerProxy, faults: Faults
) -> None:
    with injected(faults, Answer(status=429, sub_status=3200, retry_after_ms=150), operation="batch", times=2) as rule:
        begun = time.monotonic()
        await send_batch(container)
        assert faults.fired(rule) == 2
    assert time.monotonic() - begun >= 0.3
    assert faults.requests["cosmos", "batch"] == 3


async def test_a_replica_that_is_behind_shows_what_was_and_honours_session_tokens(
    server: CosmosServer, container: ContainerProxy, faults: Faults
) -> None:
    await send_batch(container)

    async def found(**options: Any) -> list[str]:
        return [row["id"] async for row in container.query_items("SELECT c.id FROM c", partition_key="p", **options)]

    with injected(faults, ReadBehind(transactions=1)):
        async with CosmosClient(server.endpoint, server.key) as stranger:
            theirs = stranger.get_database_client("brooks").get_container_client("events")
            ids = [row["id"] async for row in theirs.query_items("SELECT c.id FROM c", partition_key="p")]
            with pytest.raises(CosmosResourceNotFoundError):
                await theirs.read_item("1", "p")
        assert ids == ["0"]
        assert await found(session_token="0:-1#2") == ["0", "1"]
        with pytest.raises(CosmosBatchOperationError):  # writes know better
            await send_batch(container)
    assert await found() == ["0", "1"]


async def test_a_request_dropped_before_it_is_applied_changes_nothing(
    server: CosmosServer, container: ContainerProxy, faults: Faults
) -> None:
    with injected(faults, DropBefore(), operation="batch"), pytest.raises(AzureError):
        await send_batch(container)
    assert stored(server) == {"0"}
    await send_batch(container)


async def test_a_request_applied_before_the_connection_drops_has_taken_effect(
    server: CosmosServer, container: ContainerProxy, faults: Faults
) -> None:
    with injected(faults, ApplyThenDrop(), operation="batch"), pytest.raises(AzureError):
        await send_batch(container)
    assert stored(server) == {"0", "1"}


async def test_a_client_that_resends_meets_its_own_write(container: ContainerProxy, faults: Faults) -> None:
    """The ambiguity that every writer has to resolve: its own commit looks like somebody else's."""
    operations: list[Any] = [("create", ({"id": "1", "pk": "p"},))]
    resending = {"retry_read": 2, "retry_connect": 2}
    with (
        injected(faults, ApplyThenDrop(), operation="batch", times=1),
        pytest.raises(CosmosBatchOperationError) as conflict,
    ):
        await container.execute_item_batch(operations, partition_key="p", **resending)
    assert conflict.value.status_code == 409


async def test_a_request_can_be_applied_late(server: CosmosServer, container: ContainerProxy, faults: Faults) -> None:
    with injected(faults, ApplyLate(delay_s=0.2), operation="batch"), pytest.raises(AzureError):
        await send_batch(container)
    assert stored(server) == {"0"}
    await wait_until(lambda: stored(server) == {"0", "1"}, "the late request is applied")


async def test_stopping_forgets_requests_that_were_to_be_applied_late(
    server: CosmosServer, container: ContainerProxy, faults: Faults
) -> None:
    with injected(faults, ApplyLate(delay_s=30), operation="batch"), pytest.raises(AzureError):
        await send_batch(container)
    waiting = list(server._late)
    await server.stop()
    assert len(waiting) == 1
    assert all(handle.cancelled() for handle in waiting)
    assert not server._late
    assert stored(server) == {"0"}


async def test_a_truncated_answer_was_applied(server: CosmosServer, container: ContainerProxy, faults: Faults) -> None:
    with injected(faults, Truncate(), operation="batch"), pytest.raises((IncompleteReadError, AzureError)):
        await send_batch(container)
    assert stored(server) == {"0", "1"}


async def test_latency_is_added(container: ContainerProxy, faults: Faults) -> None:
    faults.add(Rule(service="cosmos", operation="read-item", latency_s=0.2))
    begun = time.monotonic()
    await container.read_item("0", "p")
    assert time.monotonic() - begun >= 0.2


@pytest.mark.parametrize(
    "where",
    [
        {"partition_key": "p"},
        {"database": "brooks", "container": "events"},
        {"id": "0"},
        {"partition_key": "p", "id": "0"},
    ],
)
async def test_rules_choose_by_facts(container: ContainerProxy, faults: Faults, where: dict[str, str]) -> None:
    await container.create_item({"id": "9", "pk": "q"})
    with injected(faults, Answer(status=400), operation="read-item", where=where):
        with pytest.raises(CosmosHttpResponseError) as refused:
            await container.read_item("0", "p")
        assert refused.value.status_code == 400
    with injected(faults, Answer(status=400), operation="read-item", where={**where, "partition_key": "other"}):
        await container.read_item("0", "p")


async def test_every_documented_operation_name_can_be_refused(
    server: CosmosServer, container: ContainerProxy, faults: Faults
) -> None:
    database = container.client_connection

    async def drain(pages: Any) -> None:
        async for _ in pages:
            pass

    item = {"id": "0", "pk": "p"}
    client = CosmosClient(server.endpoint, server.key)
    proxy = client.get_database_client("brooks")
    attempts: dict[str, Any] = {
        "create-item": lambda: container.create_item({"id": "new", "pk": "p"}),
        "upsert-item": lambda: container.upsert_item(item),
        "read-item": lambda: container.read_item("0", "p"),
        "replace-item": lambda: container.replace_item("0", item),
        "patch-item": lambda: container.patch_item("0", "p", [{"op": "set", "path": "/n", "value": 1}]),
        "delete-item": lambda: container.delete_item("0", "p"),
        "batch": lambda: send_batch(container),
        "query": lambda: drain(container.query_items("SELECT * FROM c", partition_key="p")),
        "query-plan": lambda: drain(container.query_items("SELECT * FROM c ORDER BY c.id")),
        "read-feed": lambda: drain(container.read_all_items()),
        "change-feed": lambda: drain(container.query_items_change_feed(start_time="Beginning")),
        "read-container": container.read,
        "replace-container": lambda: proxy.replace_container("events", PartitionKey("/pk")),
        "create-container": lambda: proxy.create_container("more", PartitionKey("/pk")),
        "list-containers": lambda: drain(proxy.list_containers()),
        "query-containers": lambda: drain(proxy.query_containers("SELECT * FROM c")),
        "delete-container": lambda: proxy.delete_container("events"),
        "read-database": proxy.read,
        "create-database": lambda: client.create_database("more"),
        "list-databases": lambda: drain(client.list_databases()),
        "query-databases": lambda: drain(client.query_databases("SELECT * FROM c")),
        "delete-database": lambda: client.delete_database("brooks"),
        "query-offers": container.get_throughput,
        "read-account": database.GetDatabaseAccount,
    }
    async with client:
        for operation, attempt in attempts.items():
            with injected(faults, Answer(status=400), operation=operation) as rule:
                with pytest.raises(CosmosHttpResponseError) as refused:
                    await attempt()
                assert refused.value.status_code == 400, operation
                assert faults.fired(rule) >= 1, operation
    with pytest.raises(CosmosResourceExistsError):
        await container.create_item(item)
