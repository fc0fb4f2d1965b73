"""The handler over the in-memory store: other writers, lost answers, refusals, contradictions."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

import msgspec
import pytest

from schemas.keys import BrookKey
from schemas.replies import RejectionCode
from schemas.types import CommandId, Position
from tests.support.brooks import KEY, event, prepared
from worker.handlers.append import AppendHandler, BrookContendedError
from worker.handlers.brook import BrookState
from worker.handlers.lookup import Lookup
from worker.protocol.documents import encoded_bytes
from worker.protocol.model import Limits
from worker.protocol.verdicts import Accepted, AlreadyAppended, Conflicted, Refused
from worker.protocol.writes import Create, Delete, Operation
from worker.storage.base import (
    ContradictionError,
    LoadedBrook,
    StoreRefusedError,
    StoreUnavailableError,
    TooLarge,
    WriteResult,
    Written,
)
from worker.storage.memory import MemoryBrookStore

pytestmark = pytest.mark.anyio

Step = Callable[[], Awaitable[object]]


class ScriptedStore(MemoryBrookStore):
    """The reference store with things happening around its writes. `before` and `after` run once each, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.before: list[Step] = []
        self.after: list[Step] = []
        self.writes = 0
        self.loads = 0
        self.lookups = 0
        self.request_operations_max = 100

    async def load(self, key: BrookKey) -> LoadedBrook:
        self.loads += 1
        return await super().load(key)

    async def find_commands(
        self, key: BrookKey, command_ids: Collection[CommandId], head: Position
    ) -> Mapping[CommandId, tuple[Position, Position]]:
        self.lookups += 1
        return await super().find_commands(key, command_ids, head)

    async def write(self, key: BrookKey, operations: Sequence[Operation]) -> WriteResult:
        if self.before:
            await self.before.pop(0)()
        self.writes += 1
        if len(operations) > self.request_operations_max:
            return TooLarge()
        result = await super().write(key, operations)
        if self.after:
            await self.after.pop(0)()
        return result


def handler(store: MemoryBrookStore, **limits: int) -> AppendHandler:
    return AppendHandler(store, Limits(**limits), replans_max=5)


async def positions(store: MemoryBrookStore) -> list[tuple[int, str]]:
    return [(event.position, str(event.command_id)) async for event in store.read_forward(KEY)]


async def outside_append(store: MemoryBrookStore, command_id: str) -> None:
    """Another worker's append, past the queue."""
    await handler(store).append(BrookState(KEY), [prepared(command_id=command_id)])


async def lost_answer() -> None:
    raise StoreUnavailableError("the answer was lost")


async def test_a_group_is_one_write_and_the_head_stays_in_memory_between_groups() -> None:
    store, brook = ScriptedStore(), BrookState(KEY)
    for start in (0, 50):
        group = [prepared(command_id=f"c{start + index}") for index in range(50)]
        result = await handler(store).append(brook, group)
        assert result.verdicts[-1] == Accepted(Position(start + 49), Position(start + 49))
        assert result.batches[group[0].command_id].commands == 50
    assert (store.loads, store.writes) == (1, 2)
    assert await positions(store) == [(index, f"c{index}") for index in range(100)]


async def test_another_writer_that_moves_the_head_makes_a_replan_not_a_loss() -> None:
    store, brook = ScriptedStore(), BrookState(KEY)
    await handler(store).append(brook, [prepared(command_id="first")])
    await outside_append(store, "outside")
    result = await handler(store).append(brook, [prepared(command_id="second")])
    assert result.plans == 2
    assert await positions(store) == [(0, "first"), (1, "outside"), (2, "second")]


async def test_another_writer_that_moves_the_head_makes_a_clean_conflict() -> None:
    store, brook = ScriptedStore(), BrookState(KEY)
    await handler(store).append(brook, [prepared()])
    await outside_append(store, "outside")
    result = await handler(store).append(brook, [prepared(expected=0)])
    assert result.verdicts == (Conflicted(0, Position(1)),)


