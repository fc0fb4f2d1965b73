"""The real services: entities are made for one run of tests and deleted at its end."""

import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import anyio
import msgspec
import structlog
from azure.core.exceptions import AzureError, ResourceExistsError
from azure.servicebus.aio.management import ServiceBusAdministrationClient

from tests.support.places import Connections, Names, Services, opened_services
from tests.support.stacks import entities
from tests.support.stacks.choose import AZURE_VARIABLES
from tests.support.stacks.stack import Stack, Traits

log = structlog.get_logger()

_SETTINGS: Final = {"cosmos_timeout_s": "10", "max_concurrent_sessions": "4"}
_PATIENCE_S: Final = 120.0
_LOCK: Final = timedelta(seconds=30)
_WINDOW: Final = timedelta(minutes=5)
_TIME_TO_LIVE: Final = timedelta(hours=1)
_DELETE_TIMEOUT_S: Final = 120.0


def connections_from(environment: Mapping[str, str] = os.environ) -> Connections:
    """What the variables BROOK_TEST_* lead to."""
    return msgspec.convert({field: environment[name] for field, name in AZURE_VARIABLES.items()}, Connections)


def new_prefix() -> str:
    """Names a run of tests, and what was left behind by one that was killed."""
    return f"brook-test-{secrets.token_hex(3)}-"


@asynccontextmanager
async def azure_stack(folder: Path) -> AsyncIterator[Stack]:
    """A run on the accounts that BROOK_TEST_* name."""
    connections = connections_from()
    async with (
        ServiceBusAdministrationClient.from_connection_string(connections.servicebus_connection_string) as admin,
        made_for_a_run(folder, connections, admin) as stack,
    ):
        yield stack


@asynccontextmanager
async def made_for_a_run(
    folder: Path, connections: Connections, admin: ServiceBusAdministrationClient
) -> AsyncIterator[Stack]:
    """Entities with a prefix of their own, until the context ends."""
    prefix = new_prefix()
    traits = Traits(name="azure", settings=_SETTINGS, patience_s=_PATIENCE_S, shared_container="events", prefix=prefix)
    async with opened_services(folder, connections) as services:
        made = MadeEntities(admin)
        try:
            await made.make_shared(prefix)
            yield Stack(services, traits, made)
        finally:
            with anyio.move_on_after(_DELETE_TIMEOUT_S, shield=True):
                await made.delete_all()
                await _delete(services, prefix)


class MadeEntities:
    """Makes queues and topics by the management interface, and deletes them again."""

    def __init__(self, admin: ServiceBusAdministrationClient) -> None:
        self._admin = admin
        self._queues: list[str] = []
        self._topics: list[str] = []

    async def make(self, names: Names) -> None:
        """The two queues of a place."""
        for name in (names.command_queue, names.reply_queue):
            await self._make_queue(name)

    async def make_shared(self, prefix: str) -> None:
        """What places share: the topic with its subscription, and the reply queue that detects duplicates."""
        topic = prefix + entities.TOPIC
        self._topics.append(topic)
        await self._admin.create_topic(topic, default_message_time_to_live=_TIME_TO_LIVE)
        await self._admin.create_subscription(topic, entities.SUBSCRIPTION, lock_duration=_LOCK)
        await self._make_queue(
            prefix + entities.DETECTING_QUEUE,
            requires_duplicate_detection=True,
            duplicate_detection_history_time_window=_WINDOW,
        )

    async def delete_all(self) -> None:
        """Everything that this run made; what cannot be deleted is told of and left."""
        for topic in self._topics:
            await _told(f"topic {topic}", self._admin.delete_topic(topic))
        for queue in self._queues:
            await _told(f"queue {queue}", self._admin.delete_queue(queue))

    async def _make_queue(self, name: str, **more: Any) -> None:
        self._queues.append(name)
        try:
            await self._admin.create_queue(
                name,
                requires_session=True,
                lock_duration=_LOCK,
                max_delivery_count=10,
                default_message_time_to_live=_TIME_TO_LIVE,
                **more,
            )
        except ResourceExistsError as error:
            raise AssertionError(f"queue {name} is there already: another run has the same prefix") from error


async def _delete(services: Services, prefix: str) -> None:
    await _told(f"database {prefix}brooks", services.cosmos.delete_database(f"{prefix}brooks"))
    async for container in services.blobs.list_containers(name_starts_with=prefix):
        await _told(f"blob container {container.name}", services.blobs.delete_container(container.name))


async def _told(what: str, deletion: Awaitable[None]) -> None:
    try:
        await deletion
    except AzureError as error:
        log.warning("stack.not-deleted", what=what, error=type(error).__name__)
