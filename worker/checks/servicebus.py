"""The command queue and the reply addresses: that they open, and that they are as a worker needs them."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from typing import Any, Final

import anyio
from azure.core.exceptions import AzureError
from azure.servicebus.aio import ServiceBusClient, ServiceBusSession
from azure.servicebus.aio.management import ServiceBusAdministrationClient

from worker.checks.rows import (
    CHECK_TIMEOUT_S,
    Check,
    Outcome,
    Status,
    advice,
    bounded,
    failed,
    not_checked,
    of_findings,
    of_skew,
    utc,
)
from worker.clients import servicebus_admin_client, servicebus_client
from worker.credentials import servicebus_entry
from worker.errors import WorkerError
from worker.provisioning.concurrently import concurrently
from worker.provisioning.findings import is_refusal
from worker.provisioning.opening import open_reply_address, open_session_queue
from worker.provisioning.servicebus import ADD_TO_CONFIG, found, is_unmanaged_emulator, reply_wishes
from worker.settings import Settings

LOCK_DURATION_MIN: Final = timedelta(seconds=30)
"""A shorter lock leaves no room for a renewal that is not answered and one more."""

DELIVERIES_MIN: Final = 5
_MANAGEMENT_TIMEOUT_S: Final = 10.0
_LOCK_MAX_S: Final = 300.0
"""Service Bus grants locks of up to five minutes."""

_UNSEEN: Final = "an emulator's are seen where servicebus_admin_endpoint names its management interface"
_CREATE: Final = "make it: run `brook-worker provision`, or deploy it (deploy/bicep)"


def _make_it(settings: Settings) -> str:
    return ADD_TO_CONFIG if is_unmanaged_emulator(settings) else _CREATE


async def check_servicebus(settings: Settings, wall_s: Callable[[], float]) -> dict[str, Outcome]:
    """The outcomes by check, in the order of the table."""
    links, properties = await concurrently((partial(_links, settings, wall_s), partial(_managed, settings)))
    return links | properties


async def _links(settings: Settings, wall_s: Callable[[], float]) -> dict[str, Outcome]:
    """What is seen by opening links, with the rights that a worker has."""
    receive = f"receive from {settings.command_queue}"
    own = settings.reply_queue or settings.reply_topic
    sends = {f"send to {name}": name for name in (own, *settings.reply_entities_allowed) if name is not None}
    locked_until_s: list[float] = []

    async def clock() -> Outcome:
        if not locked_until_s:
            return not_checked("the time is seen from a session's lock, and none was had")
        left_s = locked_until_s[-1] - wall_s()
        return of_skew(-left_s if left_s < 0 else min(0.0, _LOCK_MAX_S - left_s))

    try:
        with anyio.fail_after(3 * CHECK_TIMEOUT_S):
            async with servicebus_client(settings) as client:
                checks: dict[str, Check] = {receive: partial(_may_receive, client, settings, locked_until_s)}
                make_it = _make_it(settings)
                checks |= {name: partial(_may_send, client, entity, make_it) for name, entity in sends.items()}
                entry = servicebus_entry(settings)
                outcomes = await concurrently(partial(bounded, check, entry) for check in checks.values())
                return {**dict(zip(checks, outcomes, strict=True)), "clock": await bounded(clock, entry)}
    except WorkerError as error:
        first = failed("; ".join(str(error).splitlines()))
    except TimeoutError:
        first = failed(f"no answer in time; check {servicebus_entry(settings)} and the network")
    return {receive: first} | dict.fromkeys([*sends, "clock"], not_checked("no connection, see above"))


async def _may_receive(client: ServiceBusClient, settings: Settings, locked_until_s: list[float]) -> Outcome:
    """Accept a session of our own, which has no messages, and peek: nothing is taken from anybody."""

    async def look(session: ServiceBusSession, peek: Callable[[], Awaitable[object]]) -> None:
        await peek()
        if session.locked_until_utc is not None:
            locked_until_s.append(utc(session.locked_until_utc))

    make_it = _make_it(settings)
    opened = of_findings(await open_session_queue(client, settings.command_queue, "command_queue", make_it, look))
    return Outcome(note="a session opened, nothing taken") if opened.status is Status.OK else opened


async def _may_send(client: ServiceBusClient, entity: str, make_it: str) -> Outcome:
    opened = of_findings(await open_reply_address(client, entity, make_it))
    return Outcome(note="a link opened, nothing sent") if opened.status is Status.OK else opened


async def _managed(settings: Settings) -> dict[str, Outcome]:
    """What only the management interface tells."""
    if is_unmanaged_emulator(settings):
        return dict.fromkeys(_property_checks(settings), not_checked(_UNSEEN))
    async with AsyncExitStack() as stack:
        try:
            with anyio.fail_after(CHECK_TIMEOUT_S):
                admin = await stack.enter_async_context(servicebus_admin_client(settings))
        except (WorkerError, TimeoutError):
            return dict.fromkeys(_property_checks(settings), not_checked("no connection, see above"))
        return await property_outcomes(admin, settings)


async def property_outcomes(admin: ServiceBusAdministrationClient, settings: Settings) -> dict[str, Outcome]:
    """How the entities are set up, as far as we may look."""
    checks = _property_checks(settings)
    entry = servicebus_entry(settings)
    outcomes = await concurrently(
        partial(bounded, partial(_seen, partial(check, admin)), entry) for check in checks.values()
    )
    return dict(zip(checks, outcomes, strict=True))


_PropertyCheck = Callable[[ServiceBusAdministrationClient], Awaitable[Outcome]]


def _property_checks(settings: Settings) -> dict[str, _PropertyCheck]:
    checks: dict[str, _PropertyCheck] = {f"properties of {settings.command_queue}": partial(_command_queue, settings)}
    if settings.reply_queue is not None:
        checks[f"properties of {settings.reply_queue}"] = partial(_reply_queue, settings.reply_queue)
    if settings.reply_topic is not None:
        checks[f"properties of {settings.reply_topic}"] = partial(_reply_topic, settings.reply_topic)
    return checks


async def _seen(check: Check) -> Outcome:
    """A worker needs no right to manage, and no way to the management interface: without them, nothing is wrong."""
    try:
        with anyio.fail_after(_MANAGEMENT_TIMEOUT_S):
            return await check()
    except TimeoutError:
        return not_checked("the management interface does not answer")
    except AzureError as error:
        if is_refusal(error):
            return not_checked("seeing them takes the right to manage, which a worker does not need")
        return not_checked("the management interface does not answer")


async def _command_queue(settings: Settings, admin: ServiceBusAdministrationClient) -> Outcome:
    queue: Any = await found(partial(admin.get_queue, settings.command_queue))
    if queue is None:
        return not_checked("it is missing, see above")
    if not queue.requires_session:
        return failed("has no sessions, which cannot be changed; name another queue in command_queue")
    if (problem := _closed(queue)) is not None:
        return failed(problem)
    wishes = []
    if queue.max_delivery_count < DELIVERIES_MIN:
        wishes.append(f"dead-letters after {queue.max_delivery_count} deliveries, which workers that die soon use up")
    if queue.lock_duration < LOCK_DURATION_MIN:
        wishes.append(f"locks last {queue.lock_duration.total_seconds():g} s only; set one minute")
    if not queue.dead_lettering_on_message_expiration:
        wishes.append("commands that expire vanish; turn dead-lettering on message expiration on")
    if (taken_bytes := 1024 * (queue.max_message_size_in_kilobytes or 0)) > settings.command_bytes_max:
        told = f"takes messages of {taken_bytes:,} bytes, of which those over {settings.command_bytes_max:,} are"
        wishes.append(f"{told} dead-lettered; raise command_bytes_max, or lower the queue's maximum message size")
    return advice("; ".join(wishes)) if wishes else Outcome(note=_told(queue))


async def _reply_queue(name: str, admin: ServiceBusAdministrationClient) -> Outcome:
    queue: Any = await found(partial(admin.get_queue, name))
    if queue is None:
        return not_checked("it is missing, see above")
    if not queue.requires_session:
        return failed("has no sessions, which cannot be changed; name another queue in reply_queue")
    if (problem := _closed(queue)) is not None:
        return failed(problem)
    if wishes := reply_wishes(queue):
        return advice("; ".join(wishes))
    return Outcome(note=f"{_told(queue)}, duplicates detected")


async def _reply_topic(name: str, admin: ServiceBusAdministrationClient) -> Outcome:
    topic: Any = await found(partial(admin.get_topic, name))
    if topic is None:
        return not_checked("it is missing, see above")
    if (problem := _closed(topic)) is not None:
        return failed(problem)
    if wishes := reply_wishes(topic):
        return advice("; ".join(wishes))
    return Outcome(note="duplicates detected")


def _closed(entity: Any) -> str | None:
    """What keeps messages from going through it."""
    if entity.status not in (None, "Active"):
        return f"is {entity.status}; set its status to Active"
    if getattr(entity, "forward_to", None):
        return "forwards its messages elsewhere; take forwarding off"
    return None


def _told(queue: Any) -> str:
    return f"sessions, locks of {queue.lock_duration.total_seconds():g} s, {queue.max_delivery_count} deliveries"
