"""The Service Bus adapter of the replies: a few open senders for each address, shared by all sessions."""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import groupby
from typing import Any, Final

import anyio
import structlog
from azure.servicebus import ServiceBusMessage, ServiceBusMessageBatch
from azure.servicebus.aio import ServiceBusClient, ServiceBusSender
from azure.servicebus.exceptions import MessageSizeExceededError, ServiceBusError
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from worker.closing import close_without_pause
from worker.sessions.base import BrokerUnavailableError, OutgoingReply
from worker.sessions.servicebus import broker_error
from worker.telemetry.instruments import REQUESTS, RETRIES
from worker.telemetry.tracing import TRACE_NAMES, TRACE_PARENT

log = structlog.get_logger()

SENDERS_MAX_DEFAULT: Final = 8

_ATTEMPTS_MAX: Final = 4
_OPEN_TIMEOUT_S: Final = 5.0
_CLOSE_TIMEOUT_S: Final = 5.0

SENDER_IDLE_MAX_S: Final = 240.0
"""Service Bus detaches a link that nobody used for ten minutes, and many a network forgets a connection sooner: who
sends on it then learns so by an error only."""

_ENVELOPE_BYTES_MAX: Final = 1_000
"""A batch has the message id and the session id of its first reply: up to 128 UTF-16 units each, so up to 384 bytes.
azure-servicebus 7.15 leaves them out when it adds up the size of a batch."""


class ServiceBusReplies:
    """Sends replies to `address` unless a reply names another. The client must have `retry_total=0`.

    Each sender serves one task at a time: azure-servicebus 7.15 goes through a sender's unsent messages without a
    lock, so that of two sends at once one may go out several times and the other never. Up to `senders_max` are
    kept for each address, the one used last first, and opened when they are needed; one that was idle for
    `sender_idle_max_s` is closed instead of used.
    """

    def __init__(
        self,
        client: ServiceBusClient,
        address: str,
        *,
        timeout_s: float,
        senders_max: int = SENDERS_MAX_DEFAULT,
        sender_idle_max_s: float = SENDER_IDLE_MAX_S,
    ) -> None:
        self._client = client
        self._address = address
        self._timeout_s = timeout_s
        self._senders_max = senders_max
        self._sender_idle_max_s = sender_idle_max_s
        self._pools: dict[str, _Pool] = {}

    async def open(self) -> None:
        """Open the worker's own reply entity, so that a wrong name is found at the start.

        Raises BrokerRefusedError or BrokerUnavailableError.
        """
        async with self._pool(self._address).sender():
            pass

    async def send(self, replies: Sequence[OutgoingReply]) -> None:
        """Send replies in order, in as few messages as their size allows."""
        with anyio.move_on_after(self._timeout_s, shield=True):
            for address, group in groupby(replies, key=lambda reply: reply.address or self._address):
                await self._send_all(address, list(group))
            return
        raise BrokerUnavailableError(f"send replies: no answer within {self._timeout_s:g} s")

    async def close(self) -> None:
        """Close all senders, at once. Bounded; never raises."""
        await _close_all(sender for pool in self._pools.values() for sender in pool.drained())

    async def _send_all(self, address: str, replies: list[OutgoingReply]) -> None:
        """Send to one address. Sent again as a whole when it fails: message ids make that harmless."""
        async for attempt in AsyncRetrying(
            sleep=anyio.sleep,
            retry=retry_if_exception_type(BrokerUnavailableError),
            wait=wait_random_exponential(multiplier=0.05, max=1),
            stop=stop_after_attempt(_ATTEMPTS_MAX),
            before_sleep=_note_retry,
            reraise=True,
        ):
            with attempt:
                async with self._pool(address).sender() as sender:
                    try:
                        await _send_batches(sender, replies, self._timeout_s)
                    except (ServiceBusError, OSError) as error:
                        log.warning("replies.send-failed", address=address, error=type(error).__name__)
                        raise broker_error(f"send replies to {address!r}", error) from error

    def _pool(self, address: str) -> "_Pool":
        # Names of entities are the same in whatever case they are written: senders must not make us open more and more.
        entity = address.lower()
        if (pool := self._pools.get(entity)) is None:
            # Queues and topics take messages in the same way.
            pool = _Pool(
                lambda: self._client.get_queue_sender(address), self._senders_max, idle_max_s=self._sender_idle_max_s
            )
            self._pools[entity] = pool
        return pool


