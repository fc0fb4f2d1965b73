"""One writer as a machine: its state between two calls, and the state that each answer takes it to.

The machine runs the product's own handler. A state is computed once, by running the handler from its start with the
answers of one path to it, and is known by what `frames` reads; two paths to the same reading are one state, because
nothing but what is read decides on what follows. Names of states of documents (ETags) are local to the machine: a
writer can only hand them back or compare them.
"""

import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Generator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from schemas.codec import encode_reply
from schemas.events import RecordedEvent
from schemas.keys import BrookKey
from schemas.types import START, CommandId, Position
from tests.simulation.explore.frames import ETAG_MARK, Reading
from tests.simulation.explore.scenario import KEY, Scenario
from worker.handlers.append import AppendHandler
from worker.handlers.brook import BatchFacts, BrookState
from worker.handlers.large import _Cost
from worker.protocol.documents import HEAD_ID, PENDING_ID, Document, read_event
from worker.protocol.model import ETag
from worker.protocol.prepare import PreparedCommand
from worker.protocol.verdicts import reply_to
from worker.protocol.writes import Create, Delete, Operation, Replace
from worker.storage.base import Diverged, LoadedBrook, StoreUnavailableError, WriteResult, Written
from worker.storage.heads import stored_brook

ENDED: Final = 0
"""The state of a writer that serves no session."""

EVENT_ETAG: Final = ETag('"event"')
"""Events are never replaced and no operation names their states, which is checked: one name does for all."""

ANY_ETAG: Final = ETag('"any"')
"""What a mutant writes that leaves a precondition out: whatever state there is."""

Answer = tuple[Any, ...]


class SessionLostError(Exception):
    """The writer's session belongs to somebody else."""


class Call:
    """What a writer waits for. The explorer answers it."""

    def __init__(self, name: str, *arguments: Any) -> None:
        self.name = name
        self.arguments = arguments

    def __await__(self) -> Generator["Call", Any, Any]:
        """Hand the call out; come back with its answer."""
        answer = yield self
        if isinstance(answer, Exception):
            raise answer
        return answer


class Port:
    """The store, the session and the replies, as the writer sees them. Holds nothing."""

    async def load(self, key: BrookKey) -> LoadedBrook:
        documents: Mapping[str, tuple[Document, ETag]] = await Call("load")
        return LoadedBrook(brook=stored_brook(key, documents))

    async def write(self, key: BrookKey, operations: Sequence[Operation]) -> WriteResult:
        result: WriteResult = await Call("write", tuple(operations))
        return result

    async def find_commands(
        self, key: BrookKey, command_ids: Collection[CommandId], head: Position
    ) -> Mapping[CommandId, tuple[Position, Position]]:
        found: Mapping[CommandId, tuple[Position, Position]] = await Call("find", tuple(sorted(command_ids)), head)
        return found

    async def positions_past(self, key: BrookKey, head: Position) -> Sequence[Position]:
        positions: Sequence[Position] = await Call("past", head)
        return positions

    async def head_position(self, key: BrookKey) -> Position:
        return (await self.load(key)).brook.head.head.position

    def read_forward(
        self, key: BrookKey, from_position: Position = START, *, page_events: int = 0
    ) -> AsyncIterator[RecordedEvent]:
        return _Events(from_position)

    def read_backward(
        self, key: BrookKey, from_position: Position | None = None, *, page_events: int = 0
    ) -> AsyncIterator[RecordedEvent]:
        raise NotImplementedError("writers do not read backward")


class _Events:
    """The events from a position to the head, in one page."""

    def __init__(self, first: Position) -> None:
        self._first = first
        self._page: list[RecordedEvent] | None = None

    def __aiter__(self) -> "_Events":
        return self

    async def __anext__(self) -> RecordedEvent:
        if self._page is None:
            self._page = [read_event(KEY, document) for document in await Call("read", self._first)]
        if not self._page:
            raise StopAsyncIteration
        return self._page.pop(0)


