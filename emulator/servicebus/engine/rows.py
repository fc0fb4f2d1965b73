"""How the engine's state looks in the journal: one space for each kind, keys that begin with the entity's path."""

from collections.abc import Iterator

import msgspec

from emulator.journal import Change, Journal
from emulator.servicebus.engine.message import Message
from emulator.servicebus.entities import QueueConfig, SubscriptionConfig, TopicConfig

ENTITIES = "servicebus.entities"
MESSAGES = "servicebus.messages"
SCHEDULED = "servicebus.scheduled"
LOCKS = "servicebus.locks"
SESSION_STATES = "servicebus.session-states"
DUPLICATES = "servicebus.duplicates"
SEQUENCES = "servicebus.sequences"

_SEPARATOR = "\n"  # no entity name has one
_ENCODER = msgspec.msgpack.Encoder()
_MESSAGE_DECODER = msgspec.msgpack.Decoder(Message)


class LockRow(msgspec.Struct, frozen=True, array_like=True):
    """A peek lock that must outlive a restart."""

    token: bytes
    until_s: float


class StateRow(msgspec.Struct, frozen=True, array_like=True):
    """What a session's holder left for the next one, and when."""

    state: bytes
    updated_s: float


_STATE_DECODER = msgspec.msgpack.Decoder(StateRow)
_LOCK_DECODER = msgspec.msgpack.Decoder(LockRow)


def _key(path: str, rest: str) -> str:
    return f"{path}{_SEPARATOR}{rest}"


def put_message(space: str, path: str, message: Message) -> Change:
    """Keep a message, in `MESSAGES` or `SCHEDULED`."""
    return Change(space, f"{path}{_SEPARATOR}{message.sequence:020d}", _ENCODER.encode(message))


def drop_message(space: str, path: str, sequence: int) -> Change:
    """Forget a message."""
    return Change(space, f"{path}{_SEPARATOR}{sequence:020d}", None)


def put_lock(path: str, sequence: int, token: bytes, until_s: float) -> Change:
    """Keep a lock."""
    return Change(LOCKS, f"{path}{_SEPARATOR}{sequence:020d}", _ENCODER.encode(LockRow(token, until_s)))


def drop_lock(path: str, sequence: int) -> Change:
    """Forget a lock."""
    return Change(LOCKS, f"{path}{_SEPARATOR}{sequence:020d}", None)


def put_session_state(path: str, session_id: str, state: bytes | None, updated_s: float) -> Change:
    """Keep the state of a session; None forgets it."""
    value = None if state is None else _ENCODER.encode(StateRow(state, updated_s))
    return Change(SESSION_STATES, _key(path, session_id), value)


def put_duplicate(path: str, message_id: str, until_s: float | None) -> Change:
    """Keep a message id that was seen; None forgets it."""
    value = None if until_s is None else _ENCODER.encode(until_s)
    return Change(DUPLICATES, _key(path, message_id), value)


def put_sequence(path: str, reserved: int) -> Change:
    """Keep the number up to which sequence numbers may have been given out."""
    return Change(SEQUENCES, path, _ENCODER.encode(reserved))


def load_messages(journal: Journal, space: str) -> Iterator[tuple[str, Message]]:
    """All kept messages with their entity's path, in order of entity and sequence."""
    for key, value in journal.load(space):
        yield key.partition(_SEPARATOR)[0], _MESSAGE_DECODER.decode(value)


def load_locks(journal: Journal) -> Iterator[tuple[str, int, LockRow]]:
    """All kept locks: path, sequence number, lock."""
    for key, value in journal.load(LOCKS):
        path, _, sequence = key.partition(_SEPARATOR)
        yield path, int(sequence), _LOCK_DECODER.decode(value)


def load_session_states(journal: Journal) -> Iterator[tuple[str, str, StateRow]]:
    """All kept session states: path, session id, state."""
    for key, value in journal.load(SESSION_STATES):
        path, _, session_id = key.partition(_SEPARATOR)
        yield path, session_id, _STATE_DECODER.decode(value)


def load_duplicates(journal: Journal) -> Iterator[tuple[str, str, float]]:
    """All remembered message ids: path, message id, until when."""
    for key, value in journal.load(DUPLICATES):
        path, _, message_id = key.partition(_SEPARATOR)
        yield path, message_id, msgspec.msgpack.decode(value, type=float)


def load_sequences(journal: Journal) -> Iterator[tuple[str, int]]:
    """All reserved sequence numbers by path."""
    for path, value in journal.load(SEQUENCES):
        yield path, msgspec.msgpack.decode(value, type=int)


class QueueRow(msgspec.Struct, frozen=True, tag="queue"):
    """A queue that was made while running."""

    config: QueueConfig


class TopicRow(msgspec.Struct, frozen=True, tag="topic"):
    """A topic that was made while running."""

    config: TopicConfig


class SubscriptionRow(msgspec.Struct, frozen=True, tag="subscription"):
    """A subscription that was made while running."""

    topic: str
    config: SubscriptionConfig


EntityRow = QueueRow | TopicRow | SubscriptionRow


def put_entity(row: EntityRow) -> Change:
    """Keep an entity."""
    path = f"{row.topic}/Subscriptions/{row.config.name}" if isinstance(row, SubscriptionRow) else row.config.name
    return Change(ENTITIES, path.casefold(), _ENCODER.encode(row))


def load_entities(journal: Journal) -> Iterator[EntityRow]:
    """All entities that were made while running."""
    for _, value in journal.load(ENTITIES):
        yield msgspec.msgpack.decode(value, type=EntityRow)


def drop_entity(journal: Journal, path: str) -> list[Change]:
    """Every row of one entity (and not of those below it), to be deleted."""
    prefix = path + _SEPARATOR
    gone = [
        Change(space, key, None)
        for space in (MESSAGES, SCHEDULED, LOCKS, SESSION_STATES, DUPLICATES)
        for key, _ in journal.load(space)
        if key.startswith(prefix)
    ]
    return [*gone, Change(SEQUENCES, path, None), Change(ENTITIES, path, None)]
