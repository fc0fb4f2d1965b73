"""What producers and readers rely on, on any stack: one worker, one client, brooks that no other test has."""

import itertools
from collections.abc import AsyncIterator

import anyio
import pytest
from azure.servicebus import ServiceBusMessage

from emulator.faults import Rule
from schemas.codec import JSON, MSGPACK
from schemas.keys import BrookKey, partition_key, session_id_for
from schemas.replies import Appended, ConcurrencyConflict, Rejected
from schemas.types import CommandId, Position
from tests.support.brooks import FULL_EVENT, command, event
from tests.support.places import Mail
from tests.support.stacks.stack import Stack, StackPlace
from tests.support.waiting import wait_until
from tests.support.worker_process import WorkerProcess

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

CHUNK_OPERATIONS = 21
LARGE = 135
"""Seven batches of 20 events at most."""

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
async def shared(stack: Stack) -> StackPlace:
    return await stack.place()


@pytest.fixture(scope="module", autouse=True)
async def worker(shared: StackPlace) -> AsyncIterator[WorkerProcess]:
    async with shared.ready_worker(batch_operations_max=str(CHUNK_OPERATIONS)) as it:
        yield it


@pytest.fixture(scope="module")
async def mail(shared: StackPlace) -> AsyncIterator[Mail]:
    async with shared.client() as it:
        yield it


@pytest.fixture
def key() -> BrookKey:
    return BrookKey("stack", str(next(_numbers)))


