"""The benchmark's command line: `python -m bench [full|quick]`."""

import argparse
import sys
from pathlib import Path
from typing import Final

from rich.console import Console

from bench.figures import figures
from bench.report import print_report, write
from bench.runner import run_plan
from bench.running import log_warnings, run_to_end
from bench.scenarios import full, quick

_RESULTS: Final = Path(__file__).parent / "results"


def main() -> int:
    """Run it; 0 when nothing failed, whatever the figures say."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("plan", choices=("full", "quick"), nargs="?", default="full")
    parser.add_argument("--results", type=Path, default=_RESULTS, help="folder for JSON and plot")
    parser.add_argument("--only", help="names of scenarios, parted by commas")
    parser.add_argument("--tree", type=Path, help="folder whose worker package is run, to compare a change")
    given = parser.parse_args()
    log_warnings()
    plan = full() if given.plan == "full" else quick()
    if given.only:
        names = given.only.split(",")
        plan = plan.only(names)
    console = Console()
    results = run_to_end(lambda: run_plan(plan, lambda text: console.print(text, markup=False), tree=given.tree))
    found = figures(plan, results)
    print_report(console, plan, results, found)
    console.print(f"Written: {write(given.results, plan, results, found)}")
    return 1 if results.failures else 0


if __name__ == "__main__":
    sys.exit(main())
