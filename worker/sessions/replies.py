"""The Service Bus adapter of the replies: one open sender for each address, shared by all sessions."""

from collections.abc import Sequence
from itertools import groupby
from typing import Final

import anyio
import structlog
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusSender
from azure.servicebus.exceptions import MessageSizeExceededError, ServiceBusError
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from worker.sessions.base import BrokerUnavailableError, OutgoingReply
from worker.sessions.servicebus import broker_error

log = structlog.get_logger()

_ATTEMPTS_MAX: Final = 4
_OPEN_TIMEOUT_S: Final = 5.0
_CLOSE_TIMEOUT_S: Final = 5.0


class ServiceBusReplies:
    """Sends replies to `address` unless a reply names another. The client must have `retry_total=0`.

    A sender must not be used by two tasks before it is open, and its own retry opens it again under the others: so
    opening is done here, one at a time, and a sender that failed is closed and replaced.
    """

    def __init__(self, client: ServiceBusClient, address: str, *, timeout_s: float) -> None:
        self._client = client
        self._address = address
        self._timeout_s = timeout_s
        self._senders: dict[str, ServiceBusSender] = {}
        self._opening = anyio.Lock()

    async def open(self) -> None:
        """Open the worker's own reply entity, so that a wrong name is found at the start.

        Raises BrokerRefusedError or BrokerUnavailableError.
        """
        await self._sender(self._address)

    async def send(self, replies: Sequence[OutgoingReply]) -> None:
        """Send replies in order, in as few messages as their size allows."""
        with anyio.move_on_after(self._timeout_s, shield=True):
            for address, group in groupby(replies, key=lambda reply: reply.address or self._address):
                await self._send_all(address, list(group))
            return
        raise BrokerUnavailableError(f"send replies: no answer within {self._timeout_s:g} s")

    async def close(self) -> None:
        """Close all senders. Bounded; never raises."""
        for address in list(self._senders):
            await self._retire(address, self._senders[address])

    async def _send_all(self, address: str, replies: list[OutgoingReply]) -> None:
        """Send to one address. Sent again as a whole when it fails: message ids make that harmless."""
        async for attempt in AsyncRetrying(
            sleep=anyio.sleep,
            retry=retry_if_exception_type(BrokerUnavailableError),
            wait=wait_random_exponential(multiplier=0.05, max=1),
            stop=stop_after_attempt(_ATTEMPTS_MAX),
            reraise=True,
        ):
            with attempt:
                sender = await self._sender(address)
                try:
                    await _send_batches(sender, replies, self._timeout_s)
                except (ServiceBusError, OSError) as error:
                    log.warning("replies.send-failed", address=address, error=type(error).__name__)
                    await self._retire(address, sender)
                    raise broker_error(f"send replies to {address!r}", error) from error

    async def _sender(self, address: str) -> ServiceBusSender:
        """The open sender of an address."""
        async with self._opening:
            if (sender := self._senders.get(address)) is not None:
                return sender
            # Queues and topics take messages in the same way.
            sender = self._client.get_queue_sender(address)
            try:
                with anyio.fail_after(_OPEN_TIMEOUT_S):
                    await sender.__aenter__()
            except (ServiceBusError, TimeoutError, OSError) as error:
                await _close(sender)
                raise broker_error(f"open the reply entity {address!r}", error) from error
            self._senders[address] = sender
            return sender

    async def _retire(self, address: str, sender: ServiceBusSender) -> None:
        """Close a sender that failed, unless another task has replaced it already."""
        if self._senders.get(address) is sender:
            del self._senders[address]
            await _close(sender)


async def _send_batches(sender: ServiceBusSender, replies: list[OutgoingReply], timeout_s: float) -> None:
    batch = await sender.create_message_batch()
    for reply in replies:
        message = _message(reply)
        try:
            batch.add_message(message)
        except MessageSizeExceededError:
            await sender.send_messages(batch, timeout=timeout_s)
            batch = await sender.create_message_batch()
            batch.add_message(message)
    await sender.send_messages(batch, timeout=timeout_s)


def _message(reply: OutgoingReply) -> ServiceBusMessage:
    return ServiceBusMessage(
        reply.body,
        content_type=reply.content_type,
        message_id=reply.message_id,
        correlation_id=reply.correlation_id,
        session_id=reply.session_id,
        application_properties=reply.properties,  # type: ignore[arg-type]  # dict is invariant; it is only read
    )


async def _close(sender: ServiceBusSender) -> None:
    with anyio.move_on_after(_CLOSE_TIMEOUT_S, shield=True):
        try:
            await sender.close()
        except Exception as error:  # noqa: BLE001 - it is given up anyway
            log.debug("replies.close-failed", error=type(error).__name__)
