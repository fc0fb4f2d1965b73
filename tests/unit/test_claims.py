"""What a claim turns out to be: events that can be planned, a rejection for their content, or nothing to be had."""

import errno
import io
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.claim_content import encoded
from schemas.claims import Claim, Encoding
from schemas.commands import AppendCommand, ClaimedCommand
from schemas.guards import Guards, check_command
from schemas.replies import Rejected, RejectionCode
from schemas.types import Position
from tests.support.brooks import TIME, command, event
from tests.support.claims import claim_to, claimed, with_claim, with_digest
from tests.support.commands import EVENTS
from tests.support.waiting import wait_until
from worker.claims import content as claim_content
from worker.claims import resolve
from worker.claims.base import ClaimsMisconfiguredError, ClaimsUnavailableError
from worker.claims.content import prepare_claimed
from worker.claims.memory import MemoryClaimStore
from worker.claims.options import ClaimOptions
from worker.claims.resolve import Claims, ReadBlob, Resolved
from worker.protocol.prepare import PreparedCommand, prepare
from worker.telemetry.stages import stages

pytestmark = pytest.mark.anyio

ENCODINGS = list(Encoding)


def a_store(content: bytes | None = None) -> MemoryClaimStore:
    """In pieces of so few bytes that every test goes over their seams."""
    store = MemoryClaimStore(piece_bytes_max=23)
    if content is not None:
        store.put("blob-1", content)
    return store


async def resolved(store: MemoryClaimStore | None, sent: ClaimedCommand, **options: Any) -> Resolved:
    guards = options.pop("guards", Guards())
    async with Claims(store, guards, ClaimOptions(**options)).resolved(sent, TIME) as found:
        return found


async def withheld(store: MemoryClaimStore | None, sent: ClaimedCommand, **options: Any) -> RejectionCode | None:
    found = await resolved(store, sent, **options)
    assert isinstance(found.command, PreparedCommand)
    assert found.blob is None, "nothing that could be deleted"
    assert len(found.command) == sent.claim.event_count
    return found.command.withheld


async def rejection(store: MemoryClaimStore, sent: ClaimedCommand, **options: Any) -> Rejected:
    found = await resolved(store, sent, **options)
    assert isinstance(found.command, Rejected)
    assert found.command.command_id == sent.command_id
    return found.command


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(events=st.lists(EVENTS, min_size=1, max_size=5))
@settings(max_examples=15, deadline=None)
async def test_a_claimed_command_is_the_command_that_it_would_have_been_inline(
    encoding: Encoding, events: list[Any]
) -> None:
    inline = command(events=tuple(msgspec.structs.replace(one, time=None) for one in events))
    guards = Guards(event_ids=False)
    if check_command(inline, guards) is not None:
        return
    sent, content = claimed(inline, encoding)
    sent = with_claim(inline, with_digest(inline, sent.claim))
    expected = prepare(inline, TIME)
    async with Claims(a_store(content), guards).resolved(sent, TIME) as found:
        one = found.command
        assert isinstance(one, PreparedCommand)
        assert (one.identity, one.expected, len(one), one.withheld) == (
            expected.identity,
            expected.expected,
            len(expected),
            None,
        )
        assert list(one.bytes_at_start) == list(expected.bytes_at_start)
        # In any order: documents are made again when a batch is refused.
        for index in reversed(range(len(one))):
            at = Position(7 + index)
            assert one.event_document(index, at) == expected.event_document(index, at)


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_what_is_read_is_told_so_that_it_can_be_deleted(encoding: Encoding) -> None:
    sent, content = claimed(command(events=3), encoding)
    found = await resolved(a_store(content), sent)
    assert found.blob == ReadBlob("blob-1", '"1"')


async def test_the_last_line_needs_no_end() -> None:
    inline = command(events=2)
    content = b"".join(encoded(inline.events, Encoding.JSON_LINES)).rstrip(b"\n")
    found = await resolved(a_store(content), with_claim(inline, claim_to(content, 2)))
    assert isinstance(found.command, PreparedCommand)
    assert (found.command.withheld, len(found.command)) == (None, 2)


