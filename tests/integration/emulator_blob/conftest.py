"""One suite of Blob Storage behaviour, through the unmodified SDK, on the embedded service and on Azurite."""

import uuid
from collections.abc import AsyncIterator

import pytest
from azure.storage.blob.aio import BlobClient, BlobServiceClient, ContainerClient

from emulator.blob import BlobServer
from emulator.clock import SystemClock
from emulator.faults import Faults
from emulator.journal import MemoryJournal
from tests.support.blob import MIB, Backend


@pytest.fixture(params=["embedded", "azurite"])
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    server = None
    if request.param == "embedded":
        server = BlobServer(clock=SystemClock(), journal=MemoryJournal(), faults=Faults())
        await server.start()
        connection_string = server.connection_string
    else:
        connection_string = request.getfixturevalue("azurite_connection_string")
    async with BlobServiceClient.from_connection_string(
        connection_string, max_single_put_size=MIB, max_block_size=MIB, retry_total=0
    ) as service:
        yield Backend(request.param, service, server)
    if server is not None:
        await server.stop()


@pytest.fixture
async def container(backend: Backend) -> ContainerClient:
    return await backend.service.create_container(f"c-{uuid.uuid4()}")


@pytest.fixture
async def blob(container: ContainerClient) -> BlobClient:
    client = container.get_blob_client("blob")
    await client.upload_blob(b"content")
    return client
