"""The product with one rule left out at a time: each has to be found out, or the exploration proves nothing.

A mutant replaces functions of the product while it is explored. The table of legal transitions is not looked at
then: the invariants alone have to notice.
"""

from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import msgspec

from schemas.codec import encode_reply
from schemas.replies import RejectionCode
from schemas.types import Position
from tests.simulation.explore.machine import ANY_ETAG, Call, decide, serve
from tests.simulation.explore.scenario import KEY
from worker.handlers import append, recovery
from worker.handlers.append import AppendHandler
from worker.handlers.brook import BrookState, BrookWriter
from worker.handlers.lookup import Lookup
from worker.protocol import pending as rules
from worker.protocol import plan as planning
from worker.protocol.documents import HEAD_ID, PENDING_ID
from worker.protocol.model import Head, RecentCommand
from worker.protocol.pending import Pending, StoredBrook, StoredPending
from worker.protocol.prepare import PreparedCommand
from worker.protocol.recovery import Commit, Recovery, Resume, RollBack, decide_recovery
from worker.protocol.verdicts import AlreadyAppended, Conflicted, Verdict, reply_to
from worker.protocol.window import Window
from worker.protocol.withheld import refusal
from worker.protocol.writes import Delete, Operation, Replace, append_events, write_head

Patch = tuple[Any, str, Any]
Serving = Callable[[AppendHandler, Sequence[PreparedCommand], int], Coroutine[Any, Any, None]]


