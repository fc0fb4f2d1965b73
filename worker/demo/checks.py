"""Compares what came with what was expected. Every difference is one line for a person."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from schemas.events import RecordedEvent
from worker.demo.expectation import BrookName, Expected, Json, differing_fields

_OPTIONAL = ("dataContentType", "source", "metadata", "correlationId", "causationId")


@dataclass(frozen=True)
class GivenReply:
    """A reply as it came: its bytes, and what they say."""

    body: bytes
    content: Json


def check_replies(expected: Expected, received: Mapping[str, Sequence[GivenReply]]) -> Iterator[str]:
    """Yield what is wrong with the replies, given by command id in the order in which they came.

    Each command sent has exactly one reply with the expected content, and those to a command that was sent again have
    the same bytes.
    """
    for command_id, wanted in expected.replies.items():
        given = received.get(command_id, ())
        if len(given) != len(wanted):
            yield f"command {command_id!r}: sent {len(wanted)} times, {len(given)} replies"
            continue
        for reply, actual in zip(wanted, given, strict=True):
            if fields := differing_fields(reply, actual.content):
                yield f"command {command_id!r}: {_shown(fields, reply, actual.content)}"
        if any(len(set(bodies)) > 1 for bodies in _repetitions(wanted, given)):
            yield f"command {command_id!r}: sent again, it got another reply than the first time"
    for command_id in received.keys() - expected.replies.keys():
        yield f"command {command_id!r}: was never sent, but has a reply"


def check_brook(brook: BrookName, expected: Sequence[Json], events: Sequence[RecordedEvent]) -> Iterator[str]:
    """Yield what is wrong with a brook, read from position 0 to its head."""
    name = "|".join(brook)
    positions = [event.position for event in events]
    if positions != list(range(len(events))):
        yield f"brook {name}: positions are not 0 to {len(events) - 1} in order"
    for event_id, count in Counter((event.command_id, event.event_id) for event in events).items():
        if count > 1:
            yield f"brook {name}: event {event_id[1]!r} of command {event_id[0]!r} is there {count} times"
    if len(events) != len(expected):
        yield f"brook {name}: holds {len(events)} events, not {len(expected)}"
    for wanted, event in zip(expected, events, strict=False):
        actual = {**msgspec.to_builtins(event, builtin_types=(bytes,)), "data": event.data}
        unexpected = [field for field in _OPTIONAL if field in actual and field not in wanted]
        if fields := differing_fields(wanted, actual) + unexpected:
            yield f"brook {name}, position {wanted['position']}: {_shown(fields, wanted, actual)}"


def _repetitions(wanted: Sequence[Json], given: Sequence[GivenReply]) -> Iterator[list[bytes]]:
    """The bodies of each set of equal expected replies."""
    for first in {json.dumps(reply, sort_keys=True): reply for reply in wanted}.values():
        yield [actual.body for reply, actual in zip(wanted, given, strict=True) if reply == first]


def _shown(fields: Sequence[str], wanted: Json, actual: Json) -> str:
    return "; ".join(f"{field} is {actual.get(field)!r}, not {wanted.get(field)!r}" for field in fields)
