"""Brooks that the .NET provider wrote, read, appended to and recovered through the real client."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from azure.cosmos import PartitionKey
from azure.cosmos.aio import ContainerProxy, CosmosClient

from emulator.clock import SystemClock
from emulator.cosmos import CosmosServer
from emulator.faults import Faults
from emulator.journal import MemoryJournal
from schemas.keys import BrookKey, partition_key
from schemas.types import Position
from tests.support.brooks import prepared
from worker.commands.inspect import inspected
from worker.commands.recover import recovered
from worker.handlers.append import AppendHandler
from worker.handlers.brook import BrookState
from worker.protocol.model import Limits
from worker.protocol.verdicts import Accepted, Conflicted
from worker.storage.cosmos import CosmosBrookStore
from worker.storage.retries import RetryOptions
from worker.telemetry.instruments import RECOVERY_DECISIONS

pytestmark = pytest.mark.anyio

FIXTURES = Path(__file__).parents[1] / "fixtures" / "dotnet"
SYSTEM_FIELDS = frozenset({"_rid", "_self", "_etag", "_attachments", "_ts"})
OURS_ALONE = frozenset({"pending", "writtenPosition", "commandId", "payloadDigest", "recentCommands"})
SHARED_FIELDS = {
    "id",
    "type",
    "brookPartitionKey",
    "position",
    "eventId",
    "source",
    "eventType",
    "dataContentType",
    "data",
    "dataSizeBytes",
    "time",
}
# What is found in each fixture, and what recovery makes of it: decision, head after it.
CASES = {
    "settled": ("nothing-pending", 1),
    "complete-orphan": ("inspect-legacy", 3),
    "incomplete-orphan": ("inspect-legacy", 0),
    "stale-marker": ("drop-stale", 3),
    "no-head": ("inspect-legacy", 2),
    "no-head-incomplete": ("inspect-legacy", -1),
}


def fixture_documents(name: str) -> list[dict[str, Any]]:
    documents: list[dict[str, Any]] = json.loads((FIXTURES / f"{name}.json").read_text())
    return documents


@pytest.fixture(scope="module")
async def container() -> AsyncIterator[ContainerProxy]:
    """One container that both writers share, with all fixtures in it."""
    server = CosmosServer(clock=SystemClock(), journal=MemoryJournal(), faults=Faults())
    await server.start()
    try:
        async with CosmosClient(server.endpoint, server.key, enable_compact_utf8_item_writes=True) as client:
            database = await client.create_database("brooks")
            yield await database.create_container("events", PartitionKey("/brookPartitionKey"))
    finally:
        await server.stop()


@pytest.fixture
async def store(container: ContainerProxy) -> CosmosBrookStore:
    for name in CASES:
        key = BrookKey("orders", f"net-{name}")
        for document in await stored(container, key):
            await container.delete_item(document["id"], partition_key(key))
        for document in fixture_documents(name):
            await container.create_item(document)
    return CosmosBrookStore(container, RetryOptions())


async def stored(container: ContainerProxy, key: BrookKey) -> list[dict[str, Any]]:
    return [one async for one in container.query_items("SELECT * FROM c", partition_key=partition_key(key))]


def bare(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in SYSTEM_FIELDS}


@pytest.mark.parametrize("name", CASES)
def test_the_fixtures_are_as_the_other_provider_writes(name: str) -> None:
    documents = fixture_documents(name)
    for document in documents:
        assert not document.keys() & OURS_ALONE
        assert document.keys() >= SYSTEM_FIELDS
        assert all(field[0].islower() or field[0] == "_" for field in document)
    assert {document["brookPartitionKey"] for document in documents} == {f"orders|net-{name}"}
    assert any(document.keys() - SYSTEM_FIELDS - SHARED_FIELDS for document in documents), "fields that we do not know"


async def test_its_events_are_read_in_both_directions(store: CosmosBrookStore) -> None:
    key = BrookKey("orders", "net-settled")
    forward = [event async for event in store.read_forward(key)]
    assert [event.position for event in forward] == [0, 1]
    first, second = forward
    assert (first.event_id, first.event_type) == ("6f2a1c9e-6d3c-4a39-9d8a-2f6f0a1b7c01", "ORDERS.OPENED.V1")
    assert (first.data, first.data_content_type, first.source) == (
        b'{"customer":"Ada"}',
        "application/json",
        "urn:orders",
    )
    assert first.time == "2025-03-04T05:06:07.8901234+00:00", "as it was written, to the last digit"
    assert (second.data, second.data_content_type, second.command_id) == (b"\0\1\2\3", None, None)
    assert [event async for event in store.read_backward(key)] == forward[::-1]


async def test_it_is_appended_to_and_its_own_documents_stay_as_they_are(
    container: ContainerProxy, store: CosmosBrookStore
) -> None:
    key = BrookKey("orders", "net-settled")
    before = {document["id"]: document for document in await stored(container, key)}
    handler = AppendHandler(store, Limits(), replans_max=3)
    group = [prepared(command_id="late", expected=7, key=key), prepared(command_id="ours", expected=1, key=key)]
    result = await handler.append(BrookState(key), group)
    assert result.verdicts == (Conflicted(7, Position(1)), Accepted(Position(2), Position(2)))
    again = await handler.append(BrookState(key), group)
    assert [type(verdict).__name__ for verdict in again.verdicts] == ["Conflicted", "AlreadyAppended"]
    after = {document["id"]: document for document in await stored(container, key)}
    assert {after[name]["_etag"] for name in ("0", "1")} == {before[name]["_etag"] for name in ("0", "1")}
    ours = bare(after["2"])
    assert ours.keys() >= SHARED_FIELDS - {"source", "dataContentType"}, "what the other provider must find"
    assert (ours["id"], ours["position"], ours["dataSizeBytes"], ours["data"]) == ("2", 2, 4, "ZGF0YQ==")
    assert (after["head"]["position"], after["head"]["type"]) == (2, "head")


@pytest.mark.parametrize("name", CASES)
async def test_what_it_left_is_recovered_and_then_appended_to(
    container: ContainerProxy, store: CosmosBrookStore, name: str
) -> None:
    decision, head_after = CASES[name]
    key = BrookKey("orders", f"net-{name}")
    originals = {document["id"]: bare(document) for document in fixture_documents(name)}
    assert (await inspected(store, key)).decision == decision
    recoveries = RECOVERY_DECISIONS.get(decision)
    result = await AppendHandler(store, Limits(), replans_max=3).append(
        BrookState(key), [prepared(command_id="next", key=key)]
    )
    assert result.verdicts == (Accepted(Position(head_after + 1), Position(head_after + 1)),)
    if name != "settled":
        assert RECOVERY_DECISIONS.get(decision) > recoveries
    documents = {document["id"]: bare(document) for document in await stored(container, key)}
    assert set(documents) == {"head", *map(str, range(head_after + 2))}
    for position in range(head_after + 1):
        assert documents[str(position)] == originals[str(position)]
    found = [event.position async for event in store.read_forward(key)]
    assert found == list(range(head_after + 2))


@pytest.mark.parametrize("name", CASES)
async def test_an_operator_can_recover_it_by_hand(
    container: ContainerProxy, store: CosmosBrookStore, name: str
) -> None:
    key = BrookKey("orders", f"net-{name}")
    await recovered(store, key, Limits(), attempts_max=3)
    after = await inspected(store, key)
    assert (after.is_settled, after.head, after.head_pending, after.events_past_head) == (True, CASES[name][1], None, 0)
    assert len(await stored(container, key)) == CASES[name][1] + 1 + (1 if after.head_exists else 0)
