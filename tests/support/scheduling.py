"""Which process of pytest-xdist runs which test: those that share a set-up stay together.

xdist's own groups (`--dist loadgroup`) do not work with pytest 9.2, and whole files (`--dist loadfile`) would leave
processes idle at the end.
"""

from functools import cache
from pathlib import Path
from typing import Final

from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]  # xdist comes without types

ROOT: Final = Path(__file__).parents[2]
STACK: Final = "tests/integration/stack/"
_SHARING: Final = ('scope="module"', 'scope="class"')


class TogetherScheduling(LoadScopeScheduling):  # type: ignore[misc]  # as above
    """Gives out the tests of a stack as one unit, those of a file with fixtures for all of it as one, others alone."""

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)


def unit_of(nodeid: str) -> str:
    """What a test must stay together with."""
    if nodeid.startswith(STACK):
        return STACK
    file = nodeid.partition("::")[0]
    return file if _shares_set_up(file) else nodeid


@cache
def _shares_set_up(file: str) -> bool:
    path = ROOT / file
    if not path.is_file():  # a test from elsewhere
        return False
    text = path.read_text(encoding="utf-8")
    return any(words in text for words in _SHARING)