async def test_a_write_whose_answer_was_lost_is_found_and_not_written_again() -> None:
    store, brook = ScriptedStore(), BrookState(KEY)
    store.after = [lost_answer]
    group = [prepared(command_id="a"), prepared(command_id="b", expected=0)]
    with pytest.raises(StoreUnavailableError):
        await handler(store).append(brook, group)
    assert brook.stored is None, "what was believed of the brook is forgotten"
    result = await handler(store).append(brook, group)
    assert result.verdicts == (
        AlreadyAppended(Position(0), Position(0)),
        AlreadyAppended(Position(1), Position(1)),
    )
    assert await positions(store) == [(0, "a"), (1, "b")]


async def test_an_own_batch_that_landed_before_its_resend_is_found() -> None:
    """The store's own retry meets the state that its first try left: refused, and yet ours."""
    store, brook = ScriptedStore(), BrookState(KEY)
    group = [prepared(command_id="a")]

    async def first_try_lands() -> None:
        await handler(MemoryView(store)).append(BrookState(KEY), group)

    store.before = [first_try_lands]
    result = await handler(store).append(brook, group)
    assert result.verdicts == (AlreadyAppended(Position(0), Position(0)),)
    assert await positions(store) == [(0, "a")]


class MemoryView(MemoryBrookStore):
    """The same documents without the script around them."""

    def __init__(self, store: MemoryBrookStore) -> None:
        self.__dict__ = store.__dict__


@pytest.mark.parametrize(("lookup", "redelivered", "lookups"), [("always", False, 3), ("redelivered", True, 1)])
async def test_a_command_that_the_window_has_outlived_is_looked_up(
    lookup: str, redelivered: bool, lookups: int
) -> None:
    store, brook = ScriptedStore(), BrookState(KEY)
    small = AppendHandler(store, Limits(recent_commands_max=2), replans_max=5, lookup=Lookup(lookup))
    old = prepared(command_id="old", events=2)
    for one in (old, *(prepared() for _ in range(4))):
        await small.append(brook, [one])
    result = await small.append(brook, [old], frozenset({old.command_id}) if redelivered else frozenset())
    assert result.verdicts == (AlreadyAppended(Position(0), Position(1)),)
    assert store.lookups == lookups


@pytest.mark.parametrize("other", [{"events": 3}, {"events": 2}])
async def test_an_id_that_is_found_with_another_content_is_rejected(other: dict[str, int]) -> None:
    store, brook = ScriptedStore(), BrookState(KEY)
    small = handler(store, recent_commands_max=2)
    for one in (prepared(command_id="old", events=2), *(prepared() for _ in range(4))):
        await small.append(brook, [one])
    result = await small.append(brook, [prepared(command_id="old", events=other["events"])])
    (verdict,) = result.verdicts
    assert isinstance(verdict, Refused)
    assert verdict.code == RejectionCode.COMMAND_ID_REUSED


async def test_no_lookup_while_the_window_reaches_back_to_the_first_event() -> None:
    store, brook = ScriptedStore(), BrookState(KEY)
    one = prepared()
    await handler(store).append(brook, [prepared()])
    await handler(store).append(brook, [one], frozenset({one.command_id}))
    assert store.lookups == 0


async def test_a_batch_that_the_store_finds_too_large_is_split() -> None:
    store, brook = ScriptedStore(), BrookState(KEY)
    store.request_operations_max = 30
    group = [prepared(command_id=f"c{index}", events=(event(data=b"x" * 15_000),)) for index in range(60)]
    result = await handler(store).append(brook, group)
    assert len({id(facts) for facts in result.batches.values()}) > 1
    assert await positions(store) == [(index, f"c{index}") for index in range(60)]


class SmallStore(MemoryBrookStore):
    """Takes less than Azure documents."""

    def __init__(self, request_bytes_max: int) -> None:
        super().__init__()
        self.request_bytes_max = request_bytes_max

    async def write(self, key: BrookKey, operations: Sequence[Operation]) -> WriteResult:
        size = sum(encoded_bytes(operation.document) for operation in operations if not isinstance(operation, Delete))
        return TooLarge() if size > self.request_bytes_max else await super().write(key, operations)


