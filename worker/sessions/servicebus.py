"""The Service Bus adapter: sessions of the command queue, by azure-servicebus.

A receiver belongs to one session and to one connection. Once either is lost the client would open another session
under the same receiver without a word; so the first failure ends the session here, and nothing is done on it again.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeVar, assert_never

import anyio
import anyio.lowlevel
import structlog
from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusReceivedMessage
from azure.servicebus import exceptions as errors
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver

from worker.closing import close_without_pause
from worker.sessions.base import (
    Abandon,
    BrokerRefusedError,
    BrokerUnavailableError,
    Complete,
    DeadLetter,
    Delivery,
    SessionLostError,
    Settlement,
)
from worker.sessions.messages import delivery_of
from worker.sessions.receivers import keep_what_arrives, listen_in_turns, open_once, open_without_pauses
from worker.telemetry.instruments import RENEWAL_LATENESS, REQUEST_DURATION, REQUESTS, RETRIES

log = structlog.get_logger()

_T = TypeVar("_T")

_OPEN_TIMEOUT_S: Final = 15.0
"""Time for connecting and attaching, beyond the wait for a session."""

_GATHER_S: Final = 0.02
"""How long to wait for more after several came together."""

_GATHER_ONE_S: Final = 0.005
"""After one alone, or none, the next is likely to be alone too: its sender is waiting for the reply."""

_LAG_PASSES: Final = 4
_LAG_MAX_S: Final = 0.2
"""The client reads a frame in each pass of the event loop. Where these take long, what has queued up takes some of them
to come: whoever goes by the clock alone gets the first message, and leaves the rest for a group of its own."""

_BURST_MIN: Final = 32
"""So many at once are a burst, of which the client hands out what came within `_GATHER_S`: the rest is right behind."""

_BURST_MAX_S: Final = 0.1
"""No longer than this, though more come closely enough: so does a steady stream, and who came first is not to wait."""

_TURN_S: Final = 0.25
"""One call of `receive_messages` on an idle session. A message that some other reading has put into the client's buffer
between two calls is given out at the end of the call only."""

_LISTEN_S: Final = 0.01
"""How long the client listens before it lets others write, while they have to. Its default, 0.1 s, holds settling up;
each time costs 0.15 ms of processor time, which idle sessions add up to much of a core."""

_REQUEST_TIMEOUT_S: Final = 10.0
_CLOSE_TIMEOUT_S: Final = 5.0
_RENEWAL_RETRY_S: Final = 1.0
_RENEWAL_MIN_S: Final = 1.0
"""Not more often than this, even where our clock and the broker's differ by more than a lock lasts."""
_RENEWAL_MAX_S: Final = 10.0
"""Not less often than this: where our clock is behind the broker's, a lock ends sooner than it seems, and each time
that it does so unnoticed, its messages are counted as delivered. Most queues give locks of half a minute or more."""

# A lock this close to its end is treated as lost: a request may take as long.
_LOCK_MARGIN_S: Final = 1.0

_LOCK_MAX_S: Final = 300.0
"""Service Bus grants locks of up to five minutes; more can only be a difference between clocks."""

_REFUSED: Final = {
    errors.ServiceBusAuthenticationError: "the credentials are refused; check them",
    errors.ServiceBusAuthorizationError: "the credentials do not give the right to it; check their roles",
    errors.MessagingEntityNotFoundError: "it is not there; check the name, or run `brook-worker provision`",
    errors.MessagingEntityDisabledError: "it is disabled; enable it",
}


def broker_error(what: str, error: Exception) -> BrokerRefusedError | BrokerUnavailableError:
    """Say in our words why the broker did not do `what`."""
    for kind, words in _REFUSED.items():
        if isinstance(error, kind):
            return BrokerRefusedError(f"{what}: {words}")
    return BrokerUnavailableError(f"{what}: {type(error).__name__}")


class ServiceBusSessionSource:
    """Accepts sessions of one queue. The client must have `retry_total=0`: waiting is done here."""

    def __init__(self, client: ServiceBusClient, queue: str, *, accept_wait_s: float) -> None:
        self._client = client
        self._queue = queue
        self._accept_wait_s = accept_wait_s

    async def accept(self) -> "ServiceBusSession | None":
        """Accept the next session that has messages; None when there was none within the wait."""
        receiver = self._client.get_queue_receiver(
            self._queue,
            session_id=NEXT_AVAILABLE_SESSION,
            max_wait_time=self._accept_wait_s,
            prefetch_count=0,
        )
        keep_what_arrives(receiver)
        open_without_pauses(receiver)
        what = f"accept a session of {self._queue!r}"
        try:
            with anyio.fail_after(self._accept_wait_s + _OPEN_TIMEOUT_S):
                await receiver.__aenter__()
            open_once(receiver)
            return ServiceBusSession(receiver)
        except BaseException as error:
            await _close(receiver)
            if isinstance(error, errors.OperationTimeoutError | errors.SessionCannotBeLockedError):
                return None
            if isinstance(error, Exception):
                raise broker_error(what, error) from error
            raise


