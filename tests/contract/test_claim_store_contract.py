"""What every claim store must do, in memory, on the embedded Blob service and on Azurite."""

import contextlib
import gzip
import itertools
import re
from collections.abc import AsyncIterator
from typing import Protocol

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from azure.storage.blob import ContentSettings
from azure.storage.blob.aio import BlobServiceClient

from tests.support.leases import BlobBackend, embedded, proxied, settings
from worker.claims.base import (
    PIECE_BYTES_MAX,
    ClaimContent,
    ClaimGoneError,
    ClaimsMisconfiguredError,
    ClaimStore,
    ClaimsUnavailableError,
)
from worker.claims.blob import BlobClaimStore
from worker.claims.memory import MemoryClaimStore
from worker.clients import blob_service_client

pytestmark = pytest.mark.anyio

CONTAINER = "claims"

_numbers = itertools.count()


class Backend(Protocol):
    """A place for claims, with the means to change it behind the worker's back."""

    @property
    def store(self) -> ClaimStore: ...

    async def put(self, name: str, content: bytes) -> None: ...

    async def remove(self, name: str) -> None: ...

    def unavailable(self) -> contextlib.AbstractAsyncContextManager[None]: ...

    def lose_answer(self) -> None:
        """The next request's answer is lost once."""
        ...


class Memory:
    def __init__(self) -> None:
        self.store = MemoryClaimStore()

    async def put(self, name: str, content: bytes) -> None:
        self.store.put(name, content)

    async def remove(self, name: str) -> None:
        self.store.remove(name)

    @contextlib.asynccontextmanager
    async def unavailable(self) -> AsyncIterator[None]:
        self.store.unavailable = True
        yield
        self.store.unavailable = False

    def lose_answer(self) -> None:
        """There is no way on which it could be lost."""


class Blob:
    def __init__(self, backend: BlobBackend, store: BlobClaimStore, service: BlobServiceClient) -> None:
        self._backend = backend
        self._container = service.get_container_client(CONTAINER)
        self.store = store
        self.unavailable = backend.unavailable

    async def put(self, name: str, content: bytes) -> None:
        await self._container.upload_blob(name, content, overwrite=True)

    async def remove(self, name: str) -> None:
        await self._container.delete_blob(name)

    def lose_answer(self) -> None:
        self._backend._proxy.answers_to_lose += 1


@contextlib.asynccontextmanager
async def on_blob(backend: BlobBackend) -> AsyncIterator[Blob]:
    through_proxy = re.sub(r"127\.0\.0\.1:\d+", f"127.0.0.1:{backend._proxy.port}", backend.connection_string)
    async with backend.service() as service, blob_service_client(settings(through_proxy)) as client:
        container = service.get_container_client(CONTAINER)
        if not await container.exists():
            await container.create_container()
        yield Blob(backend, BlobClaimStore(client, CONTAINER), service)


@pytest.fixture(params=["memory", "embedded", "azurite"])
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    match request.param:
        case "memory":
            yield Memory()
        case "embedded":
            async with embedded() as service, on_blob(service) as it:
                yield it
        case _:
            connection_string = request.getfixturevalue("azurite_connection_string")
            async with proxied(connection_string, clock=None) as service, on_blob(service) as it:
                yield it


@pytest.fixture
def name() -> str:
    return f"2026/claim-{next(_numbers)}.jsonl"


async def found(backend: Backend, name: str) -> ClaimContent:
    content = await backend.store.find(name)
    assert content is not None
    return content


async def whole(content: ClaimContent) -> list[bytes]:
    pieces: list[bytes] = []
    while piece := await content.read(sum(map(len, pieces))):
        pieces.append(piece)
    return pieces


async def test_what_was_put_there_is_read_and_nothing_behind_it(backend: Backend, name: str) -> None:
    await backend.put(name, b"content")
    content = await found(backend, name)
    assert content.size_bytes == 7
    assert await content.read(0) == b"content"
    assert await content.read(3) == b"tent"
    assert await content.read(7) == b""


