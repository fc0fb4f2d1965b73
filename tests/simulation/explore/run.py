"""Explorations as jobs: one scenario, or one mutant in its scenario. Each is alone in its process."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import structlog

from tests.simulation.explore.machine import Machine
from tests.simulation.explore.mutants import MUTANTS, Mutant
from tests.simulation.explore.scenario import Scenario
from tests.simulation.explore.scenarios import BY_NAME
from tests.simulation.explore.search import Outcome, Search
from tests.simulation.explore.stores import Violation
from tests.simulation.explore.world import Action, State, World


@contextmanager
def silent() -> Iterator[None]:
    """Without the log lines of millions of decisions."""
    configuration = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**configuration)


@contextmanager
def world_of(scenario: Scenario, mutant: Mutant | None = None) -> Iterator[tuple[World, Machine]]:
    """A scenario's world, of the product or of a mutant."""
    with silent():
        if mutant is None:
            machine = Machine(scenario)
            yield World(scenario, machine), machine
            return
        with mutant.applied():
            machine = Machine(scenario, mutant.serving)
            yield (
                World(scenario, machine, check_transitions=False, lookups_may_lag=mutant.lookups_may_lag),
                machine,
            )


def explore(
    scenario: Scenario,
    mutant: Mutant | None = None,
    *,
    states_max: int | None = None,
    tell: Callable[[int], None] | None = None,
) -> Outcome:
    """Walk through a scenario, to its end or to `states_max`, or to the first state that breaks something."""
    with world_of(scenario, mutant) as (world, machine):
        return Search(scenario, world, machine).run(states_max, tell)


def mutant_named(name: str) -> Mutant:
    """The mutant of that name."""
    return next(mutant for mutant in MUTANTS if mutant.name == name)


def run_scenario(name: str) -> Outcome:
    """One scenario to its end, in a process of its own."""
    return explore(BY_NAME[name], tell=lambda states: _tell(name, states))


def run_mutant(name: str) -> Outcome:
    """One mutant until it is found out, or to the end of its scenario."""
    mutant = mutant_named(name)
    return explore(BY_NAME[mutant.scenario], mutant)


def _tell(name: str, states: int) -> None:
    print(f"  {name}: {states:,} states so far", flush=True)  # noqa: T201 - the command's progress


class Step(msgspec.Struct, frozen=True):
    """One step of a schedule that is run again: what happened, and what it left or broke."""

    action: Action
    documents: dict[str, dict[str, object]]
    violation: Violation | None


def replay(scenario_name: str, mutant_name: str | None, schedule: tuple[Action, ...]) -> Iterator[Step]:
    """Run a schedule again, step by step, until its end or until something breaks."""
    mutant = None if mutant_name is None else mutant_named(mutant_name)
    with world_of(BY_NAME[scenario_name], mutant) as (world, _):
        state: State = world.initial
        for action in schedule:
            following = world.after(state, action)
            if isinstance(following, Violation):
                yield Step(action, world.stores.documents(state.store), following)
                return
            state = following
            yield Step(action, world.stores.documents(state.store), None)
        if schedule and state == world.alone(state) and world.stores.loaded(state.store)[1] >= 0:
            yield Step(("alone",), world.stores.documents(state.store), Violation("I6", "a head-pending is left"))
