"""Lease services for the contract suite: each with the means to let it fail as a real one does."""

import contextlib
import re
from collections.abc import AsyncIterator
from typing import Protocol

from azure.storage.blob.aio import BlobClient, BlobLeaseClient, BlobServiceClient

from emulator.blob import BlobServer
from emulator.clock import SystemClock
from emulator.faults import Faults
from emulator.journal import MemoryJournal
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until
from worker.clients import blob_service_client
from worker.locking.base import LeaseManager
from worker.locking.blob import BlobLeaseManager
from worker.locking.memory import MemoryLeaseManager, MemoryLeaseService
from worker.locking.names import blob_name
from worker.locking.options import LeaseOptions
from worker.redaction import Secret
from worker.settings import Settings

DURATION_S = 15
CONTAINER = "brook-leases"


def options(acquire_timeout_s: float = 0.5) -> LeaseOptions:
    return LeaseOptions(
        duration_s=DURATION_S,
        renew_after_s=5,
        acquire_timeout_s=acquire_timeout_s,
        backoff_initial_s=0.02,
        backoff_max_s=0.1,
    )


def settings(blob_connection_string: str) -> Settings:
    return Settings(
        servicebus_connection_string=Secret("Endpoint=sb://127.0.0.1:1;SharedAccessKeyName=n;SharedAccessKey=k"),
        cosmos_endpoint="http://127.0.0.1:1",
        cosmos_key=Secret("a2V5"),
        blob_connection_string=Secret(blob_connection_string),
    )


class Backend(Protocol):
    """One lease service under test."""

    def worker(self, acquire_timeout_s: float = 0.5) -> contextlib.AbstractAsyncContextManager[LeaseManager]:
        """A manager as another process would have it."""
        ...

    def requests(self) -> int:
        """Requests that workers have sent so far."""
        ...

    async def break_lease(self, key: str) -> None: ...

    async def expire(self, key: str) -> None:
        """Let the time of the lease run out at the service."""
        ...

    def lose_answer(self) -> None:
        """The next request is carried out and its answer lost, so that the SDK tells of a failure."""
        ...

    def unavailable(self) -> contextlib.AbstractAsyncContextManager[None]: ...


class MemoryBackend:
    def __init__(self) -> None:
        self._now_s = 1_000.0
        self._service = MemoryLeaseService(clock=lambda: self._now_s)

    @contextlib.asynccontextmanager
    async def worker(self, acquire_timeout_s: float = 0.5) -> AsyncIterator[LeaseManager]:
        yield MemoryLeaseManager(self._service, options(acquire_timeout_s))

    def requests(self) -> int:
        return self._service.requests

    async def break_lease(self, key: str) -> None:
        self._service.break_lease(key)

    async def expire(self, key: str) -> None:
        self._now_s += DURATION_S + 1

    def lose_answer(self) -> None:
        self._service.fail_next("lost-answer")

    @contextlib.asynccontextmanager
    async def unavailable(self) -> AsyncIterator[None]:
        self._service.unavailable = True
        yield
        self._service.unavailable = False


class BlobBackend:
    """A Blob service behind a proxy; without a `clock` time passes by itself."""

    def __init__(self, connection_string: str, proxy: Proxy, clock: SystemClock | None) -> None:
        self.connection_string = connection_string
        self._proxy = proxy
        self._clock = clock

    @contextlib.asynccontextmanager
    async def worker(self, acquire_timeout_s: float = 0.5) -> AsyncIterator[LeaseManager]:
        through_proxy = re.sub(r"127\.0\.0\.1:\d+", f"127.0.0.1:{self._proxy.port}", self.connection_string)
        async with blob_service_client(settings(through_proxy)) as client:
            yield BlobLeaseManager(client, CONTAINER, options(acquire_timeout_s))

    def requests(self) -> int:
        return self._proxy.requests

    async def break_lease(self, key: str) -> None:
        async with self.blob(key) as blob:
            await BlobLeaseClient(blob).break_lease(lease_break_period=0)

    async def expire(self, key: str) -> None:
        if self._clock is not None:
            self._clock.jump_s(DURATION_S + 1)

        async def expired() -> bool:
            return str((await blob.get_blob_properties()).lease.state) == "expired"

        async with self.blob(key) as blob:
            await wait_until(expired, f"the lease of {key!r} is expired", timeout_s=DURATION_S + 5)

    def lose_answer(self) -> None:
        # aiohttp sends a PUT whose connection broke once more by itself, below the SDK: lose that answer too.
        self._proxy.answers_to_lose += 2

    @contextlib.asynccontextmanager
    async def unavailable(self) -> AsyncIterator[None]:
        await self._proxy.refuse()
        yield
        await self._proxy.refuse(False)

    def hold_answers(self, holding: bool = True) -> None:  # noqa: FBT002 - it reads as `hold_answers()`
        self._proxy.holding = holding

    def holds_answer(self) -> bool:
        return self._proxy.held > 0

    def service(self) -> BlobServiceClient:
        """The service, reached past the proxy."""
        return BlobServiceClient.from_connection_string(self.connection_string)

    @contextlib.asynccontextmanager
    async def blob(self, key: str) -> AsyncIterator[BlobClient]:
        """The blob behind a key, reached past the proxy."""
        async with self.service() as client:
            yield client.get_blob_client(CONTAINER, blob_name(key))


@contextlib.asynccontextmanager
async def proxied(connection_string: str, clock: SystemClock | None) -> AsyncIterator[BlobBackend]:
    """A backend on an empty Blob service with its lock container."""
    found = re.search(r"127\.0\.0\.1:(\d+)", connection_string)
    assert found is not None, "the service must listen on 127.0.0.1"
    async with BlobServiceClient.from_connection_string(connection_string) as client:
        if not await client.get_container_client(CONTAINER).exists():
            await client.create_container(CONTAINER)
    async with Proxy(int(found[1])).running() as proxy:
        yield BlobBackend(connection_string, proxy, clock)


@contextlib.asynccontextmanager
async def embedded(faults: Faults | None = None) -> AsyncIterator[BlobBackend]:
    """A backend on the embedded Blob service, whose clock can jump."""
    clock = SystemClock()
    server = BlobServer(clock=clock, journal=MemoryJournal(), faults=faults or Faults())
    await server.start()
    try:
        async with proxied(server.connection_string, clock) as backend:
            yield backend
    finally:
        await server.stop()
