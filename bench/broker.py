"""Service Bus for the workers that ours is compared with: the same client, set up in the same way.

Kept apart from `worker.sessions`, so that the baseline stays what it is when the worker changes.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final

import anyio
from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusMessage, ServiceBusReceivedMessage
from azure.servicebus import exceptions as errors
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender
from azure.servicebus.exceptions import MessageSizeExceededError

from bench.stopping import Stopping
from schemas.codec import encode_reply
from schemas.keys import reply_message_id
from schemas.replies import Reply
from schemas.types import CommandId
from worker.settings import Settings

_POLL_S: Final = 0.02
_SOCKET_TIMEOUT_S: Final = 0.01
_OPEN_TIMEOUT_S: Final = 15.0
_CLOSE_TIMEOUT_S: Final = 1.0
_REQUEST_TIMEOUT_S: Final = 10.0
_SENDERS_MAX: Final = 8
_RENEW_EVERY_S: Final = 10.0

Work = Callable[["Session"], Awaitable[None]]
Facts = dict[str, str | int | float]
Replied = tuple[ServiceBusReceivedMessage, Reply, Facts]


class _AlwaysReceiving(asyncio.Event):
    """Keeps the client from giving back what arrives between two calls, which would lose the order."""

    def is_set(self) -> bool:
        return True


class Session:
    """One accepted session."""

    def __init__(self, receiver: ServiceBusReceiver, settings: Settings) -> None:
        self._receiver = receiver
        self._settings = settings
        self.session_id: str = receiver.session.session_id

    async def receive(self) -> list[ServiceBusReceivedMessage]:
        """The next messages, in order; none when none came for `session_idle_s`."""
        # What has queued up comes together, so a little is waited for more; what comes later is all there is.
        self._receiver._further_pull_receive_timeout = _POLL_S  # noqa: SLF001 - there is no option for it
        if messages := await self._receive(_POLL_S):
            return messages
        self._receiver._further_pull_receive_timeout = 0.0  # noqa: SLF001 - as above
        return await self._receive(self._settings.session_idle_s)

    async def complete(self, messages: Sequence[ServiceBusReceivedMessage]) -> None:
        """Complete them in order for one round trip: the broker's word is awaited for the last one only."""
        async with asyncio.timeout(_REQUEST_TIMEOUT_S):
            for message in messages:
                last = message is messages[-1]
                self._receiver._await_settlement_outcome = last  # noqa: SLF001 - there is no option for it
                await self._receiver.complete_message(message)

    async def _receive(self, wait_s: float) -> list[ServiceBusReceivedMessage]:
        return await self._receiver.receive_messages(
            max_message_count=self._settings.group_commands_max, max_wait_time=wait_s
        )

    async def keep_locked(self) -> None:
        """Renew the lock until cancelled."""
        while True:
            await anyio.sleep(_RENEW_EVERY_S)
            await self._receiver.session.renew_lock(timeout=_REQUEST_TIMEOUT_S)


async def serve_sessions(client: ServiceBusClient, settings: Settings, work: Work, stopping: Stopping) -> None:
    """Accept sessions, `max_concurrent_sessions` at once, and give each to `work` until told to stop."""
    async with anyio.create_task_group() as closers, anyio.create_task_group() as slots:

        async def slot() -> None:
            while not stopping.is_set:
                receiver = await _accepted(client, settings, stopping)
                if receiver is None:
                    continue
                session = Session(receiver, settings)
                try:
                    async with anyio.create_task_group() as keepers:
                        keepers.start_soon(session.keep_locked)
                        await work(session)
                        keepers.cancel_scope.cancel()
                finally:
                    closers.start_soon(_close, receiver)

        for _ in range(settings.max_concurrent_sessions):
            slots.start_soon(slot)


async def _accepted(client: ServiceBusClient, settings: Settings, stopping: Stopping) -> ServiceBusReceiver | None:
    receiver = client.get_queue_receiver(
        settings.command_queue,
        session_id=NEXT_AVAILABLE_SESSION,
        max_wait_time=settings.session_accept_wait_s,
        prefetch_count=0,
    )
    receiver._receive_context = _AlwaysReceiving()  # noqa: SLF001 - as worker.sessions.receivers explains
    with stopping.scope() as scope:
        try:
            with anyio.fail_after(settings.session_accept_wait_s + _OPEN_TIMEOUT_S):
                await receiver.__aenter__()
        except errors.OperationTimeoutError:
            await _close(receiver)
            return None
    if scope.cancelled_caught:
        await _close(receiver)
        return None
    handler: Any = receiver._handler  # noqa: SLF001 - reads and writes share a lock; while accepting, none is written
    for owner in (handler, handler._connection):  # noqa: SLF001 - as above
        owner._socket_timeout = _SOCKET_TIMEOUT_S  # noqa: SLF001 - as above
    return receiver


async def _close(thing: ServiceBusReceiver | ServiceBusSender) -> None:
    with anyio.move_on_after(_CLOSE_TIMEOUT_S, shield=True), contextlib.suppress(errors.ServiceBusError, OSError):
        await thing.close()


class ReplySenders:
    """Open senders of the reply queue. Each serves one task at a time: two at once would lose replies."""

    def __init__(self, client: ServiceBusClient, settings: Settings) -> None:
        assert settings.reply_queue is not None, "the benchmark replies to a queue"
        self._client = client
        self._queue = settings.reply_queue
        self._free = anyio.CapacityLimiter(_SENDERS_MAX)
        self._idle: list[ServiceBusSender] = []

    async def send(self, replies: Sequence[Replied]) -> None:
        """Send replies in order, in as few messages as their size allows."""
        async with self._lent() as sender:
            batch = await sender.create_message_batch()
            for received, reply, facts in replies:
                message = _reply_message(received, reply, facts)
                try:
                    batch.add_message(message)
                except MessageSizeExceededError:
                    await sender.send_messages(batch, timeout=_REQUEST_TIMEOUT_S)
                    batch = await sender.create_message_batch()
                    batch.add_message(message)
            await sender.send_messages(batch, timeout=_REQUEST_TIMEOUT_S)

    @contextlib.asynccontextmanager
    async def _lent(self) -> AsyncIterator[ServiceBusSender]:
        async with self._free:
            sender = self._idle.pop() if self._idle else await self._opened()
            try:
                yield sender
            except BaseException:
                await _close(sender)
                raise
            self._idle.append(sender)

    async def _opened(self) -> ServiceBusSender:
        sender = self._client.get_queue_sender(self._queue)
        await sender.__aenter__()
        return sender


def _reply_message(received: ServiceBusReceivedMessage, reply: Reply, facts: Facts) -> ServiceBusMessage:
    command_id = str(received.message_id)
    return ServiceBusMessage(
        encode_reply(reply, received.content_type or "application/json"),
        content_type=received.content_type,
        message_id=reply_message_id(CommandId(command_id)),
        correlation_id=command_id,
        session_id=received.reply_to_session_id or received.session_id,
        application_properties=facts,  # type: ignore[arg-type]  # dict is invariant; it is only read
    )
