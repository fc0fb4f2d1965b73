"""What every store guarantees, shown on each backend that is there."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from azure.cosmos import PartitionKey
from azure.cosmos.aio import CosmosClient

from emulator.clock import SystemClock
from emulator.cosmos import CosmosServer
from emulator.faults import Answer, ApplyThenDrop, DropBefore, Faults, NoFault, ReadBehind, Rule, Truncate
from emulator.journal import MemoryJournal
from schemas.keys import BrookKey
from schemas.types import EMPTY, CommandId, Position
from tests.support.brooks import event, prepared
from worker.protocol.documents import Document, head_document
from worker.protocol.model import ETag, Head, RecentCommand, RecentConflict, StoredHead
from worker.protocol.pending import Pending, StoredBrook, StoredPending, pending_document
from worker.protocol.writes import Create, Delete, Operation, Replace, append_events
from worker.storage.base import (
    BrookStore,
    ContradictionError,
    Diverged,
    StoreMisconfiguredError,
    StoreRefusedError,
    StoreUnavailableError,
    TooLarge,
    WriteResult,
    Written,
)
from worker.storage.cosmos import CosmosBrookStore
from worker.storage.memory import MemoryBrookStore
from worker.storage.retries import RetryOptions

pytestmark = pytest.mark.anyio

RETRY = RetryOptions(attempts_max=3, time_max_s=5, backoff_first_s=0.01, backoff_max_s=0.05)
_numbers = iter(range(1_000_000))


class CosmosBackend:
    """The embedded service with the real client."""

    def __init__(self, server: CosmosServer, faults: Faults, client: CosmosClient) -> None:
        self.faults = faults
        self.server = server
        container = client.get_database_client("brooks").get_container_client("events")
        self.store = CosmosBrookStore(container, RETRY)
        self.other = CosmosBrookStore(container, RETRY)


@asynccontextmanager
async def cosmos_backend() -> AsyncIterator[CosmosBackend]:
    faults = Faults()
    server = CosmosServer(clock=SystemClock(), journal=MemoryJournal(), faults=faults)
    await server.start()
    try:
        async with CosmosClient(server.endpoint, server.key, enable_compact_utf8_item_writes=True) as client:
            database = await client.create_database("brooks")
            await database.create_container("events", PartitionKey("/brookPartitionKey"))
            yield CosmosBackend(server, faults, client)
    finally:
        await server.stop()


@pytest.fixture(scope="module")
async def cosmos() -> AsyncIterator[CosmosBackend]:
    async with cosmos_backend() as backend:
        yield backend


@pytest.fixture(params=["memory", "cosmos"])
def store(request: pytest.FixtureRequest) -> BrookStore:
    if request.param == "memory":
        return MemoryBrookStore()
    backend: CosmosBackend = request.getfixturevalue("cosmos")
    return backend.store


@pytest.fixture
def key() -> BrookKey:
    return BrookKey("br\u00fcck-\U0001f30a/\\?#", f"{next(_numbers)}")


def event_at(key: BrookKey, position: int, command_id: str = "c", **fields: Any) -> Document:
    one = prepared(command_id=command_id, events=(event(f"event-{position}", **fields),), key=key)
    return one.event_document(0, Position(position))


async def append(store: BrookStore, stored: StoredHead, count: int, command_id: str = "c") -> StoredHead:
    """Append `count` events by the rules and give back the head that follows."""
    first = stored.head.position + 1
    last = Position(stored.head.position + count)
    entry = RecentCommand(CommandId(command_id), Position(first), last, "digest")
    after = Head(position=last, recent=(*stored.head.recent, entry))
    events = tuple(event_at(stored.key, position, command_id) for position in range(first, last + 1))
    result = written(await store.write(stored.key, append_events(stored, after, events)))
    return StoredHead(key=stored.key, head=after, etag=result.etags[0])


def written(result: WriteResult) -> Written:
    assert isinstance(result, Written), result
    return result


async def test_an_unknown_brook_is_empty(store: BrookStore, key: BrookKey) -> None:
    assert (await store.load(key)).brook == StoredBrook(head=StoredHead(key=key))
    assert await store.head_position(key) == -1
    assert [event async for event in store.read_forward(key)] == []
    assert [event async for event in store.read_backward(key)] == []


async def test_a_head_comes_back_as_it_was_written(store: BrookStore, key: BrookKey) -> None:
    head = Head(
        position=Position(2**53 - 2),
        pending=CommandId("large"),
        recent=(RecentCommand(CommandId("\u00fc|\U0001f30a"), Position(3), Position(9), "digest"),),
        conflicts=(RecentConflict(CommandId("x"), Position(-1), "digest"),),
    )
    result = written(await store.write(key, [Create(head_document(key, head))]))
    assert (await store.load(key)).brook.head == StoredHead(key=key, head=head, etag=result.etags[0])


async def test_etags_round_trip_and_name_one_state_each(store: BrookStore, key: BrookKey) -> None:
    stored = StoredHead(key=key)
    etags = set()
    for _ in range(3):
        stored = await append(store, stored, 2)
        assert stored.etag is not None
        etags.add(stored.etag)
        assert (await store.load(key)).brook.head == stored
    assert len(etags) == 3


async def test_a_stale_etag_is_refused_and_nothing_of_the_batch_takes_effect(store: BrookStore, key: BrookKey) -> None:
    first = await append(store, StoredHead(key=key), 1)
    second = await append(store, first, 1)
    stale = append_events(first, Head(position=Position(1)), (event_at(key, 1),))
    assert isinstance(await store.write(key, stale), Diverged)
    assert (await store.load(key)).brook.head == second
    assert [event.position async for event in store.read_forward(key)] == [0, 1]


async def test_creating_a_head_that_exists_is_refused(store: BrookStore, key: BrookKey) -> None:
    await append(store, StoredHead(key=key), 1)
    again = append_events(StoredHead(key=key), Head(position=Position(0)), (event_at(key, 0),))
    result = await store.write(key, again)
    assert isinstance(result, Diverged)
    assert result.operation == 0


async def test_a_failing_operation_undoes_the_ones_before_it_and_is_named(store: BrookStore, key: BrookKey) -> None:
    stored = await append(store, StoredHead(key=key), 1)
    head = head_document(key, Head(position=Position(2)))
    assert stored.etag is not None
    clash: list[Operation] = [Replace(head, stored.etag), Create(event_at(key, 1)), Create(event_at(key, 0))]
    result = await store.write(key, clash)
    assert isinstance(result, Diverged)
    assert result.operation == 2
    assert (await store.load(key)).brook.head == stored
    assert [event.position async for event in store.read_forward(key)] == [0]


async def test_replacing_or_deleting_what_is_missing_is_refused(store: BrookStore, key: BrookKey) -> None:
    missing: tuple[Operation, ...] = (
        Replace(head_document(key, Head()), ETag('"no"')),
        Delete("head-pending", ETag('"no"')),
        Delete("7"),
    )
    for operation in missing:
        assert isinstance(await store.write(key, [operation]), Diverged)


async def test_deleting_is_conditional_where_asked(store: BrookStore, key: BrookKey) -> None:
    pending = Pending(original=EMPTY, target=Position(5), written=Position(2), command_id=CommandId("c"), digest="d")
    marker = pending_document(key, pending)
    made = written(await store.write(key, [Create(marker), Create(event_at(key, 0))]))
    assert made.etags[0] is not None
    assert (await store.load(key)).brook.pending == StoredPending(pending=pending, etag=made.etags[0])
    assert isinstance(await store.write(key, [Delete("head-pending", ETag('"stale"'))]), Diverged)
    gone = written(await store.write(key, [Delete("head-pending", made.etags[0]), Delete("0")]))
    assert gone.etags == (None, None)
    assert (await store.load(key)).brook.pending is None


async def test_a_hundred_operations_are_taken_and_one_more_is_refused(store: BrookStore, key: BrookKey) -> None:
    stored = await append(store, StoredHead(key=key), 99)
    assert (await store.load(key)).brook.head == stored
    with pytest.raises(StoreRefusedError):
        await append(store, stored, 100)
    assert (await store.load(key)).brook.head == stored


async def test_an_empty_batch_is_refused(store: BrookStore, key: BrookKey) -> None:
    with pytest.raises(StoreRefusedError):
        await store.write(key, [])


async def test_a_request_over_two_megabytes_is_too_large_and_changes_nothing(store: BrookStore, key: BrookKey) -> None:
    events = tuple(event_at(key, position, data=b"x" * 500_000) for position in range(4))
    result = await store.write(key, append_events(StoredHead(key=key), Head(position=Position(3)), events))
    assert isinstance(result, TooLarge)
    assert (await store.load(key)).brook.head == StoredHead(key=key)


async def test_of_many_writers_on_one_state_exactly_one_wins(store: BrookStore, key: BrookKey) -> None:
    stored = await append(store, StoredHead(key=key), 1)
    results: list[WriteResult] = []

    async def contend(number: int) -> None:
        after = Head(position=Position(1), recent=(RecentCommand(CommandId(f"w{number}"), Position(1), Position(1)),))
        results.append(await store.write(key, append_events(stored, after, (event_at(key, 1, f"w{number}"),))))

    async with anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(contend, number)
    assert sum(isinstance(result, Written) for result in results) == 1
    assert sum(isinstance(result, Diverged) for result in results) == 9
    assert await store.head_position(key) == 1


@pytest.mark.parametrize("page_events", [1, 3, 10, 100])
async def test_reading_pages_through_the_brook_both_ways(store: BrookStore, key: BrookKey, page_events: int) -> None:
    await append(store, StoredHead(key=key), 10)
    forward = [event async for event in store.read_forward(key, page_events=page_events)]
    backward = [event async for event in store.read_backward(key, page_events=page_events)]
    assert [event.position for event in forward] == list(range(10))
    assert backward == forward[::-1]
    assert [one.event_id for one in forward] == [f"event-{position}" for position in range(10)]
    assert forward[0].data == b"data"
    part = [event.position async for event in store.read_forward(key, Position(7), page_events=page_events)]
    assert part == [7, 8, 9]
    part = [event.position async for event in store.read_backward(key, Position(2), page_events=page_events)]
    assert part == [2, 1, 0]
    past = [event.position async for event in store.read_forward(key, Position(99), page_events=page_events)]
    assert past == []


async def test_readers_never_see_past_the_head(store: BrookStore, key: BrookKey) -> None:
    await append(store, StoredHead(key=key), 2)
    written(await store.write(key, [Create(event_at(key, 2)), Create(event_at(key, 3))]))
    assert [event.position async for event in store.read_forward(key)] == [0, 1]
    assert [event.position async for event in store.read_backward(key, Position(3))] == [1, 0]
    assert await store.find_commands(key, {CommandId("c")}, Position(1)) == {"c": (0, 1)}
    assert list(await store.positions_past(key, Position(1))) == [2, 3]
    assert list(await store.positions_past(key, Position(3))) == []


async def test_a_gap_below_the_head_is_told_not_skipped(store: BrookStore, key: BrookKey) -> None:
    await append(store, StoredHead(key=key), 5)
    written(await store.write(key, [Delete("3")]))
    with pytest.raises(ContradictionError, match="position 3"):
        _ = [event async for event in store.read_forward(key)]


async def test_a_commands_events_are_found_by_its_id(store: BrookStore, key: BrookKey) -> None:
    stored = await append(store, StoredHead(key=key), 2, "a")
    stored = await append(store, stored, 3, "b \u00fc'\"")
    await append(store, stored, 1, "c")
    odd, many = CommandId("b \u00fc'\""), [CommandId(f"other-{index}") for index in range(600)]
    found = await store.find_commands(key, [CommandId("a"), CommandId("unknown"), *many, odd], Position(9))
    assert found == {"a": (0, 1), odd: (2, 4)}


async def test_brooks_do_not_see_each_other(store: BrookStore, key: BrookKey) -> None:
    other = BrookKey(key.name, f"{key.entity_id}x")
    await append(store, StoredHead(key=key), 3)
    await append(store, StoredHead(key=other), 1)
    assert await store.head_position(key) == 2
    assert [event.position async for event in store.read_forward(other)] == [0]


class TestCosmosFailures:
    """What only a service across a network does."""

    @pytest.fixture(autouse=True)
    def no_rules_left(self, cosmos: CosmosBackend) -> None:
        cosmos.faults.clear()

    def fail(self, cosmos: CosmosBackend, key: BrookKey, **rule: Any) -> Callable[[], int]:
        number = cosmos.faults.add(Rule(service="cosmos", where={"partition_key": str(key)}, **rule))
        return lambda: cosmos.faults.fired(number)

    @pytest.mark.parametrize(
        "effect",
        [
            Answer(status=429, retry_after_ms=5),
            Answer(status=449),
            Answer(status=503),
            Answer(status=408),
            DropBefore(),
        ],
    )
    async def test_what_may_pass_is_tried_again(self, cosmos: CosmosBackend, key: BrookKey, effect: Any) -> None:
        fired = self.fail(cosmos, key, operation="batch", times=2, effect=effect)
        stored = await append(cosmos.store, StoredHead(key=key), 1)
        assert fired() == 2
        assert (await cosmos.store.load(key)).brook.head == stored

    async def test_an_applied_write_whose_answer_is_lost_is_sent_again_once_and_comes_back_diverged(
        self, cosmos: CosmosBackend, key: BrookKey
    ) -> None:
        """The client itself must not resend: the second request is the store's own."""
        fired = self.fail(cosmos, key, operation="batch", times=1, effect=ApplyThenDrop())
        before = cosmos.faults.requests["cosmos", "batch"]
        batch = append_events(StoredHead(key=key), Head(position=Position(0)), (event_at(key, 0),))
        result = await cosmos.store.write(key, batch)
        assert isinstance(result, Diverged)
        assert result.attempts == 2
        assert fired() == 1
        assert cosmos.faults.requests["cosmos", "batch"] - before == 2
        assert await cosmos.store.head_position(key) == 0

    @pytest.mark.parametrize(
        ("effect", "requests"), [(ApplyThenDrop(), 1), (Truncate(), 1), (NoFault(), 1), (Answer(status=503), 2)]
    )
    async def test_the_client_sends_no_write_twice_by_itself(
        self, cosmos: CosmosBackend, key: BrookKey, effect: Any, requests: int
    ) -> None:
        """Whatever keeps the answer away: also where it does not come within the client's time. But for one answer."""
        latency_s = 0.4 if isinstance(effect, NoFault) else 0.0
        self.fail(cosmos, key, operation="batch", effect=effect, latency_s=latency_s)
        before = cosmos.faults.requests["cosmos", "batch"]
        async with CosmosClient(cosmos.server.endpoint, cosmos.server.key, read_timeout=0.2) as client:
            container = client.get_database_client("brooks").get_container_client("events")
            store = CosmosBrookStore(container, RetryOptions(attempts_max=1))
            with pytest.raises(StoreUnavailableError):
                await append(store, StoredHead(key=key), 1)
        assert cosmos.faults.requests["cosmos", "batch"] - before == requests

    @pytest.mark.parametrize("operation", ["batch", "query"])
    @pytest.mark.parametrize("sub_status", [3, 1008])
    async def test_a_region_that_fails_over_is_waited_for_no_longer_than_the_retries_last(
        self, cosmos: CosmosBackend, key: BrookKey, operation: str, sub_status: int
    ) -> None:
        """By itself the client tries again each second for two minutes, and a write cannot be cancelled."""
        self.fail(cosmos, key, operation=operation, effect=Answer(status=403, sub_status=sub_status))
        async with CosmosClient(cosmos.server.endpoint, cosmos.server.key) as client:
            container = client.get_database_client("brooks").get_container_client("events")
            store = CosmosBrookStore(container, RetryOptions(time_max_s=0.5))
            started_s = anyio.current_time()
            with pytest.raises(StoreUnavailableError) as caught:
                await (store.load(key) if operation == "query" else append(store, StoredHead(key=key), 1))
        assert not isinstance(caught.value, StoreMisconfiguredError), "it passes"
        assert anyio.current_time() - started_s < 3

    async def test_a_write_that_is_cancelled_is_carried_out_first(self, cosmos: CosmosBackend, key: BrookKey) -> None:
        """Cut off, it would leave its connection in a state that nobody knows."""
        fired = self.fail(cosmos, key, operation="batch", times=1, effect=NoFault(), latency_s=0.1)
        stored = None
        with anyio.move_on_after(0.03) as scope:
            stored = await append(cosmos.store, StoredHead(key=key), 1)
        assert (scope.cancel_called, fired()) == (True, 1)
        assert (await cosmos.store.load(key)).brook.head == stored

    async def test_a_throttled_request_waits_as_long_as_it_is_told(self, cosmos: CosmosBackend, key: BrookKey) -> None:
        """Longer than it would by itself."""
        self.fail(cosmos, key, operation="batch", times=1, effect=Answer(status=449, retry_after_ms=300))
        started_s = anyio.current_time()
        await append(cosmos.store, StoredHead(key=key), 1)
        assert anyio.current_time() - started_s >= 0.3

    async def test_an_outage_ends_in_a_domain_error_after_the_bounded_number_of_requests(
        self, cosmos: CosmosBackend, key: BrookKey
    ) -> None:
        self.fail(cosmos, key, operation="batch", effect=Answer(status=503))
        before = cosmos.faults.requests["cosmos", "batch"]
        with pytest.raises(StoreUnavailableError, match="503"):
            await append(cosmos.store, StoredHead(key=key), 1)
        assert cosmos.faults.requests["cosmos", "batch"] - before <= 3 * RETRY.attempts_max

    @pytest.mark.parametrize("effect", [Answer(status=429, retry_after_ms=5), Answer(status=503), DropBefore()])
    async def test_reads_are_tried_again_too(self, cosmos: CosmosBackend, key: BrookKey, effect: Any) -> None:
        stored = await append(cosmos.store, StoredHead(key=key), 1)
        self.fail(cosmos, key, operation="query", times=2, effect=effect)
        assert (await cosmos.store.load(key)).brook.head == stored

    async def test_another_process_write_is_seen_after_it_refused_ours(
        self, cosmos: CosmosBackend, key: BrookKey
    ) -> None:
        first = await append(cosmos.store, StoredHead(key=key), 1)
        second = await append(cosmos.other, first, 1)
        stale = append_events(first, Head(position=Position(1)), (event_at(key, 1),))
        assert isinstance(await cosmos.store.write(key, stale), Diverged)
        assert (await cosmos.store.load(key)).brook.head == second

    async def test_a_read_never_goes_back_behind_the_one_before(self, cosmos: CosmosBackend, key: BrookKey) -> None:
        """What the head told of must be found: the next read asks for a replica as new as the last one."""
        first = await append(cosmos.store, StoredHead(key=key), 1)
        await append(cosmos.other, first, 3, "by another process")
        await cosmos.store.load(key)
        mine, others = (store._session_tokens[str(key)] for store in (cosmos.store, cosmos.other))
        assert int(mine.rpartition("#")[2]) >= int(others.rpartition("#")[2])

    @pytest.mark.parametrize("status", [409, 412])
    async def test_a_refusal_of_the_whole_request_says_nothing_about_who_won(
        self, cosmos: CosmosBackend, key: BrookKey, status: int
    ) -> None:
        stored = await append(cosmos.store, StoredHead(key=key), 1)
        self.fail(cosmos, key, operation="batch", times=1, effect=Answer(status=status))
        batch = append_events(stored, Head(position=Position(1)), (event_at(key, 1),))
        assert isinstance(await cosmos.store.write(key, batch), Diverged)

    async def test_an_answer_that_comes_late_takes_nothing_back_of_what_was_seen(
        self, cosmos: CosmosBackend, key: BrookKey
    ) -> None:
        """As that to a write of a session that was lost meanwhile, and taken again by this process."""
        stored = await append(cosmos.store, StoredHead(key=key), 1)
        early = cosmos.store._session_tokens[str(key)]
        await append(cosmos.store, stored, 1)
        seen = cosmos.store._session_tokens[str(key)]
        cosmos.store._remember_token(str(key), {"x-ms-session-token": early})
        assert cosmos.store._session_tokens[str(key)] == seen != early

    @pytest.mark.parametrize("operation", ["load", "write"])
    async def test_a_brook_is_not_lost_because_nothing_is_as_new_as_what_was_seen(
        self, cosmos: CosmosBackend, key: BrookKey, operation: str
    ) -> None:
        """As when the container was made anew, or a region went down with writes that no other had."""
        stored = await append(cosmos.store, StoredHead(key=key), 1)
        partition_range, _, _ = cosmos.store._session_tokens[str(key)].partition(":")
        cosmos.store._session_tokens[str(key)] = f"{partition_range}:-1#999999999"
        with pytest.raises(StoreUnavailableError, match="404/1002"):
            await (cosmos.store.load(key) if operation == "load" else append(cosmos.store, stored, 1))
        assert (await cosmos.store.load(key)).brook.head == stored

    async def test_a_head_from_a_replica_that_is_behind_is_refused_and_then_seen_as_it_is(
        self, cosmos: CosmosBackend, key: BrookKey
    ) -> None:
        first = await append(cosmos.other, StoredHead(key=key), 1)
        newest = await append(cosmos.other, first, 2)
        fired = self.fail(cosmos, key, operation="query", effect=ReadBehind(transactions=1))
        old = (await cosmos.store.load(key)).brook.head
        assert old == first
        batch = append_events(old, Head(position=Position(1)), (event_at(key, 1),))
        assert isinstance(await cosmos.store.write(key, batch), Diverged)
        assert (await cosmos.store.load(key)).brook.head == newest
        assert fired() == 2

    async def test_no_replica_hides_what_was_read_or_written_before(self, cosmos: CosmosBackend, key: BrookKey) -> None:
        """Else the events of a command that the head has told of would not be found, and it would take effect twice."""
        first = await append(cosmos.other, StoredHead(key=key), 1, "c1")
        head = (await cosmos.store.load(key)).brook.head
        assert head == first
        self.fail(cosmos, key, operation="query", effect=ReadBehind(transactions=100))
        assert await cosmos.store.find_commands(key, [CommandId("c1")], Position(0)) == {CommandId("c1"): (0, 0)}
        assert await cosmos.store.head_position(key) == 0
        newest = await append(cosmos.store, head, 1)
        assert (await cosmos.store.load(key)).brook.head == newest
        assert [event.position async for event in cosmos.store.read_forward(key)] == [0, 1]

    async def test_the_charge_of_a_write_is_told(self, cosmos: CosmosBackend, key: BrookKey) -> None:
        batch = append_events(StoredHead(key=key), Head(position=Position(0)), (event_at(key, 0),))
        assert written(await cosmos.store.write(key, batch)).charge_ru > 5
