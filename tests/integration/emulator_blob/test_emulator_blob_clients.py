"""The synchronous client, the oldest protocol version that the SDK speaks, and content of a hundred megabytes."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobServiceClient as SyncClient
from azure.storage.blob.aio import BlobServiceClient

from emulator.blob import BlobServer
from emulator.clock import SystemClock
from emulator.faults import Faults
from emulator.journal import SqliteJournal
from tests.support.blob import MIB

pytestmark = pytest.mark.anyio


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[BlobServer]:
    journal = SqliteJournal(tmp_path / "blob.sqlite")
    found = BlobServer(clock=SystemClock(), journal=journal, faults=Faults())
    await found.start()
    yield found
    await found.stop()
    journal.close()


async def test_synchronous_client_is_served(server: BlobServer) -> None:
    def use() -> None:
        with SyncClient.from_connection_string(server.connection_string) as service:
            container = service.create_container("box")
            blob = container.upload_blob("b", b"content", metadata={"a": "1"})
            assert blob.download_blob().readall() == b"content"
            assert [item.name for item in container.list_blobs()] == ["b"]
            lease = blob.acquire_lease(15)
            with pytest.raises(HttpResponseError) as raised:
                blob.delete_blob()
            assert raised.value.error_code == "LeaseIdMissing"
            lease.renew()
            lease.release()
            blob.delete_blob()

    await asyncio.to_thread(use)


@pytest.mark.parametrize("version", ["2019-02-02", "2021-12-02"])
async def test_older_protocol_versions_are_served(server: BlobServer, version: str) -> None:
    async with BlobServiceClient.from_connection_string(server.connection_string, api_version=version) as service:
        container = await service.create_container("box")
        await container.upload_blob("b", b"content")
        [item] = [item async for item in container.list_blobs()]
        assert (item.name, item.size) == ("b", 7)


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_hundred_megabytes_go_in_out_and_through_a_restart(server: BlobServer, tmp_path: Path) -> None:
    content = hashlib.shake_256(b"seed").digest(MIB) * 100
    expected = hashlib.sha256(content).hexdigest()
    async with BlobServiceClient.from_connection_string(server.connection_string) as service:
        container = await service.create_container("box")
        blob = await container.upload_blob("large", content, max_concurrency=4)
        single = container.get_blob_client("single")
        await single.upload_blob(content, max_concurrency=1)
        for each in (blob, single):
            stream = await each.download_blob(max_concurrency=4)
            digest = hashlib.sha256()
            async for piece in stream.chunks():
                digest.update(piece)
            assert digest.hexdigest() == expected
    await server.stop()
    server.engine._store._journal.close()
    journal = SqliteJournal(tmp_path / "blob.sqlite")
    again = BlobServer(clock=SystemClock(), journal=journal, faults=Faults())
    assert again.engine.content_bytes == 200 * MIB
    await again.start()
    async with BlobServiceClient.from_connection_string(again.connection_string) as service:
        stream = await service.get_blob_client("box", "large").download_blob(offset=50 * MIB - 3, length=6)
        assert await stream.readall() == content[50 * MIB - 3 : 50 * MIB + 3]
    await again.stop()
    journal.close()


@pytest.mark.slow
async def test_small_requests_do_not_wait_for_a_large_upload(server: BlobServer) -> None:
    """A large upload is journalled piece by piece, so the loop is never held for the whole of it."""
    async with BlobServiceClient.from_connection_string(
        server.connection_string, max_single_put_size=200 * MIB
    ) as service:
        container = await service.create_container("box")
        small = await container.upload_blob("small", b"")
        upload = asyncio.ensure_future(container.upload_blob("large", bytes(100 * MIB)))
        loop, slowest_s, count = asyncio.get_running_loop(), 0.0, 0
        began_s = loop.time()
        while not upload.done():
            started_s = loop.time()
            await small.get_blob_properties()
            slowest_s = max(slowest_s, loop.time() - started_s)
            count += 1
        await upload
        took_s = loop.time() - began_s
    assert count > 5
    # Two seconds, or, where this machine has much else to do, less than half of the upload.
    assert slowest_s < max(2.0, took_s / 2), f"a small request took {slowest_s:.2f} s of a large upload"
