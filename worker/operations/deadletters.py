"""The Service Bus adapter of the dead letters: the dead-letter sub-queue of a queue, and a sender to the queue."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import anyio
from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage, ServiceBusSubQueue
from azure.servicebus import exceptions as errors
from azure.servicebus.aio import ServiceBusReceiver, ServiceBusSender
from azure.servicebus.amqp import AmqpMessageBodyType

from worker.clients import servicebus_client
from worker.deadletters.base import Acted, Letter, LockLostError
from worker.operations.broker import told
from worker.sessions.base import RESUBMITTED
from worker.sessions.messages import make_settleable
from worker.settings import Settings

_T = TypeVar("_T")

_RETRIES: Final = 2
_CALL_TIMEOUT_S: Final = 15.0
"""Bounds a call with the client's own retries, and the opening of its link."""

_INT_MIN: Final = -(2**31)
_INT_MAX: Final = 2**31 - 1
_ADDED_BY_BROKER: Final = frozenset({"DeadLetterReason", "DeadLetterErrorDescription"})
_UNENCODABLE: Final = (TypeError, ValueError)
_STRANGE: Final = "has a property of a kind that the client cannot send; let its producer send it again"
_TOO_LARGE: Final = "is too large for the queue with the mark that it was resubmitted; let its producer send it again"


@asynccontextmanager
async def dead_letter_queue(settings: Settings) -> AsyncIterator["ServiceBusDeadLetters"]:
    """The dead letters of the command queue. Links are opened by the first call that needs them."""
    queue = settings.command_queue
    async with servicebus_client(settings, retry_total=_RETRIES) as client:
        receiver = client.get_queue_receiver(queue, sub_queue=ServiceBusSubQueue.DEAD_LETTER, prefetch_count=0)
        yield ServiceBusDeadLetters(receiver, client.get_queue_sender(queue), queue)


class ServiceBusDeadLetters:
    """Dead letters by azure-servicebus. One task at a time; the client closes the links."""

    def __init__(self, receiver: ServiceBusReceiver, sender: ServiceBusSender, queue: str) -> None:
        self._receiver = receiver
        self._sender = sender
        self._queue = queue

    @property
    def name(self) -> str:
        """The queue's name."""
        return self._queue

    async def peek(self, from_number: int, count_max: int) -> Sequence[Letter]:
        """Look at letters from a number on, ascending."""
        # The client takes 0 for "where the last peek ended".
        number = max(from_number, 1)

        async def ask() -> list[ServiceBusReceivedMessage]:
            return await self._receiver.peek_messages(count_max, sequence_number=number, timeout=_CALL_TIMEOUT_S)

        messages = await self._call("peek at the dead letters", ask, shield=False)
        return [_letter(message) for message in messages]

    async def lock(self, count_max: int, wait_s: float) -> Sequence[Letter]:
        """Take letters under lock."""

        async def ask() -> list[ServiceBusReceivedMessage]:
            return await self._receiver.receive_messages(count_max, max_wait_time=wait_s)

        messages = await self._call("receive the dead letters", ask, timeout_s=_CALL_TIMEOUT_S + wait_s, shield=False)
        for message in messages:
            make_settleable(message)
        return [_letter(message) for message in messages]

    def lock_left_s(self, letter: Letter) -> float:
        """By the broker's word and our wall clock, which the client goes by as well."""
        until = _raw(letter).locked_until_utc
        return (until - datetime.now(UTC)).total_seconds() if until is not None else 0.0

    async def renew(self, letter: Letter) -> None:
        """Renew the lock."""
        await self._call(
            "renew a lock", lambda: self._receiver.renew_message_lock(_raw(letter), timeout=_CALL_TIMEOUT_S)
        )

    async def release(self, letter: Letter) -> None:
        """Abandon it: a dead letter may be delivered as often as one likes."""
        await self._call("give a dead letter back", lambda: self._receiver.abandon_message(_raw(letter)))

    async def remove(self, letter: Letter) -> None:
        """Complete it."""
        await self._call("remove a dead letter", lambda: self._receiver.complete_message(_raw(letter)))

    async def send(self, letters: Sequence[Letter]) -> Acted:
        """Send in one message if they fit, else one by one."""
        messages = [_again(letter) for letter in letters]
        try:
            await self._send(messages)
        except (*_UNENCODABLE, errors.MessageSizeExceededError):
            for count, message in enumerate(messages):
                try:
                    await self._send(message)
                except errors.MessageSizeExceededError:
                    return Acted(count, _TOO_LARGE)
                except _UNENCODABLE:
                    return Acted(count, _STRANGE)
        return Acted(len(letters))

    async def _send(self, message: ServiceBusMessage | list[ServiceBusMessage]) -> None:
        what = f"send to {self._queue!r}"
        await self._call(what, lambda: self._sender.send_messages(message, timeout=_CALL_TIMEOUT_S))

    async def _call(
        self, what: str, act: Callable[[], Awaitable[_T]], *, timeout_s: float = _CALL_TIMEOUT_S, shield: bool = True
    ) -> _T:
        """Errors in our words. Cut off by a cancellation is only what changes nothing: the rest has to be known of."""
        try:
            with anyio.fail_after(timeout_s, shield=shield):
                return await act()
        except errors.MessageSizeExceededError:
            raise
        except (errors.MessageLockLostError, errors.MessageAlreadySettled) as error:
            raise LockLostError(f"{what}: {type(error).__name__}") from error
        except (errors.ServiceBusError, TimeoutError, OSError) as error:
            raise told(what, error) from error


