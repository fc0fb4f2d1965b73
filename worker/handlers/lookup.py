"""Commands that were decided before and that the head's windows may have outlived: they are looked up by their id."""

from collections.abc import Mapping, Sequence
from enum import StrEnum

from schemas.commands import NewEvent
from schemas.events import RecordedEvent
from schemas.types import CommandId, Position
from worker.protocol.model import StoredHead
from worker.protocol.plan import command_id_reused
from worker.protocol.prepare import Identity, PreparedCommand
from worker.protocol.verdicts import AlreadyAppended, Refused
from worker.storage.base import PAGE_EVENTS_DEFAULT, BrookStore


class Lookup(StrEnum):
    """Which commands are looked up among the events when the windows no longer cover them.

    `ALWAYS`: every command, so that one that its producer sends again long after takes no second effect. Costs a
    query a group in brooks with more commands than a window holds. `REDELIVERED`: only those that the broker delivers
    again or an operator resubmits, and all of a group whose write had an unknown outcome; for producers that never send
    a command again.
    """

    REDELIVERED = "redelivered"
    ALWAYS = "always"

    async def decided_before(
        self,
        store: BrookStore,
        stored: StoredHead,
        commands: Sequence[PreparedCommand],
        doubtful: frozenset[CommandId],
    ) -> Mapping[Identity, AlreadyAppended | Refused]:
        """The verdicts on those of `doubtful` that are among the events, though not in the windows."""
        head = stored.head
        reaches_back = head.position < 0 or bool(head.recent and head.recent[0].first == 0)
        if reaches_back or not doubtful:
            return {}
        in_window = {entry.command_id for entry in head.recent} | {entry.command_id for entry in head.conflicts}
        missing = doubtful - in_window
        if not missing:
            return {}
        found = await store.find_commands(stored.key, missing, head.position)
        return {
            command.identity: await _verdict(store, stored, command, *found[command.command_id])
            for command in commands
            if command.command_id in found
        }


async def _verdict(
    store: BrookStore, stored: StoredHead, command: PreparedCommand, first: Position, last: Position
) -> AlreadyAppended | Refused:
    """The first verdict again, unless the events are those of another command under the same id.

    Where there are no events to compare, their number has to do.
    """
    if last - first + 1 != len(command):
        return command_id_reused(command.command_id)
    if command.withheld is not None:
        return AlreadyAppended(first, last)
    index = 0
    # No more than is compared: the events behind them may be many and large.
    page_events = min(len(command), PAGE_EVENTS_DEFAULT)
    async for event in store.read_forward(stored.key, first, page_events=page_events):
        if not _is_same(event, command.events[index]):
            return command_id_reused(command.command_id)
        index += 1
        if index == len(command):
            break
    return AlreadyAppended(first, last)


def _is_same(recorded: RecordedEvent, event: NewEvent) -> bool:
    """Compare what the producer sent; a time that it left open was filled in."""
    return (
        recorded.event_id == event.event_id
        and recorded.event_type == event.event_type
        and recorded.data == event.data
        and recorded.data_content_type == event.data_content_type
        and recorded.source == event.source
        and recorded.metadata == event.metadata
        and event.time in (None, recorded.time)
    )
