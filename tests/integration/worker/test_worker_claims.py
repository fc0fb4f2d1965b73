"""Events by claim check, end to end: the client, Blob Storage, the worker as a process, and what goes wrong between."""

import hashlib
import itertools
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import msgspec
import pytest
from azure.storage.blob.aio import ContainerClient

from brook_client import BrookClient, ClaimUploads, with_connection_string
from emulator.faults import Answer, Rule
from schemas.claims import Claim, Encoding
from schemas.codec import JSON, MSGPACK, encode_reply
from schemas.commands import AppendCommand, ClaimedCommand, NewEvent
from schemas.keys import BrookKey, partition_key, session_id_for
from schemas.replies import Appended, Rejected, RejectionCode
from schemas.types import CommandId, Position
from tests.support.brooks import command
from tests.support.claims import with_claim
from tests.support.site import Place, Replies, Site
from tests.support.waiting import wait_until
from tests.support.worker_process import WorkerProcess
from worker.storage.base import BrookReader

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

MANY = 100_000
PEAK_KB_MAX = 40_000
"""What one command of `MANY` events may take of memory, over the idle worker: its blob alone is larger."""

_numbers = itertools.count(1)


class Sender:
    """A client of one place that sends by claim, and what it needs."""

    def __init__(self, place: Place, client: BrookClient, uploads: ClaimUploads, blobs: ContainerClient) -> None:
        self.place = place
        self.client = client
        self.uploads = uploads
        self.blobs = blobs
        self.replies = Replies()

    async def names(self) -> list[str]:
        return [name async for name in self.blobs.list_blob_names()]

    async def reply(self, one: AppendCommand | ClaimedCommand, number: int = 1) -> bytes:
        """The reply to a command, which all its deliveries got."""
        await self.replies.number(number, one.command_id)
        bodies = set(self.replies.bodies(one.command_id))
        assert len(bodies) == 1
        return bodies.pop()


@asynccontextmanager
async def sender(
    site: Site, place: Place, content_type: str = JSON, encoding: Encoding = Encoding.JSON_LINES
) -> AsyncIterator[Sender]:
    blobs = site.blobs.get_container_client(claim_container(place))
    if not await blobs.exists():
        await blobs.create_container()
    uploads = ClaimUploads(blobs, threshold_bytes=5_000, encoding=encoding)
    connect = with_connection_string(site.ready.servicebus_connection_string)
    async with BrookClient(
        connect,
        command_queue=place.command_queue,
        reply_queue=place.reply_queue,
        content_type=content_type,
        claims=uploads,
    ) as client:
        it = Sender(place, client, uploads, blobs)
        with client.listen(it.replies.take):
            yield it


def claim_container(place: Place) -> str:
    return place.lease_container.replace("leases", "claims")


def taking_claims(place: Place, **changes: str) -> dict[str, str]:
    return {"claim_container": claim_container(place), **changes}


@pytest.fixture(scope="module")
async def worker(shared: Place) -> AsyncIterator[WorkerProcess]:
    async with shared.ready_worker(**taking_claims(shared, claim_bytes_max="200000")) as it:
        yield it
        assert it.returncode is None, it.text()[-3000:]


@pytest.fixture(scope="module")
async def mail(site: Site, shared: Place) -> AsyncIterator[Sender]:
    async with sender(site, shared) as it:
        yield it


@pytest.fixture
def key() -> BrookKey:
    return BrookKey("claimed", str(next(_numbers)))


def appended(one: AppendCommand | ClaimedCommand, first: int, events: int) -> bytes:
    last = Position(first + events - 1)
    return encode_reply(Appended(command_id=one.command_id, first_position=Position(first), last_position=last))


async def rejection(mail: Sender, one: AppendCommand | ClaimedCommand) -> Rejected:
    reply = (await mail.client.request(one)).reply
    assert isinstance(reply, Rejected), reply
    return reply


@pytest.mark.parametrize("kinds", [(JSON, Encoding.MSGPACK_FRAMES), (MSGPACK, Encoding.JSON_LINES)])
async def test_large_commands_travel_by_claim_and_small_ones_beside_them(
    site: Site, shared: Place, worker: WorkerProcess, key: BrookKey, kinds: tuple[str, Encoding]
) -> None:
    small, large, last = command(key=key), command(events=300, key=key), command(expected=300, key=key)
    async with sender(site, shared, *kinds) as it:
        assert await it.client.send_many([small, large, last]) == 3
        await it.replies.to_each([small, large, last])
        facts = {name: one.facts for name, (one,) in it.replies.by_command.items()}
        assert facts[large.command_id]["batchEvents"] == 300
        await wait_until(lambda: _gone(it), "its blob is deleted")
    events = await shared.events(key)
    assert [one.command_id for one in events] == [small.command_id, *[large.command_id] * 300, last.command_id]
    assert [one.event_id for one in events[1:301]] == [one.event_id for one in large.events]
    assert [one.data for one in events[1:301]] == [one.data for one in large.events]


