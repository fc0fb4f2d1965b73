"""Seeing what a Service Bus entity is by opening it: for emulators, and for keys that may not manage."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import anyio
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender, ServiceBusSession
from azure.servicebus.exceptions import (
    MessagingEntityNotFoundError,
    ServiceBusAuthenticationError,
    ServiceBusAuthorizationError,
    ServiceBusError,
    SessionCannotBeLockedError,
)

from worker.clients import servicebus_client
from worker.credentials import servicebus_entry
from worker.provisioning.concurrently import concurrently
from worker.provisioning.findings import Finding, State, asked
from worker.settings import Settings

_OPEN_TIMEOUT_S: Final = 15.0
_CLOSE_TIMEOUT_S: Final = 5.0
_CHECK_SESSION: Final = "brook-worker-check"
"""A session of our own: accepting the next one with messages would take it from a worker."""

_NOT_ALLOWED: Final = "amqp:not-allowed"


Look = Callable[[ServiceBusSession, Callable[[], Awaitable[object]]], Awaitable[None]]
"""Looks at a session that was accepted; the second argument peeks at its messages."""


async def verify_by_opening(settings: Settings, make_it: str) -> list[Finding]:
    """Open each entity for a moment; no message is touched. `make_it` says how to make one that is missing.

    Not seen this way: duplicate detection and dead-lettering on expiration.
    """
    async with servicebus_client(settings) as client:
        queues = {settings.command_queue: "command_queue"}
        if settings.reply_queue is not None:
            queues[settings.reply_queue] = "reply_queue"
        entry = servicebus_entry(settings)
        checks = [
            partial(asked, _queue(name), entry, partial(open_session_queue, client, name, setting, make_it))
            for name, setting in queues.items()
        ]
        addresses = filter(None, (settings.reply_topic, *settings.reply_entities_allowed))
        checks += [
            partial(asked, _reply_address(name), entry, partial(open_reply_address, client, name, make_it))
            for name in addresses
        ]
        found = await concurrently(checks)
    return _merged([finding for findings in found for finding in findings])


def _merged(findings: list[Finding]) -> list[Finding]:
    """One finding where the same thing is wrong with every entity: then it is the namespace or the credentials."""
    first = findings[0]
    if len(findings) > 1 and all(each.state is State.WRONG and each.note == first.note for each in findings):
        return [Finding("Service Bus", State.WRONG, first.note)]
    return findings


def _queue(name: str) -> str:
    return f"Service Bus queue {name}"


def _reply_address(name: str) -> str:
    return f"Service Bus reply address {name}"


async def open_session_queue(
    client: ServiceBusClient, name: str, setting: str, make_it: str, look: Look | None = None
) -> list[Finding]:
    """Accept a session of our own for a moment; `look` at it meanwhile. Raises what the client raises."""
    resource = _queue(name)
    receiver = client.get_queue_receiver(name, session_id=_CHECK_SESSION, prefetch_count=0)
    try:
        with anyio.fail_after(_OPEN_TIMEOUT_S):
            await receiver.__aenter__()
            if look is not None:
                await look(receiver.session, receiver.peek_messages)
    except SessionCannotBeLockedError:
        pass  # another worker looks at the same moment, so it has sessions
    except MessagingEntityNotFoundError:
        return [Finding(resource, State.MISSING, f"{make_it}, with sessions")]
    except (ServiceBusAuthenticationError, ServiceBusAuthorizationError):
        # A key that may only send to the reply queue is as it should be; whether it has sessions stays unknown.
        if setting == "command_queue":
            raise
        return await open_reply_address(client, name, make_it)
    except ServiceBusError as error:
        if _NOT_ALLOWED not in str(error):
            raise
        note = f"is no queue with sessions; name one that is in {setting} (nothing was changed or deleted)"
        return [Finding(resource, State.WRONG, note)]
    finally:
        await _close(receiver)
    return [Finding(resource, State.FOUND, "opened, not managed")]


async def open_reply_address(client: ServiceBusClient, name: str, make_it: str) -> list[Finding]:
    """A queue or topic that replies go to: opened for sending, nothing is sent."""
    resource = _reply_address(name)
    sender = client.get_queue_sender(name)
    try:
        with anyio.fail_after(_OPEN_TIMEOUT_S):
            await sender.create_message_batch()
    except MessagingEntityNotFoundError:
        return [Finding(resource, State.MISSING, make_it)]
    finally:
        await _close(sender)
    return [Finding(resource, State.FOUND, "opened, not managed")]


async def _close(handler: ServiceBusReceiver | ServiceBusSender) -> None:
    with anyio.move_on_after(_CLOSE_TIMEOUT_S, shield=True):
        await handler.close()