async def test_without_a_container_no_claim_is_taken() -> None:
    sent, _ = claimed(command())
    assert await withheld(None, sent) is RejectionCode.CLAIMS_NOT_SUPPORTED


async def test_a_blob_that_is_not_there_is_missing() -> None:
    sent, _ = claimed(command())
    assert await withheld(a_store(), sent) is RejectionCode.CLAIM_MISSING


@pytest.mark.parametrize(
    ("told", "there"),
    [
        ("truncated", b"{}"),
        ("longer than told", b"{}" * 500),
        ("tampered with", None),
        ("empty", b""),
    ],
)
async def test_another_content_than_told_is_a_mismatch(told: str, there: bytes | None) -> None:
    sent, content = claimed(command(events=3))
    tampered = content.replace(b"happened", b"hoppened", 1)
    assert tampered != content
    assert await withheld(a_store(tampered if there is None else there), sent) is RejectionCode.CLAIM_MISMATCH


async def test_what_is_too_large_or_too_late_is_not_asked_for() -> None:
    sent, content = claimed(command(events=3), expires_at="2026-01-31T12:00:00+01:00")
    store = a_store(content)
    store.unavailable = True

    def at(hour: int) -> datetime:
        return datetime(2026, 1, 31, hour, tzinfo=UTC)

    size = ClaimOptions(claim_bytes_max=len(content) - 1)
    for claims, code in (
        (Claims(store, Guards(), size), RejectionCode.CLAIM_TOO_LARGE),
        (Claims(store, Guards(events_max=2)), RejectionCode.TOO_MANY_EVENTS),
        (Claims(store, Guards(), now=lambda: at(11)), RejectionCode.CLAIM_EXPIRED),
    ):
        async with claims.resolved(sent, TIME) as found:
            assert isinstance(found.command, PreparedCommand)
            assert found.command.withheld is code
    with pytest.raises(ClaimsUnavailableError):
        async with Claims(store, Guards(events_max=3), now=lambda: at(10)).resolved(sent, TIME):
            pass


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("0001-01-01t00:00:00+23:59", RejectionCode.CLAIM_EXPIRED),
        ("9999-12-31T23:59:59.1234567891z", None),
        ("9999-12-31T23:59:59-23:59", None),
    ],
)
async def test_any_time_that_the_guards_let_pass_can_be_compared(text: str, code: RejectionCode | None) -> None:
    sent, content = claimed(command(), expires_at=text)
    assert check_command(sent, Guards()) is None
    found = await resolved(a_store(content), sent)
    assert isinstance(found.command, PreparedCommand)
    assert found.command.withheld is code


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(("told", "found"), [(2, "more"), (4, "3")])
async def test_another_number_of_events_is_told(encoding: Encoding, told: int, found: str) -> None:
    sent, content = claimed(command(events=3), encoding, event_count=told)
    reply = await rejection(a_store(content), sent)
    assert reply.code == RejectionCode.CLAIM_WRONG_CONTENT
    assert reply.message == f"claim.eventCount: is {told}, but the blob holds {found}; give the number of its events"


async def test_a_payload_digest_of_other_events_is_told() -> None:
    sent, content = claimed(command(events=3), payload_digest="x" * 12)
    reply = await rejection(a_store(content), sent)
    assert (reply.code, reply.details[0].field) == (RejectionCode.CLAIM_WRONG_CONTENT, "claim.payloadDigest")


