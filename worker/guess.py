"""Guessing that the next one is like the last ones, where a wrong guess costs a little time and nothing else."""

from typing import Final

_SURE_AFTER: Final = 2


class Guess:
    """Expects something once it was so twice in a row: what is new comes in rows, and so does what is known."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def __bool__(self) -> bool:
        """Whether to expect it of the next one."""
        return self._in_a_row >= _SURE_AFTER

    def note(self, *, was_so: bool) -> None:
        """Learn how it was this time."""
        self._in_a_row = min(self._in_a_row + 1, _SURE_AFTER) if was_so else 0
