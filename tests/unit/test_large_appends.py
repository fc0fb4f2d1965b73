"""Large appends and recovery over the in-memory store: interrupted anywhere, resumed, rolled back, left by others."""

from collections.abc import Sequence

import pytest

from schemas.keys import BrookKey
from schemas.types import CommandId, Position
from tests.support.brooks import KEY, event, head, left_events, marker, prepared
from worker.handlers.append import AppendHandler, GroupResult
from worker.handlers.brook import BrookState
from worker.protocol.documents import Document
from worker.protocol.model import Limits
from worker.protocol.prepare import PreparedCommand
from worker.protocol.verdicts import Accepted, AlreadyAppended, Conflicted
from worker.protocol.writes import Create, Operation
from worker.storage.base import ContradictionError, StoreUnavailableError, WriteResult, Written
from worker.storage.memory import MemoryBrookStore
from worker.telemetry.instruments import RECOVERY_DECISIONS

pytestmark = pytest.mark.anyio

LIMITS = Limits(batch_operations_max=11)
"""Ten events a chunk."""


class CrashError(StoreUnavailableError):
    """The writer is gone."""


class CrashingStore(MemoryBrookStore):
    """Ends its writer before or after the write of a number; later writes go through."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0
        self.crash_before: int | None = None
        self.crash_after: int | None = None
        self.operations_max = LIMITS.batch_operations_max

    async def write(self, key: BrookKey, operations: Sequence[Operation]) -> WriteResult:
        assert len(operations) <= self.operations_max, "the service takes no more"
        self.writes += 1
        if self.writes == self.crash_before:
            raise CrashError
        result = await super().write(key, operations)
        if self.writes == self.crash_after:
            raise CrashError
        return result


async def append(store: MemoryBrookStore, *commands: PreparedCommand) -> GroupResult:
    """By a worker that knows nothing of the brook yet."""
    return await AppendHandler(store, LIMITS, replans_max=3).append(BrookState(KEY), commands)


async def shown(store: MemoryBrookStore) -> list[str]:
    return [str(event.command_id) async for event in store.read_forward(KEY)]


def is_settled(store: MemoryBrookStore, events: int) -> bool:
    """Nothing but the head and the events that it covers."""
    documents = store.documents(KEY)
    return set(documents) == {"head", *map(str, range(events))} and "pending" not in documents["head"]


async def seed(store: MemoryBrookStore, *documents: Document) -> None:
    assert isinstance(await store.write(KEY, [Create(document) for document in documents]), Written)


async def test_a_large_append_is_begin_chunks_and_commit() -> None:
    store = CrashingStore()
    result = await append(store, prepared(command_id="big", events=25))
    assert result.verdicts == (Accepted(Position(0), Position(24)),)
    facts = result.batches[CommandId("big")]
    assert (facts.batches, facts.events, store.writes) == (5, 25, 5)
    assert await shown(store) == ["big"] * 25
    assert is_settled(store, 25)


async def test_a_large_append_keeps_its_place_in_a_group() -> None:
    store = MemoryBrookStore()
    group = [
        prepared(command_id="a"),
        prepared(command_id="late", expected=7),
        prepared(command_id="big", events=25, expected=0),
        prepared(command_id="b", expected=25),
    ]
    result = await append(store, *group)
    assert result.verdicts == (
        Accepted(Position(0), Position(0)),
        Conflicted(7, Position(0)),
        Accepted(Position(1), Position(25)),
        Accepted(Position(26), Position(26)),
    )
    assert await shown(store) == ["a", *["big"] * 25, "b"]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("write", range(2, 8))
async def test_interrupted_anywhere_the_same_command_resumes_and_gets_the_same_reply(when: str, write: int) -> None:
    store = CrashingStore()
    await append(store, prepared(command_id="first"))
    big = prepared(command_id="big", events=35)
    setattr(store, f"crash_{when}", write)
    with pytest.raises(CrashError):
        await append(store, big)
    assert await shown(store) in (["first"], ["first", *["big"] * 35]), "whole or not at all"
    writes = store.writes
    result = await append(store, big)
    (verdict,) = result.verdicts
    assert isinstance(verdict, Accepted | AlreadyAppended)
    assert (verdict.first, verdict.last) == (1, 35)
    assert store.writes - writes <= 7 - write + 1, "nothing that was written is written again"
    assert is_settled(store, 36)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("write", range(2, 8))
async def test_interrupted_anywhere_another_command_commits_or_rolls_back_and_goes_on(when: str, write: int) -> None:
    store = CrashingStore()
    await append(store, prepared(command_id="first"))
    setattr(store, f"crash_{when}", write)
    with pytest.raises(CrashError):
        await append(store, prepared(command_id="big", events=35))
    result = await append(store, prepared(command_id="next"))
    (verdict,) = result.verdicts
    complete = (when, write) in {("after", 6), ("before", 7), ("after", 7)}
    assert verdict == (Accepted(Position(36), Position(36)) if complete else Accepted(Position(1), Position(1)))
    assert await shown(store) == ["first", *["big"] * (35 if complete else 0), "next"]
    assert is_settled(store, 37 if complete else 2)


async def test_a_rolled_back_command_that_comes_again_takes_effect_once() -> None:
    store = CrashingStore()
    big = prepared(command_id="big", events=35)
    store.crash_after = 3
    with pytest.raises(CrashError):
        await append(store, big)
    await append(store, prepared(command_id="next"))
    result = await append(store, big)
    assert result.verdicts == (Accepted(Position(1), Position(35)),)
    assert await shown(store) == ["next", *["big"] * 35]


async def test_a_command_that_somebody_else_committed_is_found_by_its_id() -> None:
    store = CrashingStore()
    big = prepared(command_id="big", events=35, expected="empty")
    store.crash_before = 6
    with pytest.raises(CrashError):
        await append(store, big)
    await append(store, prepared(command_id="next"))
    assert (await append(store, big)).verdicts == (AlreadyAppended(Position(0), Position(34)),)
    assert await shown(store) == [*["big"] * 35, "next"]


async def test_the_same_id_with_another_content_does_not_resume() -> None:
    store = CrashingStore()
    store.crash_after = 3
    with pytest.raises(CrashError):
        await append(store, prepared(command_id="big", events=35))
    other = prepared(command_id="big", events=tuple(event(f"other-{index}") for index in range(35)))
    await append(store, other)
    assert [one.event_id async for one in store.read_forward(KEY)] == [f"other-{index}" for index in range(35)]


async def test_a_conflict_before_a_large_append_that_somebody_else_commits_stays_a_conflict() -> None:
    store = CrashingStore()
    await append(store, prepared(command_id="first"))
    late = prepared(command_id="late", expected=35)
    store.crash_before = 7
    with pytest.raises(CrashError):
        await append(store, late, prepared(command_id="big", events=35))
    await append(store, prepared(command_id="other", expected=99))
    assert await store.head_position(KEY) == 35, "where the late one would be accepted now"
    assert (await append(store, late)).verdicts == (Conflicted(35, Position(0)),)


class TestLegacyMarkers:
    """Left by a writer that neither marks the head nor records what it wrote."""

    async def test_complete_is_committed(self) -> None:
        store = MemoryBrookStore()
        await seed(store, head(0), marker(0, 3), *left_events(0, 1, 2, 3))
        assert (await append(store, prepared())).verdicts == (Accepted(Position(4), Position(4)),)
        assert is_settled(store, 5)

    async def test_complete_without_a_head_is_committed(self) -> None:
        store = MemoryBrookStore()
        await seed(store, marker(-1, 2), *left_events(0, 1, 2))
        assert (await append(store, prepared())).verdicts == (Accepted(Position(3), Position(3)),)
        assert is_settled(store, 4)

    @pytest.mark.parametrize("left", [(), (1,), (2, 3), (1, 3), tuple(range(1, 40))])
    async def test_incomplete_is_deleted_with_what_it_wrote(self, left: tuple[int, ...]) -> None:
        store = CrashingStore()
        store.operations_max = 100
        await seed(store, head(0), marker(0, 50), *left_events(0, *left))
        store.operations_max = LIMITS.batch_operations_max
        assert (await append(store, prepared())).verdicts == (Accepted(Position(1), Position(1)),)
        assert is_settled(store, 2)

    @pytest.mark.parametrize("left", [(), (5, 6)])
    async def test_a_stale_marker_below_the_head_never_blocks(self, left: tuple[int, ...]) -> None:
        store = MemoryBrookStore()
        await seed(store, head(3), marker(1, 6), *left_events(0, 1, 2, 3, *left))
        assert (await append(store, prepared())).verdicts == (Accepted(Position(4), Position(4)),)
        assert is_settled(store, 5)

    async def test_a_marker_past_the_head_is_told_and_nothing_is_deleted(self) -> None:
        store = MemoryBrookStore()
        await seed(store, head(0), marker(4, 6), *left_events(0, 5))
        before = store.documents(KEY)
        with pytest.raises(ContradictionError, match="began at 4, but the head is at 0; if events up to 4 exist"):
            await append(store, prepared())
        assert store.documents(KEY) == before


@pytest.mark.parametrize(
    "documents",
    [
        [head(0, pending="lost"), *left_events(0)],
        [head(0, pending="one"), marker(0, 3, commandId="another", writtenPosition=0), *left_events(0)],
        [head(1, pending="one"), marker(0, 3, commandId="one", writtenPosition=0), *left_events(0, 1)],
        [head(0), marker(0, 3), *left_events(0, 1, 2, 3, 9)],
        [head(0), marker(3, 1), *left_events(0)],
    ],
)
async def test_what_cannot_be_right_is_told_and_nothing_is_deleted(documents: list[Document]) -> None:
    store = MemoryBrookStore()
    await seed(store, *documents)
    before = store.documents(KEY)
    with pytest.raises(ContradictionError):
        await append(store, prepared())
    assert store.documents(KEY) == before


async def test_each_recovery_is_counted() -> None:
    before = RECOVERY_DECISIONS.get("roll-back")
    store = CrashingStore()
    store.crash_after = 3
    with pytest.raises(CrashError):
        await append(store, prepared(command_id="big", events=35))
    await append(store, prepared())
    assert RECOVERY_DECISIONS.get("roll-back") == before + 1