@pytest.mark.parametrize(
    ("content", "encoding", "message"),
    [
        (b"{}\n", Encoding.JSON_LINES, "events[0]: Object missing required field `eventId`"),
        (b"\n", Encoding.JSON_LINES, "events[0]: Input data was truncated"),
        (b"\xff\xfe\n", Encoding.JSON_LINES, "events[0]: "),
        (b"[" * 100_000 + b"\n", Encoding.JSON_LINES, "events[0]: "),
        (b'{"eventId":"e","eventType":"t","data":"","x":1}\n', Encoding.JSON_LINES, "events[0]: Object contains unk"),
        (b"\x00\x00", Encoding.MSGPACK_FRAMES, "events[0]: ends within"),
        (b"\x00\x00\x00\x05ab", Encoding.MSGPACK_FRAMES, "events[0]: ends within"),
        (b"\x00\x00\x00\x00", Encoding.MSGPACK_FRAMES, "events[0]: Input data was truncated"),
        (b"\x00\x00\x00\x01\xc1", Encoding.MSGPACK_FRAMES, "events[0]: "),
    ],
)
async def test_content_that_is_no_events_says_where_and_what(content: bytes, encoding: Encoding, message: str) -> None:
    reply = await rejection(a_store(content), with_claim(command(), claim_to(content, 1, encoding)))
    assert reply.code == RejectionCode.CLAIM_UNDECODABLE
    assert reply.message.startswith(message)
    assert len(reply.message) < 300


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_an_event_without_end_is_not_held_in_memory(encoding: Encoding, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim_content, "FRAME_BYTES_MAX", 1_000)
    inline = command(events=(event("e1"), event("e2", data=b"x" * 2_000)))
    sent, content = claimed(inline, encoding)
    reply = await rejection(a_store(content), sent)
    assert (reply.code, reply.details[0].field) == (RejectionCode.EVENT_TOO_LARGE, "events[1]")


async def test_invalid_events_are_told_as_they_are_inline() -> None:
    inline = command(events=(event("e1"), event("e1"), event("", event_type="")))
    sent, content = claimed(inline)
    assert await rejection(a_store(content), sent) == check_command(inline, Guards())


@pytest.mark.parametrize("again", ["", "twice"])
@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_metadata_that_would_fill_the_memory_is_not_read(encoding: Encoding, again: str) -> None:
    """Empty lists take up to sixty times their bytes; also where the field comes twice, the second time harmless."""
    values = 3_000_000
    good = event()
    if encoding is Encoding.JSON_LINES:
        bare = msgspec.json.encode(good)[:-1]
        frame = (
            bare + b',"metadata":{"a":[' + b"[]," * values + b"[]]}" + (b',"metadata":{}' if again else b"") + b"}\n"
        )
    else:
        packed = msgspec.msgpack.encode(good)
        name, fields = msgspec.msgpack.encode("metadata"), packed[0] + (2 if again else 1)
        lists = b"\xdd" + values.to_bytes(4, "big") + b"\x90" * values
        body = bytes([fields]) + packed[1:] + name + b"\x81\xa1a" + lists + (name + b"\x80" if again else b"")
        frame = len(body).to_bytes(4, "big") + body
    sent = with_claim(command(), claim_to(frame, 1, encoding))
    tracemalloc.start()
    try:
        found = await prepare_claimed(sent, io.BytesIO(frame), TIME, Guards())
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most_bytes < 3 * len(frame) + 1_000_000
    if again:
        assert isinstance(found, PreparedCommand)
    else:
        assert isinstance(found, Rejected)
        assert found.message.startswith("events[0].metadata: takes over 256,000 bytes as JSON; send at most 256,000")


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_a_large_event_with_metadata_is_read_as_any(encoding: Encoding) -> None:
    metadata = {"a": ["\N{GRINNING FACE}" * 50, 1.5, None], "b": {"c": []}}
    events = tuple(
        msgspec.structs.replace(event(f"e{index}"), data=b"x" * 5_000, metadata=each)
        for index, each in enumerate((metadata, {}, None))
    )
    inline = command(events=events)
    sent, content = claimed(inline, encoding)
    async with Claims(a_store(content), Guards(metadata_bytes_max=300)).resolved(sent, TIME) as found:
        assert isinstance(found.command, PreparedCommand)
        assert found.command.identity == prepare(inline, TIME).identity


async def test_of_many_invalid_events_ten_are_told() -> None:
    inline = command(events=tuple(event("same") for _ in range(50)))
    sent, content = claimed(inline)
    assert await rejection(a_store(content), sent) == check_command(inline, Guards())


