"""Random schedules of workers, faults, producers and readers; a failing one is made small and can be run again."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.simulation.explore.machine import serve
from tests.simulation.explore.mutants import Serving
from tests.simulation.explore.run import mutant_named, silent
from tests.simulation.simulate import OUTCOMES, run_seed
from tests.simulation.simulation import Simulation
from worker.protocol.model import Limits
from worker.storage.base import ContradictionError

SMALL = st.integers(0, 7)


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    with silent():
        yield


class BrookUnderFire(RuleBasedStateMachine):
    """Whatever happens in whichever order: what was told had an order, and whoever comes alone finishes."""

    simulation: Simulation

    @initialize(
        operations_max=st.integers(2, 6),
        sessions=st.integers(1, 2),
        group_max=st.integers(1, 4),
        ahead=st.integers(1, 3),
    )
    def begin(self, operations_max: int, sessions: int, group_max: int, ahead: int) -> None:
        limits = Limits(batch_operations_max=operations_max)
        self.simulation = Simulation(limits, sessions=sessions, group_max=group_max, ahead_max=ahead)

    @rule(
        session=SMALL, events=st.integers(1, 9), expected=st.one_of(st.sampled_from(["any", "empty", "exists"]), SMALL)
    )
    def send(self, session: int, events: int, expected: Any) -> None:
        self.simulation.send(session % len(self.simulation.sessions), events, expected)

    @rule(session=SMALL, command=SMALL)
    def send_again(self, session: int, command: int) -> None:
        self.simulation.send_again(session % len(self.simulation.sessions), command)

    @rule(session=SMALL)
    def accept(self, session: int) -> None:
        self.simulation.accept(session % len(self.simulation.sessions))

    @rule(worker=SMALL, outcomes=st.lists(st.sampled_from(OUTCOMES), min_size=1, max_size=12))
    def steps(self, worker: int, outcomes: list[str]) -> None:
        for outcome in outcomes:
            self.simulation.step(worker, outcome)

    @rule(worker=SMALL)
    def crash(self, worker: int) -> None:
        self.simulation.crash(worker)

    @rule(late=SMALL)
    def land(self, late: int) -> None:
        self.simulation.land(late)

    @rule(command=SMALL)
    def toggle_blob(self, command: int) -> None:
        self.simulation.toggle_blob(command)

    @rule()
    def read(self) -> None:
        self.simulation.read()

    def teardown(self) -> None:
        if hasattr(self, "simulation"):
            self.simulation.finish()


TestBrookUnderFire = BrookUnderFire.TestCase
TestBrookUnderFire.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


def run_seeds(seeds: range, serving: Serving = serve) -> None:
    for seed in seeds:
        run_seed(seed, serving)


def test_no_seed_of_a_few_breaks_anything() -> None:
    run_seeds(range(25))


@pytest.mark.parametrize(
    "mutant",
    [
        "begin: no mark in the head",
        "undo: written not counted down",
        "roll back: marker dropped before its events",
        "recovery: commit although events are missing",
        "recovery: left out",
        "reply before commit",
        "window: commands not recorded",
        "conflicts not recorded",
        "expectations checked against the head as loaded",
        "lookup left out",
        "refusals for a blob not recorded",
        "refused for a blob without asking whether it took effect",
    ],
)
def test_a_rule_left_out_is_found_out(mutant: str) -> None:
    chosen = mutant_named(mutant)
    with chosen.applied(), pytest.raises((AssertionError, ContradictionError)):
        run_seeds(range(50), chosen.serving)


def test_a_seed_is_one_schedule() -> None:
    first, second = run_seed(7), run_seed(7)
    assert first == second
    assert first.events > 0
