"""Anything that messages are received from: a queue, a subscription, or the dead-letter queue of either."""

import heapq
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import Any

import msgspec

from emulator.servicebus.amqp.message import with_application_properties
from emulator.servicebus.engine import rows
from emulator.servicebus.engine.errors import (
    ServiceBusError,
    message_lock_lost,
    message_not_found,
    not_allowed,
    session_lock_lost,
)
from emulator.servicebus.engine.intake import Intake
from emulator.servicebus.engine.message import Message, State
from emulator.servicebus.engine.outcomes import Abandon, Complete, DeadLetter, Defer, Outcome, Release
from emulator.servicebus.engine.receivers import Delivery, Receiver
from emulator.servicebus.engine.sessions import Session, Sessions
from emulator.servicebus.engine.work import Context, Work

DEAD_LETTER_SUFFIX = "/$DeadLetterQueue"
BURST_MAX = 256


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a queue and a subscription have in common."""

    requires_session: bool = False
    lock_duration_s: float = 60.0
    max_delivery_count: int | None = 10
    """None in a dead-letter queue: nothing leaves it by itself."""
    ttl_s: float | None = None
    dead_letters_expired: bool = False
    duplicate_window_s: float | None = None


class Lock:
    """A message that one receiver holds. `receiver` is None once that one is gone and the lock only runs out."""

    __slots__ = ("queue", "receiver", "sequence", "token", "until_s")

    def __init__(self, queue: "Queue", sequence: int, token: bytes, until_s: float, receiver: Receiver | None) -> None:
        self.queue = queue
        self.sequence = sequence
        self.token = token
        self.until_s = until_s
        self.receiver = receiver

    def on_timer(self, now_s: float) -> None:
        """The lock has expired: one delivery more, and the message is available again."""
        del now_s
        work = Work(self.queue.context)
        self.queue.plan_unlock(work, self.token, failed=True)
        work.commit()


class _Expiry:
    """The alarm of a message's time to live."""

    __slots__ = ("_queue", "_sequence")

    def __init__(self, queue: "Queue", sequence: int) -> None:
        self._queue = queue
        self._sequence = sequence

    def on_timer(self, now_s: float) -> None:
        """Expire the message, unless it is locked or deferred: then it lives until somebody is done with it."""
        del now_s
        self._queue.expire(self._sequence)


