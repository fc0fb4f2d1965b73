"""`python -m tests.chaos [--kills N] [--seed N]`: exits with 1 when anything is not as it must be."""

import argparse
import random
import sys
from collections.abc import Iterator

import anyio

from tests.chaos.run import Outcome, chaos
from worker.demo.report import percentile

_SHOWN_MAX = 20


def main() -> int:
    """Run, print, and say how it went."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    given = parser.parse_args()
    _tell(f"chaos: {given.kills} kills, seed {given.seed}")
    outcome = anyio.run(chaos, given.kills, given.seed, _tell)
    for line in _summary(outcome):
        _tell(line)
    return 1 if outcome.findings else 0


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
