"""Everything that can happen next: writers, the store, sessions and requests under way, as one state.

A state is a tuple of small numbers. Two states are one if they differ in nothing that decides on what follows:

- The names of states of documents (ETags) are numbers: 1 is the head's present state, 2 that of head-pending, 3 and
  higher are gone for good and are numbered as they are met, because all that is ever done with a name is to compare
  it.
- A request under way that names a state that is gone, or creates a head that is there, can never take effect: it is
  dropped.
- Older states of the store are kept as long as some read may still be answered from them.
- Writers are known by what `frames` reads.

A step is one call of one writer together with its answer, or the landing of a late request: nothing in between is
seen by anybody else.
"""

from collections.abc import Iterator
from itertools import permutations
from typing import Any, Final, NamedTuple

from schemas.codec import decode_reply
from schemas.replies import Appended, ConcurrencyConflict, Rejected
from tests.simulation.explore.machine import ENDED, Answer, Edge, Machine
from tests.simulation.explore.scenario import Scenario
from tests.simulation.explore.stores import HEAD_ETAG, PENDING_ETAG, STALE_ETAG, Stores, Violation
from worker.protocol.plan import is_expected
from worker.protocol.prepare import Identity

ALONE_CALLS_MAX: Final = 200
"""More calls than any single writer needs for all commands of a scenario."""

Action = tuple[Any, ...]
Etags = tuple[int, ...]


class Writer(NamedTuple):
    """A writer: its machine's state, the names that it holds, and how many states behind it may read."""

    node: int
    etags: Etags = ()
    age: int = 0


class Session(NamedTuple):
    """A queue: how many commands are completed, how many after them have been delivered before and how many to the
    present holder, and who that is (-1: nobody).
    """

    completed: int = 0
    delivered: int = 0
    taken: int = 0
    holder: int = -1


class Older(NamedTuple):
    """A state that the store was in."""

    store: int
    head: int
    pending: int


class State(NamedTuple):
    """All that decides on what may follow."""

    store: int
    older: tuple[Older, ...]
    writers: tuple[Writer, ...]
    late: tuple[tuple[int, tuple[int | None, ...]], ...]
    sessions: tuple[Session, ...]
    replies: tuple[int, ...]
    faults: int


IDLE: Final = Writer(ENDED)


