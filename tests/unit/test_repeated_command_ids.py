"""A command id that comes again in a group: after what the head held when it was loaded, or with another content."""

import pytest

from schemas.events import RecordedEvent
from schemas.keys import BrookKey
from schemas.replies import RejectionCode
from schemas.types import Position
from tests.support.brooks import KEY, event, prepared
from worker.handlers.append import AppendHandler
from worker.handlers.brook import BrookState
from worker.handlers.lookup import Lookup
from worker.protocol.model import Limits
from worker.protocol.verdicts import Accepted, AlreadyAppended, Conflicted, Refused
from worker.storage.memory import MemoryBrookStore

pytestmark = pytest.mark.anyio

REMEMBERED = 3


class World:
    def __init__(self, lookup: Lookup = Lookup.ALWAYS) -> None:
        self.store = MemoryBrookStore()
        limits = Limits(recent_commands_max=REMEMBERED)
        self.handler = AppendHandler(self.store, limits, replans_max=3, lookup=lookup)
        self.brook = BrookState(KEY)

    async def written(self) -> list[str]:
        return [str(recorded.command_id) async for recorded in self.store.read_forward(KEY)]


@pytest.mark.parametrize("lookup", Lookup)
@pytest.mark.parametrize("earlier", [0, 1, 5])
@pytest.mark.parametrize("before_it", [1, 2, 3, 4])
async def test_a_command_sent_again_is_known_though_its_own_group_pushes_it_out_of_the_window(
    lookup: Lookup, earlier: int, before_it: int
) -> None:
    """The oldest command that the head tells of, and, before it in the group, new ones that take its place."""
    world = World(lookup)
    await world.handler.append(world.brook, [prepared() for _ in range(earlier)])
    again = prepared(command_id="again")
    (first, *_) = (await world.handler.append(world.brook, [again, prepared(), prepared()])).verdicts
    assert isinstance(first, Accepted)
    group = [*(prepared() for _ in range(before_it)), again]
    assert (await world.handler.append(world.brook, group)).verdicts[-1] == AlreadyAppended(first.first, first.last)
    assert (await world.written()).count("again") == 1


async def test_a_conflict_is_repeated_though_its_own_group_pushes_it_out_of_the_window() -> None:
    world = World()
    refused = prepared(expected=3)
    first = (await world.handler.append(world.brook, [prepared(), refused])).verdicts[1]
    assert first == Conflicted(3, Position(0))
    group = [prepared(), prepared(), prepared(), *(prepared(expected=99) for _ in range(REMEMBERED)), refused]
    assert (await world.handler.append(world.brook, group)).verdicts[-1] == first


async def test_what_a_longer_window_held_is_known_under_a_shorter_one() -> None:
    """As after a change of settings: the head still tells of more commands than this worker keeps."""
    world = World(Lookup.REDELIVERED)
    group = [prepared() for _ in range(REMEMBERED)]
    before = (await world.handler.append(world.brook, group)).verdicts
    handler = AppendHandler(world.store, Limits(recent_commands_max=1), replans_max=3, lookup=Lookup.ALWAYS)
    after = (await handler.append(BrookState(KEY), group)).verdicts
    assert [verdict for verdict in after if isinstance(verdict, AlreadyAppended)] == list(after)
    assert len(after) == len(before) == len(await world.written())


@pytest.mark.parametrize("other_first", [False, True])
async def test_several_commands_under_a_forgotten_id_are_each_compared_with_the_first(*, other_first: bool) -> None:
    world = World()
    original = prepared(command_id="x", events=(event("e", data=b"original"),))
    other = prepared(command_id="x", events=(event("e", data=b"another"),))
    assert (await world.handler.append(world.brook, [original])).verdicts == (Accepted(Position(0), Position(0)),)
    await world.handler.append(world.brook, [prepared() for _ in range(REMEMBERED + 1)])
    group = [other, original] if other_first else [original, other]
    verdicts = (await world.handler.append(world.brook, group)).verdicts
    assert verdicts[group.index(original)] == AlreadyAppended(Position(0), Position(0))
    refused = verdicts[group.index(other)]
    assert isinstance(refused, Refused)
    assert refused.code == RejectionCode.COMMAND_ID_REUSED


class Counting(MemoryBrookStore):
    """Counts the events that are read."""

    def __init__(self) -> None:
        super().__init__()
        self.events_read = 0

    async def _read_range(self, key: BrookKey, first: Position, last: Position) -> list[RecordedEvent]:
        self.events_read += last - first + 1
        return await super()._read_range(key, first, last)


async def test_no_more_events_are_read_than_the_forgotten_command_has() -> None:
    store = Counting()
    handler = AppendHandler(store, Limits(recent_commands_max=REMEMBERED), replans_max=3)
    brook = BrookState(KEY)
    again = prepared(events=2)
    await handler.append(brook, [prepared(), again, *(prepared(events=50) for _ in range(REMEMBERED + 1))])
    assert isinstance((await handler.append(brook, [again])).verdicts[0], AlreadyAppended)
    assert store.events_read == 2
