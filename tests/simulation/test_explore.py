"""Every state that a few writers can bring one brook into, with small bounds; `make explore` goes further."""

import msgspec
import pytest

from tests.simulation.explore.frames import ETAG_MARK, Reading, UnreadableError
from tests.simulation.explore.machine import Call, Machine
from tests.simulation.explore.mutants import MUTANTS, Mutant
from tests.simulation.explore.run import explore, replay
from tests.simulation.explore.scenario import Scenario, command
from tests.simulation.explore.scenarios import BY_NAME, SCENARIOS
from tests.simulation.explore.world import Action
from worker.protocol.states import TRANSITIONS, Stage, Transition, Write

SMALL_STATES_MAX = 2_000
MUTANT_STATES_MAX = 20_000

ONCE_BROKEN: tuple[tuple[str, tuple[Action, ...]], ...] = (
    # An older writer's append was settled, and more appended, between the two reads of whoever looked at it.
    (
        "left-complete",
        (
            ("accept", 0, 1),
            ("load", 0, 0),
            ("past", 0, 0),
            ("write", 0, "answered"),
            ("load", 0, 0),
            ("find", 0, 0),
            ("accept", 1, 1),
            ("load", 1, 1),
            ("write", 0, "answered"),
            ("past", 1, 0),
        ),
    ),
    # With two operations a batch, there was no room to delete an event beside head and marker: it went on for ever.
    (
        "left-stale-with-events",
        (("alone",), ("accept", 0, 1), ("load", 0, 0), ("past", 0, 0), ("write", 0, "answered")),
    ),
    # Between two deletions of an older writer's events another finished them and began a large append of its own,
    # whose events were then deleted too, and whose mark was taken off the head.
    (
        "left-stale-with-events",
        (
            ("accept", 0, 1),
            ("load", 0, 0),
            ("past", 0, 0),
            ("write", 0, "answered"),
            ("load", 0, 0),
            ("past", 0, 0),
            ("write", 0, "answered"),
            ("accept", 1, 1),
            ("load", 1, 0),
            ("find", 1, 0),
            ("write", 1, "answered"),
            ("write", 1, "answered"),
            ("load", 0, 0),
            ("write", 0, "answered"),
        ),
    ),
)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.name)
def test_no_schedule_breaks_an_invariant(scenario: Scenario) -> None:
    fewer = msgspec.structs.replace(scenario, faults_max=min(scenario.faults_max, 1))
    outcome = explore(fewer, states_max=SMALL_STATES_MAX)
    assert outcome.violation is None, (outcome.violation, outcome.schedule)
    assert outcome.states > 100


def test_every_transition_of_the_table_is_taken() -> None:
    """But for one, which takes an append of too many bytes and not too many events."""
    taken: set[Transition] = set()
    left = (one.name for one in SCENARIOS if one.name.startswith(("left", "presumed-new-but-left")))
    for name in ("groups", "expectations", "long", *left):
        taken |= explore(msgspec.structs.replace(BY_NAME[name], faults_max=0), states_max=2_000).transitions
    assert TRANSITIONS - taken == {Transition(Stage.BEGUN, Write.CHUNK, Stage.COMPLETE)}


@pytest.mark.parametrize(
    "mutant", [mutant for mutant in MUTANTS if mutant.implied_by is None], ids=lambda one: one.name
)
def test_a_rule_left_out_is_found_out_and_its_schedule_replays(mutant: Mutant) -> None:
    outcome = explore(BY_NAME[mutant.scenario], mutant, states_max=MUTANT_STATES_MAX)
    assert outcome.violation is not None
    assert "died of TypeError" not in outcome.violation, "the mutant does not fit the product any more"
    steps = list(replay(mutant.scenario, mutant.name, outcome.schedule))
    assert str(steps[-1].violation) == outcome.violation
    assert all(step.violation is None for step in steps[:-1])


@pytest.mark.parametrize(("scenario", "schedule"), ONCE_BROKEN)
def test_what_was_once_broken_stays_mended(scenario: str, schedule: tuple[Action, ...]) -> None:
    steps = list(replay(scenario, None, schedule))
    assert len(steps) == len(schedule)
    assert steps[-1].violation is None


@pytest.mark.parametrize(("remembered", "is_the_same"), [(2, False), (3, True)])
def test_a_conflict_is_remembered_while_no_more_commands_follow_than_the_window_holds(
    remembered: int, is_the_same: bool
) -> None:
    """Those that follow come past its session: a session has no more behind an unsettled conflict."""
    outcome = explore(
        Scenario(
            name="conflict-outlived",
            commands=(command("a", 1, 0), command("x"), command("y"), command("z")),
            sessions=((0,), (1, 2, 3)),
            writers=(0, 1),
            group_max=1,
            faults_max=1,
            older_max=0,
            recent_max=remembered,
        )
    )
    assert (outcome.violation is None) == is_the_same, outcome.violation


def test_a_mutant_leaves_nothing_behind() -> None:
    mutant = next(one for one in MUTANTS if one.patches)
    owner, name, replacement = mutant.patches[0]
    before = vars(owner)[name]
    with mutant.applied():
        assert vars(owner)[name] is replacement
    assert vars(owner)[name] is before


def test_the_same_bounds_have_the_same_states() -> None:
    bounds = msgspec.structs.replace(BY_NAME["takeover"], faults_max=1)
    first, second = explore(bounds), explore(bounds)
    assert first.complete
    assert (first.states, first.nodes) == (second.states, second.nodes)


class TestReadingOfFrames:
    """Two writers are one state only if nothing that they will act on differs."""

    @staticmethod
    def reading(count: int, *, steps: int, text: str = "x", etag: str = f'{ETAG_MARK}1"') -> Reading:
        async def waits() -> None:
            kept = [text, etag]
            for _ in range(count):
                for _ in iter(kept):
                    await Call("load")

        running = waits()
        for _ in range(steps):
            running.send(None)
        found = Reading(running, ())
        running.close()
        return found

    def test_equal_states_are_equal(self) -> None:
        assert self.reading(3, steps=2).key == self.reading(3, steps=2).key

    def test_the_place_in_a_loop_counts_though_no_variable_tells(self) -> None:
        keys = {self.reading(3, steps=steps).key for steps in range(1, 7)}
        assert len(keys) == 6

    def test_a_variable_counts(self) -> None:
        assert self.reading(3, steps=1).key != self.reading(3, steps=1, text="y").key

    def test_the_names_of_states_do_not_count(self) -> None:
        first, second = self.reading(3, steps=1), self.reading(3, steps=1, etag=f'{ETAG_MARK}2"')
        assert first.key == second.key
        assert (first.etags, second.etags) == (('"~1"',), ('"~2"',))

    def test_what_is_not_known_raises(self) -> None:
        with pytest.raises(UnreadableError):
            Reading(memoryview(b""), ())


def test_a_writer_is_run_from_its_start_to_the_same_state_each_time() -> None:
    machine = Machine(BY_NAME["takeover"])
    edge = machine.step(machine.start, ("received", ((0, False),)))
    assert machine.nodes[edge.node].call == ("load",)
    assert machine.step(machine.start, ("received", ((0, False),))) == edge
