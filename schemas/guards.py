"""Whether a well-formed command makes sense. Each finding says the field, what is wrong and what to change."""

import hashlib
import math
import re
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import Any, Final

import msgspec

from schemas import ids
from schemas.claims import claim_problems
from schemas.commands import AppendCommand, ClaimedCommand, Command, NewEvent
from schemas.problems import Problem, is_encodable, shortened
from schemas.replies import Rejected, RejectionCode, rejected
from schemas.types import EMPTY, NUMBER_MAX, POSITION_MAX

PROBLEMS_MAX: Final = 10
"""A rejection lists no more."""

_NO_TIME: Final = "is not an RFC 3339 date-time with offset"
_TIME_EXAMPLE: Final = "write 2026-01-31T12:00:00Z"
_ID_KEPT_LENGTH_MAX: Final = 128
_ID_HASH_BYTES: Final = 16
RFC_3339: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)


class Guards(msgspec.Struct, frozen=True, kw_only=True):
    """What is checked beyond the shape of a command.

    `event_ids` rejects empty event ids and ids repeated within a command. `events_max` bounds one command,
    `metadata_bytes_max` and `metadata_depth_max` the size (as JSON) and the nesting of one event's metadata.
    """

    event_ids: bool = True
    events_max: int = 100_000
    metadata_bytes_max: int = 256_000
    metadata_depth_max: int = 16


def check_command(command: Command, guards: Guards) -> Rejected | None:
    """Tell why `command` can never take effect, or None when nothing speaks against it.

    At most ten problems of the first kind found are listed. Of a claim the form is checked; the events behind it are
    for an `EventChecker`, once they are read.
    """
    for code, problems in _checks(command, guards):
        if found := tuple(islice(problems, PROBLEMS_MAX)):
            return rejected(command.command_id, code, *found)
    return None


def _checks(command: Command, guards: Guards) -> Iterator[tuple[RejectionCode, Iterator[Problem]]]:
    """The checks in the order in which they are told, each lazily."""
    yield RejectionCode.INVALID_COMMAND_ID, _command_id(command)
    yield RejectionCode.INVALID_BROOK_KEY, iter(command.brook.problems())
    yield RejectionCode.INVALID_EXPECTED, _expected(command)
    if not isinstance(command, AppendCommand):
        yield RejectionCode.INVALID_CLAIM, _claim(command)
        return
    yield RejectionCode.NO_EVENTS, _no_events(command)
    yield RejectionCode.TOO_MANY_EVENTS, _too_many(command, guards)
    yield RejectionCode.INVALID_EVENT, _events(command, guards)


def _command_id(command: Command) -> Iterator[Problem]:
    for field, text in (
        ("commandId", command.command_id),
        ("correlationId", command.correlation_id),
        ("causationId", command.causation_id),
    ):
        if text is None:
            continue
        if field == "commandId" and not text:
            yield Problem(field, "is empty", "give each command an id of its own, say a UUID")
        elif (found := ids.problem_and_remedy(text)) is not None:
            yield Problem(field, *found)


def _expected(command: Command) -> Iterator[Problem]:
    expected = command.expected
    if isinstance(expected, int) and not EMPTY <= expected <= POSITION_MAX:
        yield Problem(
            "expected", f"is {shortened(str(expected))}", f"give a position between {EMPTY} (empty) and {POSITION_MAX}"
        )


def _claim(command: ClaimedCommand) -> Iterator[Problem]:
    yield from claim_problems(command.claim)
    expires_at = command.claim.expires_at
    if expires_at is not None and not _is_time(expires_at):
        yield Problem("claim.expiresAt", _NO_TIME, _TIME_EXAMPLE)


def _no_events(command: AppendCommand) -> Iterator[Problem]:
    if not command.events:
        yield Problem("events", "is empty", "send at least one event")


def _too_many(command: AppendCommand, guards: Guards) -> Iterator[Problem]:
    if len(command.events) > guards.events_max:
        limit = f"send at most {guards.events_max:,} in a command"
        yield Problem("events", f"holds {len(command.events):,} events", limit)


def _events(command: AppendCommand, guards: Guards) -> Iterator[Problem]:
    checker = EventChecker(guards)
    for index, event in enumerate(command.events):
        yield from checker.problems(index, event)


class EventChecker:
    """Checks the events of one command, one after the other: for those that are never all held at once."""

    def __init__(self, guards: Guards) -> None:
        self._guards = guards
        self._seen: dict[str | bytes, int] = {}

    def problems(self, index: int, event: NewEvent) -> Iterator[Problem]:
        """What is wrong with the next event, which is `events[index]`."""
        field = f"events[{index}]"
        if self._guards.event_ids:
            if not event.event_id:
                yield Problem(f"{field}.eventId", "is empty", "give each event an id of its own")
            elif (first := self._seen.setdefault(_as_seen(event.event_id), index)) != index:
                yield Problem(f"{field}.eventId", f"repeats that of events[{first}]", "give each event its own id")
        if not event.event_type:
            yield Problem(f"{field}.eventType", "is empty", "name the kind of event")
        yield from _texts(field, event)
        if event.time is not None and not _is_time(event.time):
            yield Problem(f"{field}.time", _NO_TIME, _TIME_EXAMPLE)
        if event.metadata:
            yield from _metadata(f"{field}.metadata", event.metadata, self._guards)


