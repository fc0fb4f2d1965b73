"""Queues and containers of one test, on whatever serves Service Bus, Cosmos DB and Blob Storage."""

import itertools
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.cosmos import PartitionKey
from azure.cosmos.aio import ContainerProxy, CosmosClient
from azure.servicebus import ServiceBusReceivedMessage, ServiceBusSubQueue
from azure.servicebus.aio import ServiceBusClient
from azure.storage.blob.aio import BlobLeaseClient, BlobServiceClient

from brook_client.client import BrookClient
from brook_client.connect import with_connection_string
from brook_client.messages import ReceivedReply
from schemas import codec
from schemas.commands import AppendCommand
from schemas.events import RecordedEvent
from schemas.keys import BrookKey, partition_key
from schemas.types import CommandId
from tests.support.waiting import wait_until
from tests.support.worker_process import WorkerProcess, worker_process
from worker.locking.names import blob_name
from worker.storage.cosmos import CosmosBrookStore
from worker.storage.retries import RetryOptions

QUICK: Final = {
    "auto_provision": "true",
    "log_format": "json",
    "session_idle_s": "0.3",
    "session_accept_wait_s": "1",
    "session_pause_initial_s": "0.2",
    "session_pause_max_s": "1",
    "lease_duration_s": "15",
    "lease_renew_after_s": "5",
    "drain_grace_s": "15",
    "max_concurrent_sessions": "4",
}
"""Settings under which little has to be waited for."""


class Connections(msgspec.Struct, frozen=True, kw_only=True):
    """What leads to the three services: fields are settings of the worker."""

    servicebus_connection_string: str
    cosmos_endpoint: str
    cosmos_key: str
    blob_connection_string: str


class Services:
    """The services and the clients that tests look at them with. `folder` is for the logs of workers."""

    def __init__(
        self,
        folder: Path,
        connections: Connections,
        *,
        cosmos: CosmosClient,
        broker: ServiceBusClient,
        blobs: BlobServiceClient,
    ) -> None:
        self.folder = folder
        self.connections = connections
        self.cosmos = cosmos
        self.broker = broker
        self.blobs = blobs


@asynccontextmanager
async def opened_services(folder: Path, connections: Connections) -> AsyncIterator[Services]:
    """Open the clients until the context ends."""
    async with AsyncExitStack() as stack:
        yield Services(
            folder,
            connections,
            cosmos=await stack.enter_async_context(CosmosClient(connections.cosmos_endpoint, connections.cosmos_key)),
            broker=await stack.enter_async_context(
                ServiceBusClient.from_connection_string(connections.servicebus_connection_string)
            ),
            blobs=await stack.enter_async_context(
                BlobServiceClient.from_connection_string(connections.blob_connection_string)
            ),
        )


class Replies:
    """The replies that a client got, by command, each delivery's."""

    def __init__(self) -> None:
        self.by_command: dict[CommandId, list[ReceivedReply]] = defaultdict(list)
        self.count = 0

    def take(self, reply: ReceivedReply) -> None:
        self.by_command[reply.command_id].append(reply)
        self.count += 1

    def bodies(self, command_id: str) -> list[bytes]:
        return [reply.body for reply in self.by_command[CommandId(command_id)]]

    async def number(self, count: int, command_id: str, timeout_s: float = 30.0) -> list[ReceivedReply]:
        """Wait until a command has so many replies."""
        found = self.by_command[CommandId(command_id)]
        await wait_until(lambda: len(found) >= count, f"{count} replies to {command_id!r}", timeout_s)
        return found

    async def to_each(self, commands: Iterable[AppendCommand], timeout_s: float = 60.0) -> None:
        """Wait until each of these commands has a reply."""
        missing = {one.command_id for one in commands}

        def all_there() -> bool:
            missing.difference_update([one for one in missing if self.by_command[one]])
            return not missing

        try:
            await wait_until(all_there, "replies to all commands", timeout_s)
        except AssertionError as error:
            raise AssertionError(f"after {timeout_s} s no reply to {sorted(missing)[:10]}") from error


Mail = tuple[BrookClient, Replies]
"""A client, and all the replies that it gets."""


class Names(msgspec.Struct, frozen=True, kw_only=True):
    """The entities of one place."""

    command_queue: str
    reply_queue: str
    database: str
    container: str
    lease_container: str


