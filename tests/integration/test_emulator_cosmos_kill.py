"""Killed again and again under load: what was acknowledged is there, and nothing is half there."""

import asyncio
import random
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import AzureError
from azure.cosmos import PartitionKey
from azure.cosmos.aio import ContainerProxy, CosmosClient

from emulator.cosmos.auth import WELL_KNOWN_KEY
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio

SCRIPT = Path(__file__).parent.parent / "support" / "cosmos_process.py"
ROOT = Path(__file__).parent.parent.parent
KILLS = 20
WRITERS = 4
BATCH_EVENTS = 5
ONCE: dict[str, Any] = {"retry_connect": 0, "retry_read": 0, "retry_total": 0, "retry_status": 0}


async def started(data: Path) -> tuple[Process, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(SCRIPT), str(data), stdout=PIPE, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}
    )
    assert process.stdout is not None
    async with asyncio.timeout(30):
        while not (line := await process.stdout.readline()).startswith(b"port="):
            assert line, "the server ended before it was listening"
    return process, f"http://127.0.0.1:{int(line[5:])}/"


class Brook:
    """A writer with one brook: it knows what was acknowledged, and what may have happened."""

    def __init__(self, number: int) -> None:
        self.key = f"brook|{number}"
        self.acknowledged = -1
        self.attempted = -1
        self.tokens: list[int] = []

    async def write_until_it_breaks(self, container: ContainerProxy) -> None:
        try:
            head = await self.reload(container)
            while True:
                head = await self._append(container, head)
        except AzureError:
            return

    async def reload(self, container: ContainerProxy) -> dict[str, Any] | None:
        """The head, after checking that it and the events agree with each other and with what was acknowledged."""
        query = container.query_items("SELECT * FROM c", partition_key=self.key)
        found = {item["id"]: item async for item in query}
        head = found.pop("head", None)
        position = -1 if head is None else head["position"]
        assert self.acknowledged <= position <= self.attempted
        assert sorted(found, key=int) == [str(at) for at in range(position + 1)]
        self.acknowledged = self.attempted = position
        return head

    async def _append(self, container: ContainerProxy, head: dict[str, Any] | None) -> dict[str, Any]:
        first = self.acknowledged + 1
        last = first + BATCH_EVENTS - 1
        new = {"id": "head", "pk": self.key, "position": last}
        operations: list[Any] = [("create", (new,))]
        if head is not None:
            operations = [("replace", ("head", new), {"if_match_etag": head["_etag"]})]
        operations += [("create", ({"id": str(at), "pk": self.key},)) for at in range(first, last + 1)]
        self.attempted = last
        results = await container.execute_item_batch(operations, partition_key=self.key, **ONCE)
        self.acknowledged = last
        self.tokens.append(int(results.get_response_headers()["lsn"]))
        return dict(results[0]["resourceBody"])


async def more_written(brooks: list[Brook], batches: int) -> None:
    """Return once that many more batches were acknowledged; others are under way then."""

    def written() -> int:
        return sum(len(brook.tokens) for brook in brooks)

    goal = written() + batches
    await wait_until(lambda: written() >= goal, "enough batches are acknowledged to kill amid")


@pytest.mark.slow
async def test_twenty_kills_under_load_lose_nothing_acknowledged(tmp_path: Path) -> None:
    chance = random.Random(7)
    data = tmp_path / "data.db"
    brooks = [Brook(number) for number in range(WRITERS)]
    for _ in range(KILLS):
        process, endpoint = await started(data)
        async with CosmosClient(endpoint, WELL_KNOWN_KEY, retry_total=0) as client:
            database = await client.create_database_if_not_exists("brooks")
            container = await database.create_container_if_not_exists("events", PartitionKey("/pk"))
            writers = [asyncio.create_task(brook.write_until_it_breaks(container)) for brook in brooks]
            await more_written(brooks, chance.randint(5, 60))
            process.kill()
            await process.wait()
            await asyncio.gather(*writers)
    process, endpoint = await started(data)
    async with CosmosClient(endpoint, WELL_KNOWN_KEY) as client:
        container = client.get_database_client("brooks").get_container_client("events")
        for brook in brooks:
            await brook.reload(container)
    process.kill()
    await process.wait()
    assert all(brook.acknowledged > KILLS for brook in brooks), "the writers hardly wrote"
    seen = [lsn for brook in brooks for lsn in brook.tokens]
    assert len(set(seen)) == len(seen), "a log sequence number was given twice"
    assert all(brook.tokens == sorted(brook.tokens) for brook in brooks)
