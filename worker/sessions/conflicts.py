"""How far a session may go on while a conflict that it decided is not settled."""

from collections import deque
from collections.abc import Sequence

import anyio

from worker.sessions.group import Decided


class UnsettledConflicts:
    """Keeps the head's memory of a conflict until the conflict's command is settled.

    What took effect is found among the events for ever. A conflict stands in the head's window alone, which holds the
    last `remembered_max`: once it is pushed out, its command, if it comes again, is decided anew, and may take effect
    after its producer was told that it did not. So no more is decided after it than the window holds until it can
    not come again.
    """

    def __init__(self, remembered_max: int) -> None:
        self._remembered_max = remembered_max
        # For less it is better to wait: a conflict is settled within milliseconds, and a small group costs a write too.
        self._room_min = max(1, remembered_max // 2)
        self._decided = 0
        self._settled = 0
        self._conflicts: deque[int] = deque()
        self._changed = anyio.Event()

    async def room(self) -> int:
        """Wait until as much may be decided as makes a group, and tell for how many commands."""
        while (room := self._room()) < self._room_min:
            await self._changed.wait()
        return room

    def decided(self, group: Sequence[Decided]) -> None:
        """Note what was decided, in order."""
        self._conflicts.extend(number for number, one in enumerate(group, self._decided) if one.is_conflict)
        self._decided += len(group)

    def settled(self, count: int) -> None:
        """Note that the next `count` of those decided are settled."""
        self._settled += count
        while self._conflicts and self._conflicts[0] < self._settled:
            self._conflicts.popleft()
        self._changed.set()
        self._changed = anyio.Event()

    def _room(self) -> int:
        return self._remembered_max - (self._decided - self._conflicts[0] if self._conflicts else 0)