async def test_sent_again_in_any_way_after_its_blob_is_gone_it_gets_the_same_reply(
    mail: Sender, worker: WorkerProcess, key: BrookKey
) -> None:
    one = command(events=100, key=key)
    sent = await mail.uploads.upload(one)
    await mail.client.send(sent)
    assert await mail.reply(one) == appended(one, 0, 100)
    await wait_until(lambda: _gone(mail), "its blob is deleted")
    await mail.client.send(sent)  # the very message, whose blob is gone
    await mail.client.send(one)  # with another blob
    assert await mail.reply(one, 3) == appended(one, 0, 100)
    assert len(await mail.place.events(key)) == 100


async def test_a_blob_that_was_tampered_with_is_refused_and_left(
    mail: Sender, worker: WorkerProcess, key: BrookKey
) -> None:
    one = command(events=100, key=key)
    sent = await mail.uploads.upload(one)
    blob = mail.blobs.get_blob_client(sent.claim.blob)
    content = await (await blob.download_blob()).readall()
    for spoilt in (content.replace(b"happened", b"hoppened", 1), content[:-5], content + content):
        changed = msgspec.structs.replace(sent, command_id=CommandId(f"{key}-{len(spoilt)}"))
        await blob.upload_blob(spoilt, overwrite=True)
        reply = await rejection(mail, changed)
        assert reply.code == RejectionCode.CLAIM_MISMATCH
    assert await mail.names() == [sent.claim.blob], "nobody deletes what is not what was told"
    assert await mail.place.events(key) == []
    await blob.delete_blob()


async def test_what_cannot_be_used_is_told_and_the_brook_goes_on(
    mail: Sender, worker: WorkerProcess, key: BrookKey
) -> None:
    def claiming(**changes: object) -> ClaimedCommand:
        claim = Claim(blob="x", size_bytes=10, sha256="0" * 64, event_count=1)
        return with_claim(command(key=key), msgspec.structs.replace(claim, **changes))

    rows = {
        RejectionCode.CLAIM_MISSING: claiming(blob="never/uploaded"),
        RejectionCode.CLAIM_TOO_LARGE: claiming(size_bytes=200_001),
        RejectionCode.TOO_MANY_EVENTS: claiming(event_count=100_001),
        RejectionCode.CLAIM_EXPIRED: claiming(expires_at="2026-01-31T12:00:00Z"),
        RejectionCode.INVALID_CLAIM: claiming(blob=f"../{mail.place.lease_container}/x"),
    }
    for code, one in rows.items():
        reply = await rejection(mail, one)
        assert reply.code == code
        assert reply.details[0].remedy
    after = command(key=key)
    assert isinstance((await mail.client.request(after)).reply, Appended)


async def test_what_is_wrong_in_the_blob_is_told(mail: Sender, worker: WorkerProcess, key: BrookKey) -> None:
    async def uploaded(name: str, content: bytes, events: int) -> ClaimedCommand:
        await mail.blobs.upload_blob(name, content)
        digest = hashlib.sha256(content).hexdigest()
        claim = Claim(blob=name, size_bytes=len(content), sha256=digest, event_count=events)
        return with_claim(command(key=key), claim)

    event = msgspec.json.encode(NewEvent(event_id="e", event_type="t", data=b"x"))
    rows = [
        (await uploaded("no-json", b"{", 1), RejectionCode.CLAIM_UNDECODABLE, "events[0]"),
        (await uploaded("one-not-two", event, 2), RejectionCode.CLAIM_WRONG_CONTENT, "claim.eventCount"),
        (await uploaded("twice", event + b"\n" + event, 2), RejectionCode.INVALID_EVENT, "events[1].eventId"),
    ]
    for one, code, field in rows:
        reply = await rejection(mail, one)
        assert (reply.code, reply.details[0].field) == (code, field)
    for name in await mail.names():
        await mail.blobs.delete_blob(name)


