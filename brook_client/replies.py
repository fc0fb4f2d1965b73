"""Reads the client's own replies, from a session or a subscription, for as long as the client lives."""

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any, Final

import anyio
from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusReceiver, ServiceBusSession
from azure.servicebus.exceptions import (
    MessagingEntityDisabledError,
    MessagingEntityNotFoundError,
    ServiceBusAuthenticationError,
    ServiceBusAuthorizationError,
    ServiceBusConnectionError,
    ServiceBusError,
)

from brook_client.dispatch import ReplyDispatcher
from brook_client.errors import ReplyUnavailableError
from brook_client.log import log
from brook_client.messages import UnreadableReplyError, received_reply
from worker.closing import close_without_pause

# Waiting does not cure these: whoever waits is told at once. The session is tried again all the same.
_PERMANENT: Final = (
    MessagingEntityDisabledError,
    MessagingEntityNotFoundError,
    ServiceBusAuthenticationError,
    ServiceBusAuthorizationError,
)
_RECEIVE_COUNT_MAX: Final = 100
# Once it has a message, `receive_messages` goes on for 0.2 s or until its time is up, whichever comes first. So a
# short time bounds what that adds to a reply's way; without anybody waiting, a longer one saves work.
_WAIT_BUSY_S: Final = 0.05
_WAIT_IDLE_S: Final = 0.5
_BACKOFF_FIRST_S: Final = 0.1
_BACKOFF_MAX_S: Final = 5.0
_OPEN_TIMEOUT_S: Final = 30.0
_RECEIVE_TIMEOUT_S: Final = 10.0
_SETTLE_TIMEOUT_S: Final = 10.0
_RENEW_TIMEOUT_S: Final = 5.0
# Whatever the clocks say: our own and the broker's may differ by more than a lock lasts.
_RENEWAL_MIN_S: Final = 1.0
_RENEWAL_MAX_S: Final = 10.0
_CLOSE_TIMEOUT_S: Final = 5.0
_STOP_TIMEOUT_S: Final = 10.0


class ReplyReceiver:
    """Takes replies from one session, or from a subscription without any, and hands them to a dispatcher.

    All in a task that it owns.

    Guarantee: a reply is settled after it was dispatched, so that a lost connection or session lock loses none:
    the session is opened again after a bounded, jittered pause, without end, until `stop`.
    """

    def __init__(
        self, open_receiver: Callable[[], ServiceBusReceiver], dispatcher: ReplyDispatcher, *, has_session: bool = True
    ) -> None:
        self._open_receiver = open_receiver
        self._has_session = has_session
        self._dispatcher = dispatcher
        self._stopping = anyio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to receive. Not a task group's task: that would wrap every error of the client's user in a group."""
        self._task = asyncio.create_task(self._run(), name="brook-client-replies")

    async def stop(self) -> None:
        """End the task: as a rule within about half a second and the time to close the link, bounded in any case."""
        self._stopping.set()
        if self._task is None:
            return
        done, _ = await asyncio.wait({self._task}, timeout=_STOP_TIMEOUT_S)
        if not done:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=_CLOSE_TIMEOUT_S)

    async def _run(self) -> None:
        backoff_s = _BACKOFF_FIRST_S
        while not self._stopping.is_set():
            try:
                await self._receive_session()
            except Exception as error:  # noqa: BLE001 - the library raises more than it tells; waiters must not starve
                backoff_s = _BACKOFF_FIRST_S if self._dispatcher.trouble is None else backoff_s
                self._note(error)
                with anyio.move_on_after(backoff_s * random.uniform(0.5, 1.0)):
                    await self._stopping.wait()
                backoff_s = min(2 * backoff_s, _BACKOFF_MAX_S)

    def _note(self, error: Exception) -> None:
        reason = f"replies cannot be read: {_first_line(error)}"
        foreseen = isinstance(error, (ServiceBusError, OSError))
        log.warning("client.replies-interrupted", error=type(error).__name__, exc_info=None if foreseen else error)
        self._dispatcher.trouble = reason
        if isinstance(error, _PERMANENT):
            remedy = "check where the client looks for replies, and that its credentials give the right to listen there"
            self._dispatcher.fail_all(
                ReplyUnavailableError(f"{reason}; {remedy}; commands already sent may still take effect")
            )

    async def _receive_session(self) -> None:
        async with AsyncExitStack() as stack:
            receiver = self._open_receiver()
            stack.push_async_callback(_close, receiver)
            asked_at_s = anyio.current_time()
            with anyio.fail_after(_OPEN_TIMEOUT_S):
                await receiver.__aenter__()
            _open_once(receiver)
            self._dispatcher.trouble = None
            renewal = LockRenewal(receiver.session, asked_at_s) if self._has_session else None
            while not self._stopping.is_set():
                if renewal is not None:
                    await renewal.renew_if_due()
                with anyio.fail_after(_RECEIVE_TIMEOUT_S):
                    messages = await receiver.receive_messages(
                        max_message_count=self._count_wanted(), max_wait_time=self._wait_s()
                    )
                if messages:
                    self._dispatch(messages)
                    await _complete(receiver, messages)

    def _count_wanted(self) -> int:
        """Ask for no more than is waited for: a full answer returns at once, a partial one takes its time."""
        if self._dispatcher.has_listeners:
            return _RECEIVE_COUNT_MAX
        return max(1, min(self._dispatcher.wanted, _RECEIVE_COUNT_MAX))

    def _wait_s(self) -> float:
        busy = self._dispatcher.wanted > 1 or self._dispatcher.has_listeners
        return _WAIT_BUSY_S if busy else _WAIT_IDLE_S

    def _dispatch(self, messages: Sequence[ServiceBusReceivedMessage]) -> None:
        for message in messages:
            try:
                reply = received_reply(message)
                if not self._dispatcher.dispatch(reply) and not self._dispatcher.has_listeners:
                    log.info("client.reply-unawaited", command_id=reply.command_id)
            except UnreadableReplyError as error:
                log.warning("client.reply-unreadable", command_id=error.command_id)
                if error.command_id is not None:
                    self._dispatcher.fail(error.command_id, ReplyUnavailableError(f"{error}; update the client"))


class LockRenewal:
    """Renews the lock of a session between receives: during one, a renewal would wait for it.

    Counted on our own monotonic clock, from before each request. The broker's word for how long a lock lasts is one of
    its wall clock, which may differ from ours: it is believed within bounds only.
    """

    def __init__(self, session: ServiceBusSession, asked_at_s: float) -> None:
        self._session = session
        self._due_s = asked_at_s + _renewal_s(session.locked_until_utc)

    async def renew_if_due(self) -> None:
        """Renew once a third of the lock's time is over. Raises what the library raises."""
        asked_at_s = anyio.current_time()
        if asked_at_s >= self._due_s:
            locked_until = await self._session.renew_lock(timeout=_RENEW_TIMEOUT_S)
            self._due_s = asked_at_s + _renewal_s(locked_until)


