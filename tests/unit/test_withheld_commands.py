"""Commands whose events are not to be had: answered as before where they took effect, else refused on record."""

from typing import Any

import msgspec
import pytest

from schemas.codec import encode_reply
from schemas.commands import AppendCommand
from schemas.replies import Rejected, RejectionCode
from schemas.types import CommandId, Position
from tests.support.brooks import KEY, TIME, command, prepared
from tests.support.claims import claimed, with_claim, with_digest
from worker.handlers.append import AppendHandler, GroupResult
from worker.handlers.brook import BrookState
from worker.handlers.lookup import Lookup
from worker.protocol.documents import Document, encoded_bytes, head_document, read_head
from worker.protocol.model import Head, Limits, RecentConflict, StoredHead
from worker.protocol.pending import begin, chunks, write_chunk
from worker.protocol.plan import AppendBatch, plan
from worker.protocol.prepare import PreparedCommand, prepare, prepare_withheld
from worker.protocol.recovery import Commit, Resume, RollBack, decide_recovery
from worker.protocol.verdicts import Accepted, AlreadyAppended, Conflicted, Refused, Verdict, reply_to
from worker.protocol.withheld import WITHHELD, refusal
from worker.storage.base import Written
from worker.storage.memory import MemoryBrookStore

pytestmark = pytest.mark.anyio

MISSING = refusal(RejectionCode.CLAIM_MISSING)
LIMITS = Limits(batch_operations_max=11, recent_commands_max=4)


def ghost(
    one: AppendCommand, code: RejectionCode = RejectionCode.CLAIM_MISSING, *, digest: bool = True
) -> PreparedCommand:
    """`one`, sent by claim, whose blob cannot be used."""
    sent, _ = claimed(one)
    return prepare_withheld(with_claim(one, with_digest(one, sent.claim)) if digest else sent, code, TIME)


async def append(store: MemoryBrookStore, *commands: PreparedCommand, **options: Any) -> GroupResult:
    """By a worker that knows nothing of the brook yet."""
    return await AppendHandler(store, LIMITS, replans_max=3, **options).append(BrookState(KEY), commands)


async def verdict(store: MemoryBrookStore, one: PreparedCommand, **options: Any) -> Verdict:
    (found,) = (await append(store, one, **options)).verdicts
    return found


async def head_of(store: MemoryBrookStore) -> Head:
    return (await store.load(KEY)).brook.head.head


def body(one: PreparedCommand, found: Verdict) -> bytes:
    return encode_reply(reply_to(one.command_id, found))


async def test_it_is_refused_and_that_is_on_record_before_anybody_hears_of_it() -> None:
    store = MemoryBrookStore()
    one = command()
    assert await verdict(store, ghost(one)) == MISSING
    (entry,) = (await head_of(store)).conflicts
    assert (entry.command_id, entry.refusal) == (one.command_id, "claim-missing")


@pytest.mark.parametrize("later", ["the blob is there", "gone for another reason", "sent inline"])
async def test_a_refused_command_does_not_take_effect_when_it_comes_again(later: str) -> None:
    store = MemoryBrookStore()
    one = command(events=3)
    first = body(ghost(one), await verdict(store, ghost(one)))
    again = {
        "the blob is there": prepare(one, TIME),
        "gone for another reason": ghost(one, RejectionCode.CLAIM_EXPIRED),
        "sent inline": prepare(one, TIME),
    }[later]
    assert body(again, await verdict(store, again)) == first
    assert (await head_of(store)).position == -1


@pytest.mark.parametrize("events", [3, 35])
async def test_who_had_read_the_blob_before_cannot_carry_the_command_out_afterwards(events: int) -> None:
    """It pauses between its load and its write; meanwhile another worker finds no blob."""
    store = MemoryBrookStore()
    await append(store, prepared())
    one = command(events=events)
    paused = BrookState(KEY)
    paused.stored = (await store.load(KEY)).brook
    assert await verdict(store, ghost(one)) == MISSING
    late = await AppendHandler(store, LIMITS, replans_max=3).append(paused, [prepare(one, TIME)])
    assert late.verdicts == (MISSING,)
    assert late.plans == 2, "its first write was shut out"
    assert (await head_of(store)).position == 0


@pytest.mark.parametrize("digest", [True, False])
@pytest.mark.parametrize("events", [1, 35])
async def test_what_took_effect_is_answered_as_it_was_by_the_window(digest: bool, events: int) -> None:
    store = MemoryBrookStore()
    one = command(events=events)
    first = body(prepare(one, TIME), await verdict(store, prepare(one, TIME)))
    before = store.documents(KEY)
    again = ghost(one, digest=digest)
    assert body(again, await verdict(store, again)) == first
    assert store.documents(KEY) == before


@pytest.mark.parametrize("lookup", list(Lookup))
async def test_what_took_effect_is_answered_as_it_was_when_only_its_events_tell_of_it(lookup: Lookup) -> None:
    store = MemoryBrookStore()
    one = command(events=3)
    await append(store, prepare(one, TIME), prepared())
    for _ in range(LIMITS.recent_commands_max):
        await append(store, prepared())
    assert all(entry.command_id != one.command_id for entry in (await head_of(store)).recent)
    assert await verdict(store, ghost(one), lookup=lookup) == AlreadyAppended(Position(0), Position(2))
    other = ghost(command(command_id=one.command_id, events=4))
    found = await verdict(store, other, lookup=lookup)
    assert isinstance(found, Refused)
    assert found.code is RejectionCode.COMMAND_ID_REUSED