def _raw(letter: Letter) -> ServiceBusReceivedMessage:
    assert isinstance(letter.raw, ServiceBusReceivedMessage), "letters come from this adapter"
    return letter.raw


def _letter(message: ServiceBusReceivedMessage) -> Letter:
    properties = _properties(message)
    resubmitted = properties.pop(RESUBMITTED, 0)
    binary = message.body_type == AmqpMessageBodyType.DATA
    return Letter(
        sequence_number=message.sequence_number or 0,
        message_id=_text(message.message_id),
        session_id=_text(message.session_id),
        reason=_text(message.dead_letter_reason),
        description=_text(message.dead_letter_error_description),
        enqueued_at=message.enqueued_time_utc,
        delivery_count=message.delivery_count or 0,
        content_type=_text(message.content_type),
        correlation_id=_text(message.correlation_id),
        reply_to=_text(message.reply_to),
        reply_to_session_id=_text(message.reply_to_session_id),
        properties={name: _shown(value) for name, value in properties.items() if name not in _ADDED_BY_BROKER},
        resubmitted=resubmitted if isinstance(resubmitted, int) and 0 <= resubmitted < _INT_MAX else 1,
        body=b"".join(message.body) if binary else None,
        raw=message,
    )


def _again(letter: Letter) -> ServiceBusMessage:
    """The command as its producer sent it, with the mark."""
    message = _raw(letter)
    given = _properties(message)
    properties: dict[str | bytes, Any] = {
        name: _sendable(value) for name, value in given.items() if name not in _ADDED_BY_BROKER
    }
    properties[RESUBMITTED] = letter.resubmitted + 1
    return ServiceBusMessage(
        letter.body,
        application_properties=properties,
        session_id=letter.session_id,
        message_id=letter.message_id,
        content_type=letter.content_type,
        correlation_id=letter.correlation_id,
        subject=_text(message.subject),
        to=_text(message.to),
        reply_to=letter.reply_to,
        reply_to_session_id=letter.reply_to_session_id,
        time_to_live=message.time_to_live,
    )


def _properties(message: ServiceBusReceivedMessage) -> dict[str, Any]:
    """The application properties: the client gives their names, and those that are text, as bytes."""
    return {_text(name) or "": value for name, value in (message.application_properties or {}).items()}


def _sendable(value: object) -> object:
    """Text as text again; what is no text stays binary. The client sends `bytes` as text, or fails; no other kind."""
    if isinstance(value, int) and not _INT_MIN <= value <= _INT_MAX:
        return {"TYPE": "LONG", "VALUE": value}  # the client's own form: it takes a bare int for one of 32 bits
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return bytearray(value)
    return value


def _shown(value: object) -> str | int | float | bool:
    return value if isinstance(value, int | float | bool) else _text(value) or ""


def _text(value: object) -> str | None:
    """A property as text. By AMQP an id may be a UUID or a number; what is not UTF-8, the client leaves as bytes."""
    if value is None or isinstance(value, str):
        return value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
