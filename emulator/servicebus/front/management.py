"""The operations of `…/$management`, by name without the prefix `com.microsoft:`.

Each takes the engine, the entity's path, the request's body and the connection it came by, and returns a reply or
raises a ServiceBusError, in which case nothing was changed.
https://learn.microsoft.com/azure/service-bus-messaging/service-bus-amqp-request-response
"""

import uuid
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from emulator.servicebus.amqp.types import Array, Timestamp
from emulator.servicebus.engine.errors import argument_error
from emulator.servicebus.engine.message import MS, Message, encode_for_receiver, read_message
from emulator.servicebus.engine.namespace import Namespace
from emulator.servicebus.engine.outcomes import Abandon, Complete, DeadLetter, Defer, Outcome
from emulator.servicebus.engine.queue import Queue
from emulator.servicebus.engine.sessions import Session


class Reply(NamedTuple):
    """A status, a sentence, a body that is always a map, and an error condition where it failed."""

    status: int
    description: str
    body: dict[str, Any]
    condition: str | None = None


Body = dict[Any, Any]
Operation = Callable[[Namespace, str, Body, object], Reply]

OK, NO_CONTENT = 200, 204
# What clients send for "no limit on when the state was set": beyond the year 9999.
_NO_UPDATE_FILTER_MS = 253_402_300_800_000


def _ok(**body: Any) -> Reply:
    return Reply(OK, "OK", {key.replace("_", "-"): value for key, value in body.items()})


def _get(body: Body, key: str, kind: type[Any]) -> Any:
    """A field of the right type. Raises ServiceBusError."""
    value = body.get(key)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise argument_error(f"The request's '{key}' is missing or of the wrong type.")
    return value


def _list(body: Body, key: str, kind: type[Any]) -> list[Any]:
    values = _get(body, key, list)
    if not values or not all(isinstance(value, kind) for value in values):
        raise argument_error(f"The request's '{key}' is empty or has an element of the wrong type.")
    return list(values)


def _session(engine: Namespace, path: str, body: Body, owner: object) -> tuple[Queue, Session]:
    queue = engine.queue(path)
    return queue, queue.held_session(_get(body, "session-id", str), owner)


def _held_session(queue: Queue, body: Body, owner: object) -> Session | None:
    """The session of a request about messages: on an entity with sessions the connection must hold it."""
    if queue.sessions is None:
        return None
    return queue.held_session(_get(body, "session-id", str), owner)


def renew_session_lock(engine: Namespace, path: str, body: Body, owner: object) -> Reply:
    """Lock the session for a full duration from now."""
    queue, session = _session(engine, path, body, owner)
    assert queue.sessions is not None
    return _ok(expiration=_timestamp(queue.sessions.renew(session)))


def get_session_state(engine: Namespace, path: str, body: Body, owner: object) -> Reply:
    """What was kept with the session."""
    _, session = _session(engine, path, body, owner)
    return _ok(session_state=session.state)


def set_session_state(engine: Namespace, path: str, body: Body, owner: object) -> Reply:
    """Keep something with the session."""
    queue, session = _session(engine, path, body, owner)
    state = body.get("session-state")
    if not isinstance(state, bytes | None):
        raise argument_error("The request's 'session-state' is neither binary nor null.")
    engine.set_session_state(queue, session, state)
    return _ok()


def renew_lock(engine: Namespace, path: str, body: Body, owner: object) -> Reply:
    """Lock messages for a full duration from now."""
    del owner
    tokens = [token.bytes_le for token in _list(body, "lock-tokens", uuid.UUID)]
    until_s = engine.queue(path).renew_locks(tokens)
    return _ok(expirations=Array([_timestamp(each_s) for each_s in until_s]))


def peek_message(engine: Namespace, path: str, body: Body, owner: object) -> Reply:
    """Look at messages without taking them."""
    del owner
    session_id = body.get("session-id")
    count = min(_get(body, "message-count", int), engine.limits.peek_messages_max)
    if count < 1:
        raise argument_error("The request's 'message-count' must be at least 1.")
    messages = engine.queue(path).peek(
        _get(body, "from-sequence-number", int), count, session_id if isinstance(session_id, str) else None
    )
    encoded = _within(messages, engine.limits.reply_bytes_max)
    if not encoded:
        return Reply(NO_CONTENT, "No messages available to peek.", {})
    return _ok(messages=[{"message": each} for each in encoded])