async def serve(handler: AppendHandler, commands: Sequence[PreparedCommand], ahead_max: int = 1) -> None:
    """A session: receive, commit, reply, complete, and again; until an error ends it and others go on.

    With `ahead_max` over 1, that many groups are in hand at once: the next is committed before the one before is
    replied to or completed. Each stage keeps the order; which goes on first is for the explorer to say.
    """
    brook = BrookState(KEY)
    decided: deque[tuple[tuple[int, bytes], ...]] = deque()
    replied: deque[int] = deque()
    while True:
        turns = ["receive"] if len(decided) + len(replied) < ahead_max else []
        turns += ["reply"] * bool(decided) + ["settle"] * bool(replied)
        turn = turns[0] if len(turns) == 1 else await Call("turn", *turns)
        if turn == "receive":
            group: tuple[tuple[int, bool], ...] = await Call("receive")
            decided.append(await decide(handler, brook, [(index, commands[index], again) for index, again in group]))
            del group
        elif turn == "reply":
            await Call("reply", decided[0])
            replied.append(len(decided.popleft()))
        else:
            await Call("settle", replied[0])
            replied.popleft()
        del turn, turns


async def decide(
    handler: AppendHandler, brook: BrookState, group: Sequence[tuple[int, PreparedCommand, bool]]
) -> tuple[tuple[int, bytes], ...]:
    """The group's replies, as they go out, by the commands' indexes."""
    redelivered = frozenset(command.command_id for _, command, again in group if again)
    result = await handler.append(brook, [command for _, command, _ in group], redelivered)
    return tuple(
        (index, encode_reply(reply_to(command.command_id, verdict)))
        for (index, command, _), verdict in zip(group, result.verdicts, strict=True)
    )


class Interned:
    """Values by small numbers, so that states are small."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._numbers: dict[Any, int] = {}

    def number(self, key: Any, value: Any) -> int:
        """The number of `value`, which `key` tells from others."""
        found = self._numbers.get(key)
        if found is None:
            found = self._numbers[key] = len(self.values)
            self.values.append(value)
        return found


class Request(NamedTuple):
    """A batch without the names of states: of each operation its kind, its id and its document's number."""

    operations: tuple[tuple[str, str, int], ...]


class Node(NamedTuple):
    """A state of the machine: the call it waits at, one path to it, and the names of states that it holds.

    `call` is ("write", number of its Request, local numbers of the ETags in it), or a name and plain arguments.
    """

    call: tuple[Any, ...]
    history: tuple[Any, ...]
    etags: tuple[str, ...]


class Edge(NamedTuple):
    """Where an answer leads: the state, and for each name that it holds the old name (or -1, -2 …: a new one).

    An edge with `error` ends the session; the text is empty for the errors that a writer may end with.
    """

    node: int
    etags: tuple[int, ...]
    error: str | None = None


