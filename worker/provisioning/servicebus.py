"""The queues and the topic: made and judged by the namespace's management interface, else verified by opening them."""

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from functools import partial
from typing import Any, Final, TypeVar

import anyio
import structlog
from azure.core.exceptions import AzureError, HttpResponseError, ResourceNotFoundError
from azure.servicebus.aio.management import ServiceBusAdministrationClient

from worker.clients import servicebus_admin_client
from worker.credentials import is_servicebus_emulator
from worker.provisioning.findings import Finding, State, is_refusal
from worker.provisioning.opening import verify_by_opening
from worker.settings import Settings

log = structlog.get_logger()

_PropertiesT = TypeVar("_PropertiesT")

_NOT_FOUND: Final = 404
_CONFLICT: Final = 409
_BEING_MADE_S: Final = (0.0, 0.5, 1.0, 2.0)
"""Pauses before looking again: another worker has made it, or is making it, and then the service shows nothing yet."""

_LOCK_DURATION: Final = timedelta(minutes=1)
_REPLY_LOCK_DURATION: Final = timedelta(seconds=30)
"""So long is a client whose connection has fallen silent kept from its replies. However long a lock is, it renews its
own every ten seconds."""

_DELIVERIES_MAX: Final = 10
_DUPLICATES: Final[Mapping[str, Any]] = {
    "requires_duplicate_detection": True,
    "duplicate_detection_history_time_window": timedelta(minutes=10),
}
_KEPT: Final[Mapping[str, Any]] = {"default_message_time_to_live": timedelta(days=1)}
"""For replies that nobody reads, as clients that go away leave them: once they fill a queue, no worker can reply."""

_KEPT_MAX: Final = timedelta(days=30)

COMMAND_QUEUE: Final[Mapping[str, Any]] = {
    "requires_session": True,
    "dead_lettering_on_message_expiration": True,
    "lock_duration": _LOCK_DURATION,
    "max_delivery_count": _DELIVERIES_MAX,
}
"""How a command queue is made, by the names of the management client. deploy/bicep makes the same."""

REPLY_TOPIC: Final[Mapping[str, Any]] = {**_DUPLICATES, **_KEPT}
"""How a reply topic is made."""

REPLY_QUEUE: Final[Mapping[str, Any]] = {
    "requires_session": True,
    **_DUPLICATES,
    **_KEPT,
    "lock_duration": _REPLY_LOCK_DURATION,
    "max_delivery_count": _DELIVERIES_MAX,
}
"""How a reply queue is made."""


ADD_TO_CONFIG: Final = "an emulator's entities come from its Config.json: add it there"
"""What to do where one is missing in an emulator, unless `servicebus_admin_endpoint` lets `provision` make it."""


class _OtherKindError(Exception):
    """There is a topic where a queue was looked for, or the other way round."""


async def provision_servicebus(settings: Settings, *, make: bool) -> list[Finding]:
    """Make what is missing if `make` and if the namespace lets us, and tell what was found.

    An emulator may have no management interface, and a key no right to manage: then each entity is opened to see that
    it is there and what it is.
    """
    if is_unmanaged_emulator(settings):
        return await verify_by_opening(settings, ADD_TO_CONFIG)
    async with servicebus_admin_client(settings) as admin:
        return await managed_or_opened(admin, settings, make=make)


def is_unmanaged_emulator(settings: Settings) -> bool:
    """Tell whether the namespace is an emulator whose management interface nobody has named."""
    return is_servicebus_emulator(settings) and settings.servicebus_admin_endpoint is None


async def managed_or_opened(admin: ServiceBusAdministrationClient, settings: Settings, *, make: bool) -> list[Finding]:
    """By the management interface, or by opening where that does not answer or refuses the key."""
    try:
        return await _managed(admin, settings, make=make)
    except AzureError as error:
        why = (
            "the credentials have no right to manage"
            if is_refusal(error)
            else "the management interface does not answer"
        )
        log.warning("provisioning.management-unavailable", reason=why)
        return await verify_by_opening(settings, f"{why}: make it in the portal or by your deployment")


async def _managed(admin: ServiceBusAdministrationClient, settings: Settings, *, make: bool) -> list[Finding]:
    steps = [partial(_command_queue, admin, settings.command_queue, make=make)]
    if settings.reply_queue is not None:
        steps.append(partial(_reply_queue, admin, settings.reply_queue, make=make))
    if settings.reply_topic is not None:
        steps.append(partial(_reply_topic, admin, settings.reply_topic, make=make))
    steps += [partial(_allowed_entity, admin, name) for name in settings.reply_entities_allowed]
    return [finding for step in steps for finding in await step()]


