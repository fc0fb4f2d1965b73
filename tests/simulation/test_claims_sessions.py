"""Commands with claims through the session server, over in-memory references that a test can break."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
import msgspec
import pytest

from schemas.codec import JSON, MSGPACK, decode_reply, encode_command
from schemas.commands import AppendCommand, ClaimedCommand, Command
from schemas.guards import Guards
from schemas.keys import session_id_for
from schemas.replies import Appended, ConcurrencyConflict, Rejected, RejectionCode
from tests.support.brooks import KEY, command, event
from tests.support.claims import claimed, with_claim
from tests.support.sessions import QUICK, serving
from tests.support.waiting import wait_until
from worker.claims.memory import MemoryClaimContent, MemoryClaimStore
from worker.claims.options import ClaimOptions
from worker.claims.resolve import Claims
from worker.handlers.append import AppendHandler
from worker.locking.memory import MemoryLeaseManager, MemoryLeaseService
from worker.locking.options import LeaseOptions
from worker.protocol.model import Limits
from worker.protocol.writes import Create
from worker.sessions.base import DeadLetter, OutgoingReply
from worker.sessions.group import GroupProcessor
from worker.sessions.intake import Intake
from worker.sessions.memory import MemoryBroker, MemoryReplies
from worker.sessions.serve import SessionOptions, SessionServer
from worker.sessions.stopping import Stopping
from worker.storage.memory import MemoryBrookStore

pytestmark = pytest.mark.anyio

OPTIONS = msgspec.structs.replace(QUICK, group_commands_max=20)


class Losing(MemoryReplies):
    """Once, the replies are with the broker, but the session is lost before that is known."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__()
        self._broker = broker
        self.losing = False
        self.meanwhile: Callable[[], None] = lambda: None
        """What happens elsewhere before the session is given to anybody again."""

    async def send(self, replies: Sequence[OutgoingReply]) -> None:
        await super().send(replies)
        if self.losing:
            self.losing = False
            self.meanwhile()
            self._broker.take_lock(session_id_for(KEY))
            await anyio.sleep_forever()


class CountingStore(MemoryClaimStore):
    """Tells how often a blob was asked for, and may hold up the answer for one."""

    def __init__(self) -> None:
        super().__init__()
        self.finds = 0
        self.held: str | None = None
        self._released = anyio.Event()

    def release(self) -> None:
        self._released.set()

    async def find(self, name: str) -> MemoryClaimContent | None:
        self.finds += 1
        if name == self.held:
            await self._released.wait()
        return await super().find(name)


class World:
    """A worker, its broker and its blobs."""

    def __init__(self, *, remembered: int = 200, deletes: bool = True, takes_claims: bool = True) -> None:
        self.broker = MemoryBroker(delivery_count_max=2)
        self.replies = Losing(self.broker)
        self.blobs = CountingStore()
        self.store = MemoryBrookStore()
        limits = Limits(batch_operations_max=11, recent_commands_max=remembered)
        self.groups = GroupProcessor(
            Intake(Guards(), frozenset()),
            AppendHandler(self.store, limits, replans_max=3),
            self.replies,
            claims=Claims(self.blobs if takes_claims else None, Guards(), ClaimOptions(deletes=deletes)),
        )

    def send(self, one: Command, content_type: str = JSON) -> None:
        self.broker.send(
            encode_command(one, content_type),
            session_id=session_id_for(one.brook),
            message_id=one.command_id,
            content_type=content_type,
        )

    def upload(self, one: AppendCommand, blob: str = "blob-1") -> ClaimedCommand:
        sent, content = claimed(one, blob=blob)
        self.blobs.put(blob, content)
        return sent

    def bodies(self, one: Command) -> list[bytes]:
        return [sent.body for sent in self.replies.sent if sent.correlation_id == one.command_id]

    @asynccontextmanager
    async def running(self, options: SessionOptions = OPTIONS) -> AsyncIterator[None]:
        leases = MemoryLeaseManager(MemoryLeaseService(), LeaseOptions())
        async with serving(SessionServer(self.broker, leases, self.groups, options), Stopping()):
            yield

    async def settled(self, options: SessionOptions = OPTIONS) -> None:
        async with self.running(options):
            await wait_until(lambda: self.broker.pending() == 0, "every message settled")

    async def events(self) -> list[str]:
        return [str(event.command_id) async for event in self.store.read_forward(KEY)]


