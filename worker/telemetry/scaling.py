"""How many sessions at once there is work for: a number that a scaler can go by.

The length of the queue says nothing of it: one hot session has one worker however many commands wait, and scaling out
for it is in vain. What counts is how many slots are busy, and whether a slot that becomes free gets a session at once.
"""

import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Final

import msgspec

from worker.given_back import AT_ONCE_S, GivenBack
from worker.telemetry.instruments import SLOTS, SLOTS_WANTED

WINDOW_S: Final = 60.0
"""What the signal looks back on. Shorter than a scaler's stabilisation, longer than its polling."""

_EVENTS_MAX: Final = 10_000


class Scaling(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The signal at one moment, over the last `window_s` seconds.

    A turn is a slot that became free when all were busy; in `turns_at_once` of them, a session was waiting for it.
    `wanted` is the number to scale by, in slots: on average so many were busy, and, as far as turns were at once, up to
    as many again, but no more than there were such turns. With one hot session it is 1, whatever waits in it. `held`
    says that it is the one from before an outage: while the breaker is open, idle slots are no sign of little work.
    """

    slots: int
    busy: int
    busy_average: float
    accepted: int
    turns: int
    turns_at_once: int
    timed_out: int
    failed: int
    wanted: float
    held: bool
    window_s: float


class ScalingSignal:
    """Follows one worker's slots. `clock` is in seconds and only goes forward."""

    def __init__(
        self, slots: int, *, is_broken: Callable[[], bool] = lambda: False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._slots = slots
        self._is_broken = is_broken
        self._clock = clock
        self._busy = 0
        # Each change of the number of busy slots, with the integral of it up to then.
        self._integral = 0.0
        self._changed_at_s = self._started_at_s = clock()
        self._marks: deque[tuple[float, float, int]] = deque([(self._started_at_s, 0.0, 0)])
        self._events: deque[tuple[float, str]] = deque(maxlen=_EVENTS_MAX)
        self._freed: deque[float] = deque(maxlen=slots)
        self._given_back = GivenBack(clock)
        self._wanted = 0.0
        SLOTS.set(slots)

    def accepted(self, session_id: str) -> None:
        """Note that a slot got a session."""
        now_s = self._clock()
        came_again = self._given_back.took(session_id)
        self._note_busy(now_s, 1)
        self._events.append((now_s, "accepted"))
        if self._freed and now_s - self._freed.popleft() < AT_ONCE_S and not came_again:
            self._events.append((now_s, "turn-at-once"))

    def given_back(self, session_id: str) -> None:
        """Note that a slot gave its session back."""
        now_s = self._clock()
        if self._busy >= self._slots:
            self._freed.append(now_s)
            self._events.append((now_s, "turn"))
        self._note_busy(now_s, -1)
        self._given_back.note(session_id)

    def accept_timed_out(self) -> None:
        """Note that no session had anything to do for a slot that waited."""
        self._events.append((self._clock(), "timed-out"))

    def accept_failed(self) -> None:
        """Note that the broker did not let a slot wait."""
        self._events.append((self._clock(), "failed"))

    def read(self) -> Scaling:
        """The signal now."""
        now_s = self._clock()
        since_s = now_s - WINDOW_S
        while self._events and self._events[0][0] <= since_s:
            self._events.popleft()
        counts = Counter(kind for _, kind in self._events)
        turns, at_once = counts["turn"], counts["turn-at-once"]
        average = self._average(now_s, since_s)
        held = self._is_broken()
        if not held:
            # Each turn at once shows one session that waited: a single one must not stand for all slots.
            self._wanted = average + min(at_once, self._slots * min(1.0, at_once / max(1, turns)))
        SLOTS_WANTED.set(round(self._wanted, 3))
        return Scaling(
            slots=self._slots,
            busy=self._busy,
            busy_average=round(average, 3),
            accepted=counts["accepted"],
            turns=turns,
            turns_at_once=at_once,
            timed_out=counts["timed-out"],
            failed=counts["failed"],
            wanted=round(self._wanted, 3),
            held=held,
            window_s=WINDOW_S,
        )

    def _note_busy(self, now_s: float, more: int) -> None:
        self._integral += self._busy * (now_s - self._changed_at_s)
        self._changed_at_s = now_s
        self._busy += more
        self._marks.append((now_s, self._integral, self._busy))
        while len(self._marks) > 1 and (self._marks[1][0] <= now_s - WINDOW_S or len(self._marks) > _EVENTS_MAX):
            self._marks.popleft()

    def _average(self, now_s: float, since_s: float) -> float:
        """Busy slots on average since then, or since the start or as far back as is remembered."""
        while len(self._marks) > 1 and self._marks[1][0] <= since_s:
            self._marks.popleft()
        marked_s, integral, busy = self._marks[0]
        since_s = max(since_s, marked_s)
        before = integral + busy * (since_s - marked_s)
        total = self._integral + self._busy * (now_s - self._changed_at_s)
        return (total - before) / (now_s - since_s) if now_s > since_s else float(self._busy)
