"""`brook-worker brooks list` and `read --follow` against the embedded Cosmos DB, by the real client."""

import io
import json
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
from rich.console import Console

from emulator.config import QueueConfig
from emulator.faults import Answer, Rule
from schemas.keys import BrookKey, partition_key
from schemas.types import Position
from tests.support.brooks import prepared
from tests.support.operators import Services, brook_worker, running_command, running_services
from tests.support.waiting import wait_until
from worker.clients import cosmos_client
from worker.commands.brooks import list_brooks
from worker.commands.read import brook_store
from worker.handlers.append import AppendHandler
from worker.handlers.brook import BrookState
from worker.operations.brooks import BrookFilter, ContinuationError
from worker.protocol.model import Limits
from worker.provisioning.cosmos import provision_cosmos
from worker.settings import Settings
from worker.storage.base import BrookStore

pytestmark = pytest.mark.anyio

QUEUE = "queue"
ORDERS = [BrookKey("order", str(number)) for number in range(25)]
LEFT = BrookKey("orders-of-yore", "left")
"""A brook in which somebody left a large append."""


@pytest.fixture(scope="module")
async def services() -> AsyncIterator[Services]:
    async with running_services(QueueConfig(name=QUEUE, requires_session=True)) as it:
        yield it


@pytest.fixture(scope="module")
async def settings(services: Services) -> Settings:
    """A container with the brooks above, indexed as it is in production."""
    found = services.settings(QUEUE)
    await provision_cosmos(found, make=True)
    async with brook_store(found) as store:
        for key in ORDERS:
            await append(store, key, events=1 + int(key.entity_id) % 3)
    async with cosmos_client(found) as client:
        container = client.get_database_client("brooks").get_container_client("events")
        await container.create_item(
            {
                "id": "head",
                "type": "head",
                "brookPartitionKey": partition_key(LEFT),
                "position": -1,
                "pending": "c9",
                "recentCommands": [],
            }
        )
        await container.create_item(
            {"id": "head", "type": "head", "brookPartitionKey": "broken|1", "position": "seven"}
        )
    return found


async def append(store: BrookStore, key: BrookKey, *, events: int = 1) -> None:
    handler = AppendHandler(store, Limits(), replans_max=3)
    await handler.append(BrookState(key), [prepared(events=events, key=key)])


async def listed(settings: Settings, which: BrookFilter | None = None, **options: Any) -> dict[str, Any]:
    out = io.StringIO()
    given: dict[str, Any] = {"sort": "stored", "limit": 100, "continuation": None} | options
    await list_brooks(settings, which or BrookFilter(), as_json=True, console=Console(file=out), **given)
    found: dict[str, Any] = json.loads(out.getvalue())
    return found


async def all_listed(settings: Settings, **options: Any) -> list[str]:
    found: list[str] = []
    continuation = None
    while True:
        page = await listed(settings, continuation=continuation, **options)
        assert page["requestCharge"] > 0
        assert len(page["brooks"]) <= options["limit"]
        found += [row["brook"] for row in page["brooks"]]
        if (continuation := page["continuation"]) is None:
            return found


async def test_every_brook_is_listed_once_whatever_the_pages(settings: Settings) -> None:
    everything = {*map(str, ORDERS), str(LEFT), "broken|1"}
    stored = await all_listed(settings, limit=7)
    assert len(stored) == len(everything)
    assert set(stored) == everything
    assert await all_listed(settings, limit=4) == stored, "the order is always the same"
    assert await all_listed(settings, limit=7, sort="name") == sorted(everything)


async def test_filters_and_what_a_row_tells(settings: Settings) -> None:
    orders = await listed(settings, BrookFilter(prefix="order|"))
    assert {row["brook"] for row in orders["brooks"]} == set(map(str, ORDERS))
    row = next(row for row in orders["brooks"] if row["brook"] == "order|2")
    assert (row["position"], row["pending"]) == (2, None)
    assert row["lastModified"].endswith("+00:00")
    (pending,) = (await listed(settings, BrookFilter(pending_only=True)))["brooks"]
    assert (pending["brook"], pending["pending"]) == (str(LEFT), "c9")
    (broken,) = (await listed(settings, BrookFilter(prefix="broken")))["brooks"]
    assert broken["position"] is None, "shown all the same"


async def test_a_continuation_of_another_listing_is_refused(settings: Settings) -> None:
    page = await listed(settings, limit=3)
    for which, options in (
        (BrookFilter(prefix="order"), {"continuation": page["continuation"]}),
        (BrookFilter(), {"continuation": page["continuation"], "sort": "name"}),
        (BrookFilter(), {"continuation": "nonsense"}),
    ):
        with pytest.raises(ContinuationError):
            await listed(settings, which, **options)


async def test_the_command(services: Services, settings: Settings) -> None:
    del settings
    table = await brook_worker(
        "brooks", "list", "--name", "order", "--sort", "name", "--limit", "3", variables=services.variables(QUEUE)
    )
    assert table.code == 0
    assert "3 brooks; " in table.out
    assert [word for word in ("order|0", "order|1", "order|10", "order|11") if f" {word} " in table.out] == [
        "order|0",
        "order|1",
        "order|10",
    ]
    assert "go on with --continuation " in table.out


@pytest.mark.slow
async def test_following_prints_new_events_through_an_outage_until_it_is_interrupted(
    services: Services, settings: Settings
) -> None:
    key = BrookKey("followed", "1")
    variables = services.variables(QUEUE, store_attempts_max="1", cosmos_timeout_s="2")
    words = ("read", str(key), "--follow", "--from", "end", "--interval", "0.2", "--json")
    async with brook_store(settings) as store:
        await append(store, key, events=2)
        before = services.azure.faults.requests["cosmos", "query"]
        async with running_command(*words, variables=variables) as process:
            await wait_until(
                lambda: services.azure.faults.requests["cosmos", "query"] > before + 2, "it looks at the head", 30
            )
            await append(store, key, events=250)
            await wait_until(lambda: len(process.lines) == 250, "the new events are printed", 30)
            where = {"partition_key": partition_key(key)}
            out = services.azure.faults.add(
                Rule(service="cosmos", operation="query", where=where, effect=Answer(status=503))
            )
            await wait_until(lambda: "the store does not answer, trying on" in process.err, "the outage is told", 30)
            services.azure.faults.remove(out)
            await append(store, key, events=1)
            await wait_until(lambda: len(process.lines) == 251, "what came meanwhile is printed", 30)
            process.send_signal(signal.SIGINT)
            assert await process.ended() == 0
        assert [row["position"] for row in process.json_lines()] == list(range(2, 253))
        assert await store.head_position(key) == Position(252)
    assert process.err.splitlines()[-1] == "note: the store answers again"
    assert "Traceback" not in process.err


async def test_following_a_brook_of_a_container_that_is_not_there_is_one_line(services: Services) -> None:
    missing = services.variables(QUEUE, cosmos_container="missing")
    done = await brook_worker("read", "order|2", "--follow", variables=missing)
    assert done.code == 1
    assert done.err.splitlines()[-1].endswith("check the endpoint, the key, the database and the container")