@pytest.mark.parametrize("content_type", [JSON, MSGPACK])
@pytest.mark.parametrize("events", [2, 35])
async def test_a_claimed_command_takes_its_place_among_the_others(content_type: str, events: int) -> None:
    world = World()
    before, large, after = command(), command(events=events), command(expected=events)
    world.send(before)
    world.send(world.upload(large), content_type)
    world.send(after)
    await world.settled()
    assert await world.events() == [before.command_id, *[large.command_id] * events, after.command_id]
    (reply,) = world.bodies(large)
    assert decode_reply(reply, content_type) == Appended(
        command_id=large.command_id,
        first_position=1,  # type: ignore[arg-type]
        last_position=events,  # type: ignore[arg-type]
    )
    assert world.blobs.names() == [], "deleted once it is settled"


async def test_what_was_decided_before_a_claim_is_replied_to_while_that_is_read() -> None:
    """A group of several large appends may take minutes."""
    world = World()
    before, first, between, second = command(), command(events=35), command(), command(events=35)
    world.send(before)
    world.send(world.upload(first, "blob-1"))
    world.send(between)
    world.send(world.upload(second, "blob-2"))
    world.blobs.held = "blob-2"
    async with world.running():
        await wait_until(lambda: len(world.bodies(between)) == 1, "all before the second claim is replied to")
        assert (len(world.bodies(first)), len(world.bodies(second))) == (1, 0)
        world.blobs.release()
        await wait_until(lambda: world.broker.pending() == 0, "every message settled")
    large = [[one.command_id] * 35 for one in (first, second)]
    assert await world.events() == [before.command_id, *large[0], between.command_id, *large[1]]
    assert world.broker.dead_letters == []


async def test_kept_where_that_is_the_policy() -> None:
    world = World(deletes=False)
    world.send(world.upload(command(events=2)))
    await world.settled()
    assert world.blobs.names() == ["blob-1"]


async def test_the_events_of_a_conflict_are_done_with_too() -> None:
    world = World()
    one = command(expected=7)
    world.send(world.upload(one))
    await world.settled()
    (reply,) = world.bodies(one)
    assert isinstance(decode_reply(reply), ConcurrencyConflict)
    assert world.blobs.names() == []


async def test_nothing_is_deleted_before_the_command_is_settled() -> None:
    world = World()
    one = command(events=2)
    sent = world.upload(one)
    world.replies.losing = True
    world.send(sent)
    await world.settled()
    assert world.bodies(one) == [world.bodies(one)[0]] * 2
    assert world.blobs.finds == 2, "it was still there for the second delivery"
    assert world.blobs.names() == []


@pytest.mark.parametrize("again", ["the same message", "another blob", "inline"])
async def test_sent_again_after_the_blob_is_gone_it_gets_the_same_reply(again: str) -> None:
    world = World()
    one = command(events=3)
    sent = world.upload(one)
    world.send(sent)
    await world.settled()
    assert world.blobs.names() == []
    match again:
        case "the same message":
            world.send(sent)
        case "another blob":
            world.send(world.upload(one, "blob-2"))
        case _:
            world.send(one)
    await world.settled()
    first, second = world.bodies(one)
    assert first == second
    assert await world.events() == [one.command_id] * 3


