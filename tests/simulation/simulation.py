"""Workers on one brook, step by step, with whatever goes wrong: for schedules that nobody thought of.

The workers run the product's handler on the in-memory store. Every step is one call of one worker with its answer,
chosen by whoever drives: Hypothesis, which makes a failing schedule small, or a seed.
"""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import msgspec

from schemas.codec import decode_reply
from schemas.commands import AppendCommand, Expected, NewEvent
from schemas.replies import Appended, ConcurrencyConflict, Rejected, RejectionCode
from schemas.types import CommandId, Position
from tests.simulation.explore.machine import Call, Port, SessionLostError, serve
from tests.simulation.explore.scenario import KEY, TIME
from tests.simulation.histories import Operation, Seen, Sent, order_of
from tests.support.claims import claimed
from worker.handlers.append import AppendHandler
from worker.protocol.documents import HEAD_ID, PENDING_ID
from worker.protocol.model import Limits
from worker.protocol.prepare import PreparedCommand, prepare, prepare_withheld
from worker.protocol.writes import Operation as StoreOperation
from worker.storage.base import StoreUnavailableError
from worker.storage.memory import MemoryBrookStore

CALLS_ALONE_MAX: Final = 10_000


class _Worker:
    """One worker in a session."""

    def __init__(self, running: Coroutine[Any, Any, None], session: int) -> None:
        self.running = running
        self.session = session
        self.call: Call = running.send(None)


class _Session:
    """A queue of commands: how many are completed, and how many after them were delivered, ever and to its holder."""

    def __init__(self) -> None:
        self.queue: list[int] = []
        self.completed = 0
        self.delivered = 0
        self.taken = 0
        self.holder: _Worker | None = None


class _Life(msgspec.Struct):
    """What producers know of a command."""

    sent: int
    replied: int | None = None
    body: bytes | None = None