async def test_while_blob_storage_fails_commands_wait_and_none_is_rejected(
    site: Site, mail: Sender, worker: WorkerProcess, key: BrookKey
) -> None:
    one = command(events=100, key=key)
    down = Rule(
        service="blob",
        operation="get-blob-properties",
        where={"container": claim_container(mail.place)},
        effect=Answer(status=503),
    )
    async with mail.place.rule(down) as fired:
        await mail.client.send(one)
        await wait_until(lambda: _acted(fired, 9), "the worker has asked again and again, in sessions and by itself")
        assert mail.replies.bodies(one.command_id) == []
    assert await mail.reply(one) == appended(one, 0, 100)
    ended = [line for line in worker.lines("session.ended") if "claims in" in line["reason"]]
    assert ended, "given back unsettled"
    assert one.command_id not in await mail.place.dead_letters()


@pytest.mark.parametrize("blob", ["there", "gone"])
async def test_killed_within_a_large_append_the_next_worker_completes_it_or_rolls_it_back(
    site: Site, place: Place, key: BrookKey, blob: str
) -> None:
    one, after = command(events=35, key=key), command(key=key)
    held = Rule(
        service="cosmos", operation="batch", where={"partition_key": partition_key(key)}, skip=2, times=1, latency_s=0.5
    )
    changes = taking_claims(place, batch_operations_max="11")
    async with sender(site, place) as it:
        sent = await it.uploads.upload(one)
        async with place.ready_worker(**changes) as worker, place.rule(held) as fired:
            await it.client.send_many([sent, after])
            await wait_until(lambda: _acted(fired, 1), "a chunk is under way")
            await worker.kill()
        if blob == "gone":
            await it.blobs.delete_blob(sent.claim.blob)
        await place.end_lease(session_id_for(key))
        async with place.ready_worker(**changes) as worker:
            await it.replies.to_each([one, after])
            (line,) = worker.lines("recovery.decided")
            assert line["decision"] == {"there": "resume", "gone": "roll-back"}[blob]
            first = await it.reply(one)
            # Sent again with the events: what was said stays said.
            await it.client.send(one)
            await it.client.send(await it.uploads.upload(one))
            assert await it.reply(one, 3) == first
    if blob == "there":
        assert first == appended(one, 0, 35)
    else:
        assert msgspec.json.decode(first)["code"] == RejectionCode.CLAIM_MISSING
    large = [one.command_id] * 35 if blob == "there" else []
    assert [event.command_id for event in await place.events(key)] == [*large, after.command_id]


@pytest.mark.timeout(300)
@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="how much memory a process had is told in /proc only"
)
async def test_a_hundred_thousand_events_in_one_command_take_little_memory(
    site: Site, place: Place, key: BrookKey
) -> None:
    one = CommandId(f"many-{key}")

    def events() -> Iterator[NewEvent]:
        for number in range(MANY):
            yield NewEvent(event_id=f"{one}-{number}", event_type="measured", data=b"%d" % number + b"." * 280)

    other = command(key=BrookKey("claimed", "beside"))
    async with sender(site, place) as it:
        claim = await it.uploads.upload_events(events())
        assert (claim.event_count, claim.size_bytes > PEAK_KB_MAX * 1024) == (MANY, True)
        # The shortest lease, so that it has to be renewed meanwhile.
        async with place.ready_worker(**taking_claims(place)) as worker:
            await it.client.request(command(key=BrookKey("claimed", "first")))
            idle_kb = peak_kb(worker)
            sent_at_s = anyio.current_time()
            await it.client.send(with_claim(command(command_id=one, key=key), claim))
            await worker.logged("append.progress", timeout_s=90)
            assert isinstance((await it.client.request(other)).reply, Appended), "others are served meanwhile"
            await it.replies.number(1, one, timeout_s=180)
            took_s = anyio.current_time() - sent_at_s
            used_kb = peak_kb(worker) - idle_kb
    told = f"{MANY:,} events, a blob of {claim.size_bytes:,} bytes: {used_kb:,} KB over the idle worker, {took_s:.1f} s"
    print(told)  # noqa: T201 - `pytest -s` shows it
    assert used_kb < PEAK_KB_MAX
    (reply,) = it.replies.by_command[one]
    assert reply.body == encode_reply(
        Appended(command_id=one, first_position=Position(0), last_position=Position(MANY - 1))
    )
    assert await place.store.head_position(key) == MANY - 1
    reader: BrookReader = place.store
    last = [event async for event in reader.read_forward(key, Position(MANY - 3))]
    assert [event.data[:5] for event in last] == [b"99997", b"99998", b"99999"]


def peak_kb(worker: WorkerProcess) -> int:
    """The most memory that the worker ever had."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{worker.pid}/status").read_text())
    assert found is not None
    return int(found[1])


async def _gone(mail: Sender) -> bool:
    return await mail.names() == []


async def _acted(fired: object, times: int) -> bool:
    assert callable(fired)
    return bool(await fired() >= times)
