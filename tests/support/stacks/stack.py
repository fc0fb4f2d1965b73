"""A stack: what serves Service Bus, Cosmos DB and Blob Storage for tests that run on any of them."""

import itertools
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Protocol

import anyio
import msgspec
from azure.servicebus import NEXT_AVAILABLE_SESSION
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.exceptions import OperationTimeoutError

from emulator.handle import EmulatorHandle, start_emulator_process
from tests.support.places import QUICK, Connections, Names, ServedPlace, Services, opened_services
from tests.support.site import connections_of
from tests.support.stacks import entities
from tests.support.stacks.choose import StackName

_LOOK_S: Final = 1.0
_DOCKER_SETTINGS: Final = {"cosmos_timeout_s": "10", "max_concurrent_sessions": "1"}
"""One session at a time: with its sender and those that close, a worker then holds three of the ten connections."""
_DOCKER_PATIENCE_S: Final = 120.0
_EMBEDDED_PATIENCE_S: Final = 30.0


class Traits(msgspec.Struct, frozen=True, kw_only=True):
    """What distinguishes a stack for the tests."""

    name: StackName
    settings: Mapping[str, str]
    """Of each worker, over those of `QUICK`."""
    patience_s: float
    """How long tests wait for what must come."""
    shared_container: str | None = None
    """One Cosmos DB container for all places, where making one is dear; else each has its own."""
    prefix: str = ""
    """Before the name of each entity, where others use the same account."""
    faults: EmulatorHandle | None = None


class Entities(Protocol):
    """Makes a place's queues and its topic, where they are not there from the start."""

    async def make(self, names: Names) -> None: ...


class StackPlace(ServedPlace):
    """Entities of one test alone."""

    def __init__(self, services: Services, names: Names, traits: Traits) -> None:
        super().__init__(services, names, {**QUICK, **traits.settings})
        self.patience_s = traits.patience_s
        self.topic = traits.prefix + entities.TOPIC
        self.subscription = entities.SUBSCRIPTION
        self.detecting_queue = traits.prefix + entities.DETECTING_QUEUE

    async def nothing_left(self) -> bool:
        """Whether no session has a command. For when no worker holds one: what is locked is not seen."""
        connection_string = self._services.connections.servicebus_connection_string
        # Without retries: the library would wait many times as long.
        async with ServiceBusClient.from_connection_string(connection_string, retry_total=0) as client:
            receiver = client.get_queue_receiver(
                self.command_queue, session_id=NEXT_AVAILABLE_SESSION, max_wait_time=_LOOK_S
            )
            try:
                await receiver.__aenter__()
            except OperationTimeoutError:
                return True
            finally:
                with anyio.move_on_after(_LOOK_S * 5, shield=True):
                    await receiver.close()
        return False


class Stack:
    """The services of a run of tests."""

    def __init__(self, services: Services, traits: Traits, maker: Entities | None = None) -> None:
        self.services = services
        self.traits = traits
        self._maker = maker
        self._numbers = itertools.count()

    @property
    def name(self) -> StackName:
        return self.traits.name

    @property
    def faults(self) -> EmulatorHandle | None:
        """Where faults can be injected; None where not."""
        return self.traits.faults

    async def place(self) -> StackPlace:
        """A place that nobody used yet."""
        number = next(self._numbers)
        assert number < entities.PLACES, "raise PLACES"
        prefix = self.traits.prefix
        names = Names(
            command_queue=prefix + entities.command_queue(number),
            reply_queue=prefix + entities.reply_queue(number),
            database=f"{prefix}brooks",
            container=self.traits.shared_container or f"events-{number}",
            lease_container=f"{prefix}leases-{number}",
        )
        if self._maker is not None:
            await self._maker.make(names)
        return StackPlace(self.services, names, self.traits)


@asynccontextmanager
async def embedded_stack(folder: Path) -> AsyncIterator[Stack]:
    """The embedded services as a process of their own."""
    config = folder / "Config.json"
    config.write_bytes(entities.config_file())
    async with (
        start_emulator_process(config=config) as emulator,
        opened_services(folder, connections_of(emulator.ready)) as services,
    ):
        yield Stack(
            services, Traits(name="embedded", settings={}, patience_s=_EMBEDDED_PATIENCE_S, faults=emulator.control)
        )


@asynccontextmanager
async def docker_stack(folder: Path, connections: Connections) -> AsyncIterator[Stack]:
    """Official emulators that run already, with the entities of `entities.config_file()`."""
    traits = Traits(name="docker", settings=_DOCKER_SETTINGS, patience_s=_DOCKER_PATIENCE_S, shared_container="events")
    async with opened_services(folder, connections) as services:
        yield Stack(services, traits)