async def test_two_commands_with_one_blob_are_answered_each_for_itself() -> None:
    """The second finds it gone, where they are not in one group; its sender is told what to change."""
    world = World()
    one, other = command(events=2), command(events=2)
    sent = world.upload(one)
    world.send(sent)
    await world.settled()
    world.send(with_claim(other, sent.claim))
    await world.settled()
    (reply,) = (decode_reply(body) for body in world.bodies(other))
    assert isinstance(reply, Rejected)
    assert (reply.code, reply.details[0].remedy) == (
        RejectionCode.CLAIM_MISSING,
        "upload before sending; send the events in a new blob, under a new command id",
    )


async def test_a_blob_that_appears_after_the_rejection_does_not_help() -> None:
    world = World()
    one = command(events=2)
    sent, content = claimed(one)
    world.replies.losing = True
    world.replies.meanwhile = lambda: world.blobs.put("blob-1", content)
    world.send(sent)
    await world.settled()
    first, second = world.bodies(one)
    assert first == second
    assert await world.events() == []
    assert world.blobs.names() == [], "it was read under its digest, and is done with"


async def test_a_rejection_outlives_all_that_is_decided_before_it_is_settled() -> None:
    """The window holds five; forty commands are queued behind it while its settlement is lost."""
    world = World(remembered=5)
    one = command(events=2)
    sent, content = claimed(one)
    world.replies.losing = True
    world.replies.meanwhile = lambda: world.blobs.put("blob-1", content)
    world.send(sent)
    for _ in range(40):
        world.send(command())
    await world.settled(msgspec.structs.replace(OPTIONS, group_commands_max=4))
    first, second = world.bodies(one)
    assert first == second
    assert one.command_id not in await world.events()


async def test_an_outage_rejects_nothing_and_counts_no_delivery() -> None:
    world = World()
    one = command(events=2)
    world.blobs.unavailable = True
    world.send(world.upload(one))
    async with world.running():
        await wait_until(lambda: world.blobs.finds >= 5, "it was tried a few times")
        assert world.bodies(one) == []
        world.blobs.unavailable = False
        await wait_until(lambda: world.broker.pending() == 0, "settled")
    (reply,) = world.bodies(one)
    assert isinstance(decode_reply(reply), Appended)
    assert [delivery.delivery_count for delivery in world.broker.completed] == [0]


async def test_an_outage_holds_up_no_session_without_claims() -> None:
    world = World()
    world.blobs.unavailable = True
    stuck = command(events=2)
    other = command(key=msgspec.structs.replace(KEY, entity_id="other"))
    world.send(world.upload(stuck))
    async with world.running():
        await wait_until(lambda: world.blobs.finds >= 3, "the outage was noticed")
        world.send(other)
        await wait_until(lambda: len(world.bodies(other)) == 1, "the other is answered")
        world.blobs.unavailable = False
        await wait_until(lambda: world.broker.pending() == 0, "settled")


async def test_without_a_container_a_claim_is_rejected_once_and_for_all() -> None:
    world = World(takes_claims=False)
    one = command()
    sent = world.upload(one)
    world.send(sent)
    await world.settled()
    (reply,) = (decode_reply(body) for body in world.bodies(one))
    assert isinstance(reply, Rejected)
    assert reply.code == RejectionCode.CLAIMS_NOT_SUPPORTED
    assert "claim_container" in reply.message


async def test_what_is_wrong_with_the_events_is_told_as_inline_and_the_blob_stays() -> None:
    world = World()
    one = command(events=(event("same"), event("same")))
    world.send(world.upload(one))
    await world.settled()
    (reply,) = (decode_reply(body) for body in world.bodies(one))
    assert isinstance(reply, Rejected)
    assert (reply.code, reply.details[0].field) == (RejectionCode.INVALID_EVENT, "events[1].eventId")
    assert world.blobs.names() == ["blob-1"]
    assert "head" not in world.store.documents(KEY), "decided without the store"


