"""The clock that every engine is given, so that time is an input and a test can move it."""

import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """Wall time as the services see it.

    Guarantee: `now_s` never goes back unless somebody calls `jump_s` with a negative number.
    """

    def now_s(self) -> float:
        """Seconds since the Unix epoch, UTC."""
        ...

    def jump_s(self, seconds: float) -> None:
        """Move the clock by `seconds`, then call every listener once, so that timers are looked at again."""
        ...

    def on_jump(self, listener: Callable[[], None]) -> None:
        """Call `listener` after each jump. Fronts register the wake-up of their timer here."""
        ...


class _JumpingClock:
    """What both clocks share: an offset and those who want to know when it changes."""

    def __init__(self) -> None:
        self._offset_s = 0.0
        self._listeners: list[Callable[[], None]] = []

    def jump_s(self, seconds: float) -> None:
        """Move the clock by `seconds` and tell the listeners."""
        self._offset_s += seconds
        for listener in self._listeners:
            listener()

    def on_jump(self, listener: Callable[[], None]) -> None:
        """Call `listener` after each jump."""
        self._listeners.append(listener)


class SystemClock(_JumpingClock):
    """Runs with the machine's monotonic clock from the wall time at its creation.

    Not the wall clock itself: a correction of the machine's time must not end every lock at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self._origin_s = time.time() - time.monotonic()

    def now_s(self) -> float:
        """Seconds since the Unix epoch, UTC."""
        return self._origin_s + time.monotonic() + self._offset_s


class ManualClock(_JumpingClock):
    """Stands still until it is moved by `jump_s`: for tests of the engines."""

    _START_S = 1_700_000_000.0

    def now_s(self) -> float:
        """Seconds since the Unix epoch, UTC."""
        return self._START_S + self._offset_s