class World:
    """The steps of a scenario."""

    def __init__(
        self, scenario: Scenario, machine: Machine, *, check_transitions: bool = True, lookups_may_lag: bool = False
    ) -> None:
        self._scenario = scenario
        self._machine = machine
        self._lookups_may_lag = lookups_may_lag
        self.stores = Stores(scenario, machine, check_transitions=check_transitions)
        self._final: dict[tuple[int, ...], tuple[int, ...]] = {}
        self._finished: set[tuple[int, tuple[tuple[int, int], ...], tuple[int, ...]]] = set()
        self._said: set[tuple[int, int, int]] = set()
        # Commands of one identity are one command, of which workers may see the events or not.
        firsts: dict[Identity, int] = {}
        self._same = [firsts.setdefault(one.identity, index) for index, one in enumerate(scenario.commands)]

    @property
    def initial(self) -> State:
        """Nobody has done anything."""
        scenario = self._scenario
        return State(
            store=self.stores.number({one["id"]: one for one in scenario.documents}),
            older=(),
            writers=(IDLE,) * len(scenario.writers),
            late=(),
            sessions=(Session(),) * len(scenario.sessions),
            replies=(-1,) * len(scenario.commands),
            faults=scenario.faults_max,
        )

    def successors(self, state: State) -> Iterator[tuple[Action, State | Violation]]:
        """Each thing that may happen next, and the state after it or what it breaks."""
        for number in range(len(state.writers)):
            for action in self._actions(state, number):
                yield action, self.after(state, action)
        for index in range(len(state.late)):
            action = ("land", index)
            yield action, self.after(state, action)

    def after(self, state: State, action: Action) -> State | Violation:
        """The state after an action, or what the action breaks."""
        try:
            following = self._canonical(self._do(state, action))
            if following.store != state.store:
                self.stores.check_change(state.store, following.store, self._final_ones(following.replies))
        except Violation as violation:
            return violation
        return following

    # What may happen -------------------------------------------------------------------------------------------

    def _actions(self, state: State, number: int) -> Iterator[Action]:
        writer = state.writers[number]
        session_number = self._scenario.writers[number]
        session = state.sessions[session_number]
        if writer.node == ENDED:
            # Writers that serve no session are all alike: of those of one session, the first comes.
            first = all(
                state.writers[other].node != ENDED
                for other in range(number)
                if self._scenario.writers[other] == session_number
            )
            left = session.completed < len(self._scenario.sessions[session_number])
            if first and left and (session.holder < 0 or state.faults):
                anew = session._replace(taken=0)
                yield from (("accept", number, count) for count in self._counts(session_number, anew))
            return
        holds = session.holder == number
        call = self._machine.nodes[writer.node].call
        match call[0]:
            case "receive":
                counts = self._counts(session_number, session) if holds else range(0)
                yield from (("receive", number, count) for count in counts or (0,))
            case "write":
                yield from self._writes(state, number, call, holds=holds)
            case "load" | "past" | "find":
                # What a load saw is seen by the lookups that follow it: the store promises that.
                ages = writer.age if call[0] != "find" else len(state.older) if self._lookups_may_lag else 0
                ages = ages if state.faults else 0
                yield from ((call[0], number, age) for age in range(ages + 1))
            case "turn":
                waits = bool(self._counts(session_number, session))
                yield from (("turn", number, turn) for turn in call[1:] if turn != "receive" or waits or not holds)
            case name:
                yield (name, number)
        if holds and state.faults and call[0] != "receive":
            yield ("crash", number)

    def _counts(self, session_number: int, session: Session) -> range:
        left = len(self._scenario.sessions[session_number]) - session.completed - session.taken
        return range(1, min(left, self._scenario.group_max) + 1)

    def _writes(self, state: State, number: int, call: tuple[Any, ...], *, holds: bool) -> Iterator[Action]:
        """A writer whose session is lost and who hears of nothing is one that is not heard of again: left out."""
        yield ("write", number, "answered")
        if not state.faults:
            return
        request, etags = self._request(state, number, call)
        if self._takes_effect(state, request, etags):
            yield ("write", number, "resent")
            yield ("write", number, "unnamed")
            if holds:
                yield ("write", number, "answer lost")
        if len(state.late) < self._scenario.late_max and not self.stores.never_holds(state.store, request, etags):
            yield ("write", number, "twice")
            if holds:
                yield ("write", number, "late")

    def _takes_effect(self, state: State, request: int, etags: tuple[int | None, ...]) -> bool:
        try:
            return bool(self.stores.apply(state.store, request, etags).answer[0] == "written")
        except Violation:
            return True

    def _request(self, state: State, number: int, call: tuple[Any, ...]) -> tuple[int, tuple[int | None, ...]]:
        held = state.writers[number].etags
        return call[1], tuple(None if etag is None else held[etag] for etag in call[2])

    # What it does ----------------------------------------------------------------------------------------------

    def _do(self, state: State, action: Action) -> State:  # noqa: C901 - one case for each action
        match action:
            case ("accept", number, count):
                return self._accept(state, number, count)
            case ("receive", number, 0):
                return self._end(state, number, ("lost",))
            case ("receive", number, count):
                return self._receive(state, number, count)
            case ("write", number, outcome):
                return self._write(state, number, outcome)
            case ("load" | "find" | "past" | "read" as name, number, *ages):
                return self._read(state, number, name, *ages)
            case ("turn", number, turn):
                return self._answer(state, number, ("turn", turn))
            case ("reply", number):
                return self._reply(state, number)
            case ("settle", number):
                return self._settle(state, number)
            case ("crash", number):
                self._answer(state, number, ("unavailable",))  # what would do as well: its session has to end
                return self._leave(state, number)._replace(faults=state.faults - 1)
            case ("alone",):
                return self.alone(state)
            case ("land", index):
                request, etags = state.late[index]
                state = state._replace(late=state.late[:index] + state.late[index + 1 :])
                return self._apply(state, request, etags)[0]
            case _:
                raise AssertionError(action)

    def _accept(self, state: State, number: int, count: int) -> State:
        session_number = self._scenario.writers[number]
        session = state.sessions[session_number]
        taken_over = session.holder >= 0
        state = self._with_session(state, session_number, session._replace(holder=number, taken=0))
        state = self._with_writer(state, number, Writer(self._machine.start, (), len(state.older)))
        return self._receive(state, number, count)._replace(faults=state.faults - taken_over)

    def _receive(self, state: State, number: int, count: int) -> State:
        session_number = self._scenario.writers[number]
        session = state.sessions[session_number]
        taken = session.taken + count
        queue = self._scenario.sessions[session_number][session.completed : session.completed + taken]
        places = range(session.taken, taken)
        group = tuple((queue[place], place < session.delivered) for place in places)
        session = session._replace(delivered=max(session.delivered, taken), taken=taken)
        state = self._with_session(state, session_number, session)
        return self._answer(state, number, ("received", group))

    def _write(self, state: State, number: int, outcome: str) -> State:
        call = self._machine.nodes[state.writers[number].node].call
        request, etags = self._request(state, number, call)
        late = (request, etags)
        cost = 0 if outcome == "answered" else 1
        if outcome == "late":
            state = self._end(state, number, ("unavailable",))
            return state._replace(faults=state.faults - cost, late=(*state.late, late))
        if outcome == "twice":
            state = state._replace(late=(*state.late, late))
        state, answer = self._apply(state, request, etags)
        if outcome == "resent":
            held = state.writers[number].etags
            again = tuple(None if etag is None else held[etag] for etag in call[2])
            state, answer = self._apply(state, request, again)
        elif outcome == "answer lost":
            return self._end(state, number, ("unavailable",))._replace(faults=state.faults - cost)
        elif outcome == "unnamed":
            answer = ("written", (None,) * len(etags))
        state = self._with_writer(state, number, state.writers[number]._replace(age=0))
        return self._answer(state, number, answer)._replace(faults=state.faults - cost)

    def _apply(self, state: State, request: int, etags: tuple[int | None, ...]) -> tuple[State, Answer]:
        effect = self.stores.apply(state.store, request, etags)
        if effect.answer[0] != "written":
            return state, effect.answer
        gone = {}
        if effect.head_changed:
            gone[HEAD_ETAG] = -HEAD_ETAG
        if effect.pending_changed:
            gone[PENDING_ETAG] = -PENDING_ETAG
        before = Older(state.store, HEAD_ETAG, PENDING_ETAG)
        older_max = self._scenario.older_max
        older = tuple(
            Older(one.store, gone.get(one.head, one.head), gone.get(one.pending, one.pending))
            for one in (before, *state.older)[:older_max]
        )
        writers = tuple(
            writer
            if writer.node == ENDED
            else Writer(
                writer.node,
                tuple([gone.get(etag, etag) for etag in writer.etags]),
                min(writer.age + 1, len(older)),
            )
            for writer in state.writers
        )
        late = tuple(
            (number, tuple([etag if etag is None else gone.get(etag, etag) for etag in names]))
            for number, names in state.late
        )
        return state._replace(store=effect.store, older=older, writers=writers, late=late), effect.answer

    def _read(self, state: State, number: int, name: str, age: int = 0) -> State:
        call = self._machine.nodes[state.writers[number].node].call
        at = Older(state.store, HEAD_ETAG, PENDING_ETAG) if age == 0 else state.older[age - 1]
        answer = self._found(name, call, at)
        if name != "find" or not self._lookups_may_lag:
            state = self._with_writer(state, number, state.writers[number]._replace(age=age))
        return self._answer(state, number, answer)._replace(faults=state.faults - (age > 0))

    def _found(self, name: str, call: tuple[Any, ...], at: Older) -> Answer:
        """The answer to a read from this state of the store."""
        if name == "load":
            head, pending = self.stores.loaded(at.store)
            return ("loaded", head, at.head, pending, at.pending)
        documents = self.stores.documents(at.store)
        events = sorted((one["position"], one["commandId"]) for one in documents.values() if one["type"] == "event")
        if name == "past":
            return ("positions", tuple(position for position, _ in events if position > call[1]))
        if name == "find":
            places: dict[str, list[int]] = {}
            for position, command_id in events:
                if command_id in call[1] and position <= call[2]:
                    places.setdefault(command_id, []).append(position)
            return ("found", tuple((one, found[0], found[-1]) for one, found in sorted(places.items())))
        head_position = self.stores.brook(at.store).head.head.position
        contents = self.stores.contents(at.store)
        return ("events", tuple(contents[str(position)] for position in range(call[1], head_position + 1)))

    def _reply(self, state: State, number: int) -> State:
        call = self._machine.nodes[state.writers[number].node].call
        replies = list(state.replies)
        for index, body in call[1]:
            for told in {replies[other] for other, same in enumerate(self._same) if same == self._same[index]}:
                if told not in (-1, body):
                    first, second = (self._machine.bodies.values[one].decode() for one in (told, body))
                    raise Violation("I4", f"two replies to one command: {first} and {second}")
            self._check_reply(state.store, index, body)
            replies[index] = body
        return self._answer(state._replace(replies=tuple(replies)), number, ("ok",))

    def _settle(self, state: State, number: int) -> State:
        session_number = self._scenario.writers[number]
        session = state.sessions[session_number]
        if session.holder != number:
            return self._end(state, number, ("lost",))
        count = self._machine.nodes[state.writers[number].node].call[1]
        queue = self._scenario.sessions[session_number]
        if any(state.replies[index] < 0 for index in queue[session.completed : session.completed + count]):
            raise Violation("order", "a command was completed before it was replied to")
        session = Session(
            session.completed + count, max(0, session.delivered - count), session.taken - count, session.holder
        )
        state = self._answer(self._with_session(state, session_number, session), number, ("ok",))
        if session.completed == len(queue):
            return self._end(state, number, ("lost",))
        return state

    # Parts -----------------------------------------------------------------------------------------------------

    def _answer(self, state: State, number: int, answer: Answer) -> State:
        """Give a writer its answer, in which states have the world's numbers."""
        writer = state.writers[number]
        edge, etags = self._stepped(writer, answer)
        if edge.error is not None:
            if edge.error:
                raise Violation("I6", f"writer {number} died of {edge.error}")
            return self._leave(state, number)
        return self._with_writer(state, number, Writer(edge.node, etags, writer.age))

    def _stepped(self, writer: Writer, answer: Answer) -> tuple[Edge, Etags]:
        told: list[int] = []

        def local(etag: int) -> int:
            if etag in writer.etags:
                return writer.etags.index(etag)
            if etag not in told:
                told.append(etag)
            return -1 - told.index(etag)

        if answer[0] == "loaded":
            _, head, head_etag, pending, pending_etag = answer
            answer = (
                "loaded",
                head,
                local(head_etag) if head >= 0 else 0,
                pending,
                local(pending_etag) if pending >= 0 else 0,
            )
        elif answer[0] == "written":
            answer = ("written", tuple(local(etag) if isinstance(etag, int) else etag for etag in answer[1]))
        edge = self._machine.step(writer.node, answer)
        return edge, tuple([writer.etags[one] if one >= 0 else told[-1 - one] for one in edge.etags])

    def _end(self, state: State, number: int, answer: Answer) -> State:
        """An answer that ends the writer's session."""
        state = self._answer(state, number, answer)
        if state.writers[number].node != ENDED:
            raise Violation("order", f"writer {number} goes on after {answer}")
        return state

    def _leave(self, state: State, number: int) -> State:
        session_number = self._scenario.writers[number]
        session = state.sessions[session_number]
        if session.holder == number:
            state = self._with_session(state, session_number, session._replace(holder=-1, taken=0))
        return self._with_writer(state, number, IDLE)

    def _with_writer(self, state: State, number: int, writer: Writer) -> State:
        writers = state.writers
        return state._replace(writers=(*writers[:number], writer, *writers[number + 1 :]))

    def _with_session(self, state: State, number: int, session: Session) -> State:
        sessions = state.sessions
        return state._replace(sessions=(*sessions[:number], session, *sessions[number + 1 :]))

    def _canonical(self, state: State) -> State:
        """The one state that stands for all that behave alike."""
        older, writers = state.older, state.writers
        if older and not state.faults:
            older = ()
            writers = tuple([writer._replace(age=0) for writer in writers])
        late = state.late
        if late:
            late = tuple([one for one in late if not self.stores.never_holds(state.store, *_gone(one))])
        numbers = {HEAD_ETAG: HEAD_ETAG, PENDING_ETAG: PENDING_ETAG}

        def number(etag: int) -> int:
            return numbers.setdefault(etag, len(numbers) + 1)

        writers = tuple([Writer(one.node, tuple([number(etag) for etag in one.etags]), one.age) for one in writers])
        older = tuple([Older(one.store, number(one.head), number(one.pending)) for one in older])
        return state._replace(older=older, writers=writers, late=late)

    # What has to hold ------------------------------------------------------------------------------------------

    def _final_ones(self, replies: tuple[int, ...]) -> tuple[int, ...]:
        """The commands that were told that they took no effect."""
        final = self._final.get(replies)
        if final is None:
            bodies = self._machine.bodies.values
            final = self._final[replies] = tuple(
                self._same[index]
                for index, body in enumerate(replies)
                if body >= 0 and not isinstance(decode_reply(bodies[body]), Appended)
            )
        return final

    def _check_reply(self, store: int, index: int, body: int) -> None:
        """A reply is true of what readers see when it is sent."""
        if (store, index, body) in self._said:
            return
        shown = self.stores.shown(store)
        command = self._scenario.commands[index]
        took_effect = self._same[index] in dict(shown.commands)
        reply = decode_reply(self._machine.bodies.values[body])
        true = False
        match reply:
            case Appended(first_position=first, last_position=last):
                true = (self._same[index], first) in shown.commands and last - first + 1 == len(command)
            case ConcurrencyConflict(actual=actual):
                true = not is_expected(command.expected, actual) and actual <= shown.head
                true = true and not took_effect
            case Rejected():
                true = not took_effect and any(
                    other.command_id == command.command_id
                    and (other.digest != command.digest or other.withheld is not None)
                    for other in self._scenario.commands
                )
        if not true:
            raise Violation("I4", f"the reply {reply} is not true of {shown}")
        self._said.add((store, index, body))

    def check_alone(self, state: State) -> None:
        """I6: whoever comes to this brook alone, in whichever order, finishes every command and leaves it clean."""
        key = (state.store, tuple(session[:2] for session in state.sessions), state.replies)
        if key in self._finished:
            return
        for order in permutations(range(len(state.sessions))):
            self._finish(state, order)
        self._finished.add(key)

    def alone(self, state: State) -> State:
        """The state with everything gone but the store, the queues and what was replied."""
        sessions = tuple(session._replace(holder=-1, taken=0) for session in state.sessions)
        return State(state.store, (), (IDLE,) * len(state.writers), (), sessions, state.replies, 0)

    def _finish(self, state: State, order: tuple[int, ...]) -> None:
        state = self.alone(state)
        then: list[Action] = [("alone",)]
        for number in map(self._scenario.writers.index, order):
            for _ in range(ALONE_CALLS_MAX):
                action = self._only_action(state, number)
                if action is None:
                    break
                then.append(action)
                following = self.after(state, action)
                if isinstance(following, Violation):
                    raise Violation(following.invariant, following.what, tuple(then))
                state = following
            else:
                raise Violation("I6", f"alone, writer {number} is not done after {ALONE_CALLS_MAX} calls", tuple(then))
        if self.stores.loaded(state.store)[1] >= 0:
            raise Violation("I6", "all commands are done, but a head-pending is left", tuple(then))

    def _only_action(self, state: State, number: int) -> Action | None:
        """What a writer does when nothing goes wrong: all at once, every call answered; None when it is done."""
        actions = list(self._actions(state, number))
        if not actions:
            return None
        takes = self._machine.nodes[state.writers[number].node].call[0] in ("ended", "receive", "turn")
        return actions[-1] if takes else actions[0]


def _gone(late: tuple[int, tuple[int | None, ...]]) -> tuple[int, tuple[int | None, ...]]:
    """Negative numbers are states that this very step has replaced."""
    request, etags = late
    return request, tuple(STALE_ETAG if etag is not None and etag < 0 else etag for etag in etags)