def test_any_bytes_are_events_or_refused() -> None:
    @given(content=st.binary(min_size=1, max_size=80), encoding=st.sampled_from(ENCODINGS))
    @settings(max_examples=150)
    def check(content: bytes, encoding: Encoding) -> None:
        sent = with_claim(command(), claim_to(content, 1, encoding))
        reading = prepare_claimed(sent, io.BytesIO(content), TIME, Guards())
        with pytest.raises(StopIteration) as done:  # of one event, nothing gives way to others
            reading.send(None)
        assert isinstance(done.value.value, Rejected)
        assert done.value.value.code in (RejectionCode.CLAIM_UNDECODABLE, RejectionCode.EVENT_TOO_LARGE)

    check()


class Disturbed(MemoryClaimStore):
    """Does something after the first piece was read."""

    def __init__(self, content: bytes, change: Any) -> None:
        super().__init__(piece_bytes_max=7)
        self.put("blob-1", content)
        self._change = change

    async def piece(self, name: str, etag: str, start: int) -> bytes:
        if start:
            self._change(self)
        return await super().piece(name, etag, start)


async def test_a_blob_that_goes_while_it_is_read_is_missing() -> None:
    sent, content = claimed(command(events=3))
    gone = Disturbed(content, lambda store: store.remove("blob-1") if store.names() else None)
    assert await withheld(gone, sent) is RejectionCode.CLAIM_MISSING
    replaced = Disturbed(content, lambda store: store.put("blob-1", b"other"))
    assert await withheld(replaced, sent) is RejectionCode.CLAIM_MISSING


async def test_an_outage_within_a_blob_rejects_nothing() -> None:
    sent, content = claimed(command(events=3))
    store = Disturbed(content, lambda store: setattr(store, "unavailable", True))
    with pytest.raises(ClaimsUnavailableError):
        await resolved(store, sent)


