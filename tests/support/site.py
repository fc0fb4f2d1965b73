"""The embedded services as one process, and places on them: queues, containers and clients that tests do not share."""

import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from azure.cosmos.aio import CosmosClient
from azure.servicebus.aio import ServiceBusClient
from azure.storage.blob.aio import BlobServiceClient

from emulator.app import Ready
from emulator.faults import Rule
from emulator.handle import EmulatorHandle, start_emulator_process
from tests.support.places import QUICK, Connections, Names, Replies, ServedPlace, Services, opened_services
from worker.locking.names import blob_name

__all__ = ["QUICK", "Place", "Replies", "Site", "running_site"]

PLACES_MAX: Final = 64
DATABASE: Final = "brooks"
TOPIC: Final = "reply-events"
SUBSCRIPTION: Final = "all"


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
    """The embedded services and the clients that tests look at them with."""

    def __init__(self, services: Services, ready: Ready, control: EmulatorHandle) -> None:
        self.services = services
        self.ready = ready
        self.control = control
        self._numbers = itertools.count()

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
async def running_site(folder: Path, *, seed: int = 0, lock_s: int = 30) -> AsyncIterator[Site]:
    """The services as a process of their own, with clients on them, until the context ends."""
    config_file = folder / "Config.json"
    config_file.write_text(config(PLACES_MAX, lock_s=lock_s))
    async with (
        start_emulator_process(config=config_file, seed=seed) as emulator,
        opened_services(folder, connections_of(emulator.ready)) as services,
    ):
        yield Site(services, emulator.ready, emulator.control)


def connections_of(ready: Ready) -> Connections:
    """Where the embedded services listen."""
    return Connections(
        servicebus_connection_string=ready.servicebus_connection_string,
        cosmos_endpoint=ready.cosmos_endpoint,
        cosmos_key=ready.cosmos_key,
        blob_connection_string=ready.blob_connection_string,
    )