class ServiceBusSession:
    """One accepted session."""

    def __init__(self, receiver: ServiceBusReceiver) -> None:
        self._receiver = receiver
        self._session_id = receiver.session.session_id
        self._lost = False
        self._unsettled = 0
        self._is_new = True
        self._is_drained = False
        self._gather_s = _GATHER_ONE_S
        self._was_full = False
        self._lock_ends_s = anyio.current_time() + min(_remaining_s(receiver.session.locked_until_utc), _LOCK_MAX_S)

    @property
    def session_id(self) -> str:
        """Which session it is."""
        return self._session_id

    async def receive(self, count_max: int, wait_s: float) -> Sequence[Delivery]:
        """At most `count_max` deliveries, in order; none when none came within `wait_s`."""
        ends_s = anyio.current_time() + wait_s
        messages = [] if self._is_drained else await self._queued_up(count_max, wait_s)
        while not messages and (left_s := ends_s - anyio.current_time()) > 0:
            # Nothing has queued up, so whatever comes now is all there is.
            messages = await self._receive(count_max, max(min(left_s, _TURN_S), _GATHER_ONE_S), more_s=0.0)
            self._is_drained = False
        now_s = anyio.current_time()
        return [delivery_of(message, now_s) for message in messages]

    async def _queued_up(self, count_max: int, wait_s: float) -> list[ServiceBusReceivedMessage]:
        """What waits at the broker, or seems to: a little time is given to what comes behind the first of it."""
        more_s = self._gather_s + min(_LAG_PASSES * await _lag_s(), _LAG_MAX_S)
        # A session is accepted because something waits in it, however long that takes to come.
        first_s = max(more_s, min(wait_s, _TURN_S)) if self._is_new else more_s
        messages = await self._receive(count_max, first_s, more_s=more_s)
        if not messages:
            return messages
        # What was there before us, and what follows a receive that was full, is more than it begins with.
        if self._is_new or self._was_full or len(messages) >= _BURST_MIN:
            messages += await self._rest_of_burst(count_max - len(messages), more_s)
        self._gather_s = _GATHER_S if len(messages) > 1 else _GATHER_ONE_S
        self._was_full = len(messages) >= count_max
        self._is_new = False
        return messages

    async def _rest_of_burst(self, count_max: int, turn_s: float) -> list[ServiceBusReceivedMessage]:
        """Up to `count_max` more, as long as they follow each other closely, but not for long."""
        rest: list[ServiceBusReceivedMessage] = []
        ends_s = anyio.current_time() + _BURST_MAX_S
        while len(rest) < count_max and anyio.current_time() < ends_s:
            more = await self._receive(count_max - len(rest), turn_s, more_s=turn_s)
            self._is_drained = not more
            if not more:
                break
            rest += more
        return rest

    async def _receive(self, count_max: int, wait_s: float, *, more_s: float) -> list[ServiceBusReceivedMessage]:
        """At most `count_max`; once one is there, for `more_s` longer, but never beyond `wait_s`."""

        async def receive() -> list[ServiceBusReceivedMessage]:
            # Settling must not wait for a read, nor the end of `more_s`; with nothing to settle, a read may last.
            listen_in_turns(self._receiver, _LISTEN_S if self._unsettled or more_s else wait_s)
            # There is no option for it, and left to itself the client waits for 0.2 s.
            self._receiver._further_pull_receive_timeout = more_s  # noqa: SLF001 - as explained
            return await self._receiver.receive_messages(max_message_count=count_max, max_wait_time=wait_s)

        messages = await self._ours(receive, timeout_s=_REQUEST_TIMEOUT_S, shield=False)
        self._unsettled += len(messages)
        return messages

    async def settle(self, settlements: Sequence[tuple[Delivery, Settlement]]) -> None:
        """Settle deliveries, in order, for one round trip in all.

        The broker's word is awaited for the last completion only: it goes through them in order, and a lock that was
        lost shows there too. A completion that got lost after all makes a redelivery, which gets the same reply.
        """
        await self._ours(lambda: self._settle_all(settlements), timeout_s=_REQUEST_TIMEOUT_S, shield=True)
        self._unsettled -= len(settlements)

    async def keep_locked(self) -> None:
        """Renew the lock until cancelled. Raises SessionLostError once it is lost or about to lapse."""
        while True:
            left_s = self._lock_ends_s - anyio.current_time()
            due_s = anyio.current_time() + min(max(left_s / 3, _RENEWAL_MIN_S), _RENEWAL_MAX_S)
            await anyio.sleep_until(due_s)
            while not await self._renewed():
                if anyio.current_time() + _RENEWAL_RETRY_S + _LOCK_MARGIN_S > self._lock_ends_s:
                    self._lost = True
                    raise SessionLostError(f"session {self._session_id!r}: its lock could not be renewed in time")
                RETRIES.add(1, "servicebus", "unavailable")
                await anyio.sleep(_RENEWAL_RETRY_S)
            RENEWAL_LATENESS.record(anyio.current_time() - due_s, "lock")

    async def close(self) -> None:
        """Give the session back. Shielded and bounded; never raises."""
        self._lost = True
        await _close(self._receiver)

    async def _renewed(self) -> bool:
        """One try to renew; False when it failed in a way that another try may cure."""
        asked_at_s = anyio.current_time()
        outcome = "lost"
        try:
            with anyio.CancelScope(shield=True):
                locked_until = await self._receiver.session.renew_lock(timeout=_REQUEST_TIMEOUT_S / 2)
        except errors.SessionLockLostError as error:
            self._lost = True
            raise SessionLostError(f"session {self._session_id!r}: lock lost") from error
        except Exception as error:  # noqa: BLE001 - whatever the client raises, the lock's end is what counts
            log.warning("session.renewal-failed", session=self._session_id, error=type(error).__name__)
            outcome = "unavailable"
            return False
        else:
            outcome = "ok"
        finally:
            REQUESTS.add(1, "servicebus", "renew", outcome)
            REQUEST_DURATION.record(anyio.current_time() - asked_at_s, "servicebus", "renew")
        # Counted from before the request, on our own clock: the broker's may differ.
        self._lock_ends_s = max(self._lock_ends_s, asked_at_s + min(_remaining_s(locked_until), _LOCK_MAX_S))
        return True

    async def _settle_all(self, settlements: Sequence[tuple[Delivery, Settlement]]) -> None:
        last = len(settlements) - 1
        for index, (delivery, settlement) in enumerate(settlements):
            # The client awaits each one's outcome or none's. To await a hundred at once costs it a second of processor
            # time: every one of them listens in turn.
            awaited = index == last or not isinstance(settlement, Complete)
            self._receiver._await_settlement_outcome = awaited  # noqa: SLF001 - there is no option for it
            await self._settle(delivery, settlement)

    async def _settle(self, delivery: Delivery, settlement: Settlement) -> None:
        message: Any = delivery.raw
        match settlement:
            case Complete():
                await self._receiver.complete_message(message)
            case Abandon():
                await self._receiver.abandon_message(message)
            case DeadLetter(reason, description):
                await self._receiver.dead_letter_message(message, reason=reason, error_description=description)
            case _:
                assert_never(settlement)

    async def _ours(self, act: Callable[[], Awaitable[_T]], *, timeout_s: float, shield: bool) -> _T:
        """Do something on the session while it is ours; the first failure ends it."""
        if self._lost:
            raise SessionLostError(f"session {self._session_id!r} was lost before")
        try:
            with anyio.fail_after(timeout_s, shield=shield):
                return await act()
        except (errors.ServiceBusError, TimeoutError, OSError) as error:
            self._lost = True
            what: Literal["lock", "connection"] = (
                "lock" if isinstance(error, errors.SessionLockLostError) else "connection"
            )
            raise SessionLostError(f"session {self._session_id!r}: {type(error).__name__}", what) from error


async def _lag_s() -> float:
    """How long a pass of the event loop takes at the moment."""
    asked_at_s = anyio.current_time()
    await anyio.lowlevel.checkpoint()
    return anyio.current_time() - asked_at_s


def _remaining_s(locked_until: datetime | None) -> float:
    """How long a lock lasts from now, by the broker's word and our wall clock."""
    if locked_until is None:
        return 0.0
    return (locked_until.astimezone(UTC) - datetime.now(UTC)).total_seconds()


async def _close(receiver: ServiceBusReceiver) -> None:
    """Close a receiver, whatever state it is in."""
    with anyio.move_on_after(_CLOSE_TIMEOUT_S, shield=True):
        try:
            await close_without_pause(receiver)
        except Exception as error:  # noqa: BLE001 - it is given up anyway; the broker frees the session by itself
            log.debug("session.close-failed", error=type(error).__name__)