class _Pool:
    """The senders of one address, each lent to one task at a time."""

    def __init__(self, make: Callable[[], ServiceBusSender], size: int, *, idle_max_s: float) -> None:
        self._make = make
        self._free = anyio.CapacityLimiter(size)
        self._idle_max_s = idle_max_s
        # Each with the time since when it is idle; the one used last at the end.
        self._idle: list[tuple[ServiceBusSender, float]] = []

    @asynccontextmanager
    async def sender(self) -> AsyncIterator[ServiceBusSender]:
        """Lend an open sender. One that was left by an error or a cancellation is closed, not lent again.

        Nor are those that were idle meanwhile: what cut one connection has cut all that stood there for as long, and
        who tries again must not come upon them one after the other.
        """
        async with self._free:
            if self._idle and self._idle[-1][1] < anyio.current_time() - self._idle_max_s:
                await _close_all(self.drained())
            sender = self._idle.pop()[0] if self._idle else await self._opened()
            try:
                yield sender
            except BaseException:
                await _close_all([sender, *self.drained()])
                raise
            self._idle.append((sender, anyio.current_time()))

    def drained(self) -> list[ServiceBusSender]:
        """Give up those that nobody has; the caller closes them."""
        senders, self._idle = [sender for sender, _ in self._idle], []
        return senders

    async def _opened(self) -> ServiceBusSender:
        sender = self._make()
        try:
            with anyio.fail_after(_OPEN_TIMEOUT_S):
                await sender.__aenter__()
        except BaseException as error:
            await _close(sender)
            if isinstance(error, Exception):
                raise broker_error("open a reply entity", error) from error
            raise
        return sender


def _note_retry(_: object) -> None:
    REQUESTS.add(1, "servicebus", "send", "unavailable")
    RETRIES.add(1, "servicebus", "unavailable")


async def _send_batches(sender: ServiceBusSender, replies: list[OutgoingReply], timeout_s: float) -> None:
    batch = await _new_batch(sender)
    for reply in replies:
        message = _message(reply)
        try:
            batch.add_message(message)
        except MessageSizeExceededError:
            await sender.send_messages(batch, timeout=timeout_s)
            batch = await _new_batch(sender)
            batch.add_message(message)
    await sender.send_messages(batch, timeout=timeout_s)


async def _new_batch(sender: ServiceBusSender) -> ServiceBusMessageBatch:
    """A batch that the entity takes when it is full: with room left for its envelope."""
    allowed = await sender.create_message_batch()
    return await sender.create_message_batch(max_size_in_bytes=allowed.max_size_in_bytes - _ENVELOPE_BYTES_MAX)


def _message(reply: OutgoingReply) -> ServiceBusMessage:
    properties: dict[Any, Any] = reply.properties
    if TRACE_PARENT in properties:
        # In bytes, as the client has its own: with its tracing on, it keeps what is there instead of adding another.
        properties = {name.encode() if name in TRACE_NAMES else name: value for name, value in properties.items()}
    return ServiceBusMessage(
        reply.body,
        content_type=reply.content_type,
        message_id=reply.message_id,
        correlation_id=reply.correlation_id,
        session_id=reply.session_id,
        application_properties=properties,
    )


async def _close_all(senders: Iterable[ServiceBusSender]) -> None:
    """Close senders, all at once."""
    with anyio.CancelScope(shield=True):
        async with anyio.create_task_group() as closers:
            for sender in senders:
                closers.start_soon(_close, sender)


async def _close(sender: ServiceBusSender) -> None:
    with anyio.move_on_after(_CLOSE_TIMEOUT_S, shield=True):
        try:
            await close_without_pause(sender)
        except Exception as error:  # noqa: BLE001 - it is given up anyway
            log.debug("replies.close-failed", error=type(error).__name__)
