"""Whether a session that a slot gets was waiting for one: both the slots and the signal to scale by go by that."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

AT_ONCE_S: Final = 1.0
"""A session that a slot gets so soon after it became free was waiting: opening one takes up to half a second."""

_SAME_AGAIN_S: Final = 5.0
"""A session that comes back to us so soon after we gave it back was not waiting for a slot."""

_REMEMBERED_MAX: Final = 10_000


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
        if len(self._at_s) > _REMEMBERED_MAX:
            self._at_s.popitem(last=False)

    def took(self, session_id: str) -> bool:
        """Note that a session was accepted, and tell whether it was given back just before."""
        at_s = self._at_s.pop(session_id, None)
        return at_s is not None and self._clock() - at_s <= _SAME_AGAIN_S
