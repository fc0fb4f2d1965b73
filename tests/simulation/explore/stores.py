"""The documents of the explored brook: what a batch makes of them, and whether they keep the invariants."""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from schemas.types import CommandId, Position
from tests.simulation.explore.machine import ANY_ETAG, EVENT_ETAG, Interned, Machine, Request
from tests.simulation.explore.scenario import KEY, Scenario
from worker.protocol.documents import HEAD_ID, PENDING_ID, Document
from worker.protocol.model import ETag
from worker.protocol.pending import StoredBrook
from worker.protocol.plan import is_expected
from worker.protocol.states import TRANSITIONS, Transition, stage_of, write_of
from worker.protocol.writes import Create, Delete, Operation, Replace
from worker.storage.base import Written
from worker.storage.heads import stored_brook
from worker.storage.memory import Stored, carry_out

HEAD_ETAG: Final = 1
"""The number that the head's present state always has in a state of the world."""

PENDING_ETAG: Final = 2
"""The number of head-pending's present state."""

STALE_ETAG: Final = 3
"""This and higher numbers are states that are gone for good."""


class Violation(Exception):  # noqa: N818 - it is what is looked for, not an error
    """An invariant does not hold. `then` are the actions that follow the state in which it was found out."""

    def __init__(self, invariant: str, what: str, then: tuple[tuple[Any, ...], ...] = ()) -> None:
        super().__init__(f"{invariant}: {what}")
        self.invariant = invariant
        self.what = what
        self.then = then


class Effect(NamedTuple):
    """What a request did: the documents after it, and the answer with the world's numbers for states."""

    store: int
    head_changed: bool
    pending_changed: bool
    answer: tuple[Any, ...]


class Shown(NamedTuple):
    """The commands that readers see, in order: index and first position."""

    commands: tuple[tuple[int, int], ...]
    head: int