async def _command_queue(admin: ServiceBusAdministrationClient, name: str, *, make: bool) -> list[Finding]:
    resource = f"Service Bus queue {name}"
    create = partial(admin.create_queue, name, **COMMAND_QUEUE)
    state, queue = await _found_or_made(partial(admin.get_queue, name), create, make=make)
    if queue is None:
        return [_not_there(resource, state)]
    if not queue.requires_session:
        return [_without_sessions(resource, "command_queue")]
    if not queue.dead_lettering_on_message_expiration:
        note = "commands that expire vanish; turn dead-lettering on message expiration on"
        return [Finding(resource, State.ADVICE, note)]
    return [Finding(resource, state)]


async def _reply_queue(admin: ServiceBusAdministrationClient, name: str, *, make: bool) -> list[Finding]:
    resource = f"Service Bus queue {name}"
    create = partial(admin.create_queue, name, **REPLY_QUEUE)
    state, queue = await _found_or_made(partial(admin.get_queue, name), create, make=make)
    if queue is None:
        return [_not_there(resource, state)]
    if not queue.requires_session:
        return [_without_sessions(resource, "reply_queue")]
    return [_judged_replies(resource, state, queue)]


async def _reply_topic(admin: ServiceBusAdministrationClient, name: str, *, make: bool) -> list[Finding]:
    resource = f"Service Bus topic {name}"
    create = partial(admin.create_topic, name, **REPLY_TOPIC)
    state, topic = await _found_or_made(partial(admin.get_topic, name), create, make=make)
    if topic is None:
        return [_not_there(resource, state)]
    if state is State.MADE:
        return [Finding(resource, state, "add a subscription for each consumer: without any, replies are lost")]
    return [_judged_replies(resource, state, topic)]


async def _allowed_entity(admin: ServiceBusAdministrationClient, name: str) -> list[Finding]:
    """Of a further reply address nobody knows whether it is to be a queue or a topic: it is never made."""
    resource = f"Service Bus reply address {name}"
    for get in (admin.get_queue, admin.get_topic):
        with contextlib.suppress(_OtherKindError):
            if await found(partial(get, name)) is not None:
                return [Finding(resource, State.FOUND)]
    return [Finding(resource, State.MISSING, "make that queue or topic, or take it out of reply_entities_allowed")]


async def _found_or_made(
    get: Callable[[], Awaitable[_PropertiesT]], create: Callable[[], Awaitable[_PropertiesT]], *, make: bool
) -> tuple[State, _PropertiesT | None]:
    """What is there afterwards; without properties it is missing, or wrong: of another kind."""
    try:
        if (properties := await found(get)) is not None:
            return State.FOUND, properties
        if not make:
            return State.MISSING, None
        try:
            return State.MADE, await create()
        except HttpResponseError as error:
            if error.status_code != _CONFLICT:
                raise
        properties = await _made_by_another(get)
    except _OtherKindError:
        return State.WRONG, None
    return (State.MISSING if properties is None else State.FOUND), properties


async def _made_by_another(get: Callable[[], Awaitable[_PropertiesT]]) -> _PropertiesT | None:
    for pause_s in _BEING_MADE_S:
        await anyio.sleep(pause_s)
        if (properties := await found(get)) is not None:
            return properties
    return None


async def found(get: Callable[[], Awaitable[_PropertiesT]]) -> _PropertiesT | None:
    """What is there; None when nothing is. The client tells of that in two ways, and fails on a topic for a queue."""
    try:
        return await get()
    except ResourceNotFoundError:
        return None
    except HttpResponseError as error:
        if error.status_code == _NOT_FOUND:
            return None
        raise
    except AttributeError as error:
        raise _OtherKindError from error


def _not_there(resource: str, state: State) -> Finding:
    if state is State.MISSING:
        return Finding(resource, state, "run `brook-worker provision`")
    other = "is the name of something else, a queue or a topic; name another one (nothing was changed or deleted)"
    return Finding(resource, State.WRONG, other)


def _without_sessions(resource: str, setting: str) -> Finding:
    note = f"has no sessions, which cannot be changed; name another queue in {setting} (nothing was changed or deleted)"
    return Finding(resource, State.WRONG, note)


def _judged_replies(resource: str, state: State, entity: Any) -> Finding:
    wishes = reply_wishes(entity)
    return Finding(resource, State.ADVICE, "; ".join(wishes)) if wishes else Finding(resource, state)


def reply_wishes(entity: Any) -> list[str]:
    """What could be better about a queue or a topic for replies, by its properties."""
    wishes = []
    if not entity.requires_duplicate_detection:
        wishes.append("detects no duplicates, so a reply may arrive twice; it can be turned on for a new one only")
    kept = entity.default_message_time_to_live
    if kept is None or kept > _KEPT_MAX:
        told = "keeps replies that nobody reads until it is full, and then no worker can reply"
        wishes.append(f"{told}; set its default time to live to a day")
    return wishes
