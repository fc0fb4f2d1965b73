# ruff: noqa: T201 - a command: what it prints is what it is for
"""`python -m tests.simulation.simulate --seed 1 --runs 1000`: long random schedules, each given by its seed."""

import argparse
import random
import sys
import time
from collections.abc import Sequence
from typing import Final

import msgspec

from schemas.commands import Expected
from tests.simulation.explore.machine import serve
from tests.simulation.explore.mutants import Serving
from tests.simulation.explore.run import silent
from tests.simulation.simulation import Simulation
from worker.protocol.model import Limits

OUTCOMES: Final = (
    *("answered",) * 12,
    "lost",
    "answer-lost",
    "resent",
    "late",
    "twice",
)
"""What becomes of a worker's call: mostly what should."""

_STEPS: Final = 600
_COMMANDS_MAX: Final = 60
_TOLD_EVERY_S: Final = 5.0


class Ran(msgspec.Struct, frozen=True):
    """What one run held."""

    commands: int
    events: int
    readings: int


def run_seed(seed: int, serving: Serving = serve) -> Ran:
    """One run. Raises AssertionError, or what a worker died of, when something is not as it has to be."""
    chance = random.Random(seed)
    # A conflict is remembered for as many commands as the window holds: with few places, nobody expects a position.
    narrow = chance.random() < 0.3
    group_max = chance.randint(1, 4)
    limits = Limits(
        batch_operations_max=chance.randint(2, 12),
        recent_commands_max=chance.randint(group_max, 6) if narrow else 128,
    )
    simulation = Simulation(
        limits, sessions=chance.randint(1, 3), group_max=group_max, ahead_max=chance.randint(1, 3), serving=serving
    )
    trouble = chance.choice((0.0, 0.02, 0.1, 0.3))
    with silent():
        for _ in range(_STEPS):
            _step(simulation, chance, trouble, narrow=narrow)
        simulation.finish()
    return Ran(len(simulation.commands), len(simulation.shown()), len(simulation.history))


def _step(simulation: Simulation, chance: random.Random, trouble: float, *, narrow: bool) -> None:
    session = chance.randrange(len(simulation.sessions))
    kind = chance.random()
    if kind < 0.08 and len(simulation.commands) < _COMMANDS_MAX:
        simulation.send(session, 1 + int(chance.expovariate(0.3)), _expected(simulation, chance, narrow=narrow))
    elif kind < 0.10:
        simulation.send_again(session, chance.randrange(_COMMANDS_MAX))
    elif kind < 0.12:
        simulation.read()
    elif kind < 0.16 and not narrow and chance.random() < 0.4:  # a refusal is remembered for as long as a conflict is
        simulation.toggle_blob(len(simulation.commands) - chance.randint(1, 5))
    elif kind < 0.16 and (simulation.sessions[session].holder is None or chance.random() < trouble):
        simulation.accept(session)
    elif chance.random() < trouble / 10:
        simulation.crash(chance.randrange(8))
    elif chance.random() < trouble:
        simulation.land(chance.randrange(8))
    else:
        simulation.step(chance.randrange(8), chance.choice(OUTCOMES) if chance.random() < trouble else "answered")


def _expected(simulation: Simulation, chance: random.Random, *, narrow: bool) -> Expected:
    if narrow or chance.random() < 0.5:
        return "any"
    near = max(-1, len(simulation.shown()) - 1 + chance.randint(-1, 3))
    return chance.choice(("empty", "exists", near, near, near))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run seeds one after the other; 1 at the first that fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.simulate", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--runs", type=int, default=1000, help="how many seeds")
    options = parser.parse_args(arguments)
    started = told = time.monotonic()
    commands = events = 0
    for seed in range(options.seed, options.seed + options.runs):
        try:
            ran = run_seed(seed)
        except Exception as error:
            print(f"seed {seed} fails: {error}\n  python -m tests.simulation.simulate --seed {seed} --runs 1")
            raise
        commands, events = commands + ran.commands, events + ran.events
        if time.monotonic() - told > _TOLD_EVERY_S:
            told = time.monotonic()
            print(f"  seed {seed}: {commands:,} commands so far", flush=True)
    took = time.monotonic() - started
    held = f"{commands:,} commands, {events:,} events"
    print(f"{options.runs:,} runs from seed {options.seed}, {held}, {took:.0f} s: every history has an order")
    return 0


if __name__ == "__main__":
    sys.exit(main())