class Machine:
    """All states that a writer of a scenario was found in."""

    def __init__(self, scenario: Scenario, serving: Callable[..., Coroutine[Any, Any, None]] = serve) -> None:
        self._scenario = scenario
        self._serving = serving
        self.documents = Interned()
        self.requests = Interned()
        self.bodies = Interned()
        self.nodes: list[Node] = [Node(("ended",), (), ())]
        self._numbers: dict[tuple[Any, ...], int] = {}
        self._edges: dict[tuple[int, Answer], Edge] = {}
        self.start = self._reach([], ()).node

    def document(self, document: Document) -> int:
        """The number of a document's content."""
        return self.documents.number(json.dumps(document, sort_keys=True), document)

    def step(self, node: int, answer: Answer) -> Edge:
        """Where `answer` takes a writer that waits in state `node`."""
        edge = self._edges.get((node, answer))
        if edge is None:
            edge = self._edges[node, answer] = self._compute(self.nodes[node], answer)
        return edge

    def _compute(self, node: Node, answer: Answer) -> Edge:
        used = len(node.history) * 4
        names: dict[int, str] = dict(enumerate(node.etags))
        names |= {-new: f'{ETAG_MARK}{used + new}"' for new in range(1, 5)}
        concrete = (answer, names)
        edge = self._reach([*node.history, concrete], node.etags)
        if edge.error is not None:
            return edge
        # `_reach` gave the names themselves; they must be among those known before or told just now.
        by_name = {name: number for number, name in names.items()}
        return Edge(edge.node, tuple(by_name[name] for name in self._names))

    def _reach(self, history: Sequence[tuple[Answer, dict[int, str]]], _: tuple[str, ...]) -> Edge:
        """Run from the start with these answers, and find or make the state that this ends in."""
        scenario = self._scenario
        handler = AppendHandler(
            Port(), scenario.limits, replans_max=scenario.replans_max, lookup=scenario.lookup, pause=_no_pause
        )
        while scenario.expects_new and not handler._new_brooks:
            handler._new_brooks.note(was_so=True)
        running = self._serving(handler, scenario.commands, scenario.ahead_max)
        try:
            call: Call = running.send(None)
            for answer, names in history:
                call = running.send(self._concrete(answer, names))
        except (StoreUnavailableError, SessionLostError):
            return Edge(ENDED, (), "")
        except Exception as error:  # noqa: BLE001 - whatever a writer dies of is what is looked for
            return Edge(ENDED, (), f"{type(error).__name__}: {error}")
        reading = Reading(running, (Port, AppendHandler, BatchFacts, _Cost))
        self._names = reading.etags
        number = self._numbers.get(reading.key)
        if number is None:
            number = self._numbers[reading.key] = len(self.nodes)
            plain = self._plain(call, {name: index for index, name in enumerate(reading.etags)})
            self.nodes.append(Node(plain, tuple(history), reading.etags))
        running.close()
        return Edge(number, ())

    def _plain(self, call: Call, names: Mapping[str, int]) -> tuple[Any, ...]:
        match call.name:
            case "write":
                rows = [self._row(operation, names) for operation in call.arguments[0]]
                request = Request(tuple((kind, document_id, document) for kind, document_id, document, _ in rows))
                return ("write", self.requests.number(request, request), tuple(etag for *_, etag in rows))
            case "reply":
                pairs = call.arguments[0]
                return ("reply", tuple((index, self.bodies.number(body, body)) for index, body in pairs))
            case name:
                return (name, *call.arguments)

    def _row(self, operation: Operation, names: Mapping[str, int]) -> tuple[str, str, int, int | None]:
        """Kind, id, document and local name of the state that has to be there (None: any, no precondition)."""
        match operation:
            case Create(document):
                return ("create", document["id"], self.document(document), None)
            case Replace(document, etag):
                return ("replace", document["id"], self.document(document), _local(etag, names))
            case Delete(document_id, etag):
                return ("delete", document_id, -1, _local(etag, names))

    def _concrete(self, answer: Answer, names: Mapping[int, str]) -> Any:
        """The answer as the writer gets it."""
        match answer:
            case ("loaded", head, head_etag, pending, pending_etag):
                found = [(HEAD_ID, head, head_etag), (PENDING_ID, pending, pending_etag)]
                return {
                    document_id: (self.documents.values[document], ETag(names[etag]))
                    for document_id, document, etag in found
                    if document >= 0
                }
            case ("written", etags):
                return Written(etags=tuple(_named(etag, names) for etag in etags))
            case ("diverged", operation):
                return Diverged(operation=operation)
            case ("unavailable",):
                return StoreUnavailableError("no answer")
            case ("lost",):
                return SessionLostError("the session is somebody else's")
            case ("found", rows):
                return {CommandId(command_id): (Position(first), Position(last)) for command_id, first, last in rows}
            case ("events", documents):
                return [self.documents.values[document] for document in documents]
            case ("positions", positions):
                return list(positions)
            case ("received" | "turn", given):
                return given
            case _:
                assert answer == ("ok",)
                return None


async def _no_pause(_: float) -> None:
    """Who pauses does nothing: any of the others' steps may come between two calls without it."""


def _local(etag: ETag | None, names: Mapping[str, int]) -> int | None:
    return None if etag in (None, ANY_ETAG) else names[etag]


def _named(etag: int | str | None, names: Mapping[int, str]) -> ETag | None:
    if etag is None:
        return None
    return EVENT_ETAG if isinstance(etag, str) else ETag(names[etag])
