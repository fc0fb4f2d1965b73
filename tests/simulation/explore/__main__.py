# ruff: noqa: T201 - a command: what it prints is what it is for
"""Explore everything, tell of it, and end with one line: how many states, and how many mutants were found out."""

import argparse
import ast
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed

from tests.simulation.explore.mutants import MUTANTS, Mutant
from tests.simulation.explore.run import mutant_named, replay, run_mutant, run_scenario
from tests.simulation.explore.scenario import Scenario
from tests.simulation.explore.scenarios import BY_NAME, SCENARIOS
from tests.simulation.explore.search import Outcome

_HELP = "a schedule as it was printed: (scenario, mutant or None, actions)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; 0 when nothing is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.explore", description=__doc__)
    parser.add_argument("--replay", metavar="SCHEDULE", help=_HELP)
    parser.add_argument("--scenario", action="append", choices=list(BY_NAME), help="only these; default: all")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    if options.replay is not None:
        return _replay(options.replay)
    scenarios = [BY_NAME[name] for name in options.scenario] if options.scenario else list(SCENARIOS)
    return _explore_all(scenarios, MUTANTS if not options.scenario else (), options.processes)


def _explore_all(scenarios: Sequence[Scenario], mutants: Sequence[Mutant], processes: int) -> int:
    started = time.monotonic()
    states = caught = wrong = 0
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, max_tasks_per_child=1) as pool:
        jobs: dict[Future[Outcome], str | None] = {}
        for scenario in sorted(scenarios, key=lambda one: -one.weight):
            jobs[pool.submit(run_scenario, scenario.name)] = None
        jobs |= {pool.submit(run_mutant, mutant.name): mutant.name for mutant in mutants}
        for job in as_completed(jobs):
            outcome, name = job.result(), jobs[job]
            if name is None:
                states += outcome.states
                wrong += outcome.violation is not None
                _tell_scenario(outcome)
            else:
                mutant = mutant_named(name)
                as_told = (outcome.violation is None) == (mutant.implied_by is not None)
                caught += mutant.implied_by is None and as_told
                wrong += not as_told
                _tell_mutant(mutant, outcome)
    expected = sum(mutant.implied_by is None for mutant in mutants)
    print(f"{time.monotonic() - started:.0f} s with {processes} processes")
    print(f"{states:,} states, {caught} mutants caught of {expected}")
    return 1 if wrong else 0


def _tell_scenario(outcome: Outcome) -> None:
    found = f"{outcome.states:,} states, {outcome.stores} contents of the brook, {outcome.nodes:,} states of a writer"
    print(f"{outcome.scenario}: {found}, {outcome.seconds:.0f} s", flush=True)
    if outcome.violation is not None:
        print(f"  VIOLATED {outcome.violation}")
        _tell_schedule(outcome, None)


def _tell_mutant(mutant: Mutant, outcome: Outcome) -> None:
    if outcome.violation is None:
        lives = f"lives: {mutant.implied_by}" if mutant.implied_by else "NOT CAUGHT"
        print(f"mutant {mutant.name!r} {lives} ({outcome.states:,} states of {outcome.scenario})", flush=True)
        return
    verb = "caught by" if mutant.implied_by is None else "CAUGHT though thought redundant, by"
    print(f"mutant {mutant.name!r} {verb} {outcome.violation}", flush=True)
    _tell_schedule(outcome, mutant.name)


def _tell_schedule(outcome: Outcome, mutant: str | None) -> None:
    literal = repr((outcome.scenario, mutant, outcome.schedule)).replace('"', '\\"')
    print(f'  python -m tests.simulation.explore --replay "{literal}"', flush=True)


def _replay(literal: str) -> int:
    """Print a schedule step by step; 1 when it breaks something."""
    for number, step in enumerate(replay(*ast.literal_eval(literal)), start=1):
        print(f"{number:3}. {step.action}")
        if step.violation is not None:
            print(f"     VIOLATED {step.violation}")
            return 1
        for document_id, document in step.documents.items():
            shown = {name: value for name, value in document.items() if name not in ("id", "type", "brookPartitionKey")}
            if document.get("type") == "event":
                shown = {"eventId": document["eventId"]}
            print(f"     {document_id}: {shown}")
    print("nothing is violated")
    return 0


if __name__ == "__main__":
    sys.exit(main())