class ServedPlace:
    """Queues and containers of one test, on services that it shares with others. Nothing here needs an emulator."""

    def __init__(self, services: Services, names: Names, settings: dict[str, str]) -> None:
        self._services = services
        self._names = names
        self._settings = settings
        self._workers = itertools.count(1)
        self.command_queue = names.command_queue
        self.reply_queue = names.reply_queue
        self.container_name = names.container
        self.lease_container = names.lease_container

    def settings(self, **changes: str) -> dict[str, str]:
        """The settings of a worker, as text."""
        return {
            **msgspec.structs.asdict(self._services.connections),
            **self._settings,
            "command_queue": self.command_queue,
            "reply_queue": self.reply_queue,
            "cosmos_database": self._names.database,
            "cosmos_container": self.container_name,
            "lease_container": self.lease_container,
            **changes,
        }

    @asynccontextmanager
    async def worker(self, **changes: str) -> AsyncIterator[WorkerProcess]:
        """A worker of this place, started but maybe not ready yet."""
        log_file = self._services.folder / f"worker-{self.command_queue}-{next(self._workers)}.log"
        async with worker_process(self.settings(**changes), log_file) as worker:
            yield worker

    @asynccontextmanager
    async def ready_worker(self, **changes: str) -> AsyncIterator[WorkerProcess]:
        async with self.worker(**changes) as worker:
            await worker.started()
            yield worker

    @asynccontextmanager
    async def client(
        self, content_type: str = codec.JSON, *, session_buckets: int | None = None
    ) -> AsyncIterator[Mail]:
        connect = with_connection_string(self._services.connections.servicebus_connection_string)
        replies = Replies()
        async with BrookClient(
            connect,
            command_queue=self.command_queue,
            reply_queue=self.reply_queue,
            content_type=content_type,
            session_buckets=session_buckets,
        ) as client:
            with client.listen(replies.take):
                yield client, replies

    @property
    def broker(self) -> ServiceBusClient:
        return self._services.broker

    @property
    def container(self) -> ContainerProxy:
        return self._services.cosmos.get_database_client(self._names.database).get_container_client(self.container_name)

    @property
    def store(self) -> CosmosBrookStore:
        """The brooks, as a writer that is none of the workers has them."""
        return CosmosBrookStore(self.container, RetryOptions())

    async def make_container(self, path: str = "/brookPartitionKey") -> None:
        database = await self._services.cosmos.create_database_if_not_exists(self._names.database)
        await database.create_container(self.container_name, PartitionKey(path))

    async def events(self, key: BrookKey) -> list[RecordedEvent]:
        """All committed events of a brook."""
        return [event async for event in self.store.read_forward(key)]

    async def documents(self, key: BrookKey | None = None) -> list[dict[str, Any]]:
        """The raw documents of a brook, or of all of them."""
        scope: dict[str, Any] = {"partition_key": partition_key(key)} if key is not None else {}
        return [document async for document in self.container.query_items("SELECT * FROM c", **scope)]

    async def dead_letters(self) -> dict[str, ServiceBusReceivedMessage]:
        """What lies in the dead-letter queue, by message id."""
        async with self.broker.get_queue_receiver(
            self.command_queue, sub_queue=ServiceBusSubQueue.DEAD_LETTER
        ) as receiver:
            found = await receiver.peek_messages(max_message_count=100)
        return {message.message_id: message for message in found if message.message_id is not None}

    async def held_leases(self) -> list[str]:
        """The blobs of this place that somebody holds a lease on."""
        container = self._services.blobs.get_container_client(self.lease_container)
        return [blob.name async for blob in container.list_blobs() if blob.lease.state == "leased"]

    async def end_lease(self, session_id: str) -> None:
        """As when its time is up: for a holder that was killed. Nothing is done where nobody holds it."""
        blob = self._services.blobs.get_blob_client(self.lease_container, blob_name(session_id))
        try:
            await BlobLeaseClient(blob).break_lease(lease_break_period=0)
        except ResourceNotFoundError:
            return
        except HttpResponseError as error:
            if getattr(error, "error_code", None) != "LeaseNotPresentWithLeaseOperation":
                raise
