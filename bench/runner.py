"""Runs a plan: rounds of all scenarios, the contenders in turn, as often as the time allows."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from bench.idle import IdleRun, measure_idle
from bench.measure import Run, measure
from bench.processes import WorkerFailedError
from bench.scenarios import Idle, Plan, Scenario
from bench.verify import WrongOutcomeError

_ItemT = TypeVar("_ItemT")


class Results(msgspec.Struct, kw_only=True):
    """All runs by scenario and contender, in the order of the rounds; None where a run failed."""

    runs: dict[str, dict[str, list[Run | None]]] = msgspec.field(default_factory=lambda: defaultdict(dict))
    idle: dict[str, dict[str, list[IdleRun | None]]] = msgspec.field(default_factory=lambda: defaultdict(dict))
    failures: list[str] = []
    rounds: int = 0
    took_s: float = 0.0


async def run_plan(plan: Plan, tell: Callable[[str], None], *, tree: Path | None = None) -> Results:
    """Run rounds until the plan's number is reached or the next scenario would not fit its time.

    In each round another contender begins, so that no one always meets the machine as the others left it.
    """
    results = Results()
    began_s = time.monotonic()
    longest_s: dict[str, float] = defaultdict(float)
    for number in range(plan.rounds_max):
        for scenario in plan.scenarios:
            elapsed_s = time.monotonic() - began_s
            if elapsed_s + longest_s[scenario.name] > plan.budget_s:
                tell(f"{elapsed_s:5.0f} s  round {number + 1}: no time for {scenario.name}")
                continue
            tell(f"{elapsed_s:5.0f} s  round {number + 1}: {scenario.title}, {scenario.latency.name}")
            if isinstance(scenario, Idle):
                await _idle(scenario, number, results, tell, tree)
            else:
                await _scenario(scenario, number, results, tell, tree)
            took_s = time.monotonic() - began_s - elapsed_s
            longest_s[scenario.name] = max(longest_s[scenario.name], took_s)
            results.rounds = number + 1
    results.took_s = time.monotonic() - began_s
    return results


async def _scenario(
    scenario: Scenario, number: int, results: Results, tell: Callable[[str], None], tree: Path | None
) -> None:
    for contender in _rotated(scenario.contenders, number):
        runs = results.runs[scenario.name].setdefault(contender.name, [])
        try:
            run = await measure(contender.worker, scenario.load(contender), tree=tree)
        except (WorkerFailedError, WrongOutcomeError) as error:
            _note_failure(f"{scenario.name}, {contender.name}: {error}", results, tell)
            runs.append(None)
            continue
        runs.append(run)
        tell(f"         {contender.name}: {run.rate:,.0f}/s, {run.cpu_ms:.2f} ms of CPU a command")


async def _idle(scenario: Idle, number: int, results: Results, tell: Callable[[str], None], tree: Path | None) -> None:
    for worker in _rotated(scenario.workers, number):
        runs = results.idle[scenario.name].setdefault(worker, [])
        try:
            run = await measure_idle(worker, scenario.samples, scenario.latency, tree=tree)
        except (WorkerFailedError, WrongOutcomeError) as error:
            _note_failure(f"{scenario.name}, {worker}: {error}", results, tell)
            runs.append(None)
            continue
        runs.append(run)
        tell(f"         {worker}: p50 {run.p50_ms:.1f} ms")


def _note_failure(text: str, results: Results, tell: Callable[[str], None]) -> None:
    results.failures.append(text)
    tell(f"         FAILED: {text}")


def _rotated(items: Sequence[_ItemT], by: int) -> Sequence[_ItemT]:
    by %= len(items)
    return [*items[by:], *items[:by]]
