"""What the management interface tells of queues: how many messages wait, and how the queue is set up."""

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import anyio
import msgspec
from azure.core.exceptions import AzureError, HttpResponseError, ResourceNotFoundError
from azure.servicebus.aio.management import ServiceBusAdministrationClient
from azure.servicebus.exceptions import ServiceBusError

from worker.clients import servicebus_admin_client, servicebus_client
from worker.credentials import is_servicebus_emulator
from worker.errors import WorkerError
from worker.operations.broker import told
from worker.settings import Settings

_TIMEOUT_S: Final = 30.0
_PEEK_TIMEOUT_S: Final = 10.0
_OWN_SESSION: Final = "brook-worker-watch-"
"""No brook's, and nobody else's: one that a worker has or wants must not be taken."""
_REFUSED: Final = frozenset({401, 403})


class FactsUnavailableError(WorkerError):
    """The management interface does not tell. The message says why and what to do; the queues may be well."""


class QueueFacts(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One queue. `duplicates_window_s` is for how long it drops what comes under a message id again; 0: it does not."""

    name: str
    active: int
    dead_lettered: int
    scheduled: int
    size_bytes: int
    lock_duration_s: float
    delivery_count_max: int
    duplicates_window_s: float


async def queue_facts(settings: Settings, names: Sequence[str]) -> list[QueueFacts]:
    """Facts about queues, in order. Raises FactsUnavailableError."""
    if is_servicebus_emulator(settings) and settings.servicebus_admin_endpoint is None:
        raise FactsUnavailableError(
            "an emulator has its management interface elsewhere; set servicebus_admin_endpoint to it"
        )
    try:
        with anyio.fail_after(_TIMEOUT_S):
            async with servicebus_admin_client(settings) as admin:
                return [await _facts(admin, name) for name in names]
    except HttpResponseError as error:
        if error.status_code in _REFUSED:
            raise FactsUnavailableError(
                "the management interface refuses us; it needs a key with the right Manage, or the role"
                " Azure Service Bus Data Owner"
            ) from error
        raise FactsUnavailableError(f"the management interface answers {error.status_code}") from error
    except (AzureError, TimeoutError, OSError) as error:
        raise FactsUnavailableError(
            f"the management interface does not answer ({type(error).__name__}); check the namespace and the network"
        ) from error


async def oldest_age_s(settings: Settings, queue: str) -> float | None:
    """How old the oldest message of a session queue is that is not settled; None where there is none.

    By the broker's clock and ours. Nothing is taken: it is peeked at. Raises BrokerUnavailableError or
    BrokerRefusedError.
    """
    try:
        with anyio.fail_after(_TIMEOUT_S):
            async with (
                servicebus_client(settings, retry_total=1) as client,
                client.get_queue_receiver(queue, session_id=_OWN_SESSION + uuid.uuid4().hex) as receiver,
            ):
                # A receiver needs a session to be opened, and then peeks at that alone unless it forgets it.
                assert hasattr(receiver, "_session"), "azure-servicebus has changed: peeking at all sessions"
                receiver._session = None  # noqa: SLF001 - as explained
                messages = await receiver.peek_messages(1, sequence_number=1, timeout=_PEEK_TIMEOUT_S)
    except (ServiceBusError, TimeoutError, OSError) as error:
        raise told(f"peek at {queue!r}", error) from error
    enqueued_at = messages[0].enqueued_time_utc if messages else None
    return None if enqueued_at is None else max((datetime.now(UTC) - enqueued_at).total_seconds(), 0.0)


async def _facts(admin: ServiceBusAdministrationClient, name: str) -> QueueFacts:
    try:
        queue = await admin.get_queue(name)
        counts = await admin.get_queue_runtime_properties(name)
    except (ResourceNotFoundError, AttributeError) as error:  # of a topic the client reads no queue: AttributeError
        raise FactsUnavailableError(f"there is no queue {name!r}; run `brook-worker provision`") from error
    window = queue.duplicate_detection_history_time_window
    return QueueFacts(
        name=name,
        active=counts.active_message_count or 0,
        dead_lettered=counts.dead_letter_message_count or 0,
        scheduled=counts.scheduled_message_count or 0,
        size_bytes=counts.size_in_bytes or 0,
        lock_duration_s=_seconds(queue.lock_duration),
        delivery_count_max=queue.max_delivery_count or 0,
        duplicates_window_s=_seconds(window) if queue.requires_duplicate_detection else 0.0,
    )


def _seconds(duration: timedelta | str | None) -> float:
    """The client gives what the service sends as a timedelta; as text only what a caller has set."""
    return duration.total_seconds() if isinstance(duration, timedelta) else 0.0
