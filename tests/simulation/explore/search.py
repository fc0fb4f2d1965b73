"""Walks through all states of a scenario, breadth first, so that the first schedule that breaks something is short."""

import marshal
import time
from array import array
from collections.abc import Callable
from typing import Final

import msgspec

from tests.simulation.explore.machine import Machine
from tests.simulation.explore.scenario import Scenario
from tests.simulation.explore.stores import Violation
from tests.simulation.explore.world import Action, State, World
from worker.protocol.states import Transition

_PLAIN: Final = 2
"""The marshal format without references: equal values have equal bytes."""

_TOLD_EVERY: Final = 50_000


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a walk found. `violation` is None when every state keeps every invariant."""

    scenario: str
    states: int
    stores: int
    nodes: int
    seconds: float
    complete: bool
    transitions: frozenset[Transition] = frozenset()
    violation: str | None = None
    invariant: str | None = None
    schedule: tuple[Action, ...] = ()


class Search:
    """One walk. States are kept exactly, as bytes: no two are taken for one by a hash."""

    def __init__(self, scenario: Scenario, world: World, machine: Machine) -> None:
        self._scenario = scenario
        self._world = world
        self._machine = machine
        self._seen: dict[bytes, int] = {}
        self._parents = array("q")
        self._actions: list[Action] = []
        self._interned: dict[Action, Action] = {}

    def run(self, states_max: int | None = None, tell: Callable[[int], None] | None = None) -> Outcome:
        """Visit every state, or the first `states_max`."""
        started = time.monotonic()
        level: list[tuple[int, State]] = []
        violation: Violation | None = None
        last: tuple[int, Action | None] = (-1, None)
        try:
            self._visit(self._world.initial, -1, ("start",), level)
            while level:
                following: list[tuple[int, State]] = []
                for number, state in level:
                    last = (number, None)
                    self._world.check_alone(state)
                    for action, after in self._world.successors(state):
                        if isinstance(after, Violation):
                            last = (number, action)
                            raise after
                        new = self._visit(after, number, action, following)
                        if new and tell is not None and len(self._seen) % _TOLD_EVERY == 0:
                            tell(len(self._seen))
                    if states_max is not None and len(self._seen) >= states_max:
                        return self._outcome(started, complete=False)
                level = following
        except Violation as found:
            violation = found
        return self._outcome(started, complete=violation is None, violation=violation, last=last)

    def _visit(self, state: State, parent: int, action: Action, level: list[tuple[int, State]]) -> bool:
        """Take a state in; tells whether it is a new one."""
        key = _key(state)
        if key in self._seen:
            return False
        number = self._seen[key] = len(self._seen)
        self._parents.append(parent)
        self._actions.append(self._interned.setdefault(action, action))
        level.append((number, state))
        return True

    def _outcome(
        self,
        started: float,
        *,
        complete: bool,
        violation: Violation | None = None,
        last: tuple[int, Action | None] = (-1, None),
    ) -> Outcome:
        return Outcome(
            scenario=self._scenario.name,
            states=len(self._seen),
            stores=self._world.stores.count,
            nodes=len(self._machine.nodes),
            seconds=time.monotonic() - started,
            complete=complete,
            transitions=frozenset(self._world.stores.taken),
            violation=str(violation) if violation is not None else None,
            invariant=violation.invariant if violation is not None else None,
            schedule=(*self._schedule(*last), *violation.then) if violation is not None else (),
        )

    def _schedule(self, number: int, action: Action | None) -> tuple[Action, ...]:
        actions = [] if action is None else [action]
        while number > 0:
            actions.append(self._actions[number])
            number = self._parents[number]
        return tuple(reversed(actions))


def _key(state: State) -> bytes:
    """The state as bytes, equal for equal states alone."""
    plain = (
        state.store,
        [tuple(one) for one in state.older],
        [tuple(one) for one in state.writers],
        state.late,
        [tuple(one) for one in state.sessions],
        state.replies,
        state.faults,
    )
    return marshal.dumps(plain, _PLAIN)
