"""The embedded services as one process, and places on them: queues, containers and clients that tests do not share."""

import itertools
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from azure.cosmos.aio import CosmosClient
from azure.servicebus.aio import ServiceBusClient
from azure.storage.blob.aio import BlobServiceClient

from emulator.app import Ready
from emulator.faults import Rule
from emulator.handle import EmulatorHandle, EmulatorProcess, start_emulator_process
from tests.support.places import QUICK, Connections, Mail, Names, Replies, ServedPlace, Services, opened_services
from worker.locking.names import blob_name

__all__ = ["QUICK", "Mail", "Place", "Replies", "Site", "running_site"]

_PORT: Final = re.compile(r"127\.0\.0\.1:(\d+)")

PLACES_MAX: Final = 64
DATABASE: Final = "brooks"
TOPIC: Final = "reply-events"
SUBSCRIPTION: Final = "all"
SESSION_TOPIC: Final = "session-replies"
SESSION_SUBSCRIPTION: Final = "by-session"


def config(places: int, *, lock_s: int = 30) -> str:
    """Queues for so many places, in the official format. The reply queues let every repetition through."""
    session = {"RequiresSession": True, "LockDuration": f"PT{lock_s}S", "MaxDeliveryCount": 10}
    queues = [
        {"Name": f"{kind}-{number}", "Properties": session}
        for number in range(places)
        for kind in ("commands", "replies")
    ]
    topic = {"Name": TOPIC, "Properties": {}, "Subscriptions": [{"Name": SUBSCRIPTION, "Properties": {}}]}
    by_session = {"Name": SESSION_SUBSCRIPTION, "Properties": session}
    session_topic = {"Name": SESSION_TOPIC, "Properties": {}, "Subscriptions": [by_session]}
    namespace = {"Name": "sbemulatorns", "Queues": queues, "Topics": [topic, session_topic]}
    return json.dumps({"UserConfig": {"Namespaces": [namespace], "Logging": {"Type": "File"}}})


class Place(ServedPlace):
    """A place on the embedded services, where faults can be injected."""

    def __init__(self, site: "Site", number: int) -> None:
        names = Names(
            command_queue=f"commands-{number}",
            reply_queue=f"replies-{number}",
            database=DATABASE,
            container=f"events-{number}",
            lease_container=f"leases-{number}",
        )
        super().__init__(site.services, names, QUICK)
        self._site = site

    @property
    def control(self) -> EmulatorHandle:
        return self._site.control

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


class Site:
    """The embedded services and the clients that tests look at them with.

    `restarts` ends the services, by `kill -9`, and starts them again: only one with a folder for its data has it.
    """

    def __init__(
        self,
        services: Services,
        ready: Ready,
        control: EmulatorHandle,
        restarts: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.services = services
        self.ready = ready
        self.control = control
        self._restarts = restarts
        self._numbers = itertools.count()

    async def restart(self) -> None:
        """`kill -9` the services and start them again, on the same ports and what they had written down."""
        assert self._restarts is not None, "give the site a data_dir: without one everything would be forgotten"
        await self._restarts()

    @property
    def folder(self) -> Path:
        return self.services.folder

    @property
    def cosmos(self) -> CosmosClient:
        return self.services.cosmos

    @property
    def broker(self) -> ServiceBusClient:
        return self.services.broker

    @property
    def blobs(self) -> BlobServiceClient:
        return self.services.blobs

    def place(self) -> Place:
        """A place that nobody used yet."""
        number = next(self._numbers)
        assert number < PLACES_MAX, "raise PLACES_MAX"
        return Place(self, number)


@asynccontextmanager
async def running_site(
    folder: Path, *, seed: int = 0, lock_s: int = 30, data_dir: Path | None = None
) -> AsyncIterator[Site]:
    """The services as a process of their own, with clients on them, until the context ends."""
    config_file = folder / "Config.json"
    config_file.write_text(config(PLACES_MAX, lock_s=lock_s))
    async with AsyncExitStack() as stack, AsyncExitStack() as process:

        def start(**ports: int) -> AbstractAsyncContextManager[EmulatorProcess]:
            return start_emulator_process(config=config_file, seed=seed, data_dir=data_dir, **ports)

        emulator = await process.enter_async_context(start())
        ready = emulator.ready

        async def restart() -> None:
            nonlocal emulator
            await emulator.kill()
            await process.aclose()
            emulator = await process.enter_async_context(start(**_ports(ready)))

        control = await stack.enter_async_context(EmulatorHandle(ready.control_endpoint))
        services = await stack.enter_async_context(opened_services(folder, connections_of(ready)))
        yield Site(services, ready, control, None if data_dir is None else restart)


def _ports(ready: Ready) -> dict[str, int]:
    """The ports that it listens on, as arguments of another start."""
    return {
        "servicebus_port": port_in(ready.servicebus_connection_string),
        "cosmos_port": port_in(ready.cosmos_endpoint),
        "blob_port": port_in(ready.blob_connection_string),
        "control_port": port_in(ready.control_endpoint),
        "admin_port": port_in(ready.servicebus_admin_endpoint),
    }


def port_in(address: str) -> int:
    """The port in an endpoint or a connection string on this machine."""
    found = _PORT.search(address)
    assert found is not None, "embedded services listen on a port of 127.0.0.1"
    return int(found[1])


def connections_of(ready: Ready) -> Connections:
    """Where the embedded services listen."""
    return Connections(
        servicebus_connection_string=ready.servicebus_connection_string,
        cosmos_endpoint=ready.cosmos_endpoint,
        cosmos_key=ready.cosmos_key,
        blob_connection_string=ready.blob_connection_string,
    )
