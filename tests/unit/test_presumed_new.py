"""Brooks that are created unread because they are probably new: what that saves, and that it never decides wrongly."""

from collections.abc import Sequence

import pytest

from schemas.keys import BrookKey
from schemas.types import Position
from tests.support.brooks import KEY, event, prepared
from worker.guess import Guess
from worker.handlers.append import AppendHandler
from worker.handlers.brook import BrookState
from worker.protocol.model import Limits
from worker.protocol.pending import Pending, pending_document
from worker.protocol.verdicts import Accepted, AlreadyAppended, Conflicted
from worker.protocol.writes import Create, Operation
from worker.storage.base import LoadedBrook, StoreUnavailableError, TooLarge, WriteResult
from worker.storage.memory import MemoryBrookStore

pytestmark = pytest.mark.anyio


class CountingStore(MemoryBrookStore):
    """The reference store, which counts, and which can lose the answer to a write that took effect."""

    def __init__(self) -> None:
        super().__init__()
        self.loads = 0
        self.writes = 0
        self.answers_lost = 0

    async def load(self, key: BrookKey) -> LoadedBrook:
        self.loads += 1
        return await super().load(key)

    async def write(self, key: BrookKey, operations: Sequence[Operation]) -> WriteResult:
        self.writes += 1
        result = await super().write(key, operations)
        if self.answers_lost:
            self.answers_lost -= 1
            raise StoreUnavailableError("no answer")
        return result


def handler(store: MemoryBrookStore, **limits: int) -> AppendHandler:
    return AppendHandler(store, Limits(**limits), replans_max=1)


async def event_ids(store: MemoryBrookStore, key: BrookKey = KEY) -> list[str]:
    return [str(one.command_id) async for one in store.read_forward(key)]


async def test_a_command_that_expects_an_empty_brook_is_written_without_a_read() -> None:
    store = CountingStore()
    group = [prepared(command_id="a", expected="empty"), prepared(command_id="b", events=2)]
    result = await handler(store).append(BrookState(KEY), group)
    assert result.verdicts == (Accepted(Position(0), Position(0)), Accepted(Position(1), Position(2)))
    assert (store.loads, store.writes) == (0, 1)


async def test_a_brook_that_exists_after_all_is_read_and_decided_on_anew() -> None:
    store = CountingStore()
    await handler(store).append(BrookState(KEY), [prepared(command_id="first")])
    store.loads = store.writes = 0
    group = [prepared(command_id="late", expected="empty"), prepared(command_id="next")]
    result = await handler(store).append(BrookState(KEY), group)
    assert result.verdicts == (Conflicted("empty", Position(0)), Accepted(Position(1), Position(1)))
    assert (store.loads, store.writes) == (1, 2), "one refused, one in its place"


async def test_a_command_whose_answer_was_lost_takes_no_second_effect() -> None:
    store = CountingStore()
    store.answers_lost = 1
    command = prepared(command_id="a", expected="empty")
    brook = BrookState(KEY)
    with pytest.raises(StoreUnavailableError):
        await handler(store).append(brook, [command])
    for state in (brook, BrookState(KEY)):
        result = await handler(store).append(state, [command])
        assert result.verdicts == (AlreadyAppended(Position(0), Position(0)),)
    assert await event_ids(store) == ["a"]


async def test_a_conflict_alone_is_not_told_of_a_brook_that_was_only_presumed() -> None:
    store = CountingStore()
    await handler(store).append(BrookState(KEY), [prepared(command_id="first", events=3)])
    guessing = await _expecting_new_brooks(store)
    result = await guessing.append(
        BrookState(KEY), [prepared(command_id="x"), prepared(command_id="y", expected=Position(7))]
    )
    assert result.verdicts == (Accepted(Position(3), Position(3)), Conflicted(7, Position(3)))


async def test_what_is_refused_for_its_size_is_looked_up_before_anybody_is_told() -> None:
    store = CountingStore()
    large = prepared(command_id="large", events=(event(data=b"x" * 50_000),), expected="empty")
    await handler(store).append(BrookState(KEY), [large])
    small = handler(store, event_bytes_max=20_000, batch_bytes_max=30_000, recent_commands_max=10)
    result = await small.append(BrookState(KEY), [large])
    assert result.verdicts == (AlreadyAppended(Position(0), Position(0)),)


