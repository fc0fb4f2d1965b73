"""How long an idle session keeps its slot: it gives way sooner where others wait for one."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from worker.guess import Guess

AT_ONCE_S: Final = 1.0
"""A session that a slot gets so soon after it became free was waiting: opening one takes up to half a second."""

_SAME_AGAIN_S: Final = 5.0
"""A session that comes back to us so soon after we gave it back was not waiting for a slot."""

_GIVEN_BACK_MAX: Final = 10_000
_AVERAGE_WEIGHT: Final = 0.2


class GivenBack:
    """Remembers which sessions this worker gave back of late: that these come again shows nobody waiting.

    `clock` is in seconds and only goes forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at_s: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        """Count those that are remembered."""
        return len(self._at_s)

    def note(self, session_id: str) -> None:
        """Note that a session was given back."""
        self._at_s[session_id] = self._clock()
        self._at_s.move_to_end(session_id)
        if len(self._at_s) > _GIVEN_BACK_MAX:
            self._at_s.popitem(last=False)

    def took(self, session_id: str) -> bool:
        """Note that a session was accepted, and tell whether it was given back just before."""
        at_s = self._at_s.pop(session_id, None)
        return at_s is not None and self._clock() - at_s <= _SAME_AGAIN_S


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
