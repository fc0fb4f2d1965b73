"""Anything that messages are received from: a queue, a subscription, or the dead-letter queue of either."""

import heapq
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from functools import partial

from emulator.servicebus.engine import rows
from emulator.servicebus.engine.errors import ServiceBusError, message_not_found, not_allowed, session_lock_lost
from emulator.servicebus.engine.message import Message, State
from emulator.servicebus.engine.receivers import Delivery, Receiver
from emulator.servicebus.engine.sessions import Session, Sessions
from emulator.servicebus.engine.store import Lock, Settings, Store
from emulator.servicebus.engine.work import Context, Work

DEAD_LETTER_SUFFIX = "/$DeadLetterQueue"
BURST_MAX = 256
BURST_BYTES_MAX = 262_144


class Queue(Store):
    """The order in which messages are delivered, and the receivers that take them.

    Invariant: a sequence number in `_ready` (or in a session's heap) may be stale; one that is deliverable is always
    there.
    """

    def __init__(self, path: str, settings: Settings, context: Context, *, dead_letters: "Queue | None" = None) -> None:
        super().__init__(path, settings, context, dead_letters=dead_letters)
        self.sessions = Sessions(self) if settings.requires_session else None
        self._ready: list[int] = []
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

    def message_available(self, message: Message) -> None:
        """Put a message where deliveries are taken from: its session's heap, or the queue's."""
        session = self._session_of(message)
        if session is not None:
            session.sequences.add(message.sequence)
        if message.state is not State.ACTIVE:
            return
        if session is None:
            heapq.heappush(self._ready, message.sequence)
        elif self.sessions is not None:
            heapq.heappush(session.ready, message.sequence)
            self.sessions.changed(session)

    def message_gone(self, message: Message) -> None:
        """Forget a message, and its session if that was all there was to it."""
        session = self._session_of(message)
        if session is None:
            _drop_stale(self._ready, self.messages)
        elif self.sessions is not None:
            session.sequences.discard(message.sequence)
            self.sessions.collect(session)
            _drop_stale(session.ready, session.sequences)

    def _session_of(self, message: Message) -> Session | None:
        return None if self.sessions is None or message.session_id is None else self.sessions.get(message.session_id)

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
        """The queue was deleted: close its receivers and acceptors as well."""
        super().dispose(error)
        self.context.timers.cancel(self)
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
            for lock in self.locks.values():
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
            if message is not None and message.state is State.ACTIVE and ready[0] not in self.locked:
                if message.expires_s is None or message.expires_s > self.context.clock.now_s():
                    return True
                self.expire(ready[0])
                continue  # the heap may have been tidied up meanwhile: what is first now was not looked at
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
        try:
            self._plan_burst(work, deliveries, receiver, ready, count)
            work.commit()
        except BaseException:
            for delivery in deliveries:
                heapq.heappush(ready, delivery.message.sequence)
            raise
        for delivery in deliveries:
            receiver.credit -= 1
            receiver.sink.deliver(delivery)

    def _plan_burst(
        self, work: Work, deliveries: list[Delivery], receiver: Receiver, ready: list[int], count: int
    ) -> None:
        """Take up to `count` messages out of the heap into `deliveries`, until it has enough bytes."""
        until_s = self._locked_until_s(receiver, work.now_s)
        size_bytes = 0
        while len(deliveries) < count and size_bytes < BURST_BYTES_MAX and self.has_deliverable(ready):
            message = self.messages[_pop(ready)]
            size_bytes += len(message.bare)
            delivery = Delivery(message, self.context.new_token(), until_s)
            deliveries.append(delivery)
            if until_s is None:
                self.plan_remove(work, message)
                continue
            if receiver.session is None:
                work.rows.append(rows.put_lock(self.key, message.sequence, delivery.token, until_s))
            work.then(partial(self.lock, Lock(self, message.sequence, delivery.token, until_s, receiver)))

    def _locked_until_s(self, receiver: Receiver, now_s: float) -> float | None:
        if receiver.deletes:
            return None
        return now_s + self.settings.lock_duration_s if receiver.session is None else receiver.session.locked_until_s

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
                or sequence in self.locked
                or (session is not None and message.session_id != session.id)
            ):
                raise message_not_found(sequence)
            if message.expires_s is not None and message.expires_s <= work.now_s:
                self.expire_now(message)  # a deferred message expires when somebody asks for it
                raise message_not_found(sequence)
            receiver = None if session is None else session.holder
            until_s = session.locked_until_s if session else work.now_s + self.settings.lock_duration_s
            delivery = Delivery(message, self.context.new_token(), None if deletes else until_s)
            deliveries.append(delivery)
            if deletes:
                self.plan_remove(work, message)
                continue
            if session is None:
                work.rows.append(rows.put_lock(self.key, sequence, delivery.token, until_s))
            work.then(partial(self.lock, Lock(self, sequence, delivery.token, until_s, receiver)))
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
        return len(self.locked)

    def is_locked(self, sequence: int) -> bool:
        """Whether a receiver holds the message."""
        return sequence in self.locked

    def held_session(self, session_id: str, owner: object) -> Session:
        """The session, which `owner` must hold. Raises ServiceBusError."""
        if self.sessions is None:
            raise not_allowed(f"The entity '{self.path}' has no sessions.")
        session = self.sessions.find(session_id)
        if session is None or session.holder is None or session.holder.sink.owner is not owner:
            raise session_lock_lost(session_id)
        return session


def _pop(ready: list[int]) -> int:
    """The lowest number, once: a message locked at a restart is in the heap from before and from its unlock."""
    number = heapq.heappop(ready)
    while ready and ready[0] == number:
        heapq.heappop(ready)
    return number


def _drop_stale(ready: list[int], live: Collection[int]) -> None:
    """Bound the numbers in a heap that no longer stand for a message."""
    if len(ready) > 2 * len(live) + 64:
        ready[:] = [number for number in ready if number in live]
        heapq.heapify(ready)
