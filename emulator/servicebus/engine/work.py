"""One mutation: the rows it writes and what it then does to memory, in that order."""

import os
import struct
from collections.abc import Callable
from typing import Protocol

from emulator.clock import Clock
from emulator.journal import Change, Journal, JournalError
from emulator.servicebus.engine.timers import Timed, Timers
from emulator.servicebus.limits import Limits

RETRY_S = 1.0
"""When what could not be written is tried again."""


class Dispatching(Timed, Protocol):
    """What hands out messages when something has changed in it, and again when its time has come."""

    def pump(self) -> None:
        """Hand out what can be handed out."""
        ...


def _nobody() -> None:
    """Nobody drives the engine but its caller."""


class Context:
    """What every part of the engine shares."""

    def __init__(self, *, clock: Clock, journal: Journal, limits: Limits) -> None:
        self.clock = clock
        self.journal = journal
        self.limits = limits
        self.timers = Timers()
        self.changed: Callable[[], None] = _nobody
        """Called after every change, so that whoever drives the engine notices those that others cause."""
        self._token_prefix = os.urandom(8)
        self._tokens = 0

    def new_token(self) -> bytes:
        """A lock token that no other lock has: 16 bytes, unique over restarts."""
        self._tokens += 1
        return self._token_prefix + struct.pack(">Q", self._tokens)


class Work:
    """Collects rows and effects; `commit` writes the rows in one transaction and only then carries the effects out.

    A commit that raises has changed nothing: neither on disk nor in memory.
    """

    __slots__ = ("_context", "_effects", "_touched", "now_s", "rows")

    def __init__(self, context: Context) -> None:
        self._context = context
        self.now_s = context.clock.now_s()
        self.rows: list[Change] = []
        self._effects: list[Callable[[], None]] = []
        self._touched: dict[Dispatching, None] = {}

    def then(self, effect: Callable[[], None]) -> None:
        """Run `effect` once the rows are safe."""
        self._effects.append(effect)

    def touch(self, queue: Dispatching) -> None:
        """Let `queue` hand out messages once all effects are done."""
        self._touched[queue] = None

    def commit(self) -> None:
        """Write, then apply, then dispatch. What cannot be dispatched for want of room on the disk is so later."""
        if self.rows:
            self._context.journal.commit(self.rows)
        for effect in self._effects:
            effect()
        for queue in self._touched:
            try:
                queue.pump()
            except JournalError:
                self._context.timers.set(queue, self._context.clock.now_s() + RETRY_S)
        self._context.changed()
