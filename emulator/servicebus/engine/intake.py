"""What queues and topics have in common: taking messages in, once each, now or later."""

from abc import ABC, abstractmethod
from collections import OrderedDict
from functools import partial

import msgspec

from emulator.servicebus.engine import rows
from emulator.servicebus.engine.errors import ServiceBusError, argument_error, entity_full, message_not_found
from emulator.servicebus.engine.message import MS, Message, State, utf16_length
from emulator.servicebus.engine.work import Context, Work

SEQUENCE_BLOCK = 1_000


class Sequence:
    """Sequence numbers from 1, never twice, not even after a restart: the journal knows a block ahead."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._last = 0
        self._reserved = 0

    def next(self, work: Work) -> int:
        """The next number. If `work` is not committed the number is lost, not reused."""
        self._last += 1
        if self._last > self._reserved:
            reserved = self._last + SEQUENCE_BLOCK
            work.rows.append(rows.put_sequence(self._path, reserved))
            work.then(partial(self._reserve, reserved))
        return self._last

    def _reserve(self, reserved: int) -> None:
        self._reserved = reserved

    def restore(self, reserved: int) -> None:
        """Go on after what a former process may have given out."""
        self._last = self._reserved = reserved


class Duplicates:
    """Message ids seen within a window. Entries past it are forgotten when the next message comes."""

    def __init__(self, path: str, window_s: float) -> None:
        self._path = path
        self._window_s = window_s
        self._until_s: OrderedDict[str, float] = OrderedDict()

    def is_duplicate(self, work: Work, message_id: str, planned: set[str]) -> bool:
        """Whether the id was seen; if not, `work` will remember it. `planned` holds those of the same request."""
        self._prune(work)
        if message_id in planned or self._until_s.get(message_id, work.now_s) > work.now_s:
            return True
        planned.add(message_id)
        until_s = work.now_s + self._window_s
        work.rows.append(rows.put_duplicate(self._path, message_id, until_s))
        work.then(partial(self.restore, message_id, until_s))
        return False

    def restore(self, message_id: str, until_s: float) -> None:
        """Remember an id."""
        self._until_s[message_id] = until_s
        self._until_s.move_to_end(message_id)

    def _prune(self, work: Work) -> None:
        while self._until_s:
            message_id, until_s = next(iter(self._until_s.items()))
            if until_s > work.now_s:
                return
            del self._until_s[message_id]
            work.rows.append(rows.put_duplicate(self._path, message_id, None))


class _Due:
    """The alarm of one scheduled message."""

    def __init__(self, intake: "Intake", sequence: int) -> None:
        self._intake = intake
        self._sequence = sequence

    def on_timer(self, now_s: float) -> None:
        """Enqueue the message."""
        del now_s
        self._intake.enqueue_scheduled(self._sequence)


class Intake(ABC):
    """An entity that producers send to."""

    def __init__(
        self,
        path: str,
        context: Context,
        *,
        ttl_s: float | None,
        duplicate_window_s: float | None,
        size_bytes_max: int | None,
    ) -> None:
        self.path = path
        self.key = path.casefold()
        self.context = context
        self.ttl_s = ttl_s
        self.size_bytes_max = size_bytes_max
        self.kept_bytes = 0
        """Of the messages that it keeps itself, scheduled ones included."""
        self.sequence = Sequence(self.key)
        self.duplicates = None if duplicate_window_s is None else Duplicates(self.key, duplicate_window_s)
        self.scheduled: dict[int, Message] = {}
        self._due: dict[int, _Due] = {}

    @abstractmethod
    def check_open(self) -> None:
        """Refuse producers where nothing can be sent. Raises ServiceBusError."""

    def check(self, message: Message) -> None:
        """Refuse a message that this entity cannot take. Raises ServiceBusError."""
        limits = self.context.limits
        for name, value, chars_max in (
            ("message id", message.message_id, limits.message_id_chars_max),
            ("session id", message.session_id, limits.session_id_chars_max),
        ):
            if value is not None and (length := utf16_length(value)) > chars_max:
                raise argument_error(f"The {name} has {length} characters; at most {chars_max} are allowed.")

    @property
    @abstractmethod
    def size_bytes(self) -> int:
        """What counts towards `size_bytes_max`."""

    def _check_room(self) -> None:
        """Refuse everything once the limit is reached. What is taken before may go beyond it, as on the service."""
        if self.size_bytes_max is not None and (size_bytes := self.size_bytes) >= self.size_bytes_max:
            raise entity_full(self.path, size_bytes, self.size_bytes_max)

    @abstractmethod
    def plan_arrival(self, work: Work, message: Message) -> None:
        """Take the message in now, under a new sequence number."""

    def plan_send(self, work: Work, messages: list[Message]) -> None:
        """Take messages in: all of them or, when one is refused, none. Duplicates vanish silently, as in Azure."""
        self._check_room()
        for message in messages:
            self.check(message)
        planned: set[str] = set()
        for message in messages:
            if self._is_duplicate(work, message, planned):
                continue
            if message.scheduled_s is not None and message.scheduled_s > work.now_s:
                self._plan_schedule(work, message)
            else:
                self.plan_arrival(work, message)

    def plan_schedule(self, work: Work, messages: list[Message]) -> list[int]:
        """Keep messages until their time; returns the numbers by which they can be cancelled until then."""
        self._check_room()
        for message in messages:
            self.check(message)
            if message.scheduled_s is None:
                raise argument_error("A message to schedule has no x-opt-scheduled-enqueue-time.")
        planned: set[str] = set()
        # A duplicate gets a number as well, so that the caller sees one for each message; nothing stands behind it.
        return [
            self.sequence.next(work)
            if self._is_duplicate(work, message, planned)
            else self._plan_schedule(work, message)
            for message in messages
        ]

    def plan_cancel(self, work: Work, sequences: list[int]) -> None:
        """Take scheduled messages away: all, or none when one is not there."""
        for sequence in sequences:
            if sequence not in self.scheduled:
                raise message_not_found(sequence)
        for sequence in dict.fromkeys(sequences):
            work.rows.append(rows.drop_message(rows.SCHEDULED, self.key, sequence))
            work.then(partial(self._forget_scheduled, sequence))

    def enqueue_scheduled(self, sequence: int) -> None:
        """A scheduled message's time has come: it arrives now, under a new sequence number, as documented."""
        work = Work(self.context)
        message = self.scheduled[sequence]
        work.rows.append(rows.drop_message(rows.SCHEDULED, self.key, sequence))
        work.then(partial(self._forget_scheduled, sequence))
        self.plan_arrival(work, message)
        work.commit()

    def restore_scheduled(self, message: Message) -> None:
        """Put a scheduled message into memory."""
        self.scheduled[message.sequence] = message
        self.kept_bytes += message.size_bytes
        due = self._due[message.sequence] = _Due(self, message.sequence)
        self.context.timers.set(due, message.scheduled_s or 0.0)

    def dispose(self, error: ServiceBusError) -> None:
        """The entity was deleted: no deadline of it may come any more, and whoever is attached is told why."""
        del error
        for due in self._due.values():
            self.context.timers.cancel(due)

    def restore_duplicate(self, message_id: str, until_s: float) -> None:
        """Put a remembered message id into memory."""
        if self.duplicates is not None:
            self.duplicates.restore(message_id, until_s)

    def arrived(self, work: Work, message: Message, ttl_max_s: float | None = None) -> Message:
        """The message as it stands here: numbered, dated, with the shortest time to live that applies."""
        lives_s = [
            ttl_s
            for ttl_s in (self.ttl_s, ttl_max_s, None if message.ttl_ms is None else message.ttl_ms / MS)
            if ttl_s is not None
        ]
        return msgspec.structs.replace(
            message,
            sequence=self.sequence.next(work),
            enqueued_s=work.now_s,
            expires_s=work.now_s + min(lives_s) if lives_s else None,
            state=State.ACTIVE,
        )

    def _is_duplicate(self, work: Work, message: Message, planned: set[str]) -> bool:
        if self.duplicates is None or message.message_id is None:
            return False
        return self.duplicates.is_duplicate(work, message.message_id, planned)

    def _plan_schedule(self, work: Work, message: Message) -> int:
        kept = msgspec.structs.replace(
            message, sequence=self.sequence.next(work), enqueued_s=work.now_s, state=State.SCHEDULED
        )
        work.rows.append(rows.put_message(rows.SCHEDULED, self.key, kept))
        work.then(partial(self.restore_scheduled, kept))
        return kept.sequence

    def _forget_scheduled(self, sequence: int) -> None:
        self.kept_bytes -= self.scheduled.pop(sequence).size_bytes
        self.context.timers.cancel(self._due.pop(sequence))