class NarrowStore(CountingStore):
    """Refuses requests of more than so many documents, as too large; before it looks at anything else."""

    documents_max = 100

    async def write(self, key: BrookKey, operations: Sequence[Operation]) -> WriteResult:
        return TooLarge() if len(operations) > self.documents_max else await super().write(key, operations)


async def test_what_the_store_refuses_for_its_size_is_looked_up_before_anybody_is_told() -> None:
    """As when the service's own limit was lowered since: nothing has shown yet that the brook is new."""
    store = NarrowStore()
    one = prepared(command_id="one", events=(event(data=b"x" * 50_000),), expected="empty")
    await handler(store).append(BrookState(KEY), [one])
    store.documents_max = 1
    result = await handler(store, recent_commands_max=10).append(BrookState(KEY), [one])
    assert result.verdicts == (AlreadyAppended(Position(0), Position(0)),)


async def test_a_large_append_begins_on_a_presumed_brook_and_gives_way_to_one_that_exists() -> None:
    store = CountingStore()
    new, known = BrookKey("orders", "new"), BrookKey("orders", "known")
    few = {"batch_operations_max": 5}
    result = await handler(store, **few).append(
        BrookState(new), [prepared(command_id="a", events=12, expected="empty", key=new)]
    )
    assert result.verdicts == (Accepted(Position(0), Position(11)),)
    assert store.loads == 0
    await handler(store, **few).append(BrookState(known), [prepared(command_id="b", key=known)])
    result = await handler(store, **few).append(
        BrookState(known), [prepared(command_id="c", events=12, expected="empty", key=known)]
    )
    assert result.verdicts == (Conflicted("empty", Position(0)),)
    assert await event_ids(store, known) == ["b"]


@pytest.mark.parametrize("written", [0, 2], ids=["no-event", "some-events"])
async def test_what_an_older_writer_left_without_a_head_is_settled(written: int) -> None:
    store = CountingStore()
    left = prepared(command_id="left", events=4)
    marker = pending_document(KEY, Pending(original=Position(-1), target=Position(3)))
    events = [left.event_document(index, Position(index)) for index in range(written)]
    await store.write(KEY, [Create(marker), *map(Create, events)])
    brook = BrookState(KEY)
    for command_id in ("a", "b"):
        await handler(store).append(
            brook, [prepared(command_id=command_id, expected="any" if brook.stored else "empty")]
        )
    brook.forget()
    await handler(store).append(brook, [prepared(command_id="c")])
    assert await event_ids(store) == ["a", "b", "c"]
    assert (await store.load(KEY)).brook.is_settled


async def test_new_brooks_in_a_row_are_presumed_new_until_one_is_not() -> None:
    store = CountingStore()
    working = await _expecting_new_brooks(store)
    store.loads = 0
    await working.append(BrookState(BrookKey("row", "next")), [prepared(key=BrookKey("row", "next"))])
    assert store.loads == 0, "the third in a row is created unread"
    await working.append(BrookState(KEY), [prepared(command_id="first")])
    await working.append(BrookState(KEY), [prepared(command_id="second")])
    assert store.loads == 1, "it existed: read once"
    await working.append(BrookState(BrookKey("row", "after")), [prepared(key=BrookKey("row", "after"))])
    assert store.loads == 2, "no more guesses after a wrong one"


async def test_a_command_that_expects_events_is_never_written_unread() -> None:
    store = CountingStore()
    working = await _expecting_new_brooks(store)
    store.loads = 0
    key = BrookKey("row", "exists")
    result = await working.append(BrookState(key), [prepared(command_id="a", expected="exists", key=key)])
    assert result.verdicts == (Conflicted("exists", Position(-1)),)
    assert store.loads == 1


async def _expecting_new_brooks(store: CountingStore) -> AppendHandler:
    """A handler to which two brooks in a row were new."""
    working = handler(store)
    for name in ("one", "two"):
        key = BrookKey("row", name)
        await working.append(BrookState(key), [prepared(key=key)])
    return working


def test_a_guess_needs_two_in_a_row_and_forgets_at_once() -> None:
    guess = Guess()
    seen = []
    for was_so in (True, True, False, True, True):
        seen.append(bool(guess))
        guess.note(was_so=was_so)
    assert seen == [False, False, True, False, False]
    assert guess
