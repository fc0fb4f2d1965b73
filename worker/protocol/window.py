"""The last decisions kept in a head, with their exact encoded size."""

from collections import deque
from typing import Generic, TypeVar

from schemas.types import CommandId, Position
from worker.protocol.documents import encoded_bytes
from worker.protocol.model import RecentCommand, RecentConflict

EntryT = TypeVar("EntryT", RecentCommand, RecentConflict)


class Window(Generic[EntryT]):
    """At most `size_max` entries, oldest first; adding one more drops the oldest.

    What was ever in it stays findable: a plan that drops an entry still has to know the command again when it comes
    later in the same plan, for nobody looks up among the events what the head held when it was loaded.
    """

    def __init__(self, entries: tuple[EntryT, ...], size_max: int) -> None:
        self._size_max = size_max
        self._entries: deque[EntryT] = deque(entries[-size_max:])
        self._by_id: dict[CommandId, EntryT] = {entry.command_id: entry for entry in entries}
        # One encoding for all; single entries are measured only when they come or go.
        self.encoded_bytes = encoded_bytes([_row(entry) for entry in self._entries]) - len("[]")

    def find(self, command_id: CommandId) -> EntryT | None:
        """The entry of that command, if the window holds it or did; the last one, should it stand in there twice."""
        return self._by_id.get(command_id)

    def entries(self) -> tuple[EntryT, ...]:
        """The entries, oldest first."""
        return tuple(self._entries)

    def growth(self, entry: EntryT) -> int:
        """The bytes by which `add(entry)` would change `encoded_bytes`."""
        added = encoded_bytes(_row(entry))
        if len(self._entries) == self._size_max:
            return added - encoded_bytes(_row(self._entries[0]))
        return added + (1 if self._entries else 0)

    def add(self, entry: EntryT) -> bool:
        """Put `entry` last; tells whether the oldest one was dropped for it."""
        self.encoded_bytes += self.growth(entry)
        full = len(self._entries) == self._size_max
        if full:
            self._entries.popleft()
        self._entries.append(entry)
        self._by_id[entry.command_id] = entry
        return full

    def oldest(self) -> EntryT | None:
        """The entry that would be dropped next."""
        return self._entries[0] if self._entries else None

    def drop_oldest(self) -> None:
        """Drop the oldest entry, which there must be."""
        entry = self._entries.popleft()
        self.encoded_bytes -= encoded_bytes(_row(entry)) + (1 if self._entries else 0)


def _row(entry: RecentCommand | RecentConflict) -> list[str | Position]:
    """The entry as it stands in the document."""
    if isinstance(entry, RecentCommand):
        return [entry.command_id, entry.first, entry.last, entry.digest]
    return entry.row()
