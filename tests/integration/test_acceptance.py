"""What of the acceptance list needs the real client and the embedded Cosmos DB; docs/acceptance.md has all of it."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import anyio
import msgspec
import pytest
from azure.cosmos import PartitionKey
from azure.cosmos.aio import ContainerProxy, CosmosClient
from structlog.testing import capture_logs

from emulator.clock import SystemClock
from emulator.cosmos import CosmosServer
from emulator.faults import Answer, ApplyThenDrop, DropBefore, Effect, Faults, Rule, Truncate
from emulator.journal import MemoryJournal
from schemas.keys import BrookKey, partition_key
from schemas.types import Position
from tests.support.brooks import FULL_EVENT, TIME, command, event, prepared
from worker.handlers.append import AppendHandler
from worker.handlers.brook import BrookState
from worker.protocol.model import Limits
from worker.protocol.prepare import PreparedCommand, prepare
from worker.protocol.verdicts import Accepted, AlreadyAppended, Conflicted, Verdict
from worker.protocol.writes import Operation
from worker.storage.base import Diverged, StoreUnavailableError, TooLarge, WriteResult, Written
from worker.storage.cosmos import CosmosBrookStore
from worker.storage.retries import RetryOptions
from worker.telemetry.instruments import RECOVERY_DECISIONS

pytestmark = pytest.mark.anyio

SMALL = Limits(batch_operations_max=11)
"""Ten events a chunk."""
RETRY = RetryOptions(attempts_max=5, time_max_s=10, backoff_first_s=0.01, backoff_max_s=0.05)

_numbers = itertools.count(1)


class Account:
    """The embedded service and what leads to it."""

    def __init__(self, container: ContainerProxy, faults: Faults) -> None:
        self.container = container
        self.faults = faults
        self.store = CosmosBrookStore(container, RETRY)

    async def documents(self, key: BrookKey) -> dict[str, dict[str, Any]]:
        rows = self.container.query_items("SELECT * FROM c", partition_key=partition_key(key))
        return {row["id"]: row async for row in rows}


@pytest.fixture(scope="module")
async def account() -> AsyncIterator[Account]:
    faults = Faults()
    server = CosmosServer(clock=SystemClock(), journal=MemoryJournal(), faults=faults)
    await server.start()
    try:
        async with CosmosClient(
            server.endpoint, server.key, enable_compact_utf8_item_writes=True, retry_throttle_total=-1
        ) as client:
            database = await client.create_database("brooks")
            yield Account(await database.create_container("events", PartitionKey("/brookPartitionKey")), faults)
    finally:
        await server.stop()


@pytest.fixture
def key() -> BrookKey:
    return BrookKey("accepted", str(next(_numbers)))


class InterruptedStore(CosmosBrookStore):
    """Does something right before the write of a number, and can be gone from then on."""

    def __init__(self, container: ContainerProxy, before: dict[int, Callable[[], Awaitable[None]]]) -> None:
        super().__init__(container, RETRY)
        self._before = before
        self.results: list[WriteResult] = []
        self.sent: list[tuple[Operation, ...]] = []

    async def write(self, key: BrookKey, operations: Sequence[Operation]) -> WriteResult:
        if (step := self._before.pop(len(self.sent) + 1, None)) is not None:
            await step()
        self.sent.append(tuple(operations))
        self.results.append(await super().write(key, operations))
        return self.results[-1]


def handler(store: CosmosBrookStore, limits: Limits = SMALL) -> AppendHandler:
    return AppendHandler(store, limits, replans_max=5)


async def gone() -> None:
    raise StoreUnavailableError("the writer is gone")


async def orphaned(account: Account, key: BrookKey, written_chunks: int) -> None:
    """One event, and then an append of 35 events whose writer is gone after so many of its four chunks."""
    await handler(account.store).append(BrookState(key), [prepared(command_id="first", key=key)])
    store = InterruptedStore(account.container, {written_chunks + 2: gone})
    with pytest.raises(StoreUnavailableError):
        await handler(store).append(BrookState(key), [prepared(command_id="large", events=35, key=key)])


async def test_of_concurrent_appends_on_one_expected_head_one_wins_and_the_others_conflict(
    account: Account, key: BrookKey
) -> None:
    verdicts: list[Verdict] = []

    async def append_one(number: int) -> None:
        store = CosmosBrookStore(account.container, RETRY)
        group = [prepared(command_id=f"w{number}", expected="empty", events=1 + 20 * (number % 2), key=key)]
        verdicts.extend((await AppendHandler(store, SMALL, replans_max=50).append(BrookState(key), group)).verdicts)

    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(append_one, number)
    won = [verdict for verdict in verdicts if isinstance(verdict, Accepted)]
    lost = [verdict for verdict in verdicts if isinstance(verdict, Conflicted)]
    assert (len(won), len(lost)) == (1, 7)
    assert {(verdict.expected, verdict.actual) for verdict in lost} == {("empty", won[0].last)}
    assert len([one async for one in account.store.read_forward(key)]) == won[0].last + 1


@pytest.mark.parametrize("events", [3, 35])
async def test_no_write_takes_effect_a_second_time(account: Account, key: BrookKey, events: int) -> None:
    """The fence: every write names the states that it builds on, so a zombie that sends one again changes nothing."""
    store = InterruptedStore(account.container, {})
    for command_id in ("first", "second"):
        await handler(store).append(BrookState(key), [prepared(command_id=command_id, events=events, key=key)])
    before = await account.documents(key)
    assert all(isinstance(result, Written) for result in store.results)
    assert len(store.sent) == (2 if events < 10 else 12)
    for operations in store.sent:
        assert isinstance(await account.store.write(key, operations), Diverged)
    assert await account.documents(key) == before


async def test_a_zombies_chunk_is_refused_once_another_writer_has_the_brook(account: Account, key: BrookKey) -> None:
    async def overtake() -> None:
        await handler(account.store).append(BrookState(key), [prepared(command_id="other", key=key)])

    zombie = InterruptedStore(account.container, {3: overtake, 4: gone})
    with pytest.raises(StoreUnavailableError):
        await handler(zombie).append(BrookState(key), [prepared(command_id="large", events=35, key=key)])
    assert [type(result) for result in zombie.results] == [Written, Written, Diverged]
    assert set(await account.documents(key)) == {"head", "0"}
    assert [str(one.command_id) async for one in account.store.read_forward(key)] == ["other"]


async def test_a_commit_is_refused_when_the_head_was_changed_meanwhile_and_then_decided_anew(
    account: Account, key: BrookKey
) -> None:
    await handler(account.store).append(BrookState(key), [prepared(command_id="first", key=key)])

    async def rewrite_head() -> None:
        await account.container.replace_item("head", (await account.documents(key))["head"])

    store = InterruptedStore(account.container, {6: rewrite_head})
    result = await handler(store).append(BrookState(key), [prepared(command_id="large", events=35, key=key)])
    assert [type(one) for one in store.results] == [*[Written] * 5, Diverged, Written]
    assert result.verdicts == (AlreadyAppended(Position(1), Position(35)),)
    assert [str(one.command_id) async for one in account.store.read_forward(key)] == ["first", *["large"] * 35]


@pytest.mark.parametrize(("expected", "is_appended"), [("any", True), (0, False)])
async def test_a_large_append_that_another_writer_overtook_is_replanned_or_conflicts(
    account: Account, key: BrookKey, expected: Any, *, is_appended: bool
) -> None:
    await handler(account.store).append(BrookState(key), [prepared(command_id="first", key=key)])

    async def overtake() -> None:
        other = CosmosBrookStore(account.container, RETRY)
        await handler(other).append(BrookState(key), [prepared(command_id="other", key=key)])

    store = InterruptedStore(account.container, {4: overtake})
    large = prepared(command_id="large", events=35, expected=expected, key=key)
    result = await handler(store).append(BrookState(key), [large])
    found = [str(one.command_id) async for one in account.store.read_forward(key)]
    if is_appended:
        assert result.verdicts == (Accepted(Position(2), Position(36)),)
        assert found == ["first", "other", *["large"] * 35]
    else:
        assert result.verdicts == (Conflicted(0, Position(1)),)
        assert found == ["first", "other"]
    assert set(await account.documents(key)) == {"head", *map(str, range(len(found)))}


async def test_a_413_from_the_service_splits_the_batch(account: Account, key: BrookKey) -> None:
    """The worker believes in 6 MB; the service takes two."""
    store = InterruptedStore(account.container, {})
    generous = Limits(batch_bytes_max=6_000_000)
    group = [prepared(command_id=f"c{n}", events=(event(data=b"x" * 600_000),), key=key) for n in range(5)]
    result = await handler(store, generous).append(BrookState(key), group)
    assert isinstance(store.results[0], TooLarge)
    assert result.verdicts == tuple(Accepted(Position(n), Position(n)) for n in range(5))
    assert [str(one.command_id) async for one in account.store.read_forward(key)] == [f"c{n}" for n in range(5)]


@pytest.mark.parametrize(("over", "batches"), [(0, 1), (1, 2)])
async def test_a_group_fills_a_batch_to_the_byte_as_it_is_sent(
    account: Account, key: BrookKey, over: int, batches: int
) -> None:
    def group(brook: BrookKey) -> list[PreparedCommand]:
        return [prepared(command_id=f"c{n}", events=(event("e", data=b"x" * 3_000),), key=brook) for n in range(20)]

    one, other = (BrookKey(key.name, f"{key.entity_id}-{name}") for name in "ab")
    limits = Limits(recent_commands_max=20)
    result = await handler(account.store, limits).append(BrookState(one), group(one))
    request_bytes = {facts.request_bytes for facts in result.batches.values()}
    exact = msgspec.structs.replace(limits, batch_bytes_max=request_bytes.pop() - over)
    assert not request_bytes, "all of them in one batch"
    store = InterruptedStore(account.container, {})
    await handler(store, exact).append(BrookState(other), group(other))
    assert len(store.sent) == batches
    assert [stored.position async for stored in account.store.read_forward(other)] == list(range(20))


async def test_every_field_comes_back_as_it_was_sent(account: Account, key: BrookKey) -> None:
    plain = command(command_id="all", events=(FULL_EVENT, event("bare")), key=key)
    sent = msgspec.structs.replace(plain, correlation_id="corr", causation_id="cause")
    await handler(account.store).append(BrookState(key), [prepare(sent, TIME)])
    first, second = [one async for one in account.store.read_forward(key)]
    for name in FULL_EVENT.__struct_fields__:
        assert getattr(first, name) == getattr(FULL_EVENT, name), name
    assert (first.command_id, first.correlation_id, first.causation_id) == ("all", "corr", "cause")
    assert (second.time, second.source, second.metadata) == (TIME, None, None), "the default time, and nothing else"


async def test_every_document_stands_where_readers_look(account: Account, key: BrookKey) -> None:
    """Writers and readers make the partition key in one place: also of a key that needs escaping everywhere."""
    awkward = BrookKey('na/me\\?#"%20', f"ünï🌊-{key.entity_id}")
    await orphaned(account, awkward, 2)
    documents = await account.documents(awkward)
    assert {"head", "head-pending", "0", "20"} <= documents.keys()
    assert {document["brookPartitionKey"] for document in documents.values()} == {partition_key(awkward)}
    assert [one.position async for one in account.store.read_forward(awkward)] == [0]


TRANSIENT: list[Effect] = [
    Answer(status=429, retry_after_ms=10),
    Answer(status=449),
    Answer(status=408),
    Answer(status=503),
    Answer(status=500),
    DropBefore(),
    ApplyThenDrop(),
    Truncate(),
]


@pytest.mark.parametrize(
    "effect", TRANSIENT, ids=lambda effect: f"{type(effect).__name__}{getattr(effect, 'status', '')}"
)
@pytest.mark.parametrize(("chunks", "decision"), [(2, "roll-back"), (4, "commit")])
async def test_recovery_goes_on_through_transient_errors_and_tells_what_it_decided(
    account: Account, key: BrookKey, effect: Effect, chunks: int, decision: str
) -> None:
    await orphaned(account, key, chunks)
    counted = RECOVERY_DECISIONS.get(decision)
    rule = account.faults.add(
        Rule(service="cosmos", where={"partition_key": partition_key(key)}, times=3, effect=effect)
    )
    with capture_logs() as logs:
        await handler(account.store).append(BrookState(key), [prepared(command_id="next", key=key)])
    assert account.faults.fired(rule) == 3
    account.faults.clear()
    found = [str(one.command_id) async for one in account.store.read_forward(key)]
    assert found == ["first", *["large"] * (35 if decision == "commit" else 0), "next"]
    assert RECOVERY_DECISIONS.get(decision) > counted
    line = next(line for line in logs if line["event"] == "recovery.decided")
    written = 10 * chunks if chunks < 4 else 35
    assert {name: line[name] for name in ("brook", "original", "target", "written", "head", "decision", "command")} == {
        "brook": str(key),
        "original": 0,
        "target": 35,
        "written": written,
        "head": 0,
        "decision": decision,
        "command": "large",
    }