class FullDisk:
    """A file on a disk without room: the service is not to blame, and neither is the sender."""

    def __init__(self, failing: str, **_: object) -> None:
        self._file = io.BytesIO()
        self._failing = failing

    def __getattr__(self, name: str) -> Any:
        if name == self._failing or (name == "close" and self._failing == "write"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return getattr(self._file, name)


@pytest.mark.parametrize("failing", ["write", "readline"])
async def test_no_room_for_the_events_rejects_nothing(failing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.claims.resolve.tempfile.SpooledTemporaryFile", lambda **_: FullDisk(failing))
    sent, content = claimed(command(events=3))
    with pytest.raises(ClaimsMisconfiguredError, match=r"No space left on device.*TMPDIR"):
        await resolved(a_store(content), sent)


async def test_a_file_that_fails_while_documents_are_made_is_no_bug_of_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.claims.resolve.tempfile.SpooledTemporaryFile", lambda **_: FullDisk("tell"))
    sent, content = claimed(command(events=3))
    async with Claims(a_store(content), Guards()).resolved(sent, TIME) as found:
        assert isinstance(found.command, PreparedCommand)
        found.command.events._file._failing = "seek"  # type: ignore[attr-defined]
        with pytest.raises(ClaimsMisconfiguredError, match="temporary file"):
            found.command.event_document(0, Position(0))


@asynccontextmanager
async def opening(claims: Claims, sent: ClaimedCommand) -> AsyncIterator[None]:
    async with claims.resolved(sent, TIME):
        yield


async def test_so_many_claims_are_open_at_once_and_the_others_wait() -> None:
    sent, content = claimed(command(events=3))
    claims = Claims(a_store(content), Guards(), ClaimOptions(claims_concurrency_max=2))
    inside, done = 0, anyio.Event()
    most = 0

    async def hold() -> None:
        nonlocal inside, most
        async with opening(claims, sent):
            inside += 1
            most = max(most, inside)
            await done.wait()
            inside -= 1

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(hold)
        await wait_until(lambda: inside == 2, "two claims are open")
        await anyio.wait_all_tasks_blocked()
        assert inside == 2
        done.set()
    assert (most, inside) == (2, 0)


async def test_who_waits_for_a_place_hangs_only_where_nobody_gets_on() -> None:
    """Claims of a hundred megabytes take minutes: a worker that was busy with four was ended for the fifth."""
    sent, content = claimed(command(events=3))
    claims = Claims(a_store(content), Guards(), ClaimOptions(claims_concurrency_max=1))
    has_it, gets_on, done = anyio.Event(), anyio.Event(), anyio.Event()

    async def hold() -> None:
        with stages.doing("decide"):
            async with opening(claims, sent):
                has_it.set()
                await gets_on.wait()
                stages.moved()
                await done.wait()

    async def wait() -> None:
        with stages.doing("decide"):
            async with opening(claims, sent):
                pass

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hold)
        await has_it.wait()
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        time.sleep(0.06)  # noqa: ASYNC251 - nobody gets on meanwhile
        assert len(stages.stuck(0.05)) == 2, "nobody gets on"
        gets_on.set()
        await anyio.wait_all_tasks_blocked()
        assert stages.stuck(0.05) == [], "one gets on, and the other waits for it"
        done.set()
    assert stages.stuck(-1) == []


async def test_what_is_done_with_is_deleted_unless_somebody_replaced_it() -> None:
    store = a_store(b"content")
    claims = Claims(store, Guards())
    await claims.clean_up([ReadBlob("blob-1", '"0"'), ReadBlob("not-there", '"1"')])
    assert store.names() == ["blob-1"]
    await claims.clean_up([ReadBlob("blob-1", '"1"')])
    assert store.names() == []


async def test_blobs_are_kept_where_that_is_the_policy() -> None:
    store = a_store(b"content")
    await Claims(store, Guards(), ClaimOptions(deletes=False)).clean_up([ReadBlob("blob-1", '"1"')])
    assert store.names() == ["blob-1"]


async def test_cleaning_up_never_fails() -> None:
    store = a_store(b"content")
    store.unavailable = True
    await Claims(store, Guards()).clean_up([ReadBlob("blob-1", '"1"'), ReadBlob("blob-1", '"1"')])
    store.unavailable = False
    assert store.names() == ["blob-1"]


async def test_cleaning_up_takes_no_longer_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(MemoryClaimStore):
        async def delete(self, name: str, etag: str) -> bool:
            await anyio.sleep_forever()
            return False

    monkeypatch.setattr(resolve, "_CLEAN_UP_TIME_MAX_S", 0.02)
    with anyio.fail_after(5):
        await Claims(Slow(), Guards()).clean_up([ReadBlob("blob-1", '"1"')])


async def test_reading_takes_no_longer_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(MemoryClaimStore):
        async def find(self, name: str) -> Any:
            await anyio.sleep_forever()

    monkeypatch.setattr(resolve, "_READ_TIME_MIN_S", 0.02)
    sent, _ = claimed(command())
    with pytest.raises(ClaimsUnavailableError, match="were not read within"):
        await resolved(Slow(), sent)


@pytest.mark.parametrize(
    "inline", [command(events=1_000), command(events=tuple(event(data=b"x" * 300_000) for _ in range(12)))]
)
async def test_reading_many_events_or_large_ones_gives_way_to_others(inline: AppendCommand) -> None:
    """A lock or a lease may have to be renewed meanwhile."""
    sent, content = claimed(inline)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        found = await prepare_claimed(sent, io.BytesIO(content), TIME, Guards())
        tasks.cancel_scope.cancel()
    assert isinstance(found, PreparedCommand)
    assert turns >= 8


def test_a_claim_is_small_enough_for_any_message() -> None:
    sent, _ = claimed(command(), blob="b" * 250, expires_at="2026-01-31T12:00:00.000Z", payload_digest="x" * 12)
    assert isinstance(sent.claim, Claim)
    assert len(msgspec.json.encode(sent)) < 2_000
