"""The in-memory reference of the broker: the contract with nothing around it. For tests and simulations."""

import itertools
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime

import anyio
import msgspec

from worker.sessions.base import Abandon, Complete, DeadLetter, Delivery, OutgoingReply, SessionLostError, Settlement


class _Session:
    """The messages of one session, in order, and who holds it."""

    def __init__(self) -> None:
        self.messages: deque[Delivery] = deque()
        self.holder: MemorySession | None = None


class MemoryBroker:
    """A session queue with dead letters. One process, one event loop.

    As on Service Bus, a delivery is counted when it is abandoned, not when its session is closed; after
    `delivery_count_max` deliveries it is dead-lettered.
    """

    def __init__(self, *, delivery_count_max: int = 10, accept_wait_s: float = 0.05) -> None:
        self._delivery_count_max = delivery_count_max
        self._accept_wait_s = accept_wait_s
        self._sessions: dict[str, _Session] = {}
        self._numbers = itertools.count(1)
        self._changed = anyio.Event()
        self.completed: list[Delivery] = []
        self.dead_letters: list[tuple[Delivery, DeadLetter]] = []

    def send(
        self,
        body: bytes | None,
        *,
        session_id: str | None,
        message_id: str | None = None,
        content_type: str | None = None,
        reply_to: str | None = None,
        reply_to_session_id: str | None = None,
        is_resubmitted: bool = False,
        trace_parent: str | None = None,
    ) -> None:
        """Put a message last in its session."""
        delivery = Delivery(
            body=body,
            content_type=content_type,
            message_id=message_id,
            session_id=session_id,
            reply_to=reply_to,
            reply_to_session_id=reply_to_session_id,
            enqueued_at=datetime.now(UTC),
            delivery_count=0,
            is_resubmitted=is_resubmitted,
            trace_parent=trace_parent,
            raw=next(self._numbers),
        )
        self._sessions.setdefault(session_id or "", _Session()).messages.append(delivery)
        self.notify()

    def pending(self) -> int:
        """Messages that are not settled."""
        return sum(len(session.messages) for session in self._sessions.values())

    def held(self) -> list[str]:
        """Sessions that somebody holds."""
        return [session_id for session_id, session in self._sessions.items() if session.holder is not None]

    def take_lock(self, session_id: str) -> None:
        """Take a session from its holder, as an expired lock would; its messages are counted as delivered."""
        session = self._sessions[session_id]
        if session.holder is not None:
            session.messages = deque(_counted(delivery) for delivery in session.messages)
            session.holder.lose()
            self.release(session_id)

    async def accept(self) -> "MemorySession | None":
        """Accept the next session that has messages; None when there was none for a while."""
        with anyio.move_on_after(self._accept_wait_s):
            while True:
                for session_id, session in self._sessions.items():
                    if session.messages and session.holder is None:
                        session.holder = MemorySession(self, session_id, session.messages)
                        return session.holder
                await self.changed()
        return None

    async def changed(self) -> None:
        """Wait for the next change of any session."""
        await self._changed.wait()

    def notify(self) -> None:
        """Wake up all who wait for a change."""
        self._changed.set()
        self._changed = anyio.Event()

    def settle(self, session_id: str, delivery: Delivery, settlement: Settlement) -> None:
        """Carry a settlement out."""
        messages = self._sessions[session_id].messages
        place = next((index for index, one in enumerate(messages) if one.raw == delivery.raw), None)
        if place is None:
            raise AssertionError(f"message {delivery.message_id!r} is settled twice")
        match settlement:
            case Complete():
                self.completed.append(delivery)
                del messages[place]
            case DeadLetter():
                self.dead_letters.append((delivery, settlement))
                del messages[place]
            case Abandon():
                messages[place] = _counted(delivery)
                if messages[place].delivery_count >= self._delivery_count_max:
                    reason = DeadLetter("MaxDeliveryCountExceeded", "abandoned too often")
                    self.dead_letters.append((messages[place], reason))
                    del messages[place]

    def release(self, session_id: str) -> None:
        """Free a session for the next holder; those that have waited longer come first."""
        session = self._sessions.pop(session_id)
        session.holder = None
        self._sessions[session_id] = session
        self.notify()


class MemorySession:
    """One accepted session."""

    def __init__(self, broker: MemoryBroker, session_id: str, messages: deque[Delivery]) -> None:
        self._broker = broker
        self._session_id = session_id
        self._messages = messages
        self._lost = anyio.Event()
        self._in_hand: set[object] = set()

    @property
    def session_id(self) -> str:
        """Which session it is."""
        return self._session_id

    async def receive(self, count_max: int, wait_s: float) -> Sequence[Delivery]:
        """At most `count_max` deliveries, in order; none when none came within `wait_s`."""
        with anyio.move_on_after(wait_s):
            while True:
                self._check()
                waiting = (delivery for delivery in self._messages if delivery.raw not in self._in_hand)
                if found := list(itertools.islice(waiting, count_max)):
                    self._in_hand.update(delivery.raw for delivery in found)
                    now_s = anyio.current_time()
                    return [msgspec.structs.replace(delivery, received_at_s=now_s) for delivery in found]
                await self._broker.changed()
        return []

    async def settle(self, settlements: Sequence[tuple[Delivery, Settlement]]) -> None:
        """Settle deliveries."""
        await anyio.lowlevel.checkpoint()
        for delivery, settlement in settlements:
            self._check()
            self._broker.settle(self._session_id, delivery, settlement)
            self._in_hand.discard(delivery.raw)

    async def keep_locked(self) -> None:
        """Wait until the session is lost, then raise SessionLostError."""
        await self._lost.wait()
        self._check()

    async def close(self) -> None:
        """Give the session back."""
        if not self._lost.is_set():
            self.lose()
            self._broker.release(self._session_id)

    def lose(self) -> None:
        """End it: every further use raises SessionLostError."""
        self._lost.set()

    def _check(self) -> None:
        if self._lost.is_set():
            raise SessionLostError(f"session {self._session_id!r} is lost")


class MemoryReplies:
    """Keeps what was sent."""

    def __init__(self) -> None:
        self.sent: list[OutgoingReply] = []

    async def send(self, replies: Sequence[OutgoingReply]) -> None:
        """Keep replies in order."""
        await anyio.lowlevel.checkpoint()
        self.sent.extend(replies)


def _counted(delivery: Delivery) -> Delivery:
    return msgspec.structs.replace(delivery, delivery_count=delivery.delivery_count + 1)