async def test_a_conflict_that_was_told_is_told_again() -> None:
    store = MemoryBrookStore()
    one = command(expected=7)
    assert await verdict(store, prepare(one, TIME)) == Conflicted(7, Position(-1))
    assert await verdict(store, ghost(one)) == Conflicted(7, Position(-1))


@pytest.mark.parametrize(
    ("other", "digest"),
    [({"events": 3}, True), ({"events": 2, "expected": "empty"}, True), ({"events": 3}, False)],
)
async def test_another_command_under_its_id_is_told_from_it(other: dict[str, Any], digest: bool) -> None:
    store = MemoryBrookStore()
    one = command(events=2)
    await append(store, prepare(one, TIME))
    found = await verdict(store, ghost(command(command_id=one.command_id, **other), digest=digest))
    assert isinstance(found, Refused)
    assert found.code is RejectionCode.COMMAND_ID_REUSED


async def test_its_place_in_a_group_changes_nothing_for_the_others() -> None:
    store = MemoryBrookStore()
    first, one, last = prepared(), ghost(command()), prepared(expected=0)
    result = await append(store, first, one, ghost(command(command_id=one.command_id)), last)
    assert result.verdicts == (
        Accepted(Position(0), Position(0)),
        MISSING,
        # Another content under the id of a command that was refused.
        result.verdicts[2],
        Accepted(Position(1), Position(1)),
    )
    assert isinstance(result.verdicts[2], Refused)
    assert result.verdicts[2].code is RejectionCode.COMMAND_ID_REUSED
    assert result.plans == 1


async def interrupted(one: PreparedCommand, chunks_max: int) -> MemoryBrookStore:
    """A brook in which a large append died after so many chunks."""
    store = MemoryBrookStore()
    await append(store, prepared())
    brook = (await store.load(KEY)).brook
    pending, operations = begin(brook.head, brook.head.head, one)
    assert isinstance(await store.write(KEY, operations), Written)
    for chunk in list(chunks(KEY, one, pending, LIMITS))[:chunks_max]:
        marker = (await store.load(KEY)).brook.pending
        assert marker is not None
        assert isinstance(await store.write(KEY, write_chunk(KEY, marker, one, chunk)[1]), Written)
    return store


async def test_a_large_append_that_died_is_rolled_back_where_the_blob_is_gone() -> None:
    one = command(events=35)
    store = await interrupted(prepare(one, TIME), 2)
    assert decide_recovery((await store.load(KEY)).brook, [ghost(one)]) == RollBack()
    assert await verdict(store, ghost(one)) == MISSING
    assert set(store.documents(KEY)) == {"head", "0"}
    assert await verdict(store, prepare(one, TIME)) == MISSING, "also when the blob is back"


async def test_a_large_append_that_died_complete_is_committed_and_its_command_appended() -> None:
    one = command(events=35)
    store = await interrupted(prepare(one, TIME), 4)
    assert decide_recovery((await store.load(KEY)).brook, [ghost(one)]) == Commit()
    assert await verdict(store, ghost(one)) == AlreadyAppended(Position(1), Position(35))


async def test_a_large_append_that_died_is_resumed_where_the_blob_is_there() -> None:
    one = command(events=35)
    store = await interrupted(prepare(one, TIME), 2)
    assert isinstance(decide_recovery((await store.load(KEY)).brook, [prepare(one, TIME)]), Resume)
    assert await verdict(store, prepare(one, TIME)) == AlreadyAppended(Position(1), Position(35))


@pytest.mark.parametrize("code", sorted(WITHHELD))
def test_what_is_told_is_a_function_of_the_code_alone(code: RejectionCode) -> None:
    found = refusal(str(code))
    assert found.code is code
    reply = reply_to(CommandId("c"), found)
    assert isinstance(reply, Rejected)
    assert reply.details[0].remedy


def test_a_code_of_a_newer_worker_is_told_as_what_it_comes_to() -> None:
    assert refusal("claim-unheard-of") == MISSING


@pytest.mark.parametrize("code", sorted(WITHHELD))
def test_records_of_refusals_are_counted_to_the_byte_and_within_their_bound(code: RejectionCode) -> None:
    limits = Limits(recent_commands_max=20)
    stored = StoredHead(key=KEY)
    wide = "€" * 124
    commands = [ghost(command(command_id=f"{wide}{index:04}"), code) for index in range(25)]
    (step,) = plan(stored, commands, limits).steps
    assert isinstance(step, AppendBatch)
    document = head_document(KEY, step.head)
    assert len(step.head.conflicts) == 20
    bare = [{"operationType": "Create", "resourceBody": document}]
    assert 0 <= step.request_bytes - encoded_bytes(bare) <= 200, "but for the longest ETag"
    assert step.request_bytes <= limits.head_bytes_max
    assert read_head(KEY, document) == step.head


def test_a_conflict_is_recorded_as_before() -> None:
    entry = RecentConflict(CommandId("c"), Position(3), "d")
    document: Document = head_document(KEY, Head(conflicts=(entry,)))
    assert document["recentConflicts"] == [["c", 3, "d"]]
    with_refusal = msgspec.structs.replace(entry, refusal="claim-missing")
    document = head_document(KEY, Head(conflicts=(entry, with_refusal)))
    assert document["recentConflicts"][1] == ["c", 3, "d", "claim-missing"]
    assert read_head(KEY, document).conflicts == (entry, with_refusal)
