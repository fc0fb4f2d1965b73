"""The commands of each scenario, the same at every run, and what must come of them."""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from schemas.commands import AppendCommand, Expected, NewEvent
from schemas.keys import BrookKey
from schemas.replies import Appended, ConcurrencyConflict, Reply
from schemas.types import EMPTY, START, CommandId, Position

_SMALL_DATA_BYTES: Final = 610
"""With its envelope and in base64 this makes a command of 1 KB."""

_LARGE_EVENTS: Final = 400
_LARGE_DATA_BYTES: Final = 96
_MIX_LARGE: Final = 0.10
_MIX_CONFLICTS: Final = 0.05
_MIX_DUPLICATES: Final = 0.05


def hot(commands: int, prefix: str) -> list[AppendCommand]:
    """One brook, one small event a command."""
    return [_small(f"{prefix}-{index}", BrookKey("hot", prefix), index) for index in range(commands)]


def many(brooks: int, commands: int, prefix: str) -> list[AppendCommand]:
    """`commands` for each of `brooks`, in turn, one small event each."""
    return [
        _small(f"{prefix}-{brook}-{index}", BrookKey("many", f"{prefix}-{brook}"), index)
        for index in range(commands)
        for brook in range(brooks)
    ]


def mixed(brooks: int, commands: int, prefix: str) -> list[AppendCommand]:
    """As `many`, with large commands, conflicts, and commands that are sent a second time."""
    chance = random.Random(prefix.rpartition("-")[0])
    made: list[AppendCommand] = []
    for command in many(brooks, commands, prefix):
        drawn = chance.random()
        if drawn < _MIX_LARGE:
            made.append(msgspec.structs.replace(command, events=_events(command.command_id, _LARGE_EVENTS)))
        elif drawn < _MIX_LARGE + _MIX_CONFLICTS:
            made.append(msgspec.structs.replace(command, expected=1_000_000))
        elif drawn < _MIX_LARGE + _MIX_CONFLICTS + _MIX_DUPLICATES:
            made += [command, command]
        else:
            made.append(command)
    return made


class BrookOutcome(msgspec.Struct):
    """What must come of the commands of one brook: the reply to each delivery, and the events."""

    replies: list[tuple[CommandId, Reply]] = []
    events: list[tuple[CommandId, NewEvent]] = []
    """In order of position; how many there are after each delivery is in `lengths`."""

    lengths: list[int] = []


def outcomes(commands: Sequence[AppendCommand]) -> dict[BrookKey, BrookOutcome]:
    """Work out what must come of `commands`, sent in this order to empty brooks."""
    brooks: dict[BrookKey, BrookOutcome] = defaultdict(BrookOutcome)
    decided: dict[CommandId, Reply] = {}
    for command in commands:
        brook = brooks[command.brook]
        if command.command_id not in decided:
            decided[command.command_id] = _decide(command, brook)
        brook.replies.append((command.command_id, decided[command.command_id]))
        brook.lengths.append(len(brook.events))
    return dict(brooks)


def _decide(command: AppendCommand, brook: BrookOutcome) -> Reply:
    head = Position(len(brook.events) - 1)
    if not _holds(command.expected, head):
        return ConcurrencyConflict(command_id=command.command_id, expected=command.expected, actual=head)
    brook.events += [(command.command_id, event) for event in command.events]
    first, last = Position(head + 1), Position(head + len(command.events))
    return Appended(command_id=command.command_id, first_position=first, last_position=last)


def _holds(expected: Expected, head: Position) -> bool:
    match expected:
        case "any":
            return True
        case "empty":
            return head == EMPTY
        case "exists":
            return head >= START
        case _:
            return head == expected


def _small(command_id: str, brook: BrookKey, index: int) -> AppendCommand:
    events = _events(f"{command_id}-{index}", 1, _SMALL_DATA_BYTES)
    return AppendCommand(command_id=CommandId(command_id), brook=brook, expected="any", events=events)


def _events(seed: str, count: int, data_bytes: int = _LARGE_DATA_BYTES) -> tuple[NewEvent, ...]:
    return tuple(_event(f"{seed}-{index}", data_bytes) for index in range(count))


def _event(event_id: str, data_bytes: int) -> NewEvent:
    return NewEvent(event_id=event_id, event_type="Measured", data=random.Random(event_id).randbytes(data_bytes))


def shares(brook: BrookOutcome, deliveries: int) -> Iterator[tuple[CommandId, NewEvent]]:
    """The events that must stand once the first `deliveries` of a brook have been worked on."""
    return iter(brook.events[: brook.lengths[deliveries - 1]] if deliveries else [])