class Simulation:
    """One brook, its store, its queues and its workers. Every method is one step; a step out of place does nothing."""

    def __init__(
        self,
        limits: Limits,
        *,
        sessions: int,
        group_max: int,
        ahead_max: int = 1,
        serving: Callable[..., Coroutine[Any, Any, None]] = serve,
    ) -> None:
        self.store = MemoryBrookStore()
        self.commands: list[PreparedCommand] = []
        self.workers: list[_Worker] = []
        self.sessions = [_Session() for _ in range(sessions)]
        self.history: list[Seen] = []
        self._lives: list[_Life] = []
        self._late: list[tuple[StoreOperation, ...]] = []
        self._elsewhere: dict[int, PreparedCommand] = {}
        self._limits = limits
        self._group_max = group_max
        self._ahead_max = ahead_max
        self._serving = serving
        self._now = 0

    # Producers and readers -------------------------------------------------------------------------------------

    def send(self, session: int, events: int, expected: Expected) -> None:
        """A producer sends a command."""
        number = len(self.commands)
        made = tuple(NewEvent(event_id=f"{number}.{index}", event_type="t", data=b"x" * 5) for index in range(events))
        command = AppendCommand(command_id=CommandId(f"c{number}"), brook=KEY, expected=expected, events=made)
        self.commands.append(prepare(command, TIME))
        self._lives.append(_Life(sent=self._tick()))
        self.sessions[session].queue.append(number)

    def send_again(self, session: int, command: int) -> None:
        """A producer sends a command again, perhaps long after."""
        queue = self.sessions[session].queue
        if known := sorted(set(queue)):
            queue.append(known[command % len(known)])

    def toggle_blob(self, command: int) -> None:
        """The blob with a command's events goes, or appears: workers that come to it from now on see it so."""
        if not self.commands:
            return
        number = command % len(self.commands)
        at_hand = self.commands[number]
        elsewhere = self._elsewhere.pop(number, None)
        self.commands[number] = elsewhere or _withheld(at_hand)
        if at_hand.withheld is None:
            self._elsewhere[number] = at_hand

    def read(self) -> None:
        """A reader reads the whole brook."""
        begin = self._tick()
        self.history.append(Seen(begin=begin, end=self._tick(), events=self.shown()))

    def shown(self) -> tuple[CommandId, ...]:
        """What readers see: the command of each event up to the head."""
        documents = self.store.documents(KEY)
        head = documents[HEAD_ID]["position"] if HEAD_ID in documents else -1
        missing = [position for position in range(head + 1) if str(position) not in documents]
        assert not missing, f"no event at {missing}, the head is at {head}"
        return tuple(CommandId(documents[str(position)]["commandId"]) for position in range(head + 1))

    # Workers ---------------------------------------------------------------------------------------------------

    def accept(self, session: int) -> None:
        """A worker accepts a session, held by another or not: then the other has lost it and does not know."""
        handler = AppendHandler(Port(), self._limits, replans_max=3, pause=_no_pause)
        worker = _Worker(self._serving(handler, self.commands, self._ahead_max), session)
        self.workers.append(worker)
        self.sessions[session].holder = worker
        self.sessions[session].taken = 0

    def crash(self, worker: int) -> None:
        """A worker is gone."""
        if self.workers:
            self._leave(self.workers[worker % len(self.workers)])

    def step(self, worker: int, outcome: str = "answered") -> None:
        """A worker's call is answered. `outcome` says what becomes of a write: see `_write`."""
        if not self.workers:
            return
        chosen = self.workers[worker % len(self.workers)]
        call = chosen.call
        match call.name:
            case "receive":
                self._receive(chosen)
            case "reply":
                self._reply(call.arguments[0])
                self._answer(chosen, None)
            case "settle":
                self._settle(chosen)
            case "turn":
                self._answer(chosen, self._turn(chosen, worker))
            case "write":
                self._write(chosen, call.arguments[0], outcome)
            case _ if outcome == "lost":
                self._answer(chosen, StoreUnavailableError("no answer"))
            case _:
                self._answer(chosen, self._found(call))

    def land(self, late: int) -> None:
        """A request that was under way for long arrives."""
        if self._late:
            _now(self.store.write(KEY, self._late.pop(late % len(self._late))))

    def _write(self, worker: _Worker, operations: tuple[StoreOperation, ...], outcome: str) -> None:
        if outcome in ("late", "twice"):
            self._late.append(operations)
        if outcome in ("late", "lost"):
            self._answer(worker, StoreUnavailableError("no answer"))
            return
        result = _now(self.store.write(KEY, operations))
        if outcome == "resent":
            result = _now(self.store.write(KEY, operations))
        self._answer(worker, StoreUnavailableError("no answer") if outcome == "answer-lost" else result)

    def _found(self, call: Call) -> Any:
        match call.name:
            case "load":
                documents = self.store._documents(KEY)
                return {one: documents[one] for one in (HEAD_ID, PENDING_ID) if one in documents}
            case "find":
                return _now(self.store.find_commands(KEY, *call.arguments))
            case "past":
                return _now(self.store.positions_past(KEY, *call.arguments))
            case _:
                documents = self.store._documents(KEY)
                head = documents[HEAD_ID].document["position"]
                return [documents[str(one)].document for one in range(call.arguments[0], head + 1)]

    def _turn(self, worker: _Worker, chance: int) -> str:
        """Which stage goes on: the one that takes the next commands only where there are some."""
        session = self.sessions[worker.session]
        waits = len(session.queue) > session.completed + session.taken
        turns = [turn for turn in worker.call.arguments if turn != "receive" or waits]
        return str(turns[chance % len(turns)])

    def _receive(self, worker: _Worker) -> None:
        session = self.sessions[worker.session]
        first = session.completed + session.taken
        waiting = session.queue[first : first + self._group_max]
        if session.holder is not worker or not waiting:
            self._answer(worker, SessionLostError())
            return
        group = tuple((number, place < session.delivered) for place, number in enumerate(waiting, session.taken))
        session.taken += len(waiting)
        session.delivered = max(session.delivered, session.taken)
        self._answer(worker, group)

    def _reply(self, replies: Sequence[tuple[int, bytes]]) -> None:
        for number, body in replies:
            life = self._lives[number]
            assert life.body in (None, body), f"two replies to one command: {life.body!r} and {body!r}"
            if life.body is None:
                life.body, life.replied = body, self._tick()

    def _settle(self, worker: _Worker) -> None:
        session = self.sessions[worker.session]
        if session.holder is not worker:
            self._answer(worker, SessionLostError())
            return
        count = worker.call.arguments[0]
        settled = session.queue[session.completed : session.completed + count]
        assert all(self._lives[number].body is not None for number in settled), "completed before replied to"
        session.completed += count
        session.delivered = max(0, session.delivered - count)
        session.taken -= count
        self._answer(worker, None)

    def _answer(self, worker: _Worker, answer: Any) -> None:
        try:
            worker.call = worker.running.send(answer)
        except (StoreUnavailableError, SessionLostError):
            self._leave(worker)

    def _leave(self, worker: _Worker) -> None:
        worker.running.close()
        self.workers.remove(worker)
        if self.sessions[worker.session].holder is worker:
            self.sessions[worker.session].holder = None
            self.sessions[worker.session].taken = 0

    def _tick(self) -> int:
        self._now += 1
        return self._now

    # The end ---------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Everybody is gone; one worker for each session comes and has to finish. Then all that was told is checked."""
        while self.workers:
            self.crash(0)
        for number, session in enumerate(self.sessions):
            for _ in range(CALLS_ALONE_MAX):
                if session.completed == len(session.queue):
                    break
                if not self.workers:
                    self.accept(number)
                self.step(0)
            assert session.completed == len(session.queue), "a worker alone does not finish"
            while self.workers:
                self.crash(0)
        while self._late:
            self.land(0)
        self.check()

    def check(self) -> None:
        """Only the head and its events are left, and the history has an order."""
        final = self.shown()
        documents = self.store.documents(KEY)
        expected = {str(position) for position in range(len(final))} | ({HEAD_ID} if documents else set())
        assert set(documents) == expected, sorted(documents)
        assert "pending" not in documents.get(HEAD_ID, {})
        events = [documents[str(position)]["eventId"] for position in range(len(final))]
        assert len(set(events)) == len(events), "an event stands there twice"
        history = self.told()
        assert order_of(history, final) is not None, f"no order: {history}, {final}"
        refused = {one.command_id for one, life in zip(self.commands, self._lives, strict=True) if _is_refused(life)}
        assert not refused & set(final), f"rejected, and took effect: {refused & set(final)}"

    def told(self) -> list[Operation]:
        """What producers and readers were told."""
        lives = zip(self.commands, self._lives, strict=True)
        return [*(self._sent(command, life) for command, life in lives if not _is_refused(life)), *self.history]

    def _sent(self, command: PreparedCommand, life: _Life) -> Sent:
        told: dict[str, Position] = {}
        if life.body is not None:
            reply = decode_reply(life.body)
            assert isinstance(reply, Appended | ConcurrencyConflict), reply
            told = {"first": reply.first_position} if isinstance(reply, Appended) else {"actual": reply.actual}
        return Sent(
            command_id=command.command_id,
            expected=command.expected,
            events=len(command),
            begin=life.sent,
            end=life.replied,
            **told,
        )


def _withheld(command: PreparedCommand) -> PreparedCommand:
    """The command as workers have it that find no blob."""
    whole = command.command
    assert isinstance(whole, AppendCommand)
    sent, _ = claimed(whole, payload_digest=command.digest)
    return prepare_withheld(sent, RejectionCode.CLAIM_MISSING, TIME)


def _is_refused(life: _Life) -> bool:
    return life.body is not None and isinstance(decode_reply(life.body), Rejected)


async def _no_pause(_: float) -> None:
    """Others' steps come between any two calls, pause or not."""


def _now(asked: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine of the in-memory store, which never waits."""
    try:
        asked.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("the in-memory store waits for nothing")