async def test_a_large_blob_is_read_in_pieces(backend: Backend, name: str) -> None:
    sent = bytes(range(256)) * (PIECE_BYTES_MAX // 256) * 2 + b"the end"
    await backend.put(name, sent)
    pieces = await whole(await found(backend, name))
    assert [len(piece) for piece in pieces] == [PIECE_BYTES_MAX, PIECE_BYTES_MAX, 7]
    assert b"".join(pieces) == sent


async def test_an_empty_blob_is_there_and_empty(backend: Backend, name: str) -> None:
    await backend.put(name, b"")
    content = await found(backend, name)
    assert (content.size_bytes, await whole(content)) == (0, [])


async def test_what_is_not_there_is_not_found(backend: Backend, name: str) -> None:
    assert await backend.store.find(name) is None
    await backend.put(name, b"x")
    await backend.remove(name)
    assert await backend.store.find(name) is None
    assert not await backend.store.delete(name, '"1"')


@pytest.mark.parametrize("change", ["deleted", "replaced"])
async def test_only_the_state_that_was_found_is_read_and_deleted(backend: Backend, name: str, change: str) -> None:
    await backend.put(name, b"before")
    content = await found(backend, name)
    if change == "deleted":
        await backend.remove(name)
    else:
        await backend.put(name, b"after!")
    with pytest.raises(ClaimGoneError):
        await content.read(0)
    assert not await backend.store.delete(name, content.etag)
    if change == "replaced":
        assert await whole(await found(backend, name)) == [b"after!"]


async def test_what_was_found_is_deleted_once(backend: Backend, name: str) -> None:
    await backend.put(name, b"x")
    content = await found(backend, name)
    assert await backend.store.delete(name, content.etag)
    assert not await backend.store.delete(name, content.etag)
    assert await backend.store.find(name) is None


async def test_an_outage_says_nothing_of_any_blob(backend: Backend, name: str) -> None:
    await backend.put(name, b"x")
    content = await found(backend, name)
    async with backend.unavailable():
        with anyio.fail_after(30):
            for asked in (
                backend.store.find(name),
                content.read(0),
                backend.store.delete(name, content.etag),
                backend.store.find("never/there"),
            ):
                with pytest.raises(ClaimsUnavailableError):
                    await asked
    assert await whole(content) == [b"x"]


async def test_a_lost_answer_is_asked_for_again(backend: Backend, name: str) -> None:
    await backend.put(name, b"x")
    backend.lose_answer()
    content = await found(backend, name)
    backend.lose_answer()
    assert await whole(content) == [b"x"]


@pytest.fixture
async def service() -> AsyncIterator[BlobBackend]:
    async with embedded() as it:
        yield it


async def test_a_missing_container_is_no_missing_blob(service: BlobBackend, name: str) -> None:
    """Rejecting every claim because of a setting would lose what producers sent."""
    async with blob_service_client(settings(service.connection_string)) as client:
        store = BlobClaimStore(client, "never-made")
        with pytest.raises(ClaimsMisconfiguredError, match=r"'never-made'.*run `brook-worker provision`"):
            await store.find(name)


async def test_refused_credentials_are_no_missing_blob(service: BlobBackend, name: str) -> None:
    wrong = re.sub(r"AccountKey=[^;]+", "AccountKey=d3Jvbmc=", service.connection_string)
    async with blob_service_client(settings(wrong)) as client:
        with pytest.raises(ClaimsMisconfiguredError, match="refuses the credentials") as caught:
            await BlobClaimStore(client, CONTAINER).find(name)
    assert "d3Jvbmc" not in str(caught.value)


async def test_a_name_with_path_tricks_is_never_sent(service: BlobBackend) -> None:
    async with blob_service_client(settings(service.connection_string)) as client:
        before = service.requests()
        with pytest.raises(AssertionError):
            await BlobClaimStore(client, CONTAINER).find("../brook-leases/x")
        assert service.requests() == before


async def test_compressed_content_is_read_as_it_is_stored(service: BlobBackend, name: str) -> None:
    """Unpacked it would take a thousand times the memory, and have neither the size nor the digest that were told."""
    packed = gzip.compress(bytes(1_000_000))
    async with service.service() as sender:
        container = sender.get_container_client(CONTAINER)
        await container.create_container()
        await container.upload_blob(name, packed, content_settings=ContentSettings(content_encoding="gzip"))
    async with blob_service_client(settings(service.connection_string)) as client:
        content = await BlobClaimStore(client, CONTAINER).find(name)
        assert content is not None
        assert await whole(content) == [packed]


@pytest.mark.parametrize("code", ["", "x-ms-error-code: ResourceNotFound\r\n"])
async def test_only_the_service_s_own_word_makes_a_blob_missing(code: str, name: str) -> None:
    """A wrong endpoint or a gateway on the way answers 404 to all: a command rejected for that would be lost."""

    async def answer(connection: SocketStream) -> None:
        async with connection:
            await connection.receive()
            await connection.send(f"HTTP/1.1 404 Not Found\r\n{code}Content-Length: 0\r\n\r\n".encode())

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, answer)
        place = f"http://127.0.0.1:{port}/account"
        wrong = f"AccountName=account;AccountKey=d3Jvbmc=;BlobEndpoint={place}"
        async with blob_service_client(settings(wrong)) as client:
            with pytest.raises(ClaimsMisconfiguredError, match="404"):
                await BlobClaimStore(client, CONTAINER).find(name)
        tasks.cancel_scope.cancel()