def _as_seen(event_id: str) -> str | bytes:
    """What is kept of an event id to know it again: of a long one its hash, for there may be very many."""
    if len(event_id) <= _ID_KEPT_LENGTH_MAX:
        return event_id
    return hashlib.blake2b(event_id.encode("utf-8", "surrogatepass"), digest_size=_ID_HASH_BYTES).digest()


def metadata_too_large(index: int, guards: Guards) -> Problem:
    """What is told of metadata that nobody looks into, because it is sure to be too large."""
    return _too_large(f"events[{index}].metadata", f"over {guards.metadata_bytes_max:,}", guards)


def _too_large(field: str, size: str, guards: Guards) -> Problem:
    remedy = f"send at most {guards.metadata_bytes_max:,} bytes of it with an event, the rest as data"
    return Problem(field, f"takes {size} bytes as JSON", remedy)


def _metadata(field: str, metadata: dict[str, Any], guards: Guards) -> Iterator[Problem]:
    """What keeps metadata from being stored. Its size is asked only where it can be written at all."""
    values_max = guards.metadata_bytes_max // 2  # each takes at least two bytes as JSON
    if count_values(metadata, values_max) > values_max:
        yield _too_large(field, f"over {guards.metadata_bytes_max:,}", guards)
        return
    is_json = True
    for problem in _json_value(field, metadata, guards.metadata_depth_max):
        is_json = False
        yield problem
    if is_json and (size_bytes := len(msgspec.json.encode(metadata))) > guards.metadata_bytes_max:
        yield _too_large(field, f"{size_bytes:,}", guards)


def count_values(metadata: dict[str, Any], values_max: int) -> int:
    """How many values there are in it, at any depth. Looks no further once there are more than `values_max`."""
    values = 0
    waiting: list[Any] = [metadata]
    while waiting:
        container = waiting.pop()
        values += len(container)
        if values > values_max:
            break
        inner = container.values() if isinstance(container, dict) else container
        waiting += [each for each in inner if isinstance(each, dict | list)]
    return values


def _texts(field: str, event: NewEvent) -> Iterator[Problem]:
    for name, text in (
        ("eventId", event.event_id),
        ("eventType", event.event_type),
        ("source", event.source),
        ("dataContentType", event.data_content_type),
    ):
        if text is not None and not is_encodable(text):
            yield Problem(f"{field}.{name}", "contains a lone surrogate", "send well-formed Unicode")


def _is_time(text: str) -> bool:
    """Accept RFC 3339 with any number of fraction digits (.NET writes seven) and a day that exists."""
    if RFC_3339.fullmatch(text) is None:
        return False
    try:
        datetime.fromisoformat(text[:19])
    except ValueError:
        return False
    return True


def _json_value(field: str, value: Any, depth: int) -> Iterator[Problem]:
    """Find what JSON documents in Cosmos DB cannot hold exactly; MessagePack can carry more than that."""
    if isinstance(value, dict | list):
        yield from _json_container(field, value, depth)
    elif isinstance(value, str):
        if not is_encodable(value):
            yield Problem(field, "contains a lone surrogate", "send well-formed Unicode")
    elif isinstance(value, int):  # a bool is one, and never too large
        if abs(value) > NUMBER_MAX:
            yield Problem(field, "is beyond 2^53 - 1 and would lose digits", "send it as a string")
    elif isinstance(value, float):
        if not math.isfinite(value):
            yield Problem(field, "is not finite", "send a finite number or null")
    elif value is not None:
        yield Problem(field, f"is a {type(value).__name__}", "send JSON values only")


def _is_plain(value: object) -> bool:
    """Whether nothing can be wrong with a value: told of most, several times faster than by looking closely."""
    if isinstance(value, int):  # a bool is one
        return -NUMBER_MAX <= value <= NUMBER_MAX
    return value is None or (isinstance(value, str) and value.isascii())


def _json_container(field: str, value: dict[Any, Any] | list[Any], depth: int) -> Iterator[Problem]:
    if depth <= 0:
        yield Problem(shortened(field), "is nested too deeply", "flatten the metadata")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            if not _is_plain(inner):
                yield from _json_value(f"{field}[{index}]", inner, depth - 1)
    else:
        for key, inner in value.items():
            if isinstance(key, str) and is_encodable(key):
                if not _is_plain(inner):
                    yield from _json_value(f"{field}.{shortened(key)}", inner, depth - 1)
            else:
                yield Problem(field, "has a key that is not well-formed text", "use strings as keys")
