"""Whether what producers and readers of one brook were told could have happened one thing at a time.

Each command takes effect at one point between its first sending and its first reply; each reading sees the brook at
one point between its begin and its end. A command without a reply may have taken effect at any point since it was
sent, or not at all. The search is that of Wing and Gong (1993), with visited configurations remembered (Lowe 2017).
"""

from collections.abc import Iterator, Sequence

import msgspec

from schemas.commands import Expected
from schemas.types import CommandId, Position
from worker.protocol.plan import is_expected


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """A command: when it was sent, when it was first replied to (None: never), and what the reply said.

    `first` is where it was appended; `actual` is the head that it met instead of the expected one.
    """

    command_id: CommandId
    expected: Expected
    events: int
    begin: int
    end: int | None = None
    first: int | None = None
    actual: int | None = None


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A reading of the whole brook: the commands of its events, one entry for each event."""

    begin: int
    end: int
    events: tuple[CommandId, ...]


Operation = Sent | Seen


Configuration = tuple[frozenset[int], int]
"""The operations that have not taken effect yet, and how many events there are."""


def order_of(history: Sequence[Operation], final: tuple[CommandId, ...]) -> list[int] | None:
    """An order in which the operations can have taken effect one by one, by index; None where there is none.

    `final` is the brook in the end: the command of each event. Commands that may not have taken effect at all are
    in the order only if they did.
    """
    start: Configuration = (frozenset(range(len(history))), 0)
    visited = {start}
    path: list[int] = []
    choices = [_next(history, start, final)]
    if _is_done(history, start, final):
        return path
    while choices:
        for index, configuration in choices[-1]:
            if configuration not in visited:
                visited.add(configuration)
                path.append(index)
                choices.append(_next(history, configuration, final))
                break
        else:
            choices.pop()
            if path:
                path.pop()
            continue
        if _is_done(history, configuration, final):
            return path
    return None


def _is_done(history: Sequence[Operation], configuration: Configuration, final: tuple[CommandId, ...]) -> bool:
    """Whether all that certainly happened has, and the brook is what it was in the end."""
    left, length = configuration
    return length == len(final) and all(history[index].end is None for index in left)


def _next(
    history: Sequence[Operation], configuration: Configuration, final: tuple[CommandId, ...]
) -> Iterator[tuple[int, Configuration]]:
    """Each operation that can be the next: begun before any other that is left ended, and true to what was told.

    One that changes nothing is taken as soon as it can be, and alone: it is in nobody's way and need not wait.
    """
    left, length = configuration
    first_end = min((end for index in left if (end := history[index].end) is not None), default=None)
    begun = [index for index in sorted(left) if first_end is None or history[index].begin <= first_end]
    effects = [(index, after) for index in begun if (after := _effect(history[index], length, final)) is not None]
    unchanging = [(index, after) for index, after in effects if after == length]
    for index, after in unchanging[:1] or effects:
        yield index, (left - {index}, after)


def _effect(operation: Operation, length: int, final: tuple[CommandId, ...]) -> int | None:
    """How many events there are after `operation`; None where it cannot be next. What is there is a part of `final`."""
    head = Position(length - 1)
    match operation:
        case Seen(events=events):
            return length if events == final[:length] else None
        case Sent(actual=int(actual)):
            return length if actual == head and not is_expected(operation.expected, head) else None
        case Sent(command_id=command_id, events=events):
            if operation.first not in (None, length) or not is_expected(operation.expected, head):
                return None
            appended = final[length : length + events] == (command_id,) * events
            return length + events if appended else None
