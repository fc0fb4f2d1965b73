"""From runs to the figures that must be reached: ratios of runs of the same round, and their medians."""

import statistics
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from bench.measure import Run
from bench.runner import Results
from bench.scenarios import OURS_PER_BROOK, Idle, Plan, Scenario

_IDLE_OVERHEAD_MS: Final = 10.0
_IDLE_SERVICEBUS_TRIPS: Final = 3

AT_LEAST: Final = "≥"
AT_MOST: Final = "≤"


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of one scenario: its value in each round, and what it must be, if anything."""

    scenario: str
    what: str
    values: list[float]
    unit: str = ""
    direction: str = ""
    must: float | None = None

    @property
    def median(self) -> float:
        """Over the rounds."""
        return statistics.median(self.values)

    @property
    def reached(self) -> bool | None:
        """None where nothing has to be reached."""
        if self.must is None:
            return None
        return self.median >= self.must if self.direction == AT_LEAST else self.median <= self.must


def figures(plan: Plan, results: Results) -> list[Figure]:
    """All figures, in the order of the plan. A run that failed has none."""
    found: list[Figure] = []
    for scenario in plan.scenarios:
        if isinstance(scenario, Idle):
            found += _of_idle(scenario, results)
        else:
            found += _of_scenario(scenario, results)
    return [figure for figure in found if figure.values]


def _of_scenario(scenario: Scenario, results: Results) -> list[Figure]:
    runs = results.runs[scenario.name]

    def ratio(of: str, to: str, must: float | None) -> Figure:
        pairs = zip(runs.get(of, []), runs.get(to, []), strict=False)
        values = [one.rate / other.rate for one, other in pairs if one is not None and other is not None]
        what = f"{of} / {to}"
        return Figure(scenario=scenario.name, what=what, values=values, unit=" x", direction=AT_LEAST, must=must)

    match scenario.name:
        case "hot":
            cosmos = _each(runs.get("ours", []), lambda run: run.per_command("cosmos"))
            requests = Figure(
                scenario="hot", what="Cosmos DB requests a command", values=cosmos, direction=AT_MOST, must=0.02
            )
            return [ratio("ours", "seed", 25.0), ratio("ours", "null", 0.7), requests]
        case "many":
            return [ratio("ours", "seed", 4.0), ratio("ours", "null", None)]
        case "small":
            return [ratio("bucketed", OURS_PER_BROOK, 10.0)]
        case "mixed":
            return [ratio("ours", "seed", 4.0)]
        case "processes":
            return [ratio("2", "1", None)]
        case _:
            return [ratio("ours", "seed", None), ratio("ours", "null", None)]


def _of_idle(scenario: Idle, results: Results) -> list[Figure]:
    injected_ms = scenario.latency.cosmos_ms + _IDLE_SERVICEBUS_TRIPS * scenario.latency.servicebus_ms
    found = []
    for worker, runs in results.idle[scenario.name].items():
        found.append(
            Figure(
                scenario=scenario.name,
                what=f"{worker}: p50",
                values=[run.p50_ms for run in runs if run is not None],
                unit=" ms",
                direction=AT_MOST if worker == "ours" else "",
                must=injected_ms + _IDLE_OVERHEAD_MS if worker == "ours" else None,
            )
        )
    return found


def _each(runs: Sequence[Run | None], value: Callable[[Run], float]) -> list[float]:
    return [value(run) for run in runs if run is not None]
