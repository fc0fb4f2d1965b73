"""What must come of a list of commands, worked out one after the other.

Independent on purpose: it works on the JSON of the examples and imports nothing of the worker or the schemas, so that
a mistake there is not made here again. It is written for the demo's commands, not for all that a producer can send.
"""

import base64
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

Json = dict[str, Any]
BrookName = tuple[str, str]

_EMPTY: Final = -1
_EVENT_FIELDS: Final[tuple[str, ...]] = ("eventId", "eventType", "dataContentType", "source", "time", "metadata")
_COMMAND_FIELDS: Final[tuple[str, ...]] = ("commandId", "correlationId", "causationId")


@dataclass(kw_only=True)
class Expected:
    """The replies to each command id, in the order sent, and the events of each brook, in order."""

    replies: dict[str, list[Json]] = field(default_factory=lambda: defaultdict(list))
    events: dict[BrookName, list[Json]] = field(default_factory=lambda: defaultdict(list))

    @property
    def reply_count(self) -> int:
        """One for each command sent."""
        return sum(map(len, self.replies.values()))

    @property
    def event_count(self) -> int:
        """All events of all brooks."""
        return sum(map(len, self.events.values()))


def expect(commands: Iterable[Json]) -> Expected:
    """Work out what `commands`, sent in this order to empty brooks, must bring about.

    A reply is given as the fields that it must have; of a rejection the code, not the wording.
    """
    expected = Expected()
    decided: dict[str, tuple[Json, Json]] = {}
    for command in commands:
        command_id = command["commandId"]
        events = expected.events[brook_of(command)]
        code = _fault(command)
        earlier = decided.get(command_id)
        if code is None and earlier is not None and earlier[0] != command:
            code = "command-id-reused"
        if code is not None:
            reply = {"outcome": "rejected", "commandId": command_id, "code": code}
        elif earlier is not None:
            reply = earlier[1]
        else:
            reply = _decide(command, events)
            decided[command_id] = (command, reply)
        expected.replies[command_id].append(reply)
    expected.events = {brook: events for brook, events in expected.events.items() if _is_brook(brook)}
    return expected


def brook_of(command: Json) -> BrookName:
    """The brook that a command is for."""
    return command["brook"]["name"], command["brook"]["entityId"]


def _decide(command: Json, events: list[Json]) -> Json:
    """Append if the head is as expected, and say what came of it."""
    head = len(events) - 1
    wanted = command["expected"]
    fits = {"any": True, "empty": head == _EMPTY, "exists": head > _EMPTY}.get(wanted, wanted == head)
    if not fits:
        conflict = {"outcome": "concurrency-conflict", "expected": wanted, "actual": head}
        return {**conflict, "commandId": command["commandId"]}
    events.extend(_event(command, event, head + 1 + index) for index, event in enumerate(command["events"]))
    appended = {"outcome": "appended", "firstPosition": head + 1, "lastPosition": len(events) - 1}
    return {**appended, "commandId": command["commandId"]}


def _event(command: Json, event: Json, position: int) -> Json:
    """The event as it must be read back, without the fields that are not there. Data as bytes."""
    shown = {name: event[name] for name in _EVENT_FIELDS if event.get(name)}
    shown |= {name: command[name] for name in _COMMAND_FIELDS if command.get(name)}
    return {**shown, "position": position, "data": base64.b64decode(event["data"])}


def _fault(command: Json) -> str | None:
    """The code of the rejection of a command that can never take effect."""
    if not _is_brook(brook_of(command)):
        return "invalid-brook-key"
    if isinstance(command["expected"], int) and command["expected"] < _EMPTY:
        return "invalid-expected"
    if not command["events"]:
        return "no-events"
    if len({event["eventId"] for event in command["events"]}) < len(command["events"]):
        return "invalid-event"
    return None


def _is_brook(brook: BrookName) -> bool:
    return all(part and "|" not in part and part.isprintable() for part in brook)


def differing_fields(expected: Mapping[str, Any], actual: Mapping[str, Any]) -> list[str]:
    """The names of the fields in which `actual` is not as expected; those it has in addition do not count."""
    return [name for name, value in expected.items() if name not in actual or actual[name] != value]
