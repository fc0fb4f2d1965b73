"""Messages that are kept, the locks on them, and what becomes of them when a lock ends."""

from abc import abstractmethod
from collections.abc import Iterable
from functools import partial
from typing import Any

import msgspec

from emulator.servicebus.amqp.message import with_application_properties
from emulator.servicebus.engine import rows
from emulator.servicebus.engine.errors import (
    ServiceBusError,
    message_lock_lost,
    not_allowed,
    session_lock_lost,
)
from emulator.servicebus.engine.intake import Intake
from emulator.servicebus.engine.message import Message, State
from emulator.servicebus.engine.outcomes import Abandon, Complete, DeadLetter, Defer, Outcome, Release
from emulator.servicebus.engine.receivers import Receiver
from emulator.servicebus.engine.work import Context, Work


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a queue and a subscription have in common."""

    requires_session: bool = False
    lock_duration_s: float = 60.0
    max_delivery_count: int | None = 10
    """None in a dead-letter queue: nothing leaves it by itself."""
    ttl_s: float | None = None
    dead_letters_expired: bool = False
    duplicate_window_s: float | None = None
    size_bytes_max: int | None = None
    """None where something else is counted: a subscription's topic, a dead-letter queue's queue."""


class Lock:
    """A message that one receiver holds. `receiver` is None once that one is gone and the lock only runs out."""

    __slots__ = ("queue", "receiver", "sequence", "token", "until_s")

    def __init__(self, queue: "Store", sequence: int, token: bytes, until_s: float, receiver: Receiver | None) -> None:
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

    def __init__(self, queue: "Store", sequence: int) -> None:
        self._queue = queue
        self._sequence = sequence

    def on_timer(self, now_s: float) -> None:
        """Expire the message, unless it is locked or deferred: then it lives until somebody is done with it."""
        del now_s
        self._queue.expire(self._sequence)


class Store(Intake):
    """Messages by number, and the locks on them.

    Invariant: a locked message is in `locked` and its token in `locks`, both or neither. A lock under a session has no
    deadline of its own: the session's counts.
    """

    def __init__(self, path: str, settings: Settings, context: Context, *, dead_letters: "Store | None" = None) -> None:
        super().__init__(
            path,
            context,
            ttl_s=settings.ttl_s,
            duplicate_window_s=settings.duplicate_window_s,
            size_bytes_max=settings.size_bytes_max,
        )
        self.settings = settings
        self.dead_letters = dead_letters
        self.messages: dict[int, Message] = {}
        self.locked: dict[int, Lock] = {}
        self.locks: dict[bytes, Lock] = {}
        self._expiries: dict[int, _Expiry] = {}

    @property
    def size_bytes(self) -> int:
        """Of all messages here and in the dead-letter queue."""
        return self.kept_bytes + (0 if self.dead_letters is None else self.dead_letters.size_bytes)

    @abstractmethod
    def message_available(self, message: Message) -> None:
        """A message may be deliverable now: it came, or its lock ended."""

    @abstractmethod
    def message_gone(self, message: Message) -> None:
        """A message is no longer here."""

    @abstractmethod
    def pump(self) -> None:
        """Hand out what can be handed out."""

    def on_timer(self, now_s: float) -> None:
        """What could not be handed out before is tried again."""
        del now_s
        self.pump()

    # --- keeping ---

    def plan_put(self, work: Work, message: Message) -> None:
        """Keep a message that has its number already."""
        work.rows.append(rows.put_message(rows.MESSAGES, self.key, message))
        work.then(partial(self.admit, message))
        work.touch(self)

    def admit(self, message: Message) -> None:
        """Put a message into memory and make it available."""
        self.messages[message.sequence] = message
        self.kept_bytes += message.size_bytes
        if message.expires_s is not None:
            expiry = self._expiries[message.sequence] = _Expiry(self, message.sequence)
            self.context.timers.set(expiry, message.expires_s)
        self.message_available(message)

    def restore_lock(self, sequence: int, row: rows.LockRow) -> None:
        """Put a lock of a former process into memory."""
        if sequence in self.messages and not self.settings.requires_session:
            self.lock(Lock(self, sequence, row.token, row.until_s, None))

    def dispose(self, error: ServiceBusError) -> None:
        """The entity was deleted: cancel its deadlines."""
        super().dispose(error)
        for lock in self.locks.values():
            self.context.timers.cancel(lock)
        for expiry in self._expiries.values():
            self.context.timers.cancel(expiry)

    # --- locks ---

    def lock(self, lock: Lock) -> None:
        """Put a lock into memory."""
        self.locked[lock.sequence] = lock
        self.locks[lock.token] = lock
        if lock.receiver is not None and lock.receiver.session is not None:
            lock.receiver.session.tokens.add(lock.token)
        else:
            self.context.timers.set(lock, lock.until_s)

    def _unlock(self, lock: Lock) -> None:
        del self.locked[lock.sequence]
        del self.locks[lock.token]
        if lock.receiver is not None and lock.receiver.session is not None:
            lock.receiver.session.tokens.discard(lock.token)
        else:
            self.context.timers.cancel(lock)

    def sequence_of(self, token: bytes) -> int:
        """Which message a current token locks."""
        return self.locks[token].sequence

    # --- settlement ---

    def find_lock(self, token: bytes, receiver: Receiver | None = None) -> Lock:
        """The lock of a token, held by `receiver` or, since that one closed, by nobody. Raises ServiceBusError."""
        lock = self.locks.get(token)
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
                self.plan_remove(work, message, lock)
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
        lock = self.locks[token]
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
        self.kept_bytes += message.size_bytes - self.messages[message.sequence].size_bytes
        self.messages[message.sequence] = message
        self.message_available(message)
        expiry = self._expiries.get(message.sequence)
        if expiry is not None and message.expires_s is not None:
            self.context.timers.set(expiry, message.expires_s)  # it may have passed while the lock held it off

    def _plan_drop_lock(self, work: Work, lock: Lock) -> None:
        if not self.settings.requires_session:
            work.rows.append(rows.drop_lock(self.key, lock.sequence))

    def plan_remove(self, work: Work, message: Message, lock: Lock | None = None) -> None:
        """Forget a message."""
        work.rows.append(rows.drop_message(rows.MESSAGES, self.key, message.sequence))
        if lock is not None:
            self._plan_drop_lock(work, lock)
        work.then(partial(self._remove, message, lock))

    def _remove(self, message: Message, lock: Lock | None) -> None:
        if lock is not None:
            self._unlock(lock)
        sequence = message.sequence
        self.kept_bytes -= self.messages.pop(sequence).size_bytes
        expiry = self._expiries.pop(sequence, None)
        if expiry is not None:
            self.context.timers.cancel(expiry)
        self.message_gone(message)

    def plan_dead_letter(self, work: Work, message: Message, why: DeadLetter, lock: Lock | None = None) -> None:
        """Move a message to the dead-letter queue, where it keeps its number and no longer expires."""
        if self.dead_letters is None:
            raise not_allowed(f"Messages of '{self.path}' cannot be dead-lettered again.")
        self.plan_remove(work, message, lock)
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
        if message is not None and sequence not in self.locked and message.state is State.ACTIVE:
            self.expire_now(message)

    def expire_now(self, message: Message) -> None:
        """Drop or dead-letter a message that no receiver holds."""
        work = Work(self.context)
        if self.settings.dead_letters_expired and self.dead_letters is not None:
            self.plan_dead_letter(work, message, _EXPIRED)
        else:
            self.plan_remove(work, message)
        work.commit()


_EXPIRED = DeadLetter("TTLExpiredException", "The message expired and was dead lettered.")


def _with(message: Message, properties: dict[str, Any]) -> Message:
    if not properties:
        return message
    try:
        bare = with_application_properties(message.bare, properties)
    except TypeError as error:
        raise ServiceBusError("amqp:invalid-field", f"A property cannot be set: {error}.", 400) from error
    return msgspec.structs.replace(message, bare=bare)