async def test_what_an_event_may_hold_does_not_depend_on_its_company() -> None:
    group = [
        prepared(command_id=name, events=(event(data=b"x" * size),)) for name, size in (("a", 450_000), ("b", 750_000))
    ]
    store = SmallStore(1_200_000)
    result = await handler(store).append(BrookState(KEY), group)
    assert result.verdicts == (Accepted(Position(0), Position(0)), Accepted(Position(1), Position(1)))
    assert await positions(store) == [(0, "a"), (1, "b")]


async def test_an_event_that_the_store_does_not_take_alone_is_refused_and_the_others_go_on() -> None:
    big = prepared(command_id="big", events=(event(data=b"x" * 1_100_000),))
    store = SmallStore(1_200_000)
    result = await handler(store).append(BrookState(KEY), [big, prepared(command_id="small")])
    refused, accepted = result.verdicts
    assert isinstance(refused, Refused)
    assert refused.code == RejectionCode.EVENT_TOO_LARGE
    assert accepted == Accepted(Position(0), Position(0))


async def test_what_the_store_takes_is_appended_beside_what_it_does_not_take() -> None:
    """And those that it does not take are rejected in the same words, alone, in company and when they come again."""
    sizes = (700_000, 940_000, 980_000, *range(1_000_000, 1_150_000, 10_000))
    group = [prepared(command_id=f"c{size}", events=(event(data=b"x" * (size * 3 // 4)),)) for size in sizes]
    store = SmallStore(990_000)
    result = await AppendHandler(store, Limits(), replans_max=1).append(BrookState(KEY), group)
    assert await positions(store) == [(index, f"c{size}") for index, size in enumerate(sizes[:3])]
    assert [isinstance(verdict, Refused) for verdict in result.verdicts] == [size > sizes[2] for size in sizes]
    again = await AppendHandler(store, Limits(), replans_max=1).append(BrookState(KEY), group[::-1])
    assert again.verdicts[: len(sizes) - 3] == result.verdicts[:2:-1]
    assert await positions(store) == [(index, f"c{size}") for index, size in enumerate(sizes[:3])]
    alone = await handler(store).append(BrookState(KEY), group[-1:])
    assert alone.verdicts == result.verdicts[-1:]


async def test_a_large_append_with_an_event_that_the_store_does_not_take_blocks_nobody() -> None:
    big = prepared(command_id="big", events=(event(), event(data=b"x" * 1_100_000), event(data=b"y" * 600_000)))
    store = SmallStore(1_200_000)
    with pytest.raises(StoreRefusedError, match="takes no event"):
        await handler(store).append(BrookState(KEY), [big])
    result = await handler(store).append(BrookState(KEY), [prepared(command_id="next")])
    assert result.verdicts == (Accepted(Position(0), Position(0)),)
    assert set(store.documents(KEY)) == {"head", "0"}


class NamelessStore(MemoryBrookStore):
    """Never says what the states that it leaves are called, as a service may."""

    async def write(self, key: BrookKey, operations: Sequence[Operation]) -> WriteResult:
        result = await super().write(key, operations)
        return Written(etags=(None,) * len(operations)) if isinstance(result, Written) else result


async def test_a_store_that_names_no_states_costs_loads_and_nothing_else() -> None:
    store = NamelessStore()
    group = [
        *(prepared(command_id=f"c{index}") for index in range(150)),
        prepared(command_id="large", events=120),
        prepared(command_id="last"),
    ]
    result = await AppendHandler(store, Limits(), replans_max=1).append(BrookState(KEY), group)
    assert [type(verdict) for verdict in result.verdicts] == [AlreadyAppended] * 151 + [Accepted]
    found = [command_id for _, command_id in await positions(store)]
    assert found == [*(f"c{index}" for index in range(150)), *["large"] * 120, "last"]


async def test_the_pauses_between_plans_grow_and_stay_short() -> None:
    store, pauses = ScriptedStore(), list[float]()

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    async def move() -> None:
        await outside_append(MemoryView(store), f"outside-{len(pauses)}")

    store.before = [move] * 11
    with pytest.raises(BrookContendedError):
        await AppendHandler(store, Limits(), replans_max=10, pause=pause).append(BrookState(KEY), [prepared()])
    assert len(pauses) == 11
    assert all(0 <= seconds <= 0.01 * number for number, seconds in enumerate(pauses, start=1)), pauses


async def test_a_brook_that_others_move_each_time_is_left_for_later() -> None:
    store, brook = ScriptedStore(), BrookState(KEY)
    view = MemoryView(store)

    def mover(number: int) -> Step:
        async def move() -> None:
            await outside_append(view, f"outside-{number}")

        return move

    store.before = [mover(number) for number in range(6)]
    with pytest.raises(BrookContendedError):
        await handler(store).append(brook, [prepared(command_id="mine")])
    result = await handler(store).append(brook, [prepared(command_id="mine")])
    assert result.verdicts == (Accepted(Position(6), Position(6)),)


async def test_an_event_past_the_head_is_a_contradiction_and_nothing_is_deleted() -> None:
    store, brook = ScriptedStore(), BrookState(KEY)
    await handler(store).append(brook, [prepared()])
    stray = prepared().event_document(0, Position(1))
    assert isinstance(await store.write(KEY, [Create(stray)]), Written)
    before = store.documents(KEY)
    with pytest.raises(ContradictionError, match="which is at 0"):
        await handler(store).append(BrookState(KEY), [prepared()])
    assert store.documents(KEY) == before


class BehindStore(MemoryBrookStore):
    """Answers the next load by `behind`, if there is one, as a replica may that has not caught up."""

    behind: LoadedBrook | None = None

    async def load(self, key: BrookKey) -> LoadedBrook:
        behind, self.behind = self.behind, None
        return behind or await super().load(key)


async def test_a_read_that_is_as_old_as_what_was_refused_is_no_contradiction() -> None:
    store, brook = BehindStore(), BrookState(KEY)
    await handler(store).append(brook, [prepared(command_id="first")])
    before = await store.load(KEY)
    await outside_append(store, "outside")
    store.behind = before
    result = await handler(store).append(brook, [prepared(command_id="second")])
    assert result.plans == 3
    assert await positions(store) == [(0, "first"), (1, "outside"), (2, "second")]


async def test_a_contradiction_that_a_second_look_does_not_show_is_none() -> None:
    """As where head and head-pending were read on either side of another writer's commit."""
    store = BehindStore()
    await handler(store).append(BrookState(KEY), [prepared(command_id="first")])
    torn = (await store.load(KEY)).brook
    head = msgspec.structs.replace(torn.head, head=msgspec.structs.replace(torn.head.head, pending=CommandId("large")))
    store.behind = LoadedBrook(brook=msgspec.structs.replace(torn, head=head))
    await handler(store).append(BrookState(KEY), [prepared(command_id="second")])
    assert await positions(store) == [(0, "first"), (1, "second")]


async def test_a_head_that_is_not_readable_is_a_contradiction() -> None:
    store = ScriptedStore()
    await store.write(KEY, [Create({"id": "head", "type": "head", "position": "seven"})])
    with pytest.raises(ContradictionError, match="not readable"):
        await handler(store).append(BrookState(KEY), [prepared()])


async def test_an_event_too_large_for_the_store_in_a_group_is_refused_alone() -> None:
    store, brook = ScriptedStore(), BrookState(KEY)
    group = [prepared(), prepared(events=(event(data=b"x" * 1_500_000),)), prepared()]
    result = await handler(store).append(brook, group)
    assert [type(verdict) for verdict in result.verdicts] == [Accepted, Refused, Accepted]
    refused = result.verdicts[1]
    assert isinstance(refused, Refused)
    assert refused.code == RejectionCode.EVENT_TOO_LARGE
