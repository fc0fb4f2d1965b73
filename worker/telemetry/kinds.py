"""Counters, gauges and histograms as plain numbers: what recording costs on the way of a command.

Recording is a look-up and an addition, a tenth of a microsecond; the OpenTelemetry SDK takes five. `export` gives the
numbers to the SDK whenever somebody collects them. Recorded from one event loop; may be read from another thread, where
a histogram's sum may be one value ahead of its counts.
"""

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Final

OTHER: Final = "other"
"""What a value becomes that an attribute does not list."""

_ZERO_SERIES_MAX: Final = 32
"""Up to so many series are told from the start, as zero: a rate needs a first value to rise from."""

_PROMETHEUS_UNITS: Final = {"s": "_seconds", "By": "_bytes"}
"""Units in braces leave no trace in a Prometheus name."""

Labels = tuple[str, ...]


class Instrument(ABC):
    """One metric. `attributes` lists each attribute's values, so that the number of series is bounded by the table."""

    def __init__(
        self, name: str, *, unit: str, description: str, attributes: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self.name: Final = name
        self.unit: Final = unit
        self.description: Final = description
        self.attributes: Final[Mapping[str, tuple[str, ...]]] = {
            attribute: tuple(values) for attribute, values in (attributes or {}).items()
        }

    @abstractmethod
    def series(self) -> Mapping[Labels, object]:
        """Every series as it stands."""

    @property
    def kind(self) -> str:
        """The kind in words."""
        return type(self).__name__.lower()

    @property
    def prometheus_name(self) -> str:
        """What the Prometheus exporter calls it. Of a histogram, `_bucket`, `_sum` and `_count` come after it."""
        suffix = _PROMETHEUS_UNITS.get(self.unit, "")
        return self.name.replace(".", "_") + suffix + ("_total" if self.kind == "counter" else "")

    @property
    def series_max(self) -> int:
        """No more series than these can come of it."""
        count = 1
        for values in self.attributes.values():
            count *= len({*values, OTHER})
        return count

    def _combinations(self) -> Iterator[Labels]:
        return product(*self.attributes.values())

    def _admitted(self, labels: Labels) -> Labels:
        """The labels, each value that is not listed replaced. Called for a series that is not there yet."""
        if len(labels) != len(self.attributes):
            raise TypeError(f"{self.name} takes {', '.join(self.attributes) or 'no attributes'}, not {labels!r}")
        return tuple(
            value if value in values else OTHER for value, values in zip(labels, self.attributes.values(), strict=True)
        )


class Counter(Instrument):
    """Only ever grows. `from_start` are series to tell as zero of one that has too many to tell all of them."""

    def __init__(
        self,
        name: str,
        *,
        unit: str,
        description: str,
        attributes: Mapping[str, Sequence[str]] | None = None,
        from_start: Iterable[Labels] = (),
    ) -> None:
        super().__init__(name, unit=unit, description=description, attributes=attributes)
        self._values: dict[Labels, float] = dict.fromkeys(map(self._admitted, from_start), 0)
        if self.series_max <= _ZERO_SERIES_MAX:
            self._values.update(dict.fromkeys(self._combinations(), 0))

    def add(self, amount: float, *labels: str) -> None:
        """Count `amount` more. `labels` are the attributes' values in the order of the table."""
        try:
            self._values[labels] += amount
        except KeyError:
            admitted = self._admitted(labels)
            self._values[admitted] = self._values.get(admitted, 0) + amount

    def get(self, *labels: str) -> float:
        """How much was counted."""
        return self._values.get(labels, 0)

    def series(self) -> dict[Labels, float]:
        """Every series as it stands."""
        return self._values.copy()


class Gauge(Instrument):
    """Goes up and down."""

    def __init__(
        self, name: str, *, unit: str, description: str, attributes: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        super().__init__(name, unit=unit, description=description, attributes=attributes)
        self._values: dict[Labels, float] = {} if self.attributes else {(): 0}

    def set(self, value: float, *labels: str) -> None:
        """It is `value` now."""
        self._values[labels if labels in self._values else self._admitted(labels)] = value

    def add(self, amount: float, *labels: str) -> None:
        """It is `amount` more now, or less."""
        self.set(self.get(*labels) + amount, *labels)

    def get(self, *labels: str) -> float:
        """What it was set to last."""
        return self._values.get(labels, 0)

    def series(self) -> dict[Labels, float]:
        """Every series as it stands."""
        return self._values.copy()


class Distribution:
    """One series of a histogram: how many values fell into each bucket, and their sum."""

    __slots__ = ("counts", "total")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * buckets
        self.total = 0.0

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)


class Histogram(Instrument):
    """How values are distributed. A value is in the first bucket whose bound is not below it."""

    def __init__(
        self,
        name: str,
        *,
        unit: str,
        description: str,
        bounds: Sequence[float],
        attributes: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        super().__init__(name, unit=unit, description=description, attributes=attributes)
        self.bounds: Final = tuple(bounds)
        self._series: dict[Labels, Distribution] = {}
        if self.series_max <= _ZERO_SERIES_MAX:
            self._series.update((labels, Distribution(len(self.bounds) + 1)) for labels in self._combinations())

    def record(self, value: float, *labels: str) -> None:
        """Note one value."""
        one = self._series.get(labels) or self._new(labels)
        one.counts[bisect_left(self.bounds, value)] += 1
        one.total += value

    def record_all(self, values: Iterable[float], *labels: str) -> None:
        """Note many values of one series: a third of the cost each."""
        one = self._series.get(labels) or self._new(labels)
        counts, bounds, total = one.counts, self.bounds, 0.0
        for value in values:
            counts[bisect_left(bounds, value)] += 1
            total += value
        one.total += total

    def count(self, *labels: str) -> int:
        """How many values there were."""
        one = self._series.get(labels)
        return one.count if one is not None else 0

    def total(self, *labels: str) -> float:
        """The sum of all values."""
        one = self._series.get(labels)
        return one.total if one is not None else 0.0

    def series(self) -> dict[Labels, Distribution]:
        """Every series as it stands."""
        return self._series.copy()

    def _new(self, labels: Labels) -> Distribution:
        return self._series.setdefault(self._admitted(labels), Distribution(len(self.bounds) + 1))