async def test_rejected_when_it_is_planned_it_is_rejected_in_the_same_words_when_it_comes_again() -> None:
    """With the blob gone, it could only be told that this is missing."""
    world = World()
    one = command(events=(event("e1", data=b"x" * 1_600_000),))
    sent = world.upload(one)
    for _ in range(2):
        world.send(sent)
        await world.settled()
    first, second = world.bodies(one)
    assert first == second
    reply = decode_reply(first)
    assert isinstance(reply, Rejected)
    assert reply.code == RejectionCode.EVENT_TOO_LARGE
    assert world.blobs.names() == ["blob-1"], "left to age, as that of every command that was rejected"


async def test_a_command_under_a_used_id_takes_no_blob_away() -> None:
    """It may name that of the command which it is taken for, sent to another brook and not decided yet."""
    world = World()
    world.send(command(command_id="c1", events=1))
    world.send(world.upload(command(command_id="c1", events=2)))
    await world.settled()
    second = decode_reply(world.bodies(command(command_id="c1"))[1])
    assert isinstance(second, Rejected)
    assert second.code == RejectionCode.COMMAND_ID_REUSED
    assert world.blobs.names() == ["blob-1"]


@pytest.mark.parametrize("told", [{"event_count": 10**30}, {"size_bytes": 10**30}, {"event_count": 2**63}])
@pytest.mark.parametrize("before", ["", "the id took effect before"])
async def test_numbers_beyond_all_bounds_are_told_and_no_bug(told: dict[str, int], before: str) -> None:
    world = World()
    one = command(events=2)
    if before:
        world.send(one)
    sent = world.upload(one)
    world.send(with_claim(one, msgspec.structs.replace(sent.claim, **told)))
    await world.settled()
    reply = decode_reply(world.bodies(one)[-1])
    assert isinstance(reply, Rejected)
    assert reply.code == RejectionCode.INVALID_CLAIM
    assert "is beyond 2^53 - 1" in reply.message


async def test_a_bad_claim_is_rejected_and_one_beside_events_is_dead_lettered() -> None:
    world = World()
    bad, both = command(), command()
    world.send(with_claim(bad, msgspec.structs.replace(world.upload(bad).claim, blob="../leases/x")))
    raw = msgspec.json.decode(encode_command(both)) | {"claim": {}}
    body = msgspec.json.encode(raw)
    world.broker.send(body, session_id=session_id_for(both.brook), message_id=both.command_id)
    await world.settled()
    (reply,) = (decode_reply(body) for body in world.bodies(bad))
    assert isinstance(reply, Rejected)
    assert reply.code == RejectionCode.INVALID_CLAIM
    ((delivery, letter),) = world.broker.dead_letters
    assert (delivery.message_id, letter.reason) == (both.command_id, RejectionCode.UNDECODABLE)
    assert world.blobs.finds == 0


async def test_a_bug_while_a_claim_is_read_abandons_that_command_alone() -> None:
    world = World()

    class Buggy(CountingStore):
        async def find(self, name: str) -> MemoryClaimContent | None:
            raise ZeroDivisionError

    world.groups._claims = Claims(Buggy(), Guards())
    one, other = command(), command()
    world.send(claimed(one)[0])
    world.send(other)
    await world.settled()
    ((delivery, letter),) = world.broker.dead_letters
    assert (delivery.message_id, letter) == (
        one.command_id,
        DeadLetter("MaxDeliveryCountExceeded", "abandoned too often"),
    )
    assert await world.events() == [other.command_id]


async def test_a_contradiction_leaves_the_blob_to_whoever_looks() -> None:
    world = World()
    head = {"id": "head", "type": "head", "brookPartitionKey": str(KEY), "position": 3, "pending": "gone"}
    await world.store.write(KEY, [Create(head)])
    one = command(events=2)
    world.send(world.upload(one))
    await world.settled()
    ((_, letter),) = world.broker.dead_letters
    assert letter.reason == RejectionCode.CONTRADICTION
    assert world.blobs.names() == ["blob-1"]