def _within(messages: Sequence[Message], bytes_max: int) -> list[bytes]:
    """The messages encoded, as many from the first on as a reply may hold, but at least one."""
    encoded: list[bytes] = []
    size = 0
    for message in messages:
        each = encode_for_receiver(message, None)
        size += len(each)
        if encoded and size > bytes_max:
            break
        encoded.append(each)
    return encoded


def receive_by_sequence_number(engine: Namespace, path: str, body: Body, owner: object) -> Reply:
    """Take deferred messages."""
    queue = engine.queue(path)
    session = _held_session(queue, body, owner)
    deletes = _get(body, "receiver-settle-mode", int) == 0
    deliveries = queue.receive_deferred(_list(body, "sequence-numbers", int), deletes=deletes, session=session)
    return _ok(
        messages=[
            {
                "lock-token": uuid.UUID(bytes_le=delivery.token),
                "message": encode_for_receiver(delivery.message, delivery.locked_until_s),
            }
            for delivery in deliveries
        ]
    )


def update_disposition(engine: Namespace, path: str, body: Body, owner: object) -> Reply:
    """Settle messages by their lock tokens: what clients fall back to when a link is gone."""
    queue = engine.queue(path)
    session = _held_session(queue, body, owner)
    outcome = _outcome(body)
    receiver = None if session is None else session.holder
    tokens = [token.bytes_le for token in _list(body, "lock-tokens", uuid.UUID)]
    queue.settle([queue.find_lock(token, receiver) for token in dict.fromkeys(tokens)], outcome)
    return _ok()


def _outcome(body: Body) -> Outcome:
    given = body.get("properties-to-modify")
    properties = {key: value for key, value in given.items() if isinstance(key, str)} if isinstance(given, dict) else {}
    match body.get("disposition-status"):
        case "completed":
            return Complete()
        case "abandoned":
            return Abandon(properties)
        case "defered":
            return Defer(properties)
        case "suspended":
            reason, description = body.get("deadletter-reason"), body.get("deadletter-description")
            return DeadLetter(
                reason if isinstance(reason, str) else None,
                description if isinstance(description, str) else None,
                properties,
            )
        case other:
            raise argument_error(f"The disposition status '{other}' is not known.")


def schedule_message(engine: Namespace, path: str, body: Body, owner: object) -> Reply:
    """Keep messages until their time."""
    del owner
    messages = [read_message(_get(each, "message", bytes)) for each in _list(body, "messages", dict)]
    return _ok(sequence_numbers=Array(engine.schedule(path, messages)))


def cancel_scheduled_message(engine: Namespace, path: str, body: Body, owner: object) -> Reply:
    """Take scheduled messages back."""
    del owner
    engine.cancel_scheduled(path, _list(body, "sequence-numbers", int))
    return _ok()


def get_message_sessions(engine: Namespace, path: str, body: Body, owner: object) -> Reply:
    """List session ids, by pages."""
    del owner
    updated = body.get("last-updated-time")
    filtered = isinstance(updated, int) and updated < _NO_UPDATE_FILTER_MS
    found = engine.session_ids(path, updated_after_s=updated / MS if isinstance(updated, int) and filtered else None)
    skip, top = _get(body, "skip", int), _get(body, "top", int)
    page = found[max(skip, 0) : max(skip, 0) + max(top, 0)]
    if not page:
        return Reply(NO_CONTENT, "No sessions.", {})
    return _ok(skip=skip, sessions_ids=Array(page))


def _timestamp(when_s: float) -> Timestamp:
    return Timestamp(int(when_s * MS))


OPERATIONS: dict[str, Operation] = {
    "renew-session-lock": renew_session_lock,
    "get-session-state": get_session_state,
    "set-session-state": set_session_state,
    "renew-lock": renew_lock,
    "peek-message": peek_message,
    "receive-by-sequence-number": receive_by_sequence_number,
    "update-disposition": update_disposition,
    "schedule-message": schedule_message,
    "cancel-scheduled-message": cancel_scheduled_message,
    "get-message-sessions": get_message_sessions,
}
