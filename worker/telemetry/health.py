"""Whether the worker lives, and whether it is ready: each time with the reasons why not."""

import time
from collections.abc import Callable
from typing import Final

import msgspec

from worker.telemetry.instruments import DRAIN_DURATION, INFO, START_TIME, STATE, VERSION
from worker.telemetry.stages import Stages, stages

STARTING: Final = "starting"
RUNNING: Final = "running"
DRAINING: Final = "draining"


class Reason(msgspec.Struct, frozen=True):
    """One reason: `code` is for programs, `detail` for people."""

    code: str
    detail: str


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """An answer of `/healthz` or `/readyz`."""

    ok: bool
    state: str
    reasons: tuple[Reason, ...]


class Health:
    """How one worker is. `tidy` takes out of a reason what must not be shown."""

    def __init__(
        self,
        *,
        stuck_after_s: float,
        tidy: Callable[[str], str] = str,
        watched: Stages = stages,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stuck_after_s = stuck_after_s
        self._tidy = tidy
        self._watched = watched
        self._clock = clock
        self._trouble: Callable[[], str | None] = lambda: None
        self._drain_began_s: float | None = None
        self._state = STARTING
        START_TIME.set(time.time())
        INFO.set(1, VERSION)
        self._become(STARTING)

    @property
    def is_starting(self) -> bool:
        """Whether the services are still being opened."""
        return self._state == STARTING

    @property
    def is_broken(self) -> bool:
        """Whether what all sessions need is out of order."""
        return self._trouble() is not None

    def running(self, trouble: Callable[[], str | None]) -> None:
        """Everything is open; `trouble` tells what is out of order that all sessions need. Draining goes on."""
        self._trouble = trouble
        if self._state == STARTING:
            self._become(RUNNING)

    def draining(self) -> None:
        """Nothing more is accepted."""
        if self._drain_began_s is None:
            self._drain_began_s = self._clock()
            self._become(DRAINING)

    def readiness(self) -> Status:
        """Whether it takes on commands."""
        reasons = []
        if self._state == STARTING:
            reasons.append(Reason("starting", "the services are being opened"))
        if self._state == DRAINING:
            reasons.append(
                Reason("draining", f"for {self.drained_for_s():.0f} s; the groups in hand are being finished")
            )
        if (trouble := self._trouble()) is not None:
            reasons.append(Reason("breaker-open", self._tidy(trouble)))
        return self._status(reasons)

    def liveness(self) -> Status:
        """Whether it gets on. That it answers at all says that its event loop does."""
        return self._status(
            [
                Reason("stage-stuck", f"{one.stage}: nothing has happened for {one.idle_s:.0f} s")
                for one in self._watched.stuck(self._stuck_after_s)
            ]
        )

    def drained_for_s(self) -> float:
        """How long it has been draining; 0 while it does not."""
        return 0.0 if self._drain_began_s is None else self._clock() - self._drain_began_s

    def update(self) -> None:
        """Bring those metrics up to date that change with time alone."""
        DRAIN_DURATION.set(round(self.drained_for_s(), 3))

    def _become(self, state: str) -> None:
        self._state = state
        for one in STATE.attributes["state"]:
            STATE.set(int(one == state), one)

    def _status(self, reasons: list[Reason]) -> Status:
        return Status(ok=not reasons, state=self._state, reasons=tuple(reasons))
