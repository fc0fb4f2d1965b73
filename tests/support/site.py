"""The embedded services as one process, and places on them: queues, containers and clients that tests do not share."""

import itertools
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from azure.cosmos import PartitionKey
from azure.cosmos.aio import ContainerProxy, CosmosClient
from azure.servicebus import ServiceBusReceivedMessage, ServiceBusSubQueue
from azure.servicebus.aio import ServiceBusClient
from azure.storage.blob.aio import BlobServiceClient

from brook_client.client import BrookClient
from brook_client.connect import with_connection_string
from brook_client.messages import ReceivedReply
from emulator.app import Ready
from emulator.faults import Rule
from emulator.handle import EmulatorHandle, start_emulator_process
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

PLACES_MAX: Final = 64
DATABASE: Final = "brooks"
TOPIC: Final = "reply-events"
SUBSCRIPTION: Final = "all"

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


def config(places: int, *, lock_s: int = 30) -> str:
    """Queues for so many places, in the official format. The reply queues let every repetition through."""
    session = {"RequiresSession": True, "LockDuration": f"PT{lock_s}S", "MaxDeliveryCount": 10}
    queues = [
        {"Name": f"{kind}-{number}", "Properties": session}
        for number in range(places)
        for kind in ("commands", "replies")
    ]
    topic = {"Name": TOPIC, "Properties": {}, "Subscriptions": [{"Name": SUBSCRIPTION, "Properties": {}}]}
    namespace = {"Name": "sbemulatorns", "Queues": queues, "Topics": [topic]}
    return json.dumps({"UserConfig": {"Namespaces": [namespace], "Logging": {"Type": "File"}}})


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


class Place:
    """Queues and containers of one test, on services that it shares with others."""

    def __init__(self, site: "Site", number: int) -> None:
        self._site = site
        self._number = number
        self._workers = itertools.count(1)
        self.command_queue = f"commands-{number}"
        self.reply_queue = f"replies-{number}"
        self.container_name = f"events-{number}"
        self.lease_container = f"leases-{number}"

    @property
    def control(self) -> EmulatorHandle:
        return self._site.control

    def settings(self, **changes: str) -> dict[str, str]:
        """The settings of a worker, as text."""
        ready = self._site.ready
        return {
            "servicebus_connection_string": ready.servicebus_connection_string,
            "cosmos_endpoint": ready.cosmos_endpoint,
            "cosmos_key": ready.cosmos_key,
            "blob_connection_string": ready.blob_connection_string,
            **QUICK,
            "command_queue": self.command_queue,
            "reply_queue": self.reply_queue,
            "cosmos_database": DATABASE,
            "cosmos_container": self.container_name,
            "lease_container": self.lease_container,
            **changes,
        }

    @asynccontextmanager
    async def worker(self, **changes: str) -> AsyncIterator[WorkerProcess]:
        """A worker of this place, started but maybe not ready yet."""
        log_file = self._site.folder / f"worker-{self._number}-{next(self._workers)}.log"
        async with worker_process(self.settings(**changes), log_file) as worker:
            yield worker

    @asynccontextmanager
    async def ready_worker(self, **changes: str) -> AsyncIterator[WorkerProcess]:
        async with self.worker(**changes) as worker:
            await worker.started()
            yield worker

    @asynccontextmanager
    async def client(self, content_type: str = codec.JSON) -> AsyncIterator[tuple[BrookClient, Replies]]:
        """A client and all the replies that it gets."""
        connect = with_connection_string(self._site.ready.servicebus_connection_string)
        replies = Replies()
        async with BrookClient(
            connect, command_queue=self.command_queue, reply_queue=self.reply_queue, content_type=content_type
        ) as client:
            with client.listen(replies.take):
                yield client, replies

    @property
    def container(self) -> ContainerProxy:
        return self._site.cosmos.get_database_client(DATABASE).get_container_client(self.container_name)

    @property
    def store(self) -> CosmosBrookStore:
        """The brooks, as a writer that is none of the workers has them."""
        return CosmosBrookStore(self.container, RetryOptions())

    async def make_container(self, path: str = "/brookPartitionKey") -> None:
        database = await self._site.cosmos.create_database_if_not_exists(DATABASE)
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
        async with self._site.broker.get_queue_receiver(
            self.command_queue, sub_queue=ServiceBusSubQueue.DEAD_LETTER
        ) as receiver:
            found = await receiver.peek_messages(max_message_count=100)
        return {message.message_id: message for message in found if message.message_id is not None}

    async def held_leases(self) -> list[str]:
        """The blobs of this place that somebody holds a lease on."""
        container = self._site.blobs.get_container_client(self.lease_container)
        return [blob.name async for blob in container.list_blobs() if blob.lease.state == "leased"]

    async def end_lease(self, session_id: str) -> None:
        """As when its time is up: for a holder that was killed."""
        await self.control.break_lease(self.lease_container, blob_name(session_id))

    async def is_drained(self) -> bool:
        """Whether no message is left in the command queue."""
        counts = (await self.control.entities())[self.command_queue]
        return counts.active == 0

    @asynccontextmanager
    async def rule(self, rule: Rule) -> AsyncIterator[Callable[[], Any]]:
        """A fault while the context lasts; gives the count of how often it acted."""
        rule_id = await self.control.add_rule(rule)

        async def fired() -> int:
            return await self.control.fired(rule_id)

        try:
            yield fired
        finally:
            await self.control.remove_rule(rule_id)

    @property
    def broker(self) -> ServiceBusClient:
        return self._site.broker


class Site:
    """The services and the clients that tests look at them with."""

    def __init__(
        self,
        folder: Path,
        ready: Ready,
        *,
        control: EmulatorHandle,
        cosmos: CosmosClient,
        broker: ServiceBusClient,
        blobs: BlobServiceClient,
    ) -> None:
        self.folder = folder
        self.ready = ready
        self.control = control
        self.cosmos = cosmos
        self.broker = broker
        self.blobs = blobs
        self._numbers = itertools.count()

    def place(self) -> Place:
        """A place that nobody used yet."""
        number = next(self._numbers)
        assert number < PLACES_MAX, "raise PLACES_MAX"
        return Place(self, number)


@asynccontextmanager
async def running_site(folder: Path, *, seed: int = 0, lock_s: int = 30) -> AsyncIterator[Site]:
    """The services as a process of their own, with clients on them, until the context ends."""
    config_file = folder / "Config.json"
    config_file.write_text(config(PLACES_MAX, lock_s=lock_s))
    async with start_emulator_process(config=config_file, seed=seed) as emulator, AsyncExitStack() as stack:
        ready = emulator.ready
        cosmos = await stack.enter_async_context(CosmosClient(ready.cosmos_endpoint, ready.cosmos_key))
        broker = await stack.enter_async_context(
            ServiceBusClient.from_connection_string(ready.servicebus_connection_string)
        )
        blobs = await stack.enter_async_context(BlobServiceClient.from_connection_string(ready.blob_connection_string))
        yield Site(folder, ready, control=emulator.control, cosmos=cosmos, broker=broker, blobs=blobs)