async def test_an_append_is_answered_with_its_positions(shared: StackPlace, mail: Mail, key: BrookKey) -> None:
    client, _ = mail
    first = await client.append(key, command(events=2).events, expected="empty", command_id=f"a-{key}")
    second = await client.append(key, command(events=3).events, expected=1, command_id=f"b-{key}")
    assert [first, second] == [
        Appended(command_id=CommandId(f"a-{key}"), first_position=Position(0), last_position=Position(1)),
        Appended(command_id=CommandId(f"b-{key}"), first_position=Position(2), last_position=Position(4)),
    ]
    assert [one.position for one in await shared.events(key)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("expected", ["empty", 0, 7])
async def test_another_expected_head_is_a_conflict_that_says_both_and_appends_nothing(
    shared: StackPlace, mail: Mail, key: BrookKey, expected: str | int
) -> None:
    client, _ = mail
    await client.append(key, command(events=2).events, command_id=f"first-{key}")
    reply = await client.append(key, command().events, expected=expected, command_id=f"late-{key}")  # type: ignore[arg-type]  # a parameter is not narrowed to the literals
    assert reply == ConcurrencyConflict(
        command_id=CommandId(f"late-{key}"),
        expected=expected,  # type: ignore[arg-type]  # as above
        actual=Position(1),
    )
    assert [one.command_id for one in await shared.events(key)] == [f"first-{key}"] * 2


async def test_a_command_that_is_sent_again_has_one_effect_and_the_same_reply(
    shared: StackPlace, mail: Mail, key: BrookKey
) -> None:
    client, replies = mail
    one, other = command(command_id=f"twice-{key}", events=2, key=key), command(command_id=f"other-{key}", key=key)
    await client.send_many([one, other, one])
    found = await replies.number(2, one.command_id, shared.patience_s)
    await replies.to_each([other], shared.patience_s)
    assert found[0].body == found[1].body
    assert [stored.command_id for stored in await shared.events(key)] == [one.command_id] * 2 + [other.command_id]


async def test_a_command_that_no_worker_could_append_is_rejected_with_what_to_change(
    shared: StackPlace, mail: Mail, key: BrookKey
) -> None:
    client, _ = mail
    reply = await client.append(key, [], command_id=f"nothing-{key}")
    assert isinstance(reply, Rejected)
    assert reply.code == "no-events"
    assert await shared.documents(key) == []


async def test_a_message_that_is_no_command_is_a_dead_letter_and_its_brook_goes_on(
    shared: StackPlace, mail: Mail, key: BrookKey
) -> None:
    client, _ = mail
    bad = ServiceBusMessage(b"{", session_id=session_id_for(key), message_id=f"bad-{key}", content_type=JSON)
    async with shared.broker.get_queue_sender(shared.command_queue) as sender:
        await sender.send_messages(bad)
    reply = await client.append(key, command().events, command_id=f"good-{key}")
    assert isinstance(reply, Appended)
    letters = await shared.dead_letters()
    assert letters[f"bad-{key}"].dead_letter_reason == "undecodable"


async def test_a_large_append_is_seen_whole_or_not_at_all(shared: StackPlace, mail: Mail, key: BrookKey) -> None:
    client, replies = mail
    large = command(command_id=f"large-{key}", events=LARGE, key=key)
    seen = set()
    await client.send(large)
    with anyio.fail_after(shared.patience_s):
        while not replies.by_command[large.command_id]:
            seen.add(len(await shared.events(key)))
    seen.add(len(await shared.events(key)))
    assert seen <= {0, LARGE}
    assert LARGE in seen
    (reply,) = replies.by_command[large.command_id]
    assert reply.reply == Appended(
        command_id=large.command_id, first_position=Position(0), last_position=Position(LARGE - 1)
    )
    assert {document["id"] for document in await shared.documents(key)} == {"head", *map(str, range(LARGE))}


@pytest.mark.needs("faults")
async def test_what_is_written_of_a_large_append_is_not_seen_before_all_of_it_is(
    stack: Stack, shared: StackPlace, mail: Mail, key: BrookKey
) -> None:
    """Each batch is slow enough for a reader to find some of them."""
    assert stack.faults is not None
    client, replies = mail
    large = command(command_id=f"large-{key}", events=LARGE, key=key)
    where = {"partition_key": partition_key(key)}
    rule = await stack.faults.add_rule(Rule(service="cosmos", operation="batch", where=where, latency_s=0.05))
    try:
        await client.send(large)

        async def is_half_written() -> bool:
            return 2 * CHUNK_OPERATIONS < len(await shared.documents(key)) < LARGE

        await wait_until(is_half_written, "some batches are written", shared.patience_s)
        assert await shared.events(key) == []
        await replies.to_each([large], shared.patience_s)
    finally:
        await stack.faults.remove_rule(rule)
    assert len(await shared.events(key)) == LARGE


async def test_commands_of_a_session_take_effect_in_the_order_in_which_they_were_sent(
    shared: StackPlace, mail: Mail, key: BrookKey
) -> None:
    client, replies = mail
    keys = [BrookKey(key.name, f"{key.entity_id}-{letter}") for letter in "abc"]
    commands = [command(command_id=f"{one}-{n}", events=1 + n % 3, key=one) for n in range(40) for one in keys]
    await client.send_many(commands)
    await replies.to_each(commands, shared.patience_s)
    for one in keys:
        mine = [sent for sent in commands if sent.brook == one]
        found = [stored.event_id for stored in await shared.events(one)]
        assert found == [wanted.event_id for sent in mine for wanted in sent.events]


async def test_events_come_back_as_they_were_sent_forward_and_backward(
    shared: StackPlace, mail: Mail, key: BrookKey
) -> None:
    client, _ = mail
    sent = [FULL_EVENT, *(event(f"e{n}") for n in range(30))]
    await client.append(key, sent, correlation_id="corr", causation_id="cause")
    first, *rest = await shared.events(key)
    for name in FULL_EVENT.__struct_fields__:
        assert getattr(first, name) == getattr(FULL_EVENT, name), name
    assert (first.correlation_id, first.causation_id) == ("corr", "cause")
    assert [one.event_id for one in rest] == [f"e{n}" for n in range(30)]
    later = [one.position async for one in shared.store.read_forward(key, Position(28))]
    assert later == [28, 29, 30]
    back = [one.position async for one in shared.store.read_backward(key)]
    assert back == list(range(30, -1, -1))


async def test_messagepack_goes_in_and_comes_out(shared: StackPlace, key: BrookKey) -> None:
    async with shared.client(MSGPACK) as (client, replies):
        one = command(command_id=f"packed-{key}", events=(event(data=bytes(range(256))),), key=key)
        await client.send(one)
        await replies.to_each([one], shared.patience_s)
    assert [stored.data for stored in await shared.events(key)] == [bytes(range(256))]


async def test_no_lease_is_left_once_sessions_are_idle(shared: StackPlace, mail: Mail, key: BrookKey) -> None:
    client, _ = mail
    await client.append(key, command().events)

    async def nothing_held() -> bool:
        return await shared.held_leases() == []

    await wait_until(nothing_held, "every lease is given back", shared.patience_s)