def _renewal_s(locked_until: datetime | None) -> float:
    lasts_s = (locked_until.astimezone(UTC) - datetime.now(UTC)).total_seconds() if locked_until else 0.0
    return min(max(lasts_s / 3, _RENEWAL_MIN_S), _RENEWAL_MAX_S)


def _open_once(receiver: ServiceBusReceiver) -> None:
    """Have whatever is under way fail once the connection is lost: it is `ReplyReceiver` that opens another one.

    azure-servicebus 7.15 opens the link anew wherever it finds it closed. Of replies that are completed at once, each
    does so: hundreds of connections, which stay open, and one of which holds the session until its lock lapses.
    """
    for name in ("_open", "_settle_message_via_mgmt_link"):
        assert hasattr(receiver, name), "azure-servicebus has changed: a lost connection may leave others open now"

    async def lost(*_: object, **__: object) -> None:
        raise ServiceBusConnectionError(message="The connection to the replies was lost.")

    async def open_still(*_: object, **__: object) -> None:
        handler: Any = receiver._handler  # noqa: SLF001 - nothing public changes it
        if handler is None or handler._shutdown:  # noqa: SLF001 - as above
            await lost()

    receiver._open = open_still  # type: ignore[method-assign]  # noqa: SLF001 - as above
    receiver._settle_message_via_mgmt_link = lost  # type: ignore[method-assign]  # noqa: SLF001 - as above


async def _complete(receiver: ServiceBusReceiver, messages: Sequence[ServiceBusReceivedMessage]) -> None:
    """Complete together. A failure raises: the session is opened anew and brings the rest once more."""
    errors: list[ServiceBusError] = []

    async def complete(message: ServiceBusReceivedMessage) -> None:
        try:
            await receiver.complete_message(message)
        except ServiceBusError as error:
            errors.append(error)
        except Exception as error:  # noqa: BLE001 - once the connection is lost, the library stumbles over what is gone
            errors.append(ServiceBusError(f"a reply was not completed: {type(error).__name__}: {error}"))

    with anyio.CancelScope(shield=True), anyio.move_on_after(_SETTLE_TIMEOUT_S):
        async with anyio.create_task_group() as tasks:
            for message in messages:
                tasks.start_soon(complete, message)
    if errors:
        raise errors[0]


async def _close(receiver: ServiceBusReceiver) -> None:
    """Close within a bound, whatever becomes of it: the session is free once the connection is gone."""
    with anyio.move_on_after(_CLOSE_TIMEOUT_S, shield=True):
        try:
            await close_without_pause(receiver)
        except (ServiceBusError, OSError):
            log.debug("client.receiver-close-failed")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