class Stores:
    """All contents of the brook that were reached. Each is a row of (id, number of its document)."""

    def __init__(self, scenario: Scenario, machine: Machine, *, check_transitions: bool) -> None:
        self._commands = scenario.commands
        self._sessions = scenario.sessions
        self._machine = machine
        self._check_transitions = check_transitions
        self._rows = Interned()
        self._effects: dict[tuple[int, int, tuple[int | None, ...]], Effect] = {}
        self._shown: dict[int, Shown] = {}
        self._changes: set[tuple[int, int, tuple[int, ...]]] = set()
        self._brooks: dict[int, StoredBrook] = {}
        self.taken: set[Transition] = set()
        self._event_places = {
            event.event_id: (index, offset)
            for index, command in enumerate(scenario.commands)
            if command.withheld is None
            for offset, event in enumerate(command.events[place] for place in range(len(command)))
        }

    @property
    def count(self) -> int:
        """How many contents were reached."""
        return len(self._rows.values)

    def number(self, documents: dict[str, Document]) -> int:
        """The number of these contents."""
        row = tuple(sorted((document_id, self._machine.document(one)) for document_id, one in documents.items()))
        return self._rows.number(row, row)

    def contents(self, store: int) -> dict[str, int]:
        """The number of each document, by id."""
        return dict(self._rows.values[store])

    def documents(self, store: int) -> dict[str, Document]:
        """Each document, by id."""
        return {document_id: self._machine.documents.values[number] for document_id, number in self._rows.values[store]}

    def loaded(self, store: int) -> tuple[int, int]:
        """The numbers of head and head-pending, -1 where there is none."""
        contents = self.contents(store)
        return contents.get(HEAD_ID, -1), contents.get(PENDING_ID, -1)

    def apply(self, store: int, request: int, etags: tuple[int | None, ...]) -> Effect:
        """Carry a request out. Raises Violation when it takes effect and must not."""
        # Which state that is gone a request names makes no difference.
        key = (store, request, tuple(min(etag, STALE_ETAG) if etag is not None else None for etag in etags))
        effect = self._effects.get(key)
        if effect is None:
            effect = self._effects[key] = self._apply(*key)
        return effect

    def never_holds(self, store: int, request: int, etags: tuple[int | None, ...]) -> bool:
        """Whether a request can never take effect any more: it names a state that is gone, or creates the head anew.

        Heads are never deleted, which `operations` makes sure of.
        """
        if any(etag is not None and etag >= STALE_ETAG for etag in etags):
            return True
        wanted: Request = self._machine.requests.values[request]
        return wanted.operations[0][:2] == ("create", HEAD_ID) and HEAD_ID in self.contents(store)

    def operations(self, store: int, request: int, etags: tuple[int | None, ...]) -> list[Operation]:
        """The request as the store gets it."""
        contents = self.contents(store)
        wanted: Request = self._machine.requests.values[request]
        return [self._operation(row, etag, contents) for row, etag in zip(wanted.operations, etags, strict=True)]

    def _operation(self, row: tuple[str, str, int], etag: int | None, contents: dict[str, int]) -> Operation:
        kind, document_id, number = row
        assert kind != "delete" or document_id != HEAD_ID, "heads are never deleted"
        if kind == "delete":
            return Delete(document_id, None if etag is None else ETag(str(etag)))
        document = self._machine.documents.values[number]
        if kind == "create":
            return Create(document)
        # Without a precondition, which only mutants leave out: whatever state there is.
        there = _etag(document_id) if document_id in contents else ANY_ETAG
        return Replace(document, there if etag is None else ETag(str(etag)))

    def _apply(self, store: int, request: int, etags: tuple[int | None, ...]) -> Effect:
        operations = self.operations(store, request, etags)
        before = {document_id: Stored(one, _etag(document_id)) for document_id, one in self.documents(store).items()}
        after, result = carry_out(before, operations, lambda: ETag("new"))
        if not isinstance(result, Written):
            return Effect(store, head_changed=False, pending_changed=False, answer=("diverged", result.operation))
        written = [None if isinstance(one, Delete) else _number(one.document["id"]) for one in operations]
        touched = {one.document_id if isinstance(one, Delete) else one.document["id"] for one in operations}
        found = self.number({document_id: one.document for document_id, one in after.items()})
        if self._check_transitions:
            self._check_transition(store, operations, found)
        return Effect(found, HEAD_ID in touched, PENDING_ID in touched, ("written", tuple(written)))

    def brook(self, store: int) -> StoredBrook:
        """Head and head-pending, as the product reads them."""
        brook = self._brooks.get(store)
        if brook is None:
            found = {
                document_id: (one, _etag(document_id))
                for document_id, one in self.documents(store).items()
                if document_id in (HEAD_ID, PENDING_ID)
            }
            brook = self._brooks[store] = stored_brook(KEY, found)
        return brook

    def _check_transition(self, store: int, operations: list[Operation], found: int) -> None:
        before = self.brook(store)
        write = write_of(operations, before)
        if write is None:
            raise Violation("transitions", f"{operations} is none of the protocol's writes")
        took = Transition(stage_of(before), write, stage_of(self.brook(found)))
        self.taken.add(took)
        if took not in TRANSITIONS:
            raise Violation("transitions", f"{took.write} took the brook from {took.before} to {took.after}")

    def shown(self, store: int) -> Shown:
        """What readers see. Raises Violation where the documents break I1, I2, I3, I4 or I5."""
        shown = self._shown.get(store)
        if shown is None:
            shown = self._shown[store] = self._check(store)
        return shown

    def check_change(self, before: int, after: int, final: tuple[int, ...]) -> None:
        """What readers saw stays, and no command takes effect that was told that it has none (`final`)."""
        if (before, after, final) in self._changes:
            return
        seen, sees = self.shown(before).commands, self.shown(after).commands
        if sees[: len(seen)] != seen:
            raise Violation("I5", f"readers saw {seen} and then {sees}")
        for index, _ in sees:
            if index in final:
                raise Violation("I4", f"command {index} took effect after a reply that said it did not")
        self._changes.add((before, after, final))

    def _check(self, store: int) -> Shown:
        documents = self.documents(store)
        brook = self.brook(store)
        head = brook.head.head
        past = head.position
        if brook.pending is not None:
            pending = brook.pending.pending
            legacy = pending.written is None
            past = pending.target if pending.written is None else pending.written
            if not legacy and head.pending is None:
                raise Violation("I1", "a head-pending that the head does not name")
            if not legacy and pending.original != head.position:
                raise Violation("I1", "a head-pending that did not begin at the head")
        elif head.pending is not None:
            raise Violation("I1", "the head names a head-pending that is not there")
        events = {
            document_id: one for document_id, one in documents.items() if document_id not in (HEAD_ID, PENDING_ID)
        }
        for document_id, one in events.items():
            if document_id != str(one["position"]):
                raise Violation("I2", f"an event at {one['position']} has the id {document_id}")
            if one["position"] > past:
                raise Violation("I3", f"an event at {document_id}, head {head.position}, nothing written past {past}")
        needed = head.position if brook.pending is None or brook.pending.pending.written is None else past
        for position in range(needed + 1):
            if str(position) not in events:
                invariant = "I2" if position <= head.position else "I3"
                raise Violation(invariant, f"no event at {position}, head {head.position}, written {past}")
        commands = tuple(self._read(events, head.position))
        self._check_order([index for index, _ in commands])
        return Shown(commands, head.position)

    def _read(self, events: dict[str, Document], head: int) -> Iterator[tuple[int, int]]:
        """The commands up to the head. Each has to be whole, once, where it wanted to be, in its session's order."""
        found: dict[CommandId, int] = {}
        position = 0
        while position <= head:
            index, _ = self._event_places[events[str(position)]["eventId"]]
            command = self._commands[index]
            places = [self._event_places[events[str(at)]["eventId"]] for at in range(position, head + 1)]
            if places[: len(command)] != [(index, offset) for offset in range(len(command))]:
                raise Violation("I5", f"readers see {command.command_id!r} at {position} in part or mixed")
            if command.command_id in found:
                raise Violation(
                    "I4", f"{command.command_id!r} took effect at {found[command.command_id]} and {position}"
                )
            if not is_expected(command.expected, Position(position - 1)):
                raise Violation("I4", f"{command.command_id!r} expects {command.expected} and stands at {position}")
            found[command.command_id] = position
            yield index, position
            position += len(command)

    def _check_order(self, order: list[int]) -> None:
        for queue in self._sessions:
            sent = [index for index in dict.fromkeys(queue) if index in order]
            if sent != [index for index in order if index in queue]:
                raise Violation("order", f"commands {sent} of one session took effect as {order}")


def _number(document_id: str) -> int | str:
    return {HEAD_ID: HEAD_ETAG, PENDING_ID: PENDING_ETAG}.get(document_id, "event")


def _etag(document_id: str) -> ETag:
    number = _number(document_id)
    return ETag(str(number)) if isinstance(number, int) else EVENT_ETAG