class Queue(Intake):
    """Messages in order, their locks, and the receivers that take them.

    Invariants: a sequence number in `_ready` (or in a session's heap) may be stale; one that is deliverable is always
    there. A locked message is in `_locked` and its token in `_locks`, both or neither.
    """

    def __init__(self, path: str, settings: Settings, context: Context, *, dead_letters: "Queue | None" = None) -> None:
        super().__init__(path, context, ttl_s=settings.ttl_s, duplicate_window_s=settings.duplicate_window_s)
        self.settings = settings
        self.dead_letters = dead_letters
        self.messages: dict[int, Message] = {}
        self.sessions = Sessions(self) if settings.requires_session else None
        self._ready: list[int] = []
        self._locked: dict[int, Lock] = {}
        self._locks: dict[bytes, Lock] = {}
        self._expiries: dict[int, _Expiry] = {}
        self._receivers: set[Receiver] = set()
        self._takers: OrderedDict[Receiver, None] = OrderedDict()

    # --- messages in ---

    def check_open(self) -> None:
        """Refuse producers of a dead-letter queue."""
        if self.dead_letters is None:
            raise not_allowed(f"Messages cannot be sent to '{self.path}'.")

    def check(self, message: Message) -> None:
        """Refuse what cannot be sent here."""
        self.check_open()
        if self.sessions is not None and message.session_id is None:
            raise not_allowed(
                "The SessionId was not set on a message, and it cannot be sent to the entity. Entities that have"
                " session support enabled can only receive messages that have the SessionId set to a valid value."
            )
        super().check(message)

    def plan_arrival(self, work: Work, message: Message) -> None:
        """Enqueue a message."""
        self.plan_put(work, self.arrived(work, message))

    def plan_put(self, work: Work, message: Message) -> None:
        """Keep a message that has its number already."""
        work.rows.append(rows.put_message(rows.MESSAGES, self.key, message))
        work.then(partial(self.admit, message))
        work.touch(self)

    def admit(self, message: Message) -> None:
        """Put a message into memory and make it available."""
        sequence = message.sequence
        self.messages[sequence] = message
        if message.expires_s is not None:
            expiry = self._expiries[sequence] = _Expiry(self, sequence)
            self.context.timers.set(expiry, message.expires_s)
        if self.sessions is not None and message.session_id is not None:
            self.sessions.get(message.session_id).sequences.add(sequence)
        self._make_available(message)

    def _make_available(self, message: Message) -> None:
        if message.state is not State.ACTIVE:
            return
        if self.sessions is None or message.session_id is None:
            heapq.heappush(self._ready, message.sequence)
        else:
            session = self.sessions.get(message.session_id)
            heapq.heappush(session.ready, message.sequence)
            self.sessions.changed(session)

    def restore_lock(self, sequence: int, row: rows.LockRow) -> None:
        """Put a lock of a former process into memory."""
        if sequence in self.messages and self.sessions is None:
            self._lock(Lock(self, sequence, row.token, row.until_s, None))

    def restore_session_state(self, session_id: str, row: rows.StateRow) -> None:
        """Put the state of a session into memory."""
        if self.sessions is not None:
            self.sessions.get(session_id).set_state(row.state, row.updated_s)

    # --- messages out ---

    def attach(self, receiver: Receiver) -> None:
        """Open a receiver without a session."""
        if self.sessions is not None:
            raise not_allowed(
                "It is not possible for an entity that requires sessions to create a non-sessionful message"
                f" receiver. Entity: '{self.path}'."
            )
        self._receivers.add(receiver)
        receiver.sink.granted(receiver)

    def dispose(self, error: ServiceBusError) -> None:
        """The queue was deleted: cancel its deadlines, close its receivers and acceptors."""
        super().dispose(error)
        for lock in self._locks.values():
            self.context.timers.cancel(lock)
        for expiry in self._expiries.values():
            self.context.timers.cancel(expiry)
        if self.sessions is not None:
            self.sessions.dispose(error)
        for receiver in self._receivers:
            receiver.is_open = False
            receiver.sink.lost(error)
        self._receivers.clear()
        self._takers.clear()

    def receiver_changed(self, receiver: Receiver) -> None:
        """Credit or pause of a receiver changed: hand out what can be handed out."""
        if receiver.session is not None:
            if receiver.wants:
                self.dispatch(receiver, receiver.session.ready)
        elif receiver.wants:
            self._takers[receiver] = None
            self.pump()
        else:
            self._takers.pop(receiver, None)

    def receiver_closed(self, receiver: Receiver) -> None:
        """A receiver is gone."""
        self._receivers.discard(receiver)
        self._takers.pop(receiver, None)
        if receiver.session is not None and self.sessions is not None:
            self.sessions.released(receiver.session)
        else:
            for lock in self._locks.values():
                if lock.receiver is receiver:
                    lock.receiver = None

    def pump(self) -> None:
        """Hand out what can be handed out, to receivers in turn."""
        if self.sessions is not None:
            self.sessions.pump()
            return
        while self._takers and self.has_deliverable(self._ready):
            receiver = next(iter(self._takers))
            self.dispatch(receiver, self._ready, None if len(self._takers) == 1 else 1)
            if receiver.wants:
                self._takers.move_to_end(receiver)
            else:
                self._takers.pop(receiver, None)

    def has_deliverable(self, ready: list[int]) -> bool:
        """Whether the heap's first number may be delivered, after dropping those that no longer may."""
        while ready:
            message = self.messages.get(ready[0])
            if message is not None and message.state is State.ACTIVE and ready[0] not in self._locked:
                if message.expires_s is None or message.expires_s > self.context.clock.now_s():
                    return True
                self.expire(ready[0])
            if ready:
                heapq.heappop(ready)
        return False

    def dispatch(self, receiver: Receiver, ready: list[int], count_max: int | None = None) -> None:
        """Hand messages to one receiver as far as its credit goes, in bursts: it may pause after each."""
        while receiver.wants and self.has_deliverable(ready):
            self._dispatch_burst(receiver, ready, min(receiver.credit, count_max or BURST_MAX, BURST_MAX))
            if count_max is not None:
                return

    def _dispatch_burst(self, receiver: Receiver, ready: list[int], count: int) -> None:
        """What must outlive this process is written for the whole burst before any of it is handed out."""
        deliveries: list[Delivery] = []
        work = Work(self.context)
        until_s = self._locked_until_s(receiver, work.now_s)
        while len(deliveries) < count and self.has_deliverable(ready):
            message = self.messages[heapq.heappop(ready)]
            delivery = Delivery(message, self.context.new_token(), until_s)
            deliveries.append(delivery)
            if until_s is None:
                self._plan_remove(work, message)
                continue
            if receiver.session is None:
                work.rows.append(rows.put_lock(self.key, message.sequence, delivery.token, until_s))
            work.then(partial(self._lock, Lock(self, message.sequence, delivery.token, until_s, receiver)))
        try:
            work.commit()
        except BaseException:
            for delivery in deliveries:
                heapq.heappush(ready, delivery.message.sequence)
            raise
        for delivery in deliveries:
            receiver.credit -= 1
            receiver.sink.deliver(delivery)

    def _locked_until_s(self, receiver: Receiver, now_s: float) -> float | None:
        if receiver.deletes:
            return None
        return now_s + self.settings.lock_duration_s if receiver.session is None else receiver.session.locked_until_s

    def _lock(self, lock: Lock) -> None:
        self._locked[lock.sequence] = lock
        self._locks[lock.token] = lock
        if lock.receiver is not None and lock.receiver.session is not None:
            lock.receiver.session.tokens.add(lock.token)
        else:
            self.context.timers.set(lock, lock.until_s)

    def _unlock(self, lock: Lock) -> None:
        del self._locked[lock.sequence]
        del self._locks[lock.token]
        if lock.receiver is not None and lock.receiver.session is not None:
            lock.receiver.session.tokens.discard(lock.token)
        else:
            self.context.timers.cancel(lock)

    def sequence_of(self, token: bytes) -> int:
        """Which message a current token locks."""
        return self._locks[token].sequence

    # --- settlement ---

    def find_lock(self, token: bytes, receiver: Receiver | None = None) -> Lock:
        """The lock of a token, held by `receiver` or, since that one closed, by nobody. Raises ServiceBusError."""
        lock = self._locks.get(token)
        if lock is None or (receiver is not None and lock.receiver not in (receiver, None)):
            session = None if receiver is None else receiver.session
            if session is not None and session.holder is not receiver:
                raise session_lock_lost(session.id)
            raise message_lock_lost()
        return lock

    def settle(self, locks: Iterable[Lock], outcome: Outcome) -> None:
        """Carry out an outcome for messages that are locked: for all of them or, on failure, none."""
        work = Work(self.context)
        for lock in locks:
            self._plan_settle(work, lock, outcome)
        work.commit()

    def _plan_settle(self, work: Work, lock: Lock, outcome: Outcome) -> None:
        message = self.messages[lock.sequence]
        match outcome:
            case Complete():
                self._plan_remove(work, message, lock)
            case Release():
                self.plan_unlock(work, lock.token, failed=False)
            case Abandon(properties=properties):
                self.plan_unlock(work, lock.token, failed=True, properties=properties)
            case Defer(properties=properties):
                self._plan_unlocked(
                    work, lock, msgspec.structs.replace(_with(message, properties), state=State.DEFERRED)
                )
            case DeadLetter():
                self.plan_dead_letter(work, message, outcome, lock)

    def plan_unlock(self, work: Work, token: bytes, *, failed: bool, properties: dict[str, Any] | None = None) -> None:
        """Give a locked message back. `failed` counts a delivery; at the entity's maximum it is dead-lettered."""
        lock = self._locks[token]
        message = _with(self.messages[lock.sequence], properties or {})
        if failed:
            message = msgspec.structs.replace(message, delivery_count=message.delivery_count + 1)
            maximum = self.settings.max_delivery_count
            if maximum is not None and message.delivery_count >= maximum:
                why = f"Message could not be consumed after {maximum} delivery attempts."
                self.plan_dead_letter(work, message, DeadLetter("MaxDeliveryCountExceeded", why), lock)
                return
        self._plan_unlocked(work, lock, message)

    def _plan_unlocked(self, work: Work, lock: Lock, message: Message) -> None:
        if message is not self.messages[lock.sequence]:
            work.rows.append(rows.put_message(rows.MESSAGES, self.key, message))
        self._plan_drop_lock(work, lock)
        work.then(partial(self._unlocked, lock, message))
        work.touch(self)

    def _unlocked(self, lock: Lock, message: Message) -> None:
        self._unlock(lock)
        self.messages[message.sequence] = message
        self._make_available(message)
        expiry = self._expiries.get(message.sequence)
        if expiry is not None and message.expires_s is not None:
            self.context.timers.set(expiry, message.expires_s)  # it may have passed while the lock held it off

    def _plan_drop_lock(self, work: Work, lock: Lock) -> None:
        if self.sessions is None:
            work.rows.append(rows.drop_lock(self.key, lock.sequence))

    def _plan_remove(self, work: Work, message: Message, lock: Lock | None = None) -> None:
        work.rows.append(rows.drop_message(rows.MESSAGES, self.key, message.sequence))
        if lock is not None:
            self._plan_drop_lock(work, lock)
        work.then(partial(self._remove, message, lock))

    def _remove(self, message: Message, lock: Lock | None) -> None:
        if lock is not None:
            self._unlock(lock)
        sequence = message.sequence
        del self.messages[sequence]
        expiry = self._expiries.pop(sequence, None)
        if expiry is not None:
            self.context.timers.cancel(expiry)
        if self.sessions is not None and message.session_id is not None:
            session = self.sessions.get(message.session_id)
            session.sequences.discard(sequence)
            self.sessions.collect(session)
            _drop_stale(session.ready, session.sequences)
        else:
            _drop_stale(self._ready, self.messages)

    def plan_dead_letter(self, work: Work, message: Message, why: DeadLetter, lock: Lock | None = None) -> None:
        """Move a message to the dead-letter queue, where it keeps its number and no longer expires."""
        if self.dead_letters is None:
            raise not_allowed(f"Messages of '{self.path}' cannot be dead-lettered again.")
        self._plan_remove(work, message, lock)
        self.dead_letters.plan_put(work, self.dead_lettered(message, why))

    @staticmethod
    def dead_lettered(message: Message, why: DeadLetter) -> Message:
        """The message as it stands in a dead-letter queue."""
        extra = dict(why.properties)
        if why.reason is not None:
            extra["DeadLetterReason"] = why.reason
        if why.description is not None:
            extra["DeadLetterErrorDescription"] = why.description
        return msgspec.structs.replace(_with(message, extra), state=State.ACTIVE, expires_s=None)

    def expire(self, sequence: int) -> None:
        """Drop or dead-letter a message whose time is over, unless it is locked or deferred."""
        message = self.messages.get(sequence)
        if message is not None and sequence not in self._locked and message.state is State.ACTIVE:
            self._expire(message)

    def _expire(self, message: Message) -> None:
        work = Work(self.context)
        if self.settings.dead_letters_expired and self.dead_letters is not None:
            self.plan_dead_letter(work, message, _EXPIRED)
        else:
            self._plan_remove(work, message)
        work.commit()

    # --- by number ---

    def receive_deferred(self, sequences: Sequence[int], *, deletes: bool, session: Session | None) -> list[Delivery]:
        """Lock (or delete) deferred messages by their numbers: all, or none when one cannot be had."""
        work = Work(self.context)
        deliveries = []
        for sequence in dict.fromkeys(sequences):
            message = self.messages.get(sequence)
            if (
                message is None
                or message.state is not State.DEFERRED
                or sequence in self._locked
                or (session is not None and message.session_id != session.id)
            ):
                raise message_not_found(sequence)
            if message.expires_s is not None and message.expires_s <= work.now_s:
                self._expire(message)  # a deferred message expires when somebody asks for it
                raise message_not_found(sequence)
            receiver = None if session is None else session.holder
            until_s = session.locked_until_s if session else work.now_s + self.settings.lock_duration_s
            delivery = Delivery(message, self.context.new_token(), None if deletes else until_s)
            deliveries.append(delivery)
            if deletes:
                self._plan_remove(work, message)
                continue
            if session is None:
                work.rows.append(rows.put_lock(self.key, sequence, delivery.token, until_s))
            work.then(partial(self._lock, Lock(self, sequence, delivery.token, until_s, receiver)))
        work.commit()
        return deliveries

    def renew_locks(self, tokens: Sequence[bytes]) -> list[float]:
        """Lock messages anew for a full duration; returns until when, in order."""
        if self.sessions is not None:
            raise not_allowed("Message locks of a session are renewed with the session's lock.")
        work = Work(self.context)
        locks = [self.find_lock(token) for token in tokens]
        until_s = work.now_s + self.settings.lock_duration_s
        for lock in locks:
            work.rows.append(rows.put_lock(self.key, lock.sequence, lock.token, until_s))
            work.then(partial(self._extend, lock, until_s))
        work.commit()
        return [until_s] * len(locks)

    def _extend(self, lock: Lock, until_s: float) -> None:
        lock.until_s = until_s
        self.context.timers.set(lock, until_s)

    def peek(self, from_sequence: int, count_max: int, session_id: str | None = None) -> list[Message]:
        """Messages as they are, from a number on, scheduled and deferred and locked ones included."""
        if session_id is None:
            candidates: Iterable[int] = [*self.messages, *self.scheduled]
        else:
            session = None if self.sessions is None else self.sessions.find(session_id)
            candidates = [
                *(session.sequences if session else ()),
                *(number for number, message in self.scheduled.items() if message.session_id == session_id),
            ]
        chosen = heapq.nsmallest(count_max, (number for number in candidates if number >= from_sequence))
        return [self.messages.get(number) or self.scheduled[number] for number in chosen]

    @property
    def locked_count(self) -> int:
        """How many messages are held by receivers."""
        return len(self._locked)

    def is_locked(self, sequence: int) -> bool:
        """Whether a receiver holds the message."""
        return sequence in self._locked

    def held_session(self, session_id: str, owner: object) -> Session:
        """The session, which `owner` must hold. Raises ServiceBusError."""
        if self.sessions is None:
            raise not_allowed(f"The entity '{self.path}' has no sessions.")
        session = self.sessions.find(session_id)
        if session is None or session.holder is None or session.holder.sink.owner is not owner:
            raise session_lock_lost(session_id)
        return session


_EXPIRED = DeadLetter("TTLExpiredException", "The message expired and was dead lettered.")


def _drop_stale(ready: list[int], live: Collection[int]) -> None:
    """Bound the numbers in a heap that no longer stand for a message."""
    if len(ready) > 2 * len(live) + 64:
        ready[:] = [number for number in ready if number in live]
        heapq.heapify(ready)


def _with(message: Message, properties: dict[str, Any]) -> Message:
    if not properties:
        return message
    try:
        bare = with_application_properties(message.bare, properties)
    except TypeError as error:
        raise ServiceBusError("amqp:invalid-field", f"A property cannot be set: {error}.", 400) from error
    return msgspec.structs.replace(message, bare=bare)
