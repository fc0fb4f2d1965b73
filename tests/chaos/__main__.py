"""`python -m tests.chaos [--kills N | --scenario NAME --rounds N] [--seed N]`.

Exits with 1 when anything is not as it must be.
"""

import argparse
import random
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import anyio

from tests.chaos.play import run_trial
from tests.chaos.run import Outcome, chaos
from tests.chaos.scenarios import SCENARIOS
from worker.demo.report import percentile

_SHOWN_MAX = 20


def main() -> int:
    """Run, print, and say how it went."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--scenario", choices=["all", *SCENARIOS], help="one thing at a time, instead of kills")
    parser.add_argument("--rounds", type=int, help="how often it is done; each scenario has a number of its own")
    parser.add_argument("--list", action="store_true", help="say what the scenarios are")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the workers' logs of a scenario there")
    given = parser.parse_args()
    if given.list:
        for name, scenario in SCENARIOS.items():
            _tell(f"{name:15}{scenario.about}")
        return 0
    if given.scenario is not None:
        names = list(SCENARIOS) if given.scenario == "all" else [given.scenario]
        return max(_play(name, given.rounds, given.seed, given.keep) for name in names)
    _tell(f"chaos: {given.kills} kills, seed {given.seed}")
    outcome = anyio.run(chaos, given.kills, given.seed, _tell)
    for line in _summary(outcome):
        _tell(line)
    return 1 if outcome.findings else 0


def _play(name: str, rounds: int | None, seed: int, keep: Path | None) -> int:
    """Play one scenario, and say how it went."""
    scenario = SCENARIOS[name]
    rounds = rounds or scenario.rounds
    _tell(f"{name}: {rounds} rounds, seed {seed}")
    folder = None if keep is None else keep / name
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    record = anyio.run(partial(run_trial, scenario, rounds, seed, folder=folder))
    _tell(f"  {record.commands:,} commands, {record.replies:,} replies in {record.duration_s:.0f} s")
    for fact in record.facts:
        _tell(f"  {fact}")
    for finding in record.findings[:_SHOWN_MAX]:
        _tell(f"  NOT AS IT MUST BE: {finding}")
    _tell(f"  {len(record.findings)} findings" if record.findings else "  all as it must be")
    return 1 if record.findings else 0


def _summary(outcome: Outcome) -> Iterator[str]:
    toll = outcome.toll
    yield (
        f"{outcome.commands:,} commands ({outcome.large:,} of several batches), {outcome.events:,} events,"
        f" {outcome.replies:,} replies in {outcome.duration_s:.0f} s"
    )
    yield f"{toll.kills} kill -9, {toll.locks_taken} session locks taken, {toll.leases_broken} leases broken"
    decisions = ", ".join(f"{name} {count}" for name, count in sorted(toll.decisions.items()))
    yield f"recoveries of large appends: {decisions or 'none'}"
    for what, times in (("broken at once", toll.recoveries_s), ("left to lapse after 15 s", toll.lapses_s)):
        yield (
            f"from a kill to the next reply of a brook in hand, lease {what}: p50 {percentile(times, 50):.1f} s,"
            f" max {max(times, default=0):.1f} s ({len(times)} brooks)"
        )
    for finding in outcome.findings[:_SHOWN_MAX]:
        yield f"NOT AS IT MUST BE: {finding}"
    if outcome.findings:
        yield f"{len(outcome.findings)} findings"
    else:
        yield (
            "all as it must be: one effect and the same reply bytes for each command, positions 0 to the head, no"
            " orphan document, no brook blocked"
        )


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
