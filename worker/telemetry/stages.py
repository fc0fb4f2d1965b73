"""What the sessions' stages are at, so that one that hangs shows."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

import msgspec

from worker.telemetry.instruments import STAGE_DURATION


class Stuck(msgspec.Struct, frozen=True, kw_only=True):
    """A stage that has not got on for `idle_s`. Which session it is of, the log tells: here nothing names a brook."""

    stage: str
    idle_s: float


class _Run:
    """One stage at work."""

    __slots__ = ("moved_at_s", "name")

    def __init__(self, name: str, now_s: float) -> None:
        self.name = name
        self.moved_at_s = now_s


_current: Final = ContextVar[_Run | None]("stage", default=None)


class Stages:
    """The stages at work in this process. Each request that ends is a step on the way of the stage that made it."""

    def __init__(self) -> None:
        self._running: set[_Run] = set()
        self._waiting: Counter[_Run] = Counter()

    @contextmanager
    def doing(self, name: str) -> Iterator[None]:
        """Be at work on one of the table's stages: its duration is recorded, and that it moves is watched."""
        started_s = time.monotonic()
        run = _Run(name, started_s)
        self._running.add(run)
        token = _current.set(run)
        try:
            yield
        finally:
            _current.reset(token)
            self._running.discard(run)
            STAGE_DURATION.record(time.monotonic() - started_s, name)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Wait for what other stages hold, however long that is: as long as any of them gets on, so does this one."""
        run = _current.get()
        if run is None:
            yield
            return
        self._waiting[run] += 1
        try:
            yield
        finally:
            self._waiting[run] -= 1
            if not self._waiting[run]:
                del self._waiting[run]
            run.moved_at_s = time.monotonic()

    def moved(self) -> None:
        """Note that the current task's stage got on."""
        if (run := _current.get()) is not None:
            run.moved_at_s = time.monotonic()
            for waiting in self._waiting:
                waiting.moved_at_s = run.moved_at_s

    def stuck(self, longer_than_s: float) -> list[Stuck]:
        """Those that have not got on for so long, the worst first."""
        now_s = time.monotonic()
        found = [Stuck(stage=run.name, idle_s=round(now_s - run.moved_at_s, 1)) for run in self._running]
        return sorted((one for one in found if one.idle_s > longer_than_s), key=lambda one: -one.idle_s)


stages: Final = Stages()
"""The process's."""
