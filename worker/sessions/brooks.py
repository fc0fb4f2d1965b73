"""The brooks of one session, as they last stood."""

from collections import OrderedDict

from schemas.keys import BrookKey
from worker.handlers.brook import BrookState


class Brooks:
    """Remembers the state of up to `size_max` brooks, those used last; one that is forgotten is loaded again."""

    def __init__(self, size_max: int) -> None:
        self._size_max = size_max
        self._states: OrderedDict[BrookKey, BrookState] = OrderedDict()

    def state_of(self, key: BrookKey) -> BrookState:
        """The state of a brook, new if it is not remembered."""
        state = self._states.pop(key, None) or BrookState(key)
        self._states[key] = state
        if len(self._states) > self._size_max:
            self._states.popitem(last=False)
        return state
