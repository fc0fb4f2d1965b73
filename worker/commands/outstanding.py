"""Commands that were sent and not answered yet."""

from typing import Final

import anyio

from schemas.types import CommandId

_ANSWERED_MAX: Final = 100_000


class Outstanding:
    """The ids of unanswered commands, and a way to wait until they are few.

    A command that was answered is not waited for again when it is sent once more: queues with duplicate detection
    drop the second message or its reply. The last hundred thousand or so answered ids are remembered for that.
    """

    def __init__(self) -> None:
        self._ids: set[CommandId] = set()
        self._answered: set[CommandId] = set()
        self._changed = anyio.Event()

    def __len__(self) -> int:
        return len(self._ids)

    def ids(self) -> list[CommandId]:
        """The ids in order."""
        return sorted(self._ids)

    def add(self, command_id: CommandId) -> None:
        """Note a command that is about to be sent."""
        if command_id not in self._answered:
            self._ids.add(command_id)

    def settle(self, command_id: CommandId) -> None:
        """Note a reply, or that none will come."""
        self._ids.discard(command_id)
        if len(self._answered) >= _ANSWERED_MAX:
            self._answered.clear()
        self._answered.add(command_id)
        self._changed.set()
        self._changed = anyio.Event()

    async def at_most(self, count: int, *, quiet_s: float) -> bool:
        """Wait until no more than `count` are left; False once no reply has come for `quiet_s`."""
        while len(self._ids) > count:
            changed = self._changed
            with anyio.move_on_after(quiet_s) as scope:
                await changed.wait()
            if scope.cancelled_caught:
                return False
        return True
