"""How long an idle session keeps its slot: it gives way sooner where others wait for one."""

import time
from collections.abc import Callable
from typing import Final

from worker.given_back import AT_ONCE_S, GivenBack
from worker.guess import Guess

_AVERAGE_WEIGHT: Final = 0.2


class IdlePolicy:
    """How long a session without commands is kept, in seconds.

    For `longest_s`, unless all slots are busy and those that became free last got other sessions at once: then others
    wait, and to keep a slot idle for longer than it takes to open a session costs them more than opening this one
    again costs it. How long that takes is learnt from the last ones.
    """

    def __init__(self, longest_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._longest_s = longest_s
        self._given_back = GivenBack(clock)
        self._others_wait = Guess()
        self._open_s: float | None = None

    def accepted(self, session_id: str, after_s: float) -> None:
        """Note that a slot got a session `after_s` seconds after it asked."""
        came_again = self._given_back.took(session_id)
        self._others_wait.note(was_so=after_s < AT_ONCE_S and not came_again)

    def none_came(self) -> None:
        """Note that a slot asked in vain."""
        self._others_wait.note(was_so=False)

    def opened(self, after_s: float) -> None:
        """Note that a session could be worked on, its lease taken, `after_s` seconds after a slot asked."""
        if self._others_wait:  # else the slot waited for somebody to send something
            known_s = after_s if self._open_s is None else self._open_s
            self._open_s = known_s + _AVERAGE_WEIGHT * (min(after_s, self._longest_s) - known_s)

    def given_back(self, session_id: str) -> None:
        """Note that a session was given back."""
        self._given_back.note(session_id)

    def keep_s(self, *, all_busy: bool) -> float:
        """How long a session may be idle now; `all_busy` says that no slot is free."""
        if not (all_busy and self._others_wait) or self._open_s is None:
            return self._longest_s
        return min(self._open_s, self._longest_s)
