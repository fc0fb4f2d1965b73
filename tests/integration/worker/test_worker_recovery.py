"""`brook-worker inspect` and `recover` as an operator runs them, beside workers that may have the brook in hand."""

import json
import os
import subprocess
import sys
from typing import Any

import anyio
import anyio.to_thread
import pytest
from azure.storage.blob.aio import BlobLeaseClient

from schemas.keys import BrookKey, partition_key, session_id_for
from schemas.types import Position
from tests.support.brooks import prepared
from tests.support.site import Place, Site
from worker.configuration import variable
from worker.locking.names import blob_name
from worker.protocol.documents import Document
from worker.protocol.writes import Create
from worker.storage.base import Written

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def brook_worker(place: Place, *arguments: str) -> subprocess.CompletedProcess[str]:
    given = place.settings(lease_acquire_timeout_s="0.5", log_level="error")
    environment = {**os.environ, "COLUMNS": "200"} | {variable(name): value for name, value in given.items()}
    command = [sys.executable, "-m", "worker.cli", *arguments]

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, check=False, timeout=60, env=environment, text=True)

    done = await anyio.to_thread.run_sync(run)
    assert "Traceback" not in done.stderr
    return done


async def shown(place: Place, *arguments: str) -> dict[str, Any]:
    done = await brook_worker(place, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


async def leave_orphan(place: Place, key: BrookKey, **head: Any) -> None:
    """As a worker leaves it that dies after it wrote three of nine events."""
    common = {"brookPartitionKey": partition_key(key)}
    marker = {"originalPosition": 0, "position": 9, "writtenPosition": 3, "commandId": "big", "payloadDigest": "d"}
    documents: list[Document] = [
        {"id": "head", "type": "head", **common, "position": 0, "pending": "big", **head},
        {"id": "head-pending", "type": "head-pending", **common, **marker},
        *(prepared(key=key).event_document(0, Position(position)) for position in range(4)),
    ]
    assert isinstance(await place.store.write(key, [Create(document) for document in documents]), Written)


async def test_an_orphan_is_shown_told_of_and_rolled_back(site: Site, place: Place) -> None:
    await place.make_container()
    await site.blobs.create_container(place.lease_container)
    key = BrookKey("orphaned", "by hand")
    await leave_orphan(place, key)
    before = await place.documents(key)
    found = await shown(place, "inspect", str(key))
    assert (found["decision"], found["eventsPastHead"], found["headPending"]["writtenPosition"]) == ("roll-back", 3, 3)
    assert await shown(place, "recover", str(key), "--dry-run") == found
    assert await place.documents(key) == before
    after = await shown(place, "recover", str(key))
    assert (after["decision"], after["head"], after["headPending"]) == ("nothing-pending", 0, None)
    assert {document["id"] for document in await place.documents(key)} == {"head", "0"}
    assert await place.held_leases() == []
    table = await brook_worker(place, "inspect", str(key))
    assert (table.returncode, "no large append is under way" in table.stdout) == (0, True)


async def test_a_brook_that_a_worker_has_in_hand_is_left_to_it(site: Site, place: Place) -> None:
    await place.make_container()
    await site.blobs.create_container(place.lease_container)
    key = BrookKey("orphaned", "held")
    await leave_orphan(place, key)
    blob = site.blobs.get_blob_client(place.lease_container, blob_name(session_id_for(key)))
    await blob.upload_blob(b"")
    lease = BlobLeaseClient(blob)
    await lease.acquire(lease_duration=60)
    before = await place.documents(key)
    done = await brook_worker(place, "recover", str(key))
    assert done.returncode == 1
    assert done.stderr.startswith("error: lease 'orphaned|held' is held by another: waited 0.5 s")
    assert "Traceback" not in done.stderr
    assert await place.documents(key) == before


async def test_what_contradicts_itself_is_shown_with_a_remedy_and_left_as_it_is(site: Site, place: Place) -> None:
    await place.make_container()
    await site.blobs.create_container(place.lease_container)
    key = BrookKey("orphaned", "contradictory")
    await leave_orphan(place, key, pending="another")
    before = await place.documents(key)
    for command in ("inspect", "recover"):
        done = await brook_worker(place, command, str(key))
        assert done.returncode == 1
        assert "find out which writer changed only one of them" in done.stderr.splitlines()[-1]
    assert await place.documents(key) == before


async def test_what_is_no_brook_key_is_one_line(place: Place) -> None:
    done = await brook_worker(place, "inspect", "orders")
    assert (done.returncode, done.stderr.count("error: ")) == (1, 1)
