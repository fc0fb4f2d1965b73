"""What the worker tells about itself: one structured line and one count for each thing worth knowing."""

from collections import Counter
from typing import Any, Final

import structlog

log: Final = structlog.get_logger()


class Counts:
    """Counts by name and label. One process, one event loop."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(self, name: str, label: str = "", amount: int = 1) -> None:
        """Count `amount` more of `name`, told apart by `label`."""
        self._counts[name, label] += amount

    def get(self, name: str, label: str = "") -> int:
        """How many there were."""
        return self._counts[name, label]

    def all(self) -> dict[str, dict[str, int]]:
        """Every count by name and label."""
        found: dict[str, dict[str, int]] = {}
        for (name, label), count in sorted(self._counts.items()):
            found.setdefault(name, {})[label] = count
        return found


counts: Final = Counts()
"""The process's counts."""


def decided(event: str, label: str, **fields: Any) -> None:
    """Tell of one decision: a line with its facts and a count by its label."""
    counts.add(event, label)
    log.info(event, decision=label, **fields)