class Mutant(msgspec.Struct, frozen=True, kw_only=True):
    """What is left out, how, and the scenario in which it should show first.

    `implied_by` is set where another rule of the same write makes this one redundant: such a mutant lives.
    """

    name: str
    patches: tuple[Patch, ...] = ()
    scenario: str
    serving: Serving = serve
    lookups_may_lag: bool = False
    implied_by: str | None = None

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The product with this rule left out, until the end of the block."""
        with ExitStack() as stack:
            for owner, name, replacement in self.patches:
                stack.callback(setattr, owner, name, vars(owner)[name])
                setattr(owner, name, replacement)
            yield


def without_precondition(function: Callable[..., Any], document_id: str) -> Callable[..., Any]:
    """The same write, but whatever state the document is in."""

    def relaxed(*arguments: Any) -> Any:
        made = function(*arguments)
        if isinstance(made[-1], tuple):  # what is believed after it, and its operations
            return (*made[:-1], tuple(_relaxed(one, document_id) for one in made[-1]))
        return tuple(_relaxed(one, document_id) for one in made)

    return relaxed


def _relaxed(operation: Operation, document_id: str) -> Operation:
    match operation:
        case Replace(document, _) if document["id"] == document_id:
            return Replace(document, ANY_ETAG)
        case Delete(deleted, _) if deleted == document_id:
            return Delete(deleted)
        case _:
            return operation


def chunk_without_marker(
    key: Any, stored: StoredPending, command: PreparedCommand, chunk: rules.Chunk
) -> tuple[Pending, tuple[Operation, ...]]:
    after, (_, *events) = _WRITE_CHUNK(key, stored, command, chunk)
    return after, tuple(events)


def begin_without_mark(stored: Any, before: Head, command: PreparedCommand) -> tuple[Pending, tuple[Operation, ...]]:
    pending, (head, marker) = _BEGIN(stored, before, command)
    assert not isinstance(head, Delete)
    unmarked = {name: value for name, value in head.document.items() if name != "pending"}
    return pending, (msgspec.structs.replace(head, document=unmarked), marker)


def undo_without_count(brook: StoredBrook, limits: Any) -> tuple[Pending, tuple[Operation, ...]]:
    after, (marker, *doomed) = _UNDO_CHUNK(brook, limits)
    assert isinstance(marker, Replace)
    assert brook.pending is not None
    unchanged = rules.pending_document(brook.key, brook.pending.pending)
    return after, (Replace(unchanged, marker.if_match), *doomed)


def commit_what_there_is(brook: StoredBrook, recent_commands_max: int) -> tuple[Head, tuple[Operation, ...]]:
    assert brook.pending is not None
    pending = brook.pending.pending
    assert pending.command_id is not None
    entry = RecentCommand(pending.command_id, Position(pending.original + 1), pending.target, pending.digest or "")
    after = brook.head.head.with_command(entry, recent_commands_max)
    return after, (write_head(brook.head, after), Delete(PENDING_ID, brook.pending.etag))


def never_roll_back(brook: StoredBrook, commands: Sequence[PreparedCommand] = ()) -> Recovery:
    decision = decide_recovery(brook, commands)
    return Commit() if isinstance(decision, RollBack) else decision


def resume_by_id_alone(brook: StoredBrook, commands: Sequence[PreparedCommand] = ()) -> Recovery:
    for command in commands:
        if brook.pending is not None and command.command_id == brook.pending.pending.command_id:
            return Resume(command)
    return decide_recovery(brook, commands)


async def drop_at_once(writer: BrookWriter) -> bool:
    brook = writer.stored
    assert brook is not None
    assert brook.pending is not None
    after = msgspec.structs.replace(brook.head.head, pending=None)
    operations = (write_head(brook.head, after), Delete(PENDING_ID, brook.pending.etag))
    done = await writer.write(operations, request_bytes=0) is not None
    if done:
        await writer.load()
    return done


def conflict_unrecorded(self: Any, command: PreparedCommand) -> Verdict:
    return Conflicted(command.expected, self._position)


def refusal_unrecorded(_: Any, __: PreparedCommand, reason: RejectionCode) -> Verdict:
    return refusal(reason)


def refused_first(self: Any, command: PreparedCommand) -> Verdict:
    verdict: Verdict = _DECIDE(self, command) if command.withheld is None else self._withhold(command, command.withheld)
    return verdict


def forgetful_add(self: Any, entry: Any) -> bool:
    return False if isinstance(entry, RecentCommand) else bool(_WINDOW_ADD(self, entry))


def known_by_id_alone(self: Any, command: PreparedCommand) -> Verdict | None:
    if (entry := self._recent.find(command.command_id)) is not None:
        return AlreadyAppended(entry.first, entry.last)
    verdict: Verdict | None = _KNOWN(self, command)
    return verdict


async def no_lookup(*_: Any) -> Mapping[Any, Any]:
    return {}


def run_without_doubt(self: Any, *arguments: Any, **named: Any) -> None:
    _RUN_INIT(self, *arguments, **named)
    self.ids = frozenset()


def expected_at_load(self: Any, command: PreparedCommand) -> Verdict:
    verdict: Verdict | None = self._known(command)
    if verdict is None and command.withheld is not None:
        verdict = self._withhold(command, command.withheld)
    if verdict is not None:
        return verdict
    if planning.is_expected(command.expected, self._before):
        accepted: Verdict = self._accept(command)
        return accepted
    reached, self._position = self._position, self._before
    refused: Verdict = self._conflict(command)
    self._position = reached
    return refused


async def reply_before_commit(handler: AppendHandler, commands: Sequence[PreparedCommand], _: int = 1) -> None:
    brook = BrookState(KEY)
    while True:
        group = await Call("receive")
        members = [commands[index] for index, _ in group]
        loaded = await handler._store.load(KEY)
        planned = planning.plan(loaded.brook.head, members, handler._limits)
        pairs = zip(group, members, planned.verdicts, strict=True)
        early = tuple((place[0], encode_reply(reply_to(one.command_id, verdict))) for place, one, verdict in pairs)
        del loaded, planned, pairs, members
        await Call("reply", early)
        await decide(handler, brook, [(index, commands[index], again) for index, again in group])
        await Call("settle", len(group))
        del group, early


async def complete_before_reply(handler: AppendHandler, commands: Sequence[PreparedCommand], _: int = 1) -> None:
    brook = BrookState(KEY)
    while True:
        group = await Call("receive")
        replies = await decide(handler, brook, [(index, commands[index], again) for index, again in group])
        await Call("settle", len(replies))
        await Call("reply", replies)
        del group, replies


_WRITE_CHUNK: Final = rules.write_chunk
_BEGIN: Final = rules.begin
_UNDO_CHUNK: Final = rules.undo_chunk
_WINDOW_ADD: Final = Window.add
_KNOWN: Final = planning._Planner._known
_RUN_INIT: Final = append._Run.__init__
_DECIDE: Final = planning._Planner.decide


def _relaxing(name: str, document_id: str) -> Patch:
    return (rules, name, without_precondition(vars(rules)[name], document_id))


MUTANTS: Final = (
    Mutant(name="chunk: fence left out", patches=(_relaxing("write_chunk", PENDING_ID),), scenario="two-sessions"),
    Mutant(
        name="chunk: marker not written", patches=((rules, "write_chunk", chunk_without_marker),), scenario="takeover"
    ),
    Mutant(
        name="append: head without its ETag",
        patches=((append, "append_events", without_precondition(append_events, HEAD_ID)),),
        scenario="outsider",
    ),
    Mutant(name="begin: head without its ETag", patches=(_relaxing("begin", HEAD_ID),), scenario="outsider"),
    Mutant(name="begin: no mark in the head", patches=((rules, "begin", begin_without_mark),), scenario="takeover"),
    Mutant(name="drop: marker without its ETag", patches=(_relaxing("drop", PENDING_ID),), scenario="two-sessions"),
    Mutant(name="undo: fence left out", patches=(_relaxing("undo_chunk", PENDING_ID),), scenario="two-sessions"),
    Mutant(
        name="undo: written not counted down",
        patches=((rules, "undo_chunk", undo_without_count),),
        scenario="two-sessions",
    ),
    Mutant(
        name="roll back: marker dropped before its events",
        patches=((recovery, "_roll_back", drop_at_once),),
        scenario="two-sessions",
    ),
    Mutant(
        name="recovery: commit although events are missing",
        patches=((recovery, "decide_recovery", never_roll_back), (rules, "commit", commit_what_there_is)),
        scenario="two-sessions",
    ),
    Mutant(
        name="recovery: resume without comparing the digest",
        patches=((recovery, "decide_recovery", resume_by_id_alone),),
        scenario="id-used-twice",
    ),
    Mutant(
        name="recovery: left out",
        patches=((StoredBrook, "is_settled", property(lambda _: True)),),
        scenario="two-sessions",
    ),
    Mutant(name="reply before commit", serving=reply_before_commit, scenario="two-sessions"),
    Mutant(name="complete before reply", serving=complete_before_reply, scenario="takeover"),
    Mutant(name="window: commands not recorded", patches=((Window, "add", forgetful_add),), scenario="sent-twice"),
    Mutant(
        name="window: digest not compared",
        patches=((planning._Planner, "_known", known_by_id_alone),),
        scenario="id-used-twice",
    ),
    Mutant(
        name="conflicts not recorded",
        patches=((planning._Planner, "_conflict", conflict_unrecorded),),
        scenario="expectations",
    ),
    Mutant(
        name="refusals for a blob not recorded",
        patches=((planning._Planner, "_withhold", refusal_unrecorded),),
        scenario="blob-gone",
    ),
    Mutant(
        name="refused for a blob without asking whether it took effect",
        patches=((planning._Planner, "decide", refused_first),),
        scenario="blob-gone",
    ),
    Mutant(
        name="expectations checked against the head as loaded",
        patches=((planning._Planner, "decide", expected_at_load),),
        scenario="groups",
    ),
    Mutant(name="lookup left out", patches=((Lookup, "decided_before", no_lookup),), scenario="window-outlived"),
    Mutant(
        name="lookup: no doubt after a refused write",
        patches=((append._Run, "__init__", run_without_doubt),),
        scenario="lookup-redelivered",
    ),
    Mutant(
        name="lookup answered from an older state than the head's", lookups_may_lag=True, scenario="window-outlived"
    ),
    Mutant(
        name="commit: marker without its ETag",
        patches=(_relaxing("commit", PENDING_ID),),
        scenario="id-used-twice",
        implied_by="what is complete is only ever committed, and that moves the head",
    ),
    Mutant(
        name="commit: head without its ETag",
        patches=(_relaxing("commit", HEAD_ID),),
        scenario="id-used-twice",
        implied_by="the marker stands under this ETag only while the head is where the append began",
    ),
    Mutant(
        name="drop: head without its ETag",
        patches=(_relaxing("drop", HEAD_ID),),
        scenario="id-used-twice",
        implied_by="the marker stands under this ETag only while the head is where the append began",
    ),
)
