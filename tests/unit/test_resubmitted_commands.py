"""A command that an operator took out of the dead letters is looked up, whatever the head still remembers."""

from datetime import UTC, datetime

import pytest

from schemas.codec import JSON, decode_reply, encode_command
from schemas.commands import AppendCommand
from schemas.guards import Guards
from schemas.keys import session_id_for
from schemas.replies import Appended
from schemas.types import Position
from tests.support.brooks import KEY, command
from worker.handlers.append import AppendHandler
from worker.handlers.lookup import Lookup
from worker.protocol.model import Limits
from worker.sessions.base import Delivery
from worker.sessions.brooks import Brooks
from worker.sessions.group import Decided, GroupProcessor
from worker.sessions.intake import Intake
from worker.sessions.memory import MemoryReplies
from worker.storage.memory import MemoryBrookStore

pytestmark = pytest.mark.anyio

WINDOW = 2


def delivery(one: AppendCommand, *, is_resubmitted: bool = False) -> Delivery:
    return Delivery(
        body=encode_command(one),
        content_type=JSON,
        message_id=one.command_id,
        session_id=session_id_for(one.brook),
        reply_to=None,
        reply_to_session_id=None,
        enqueued_at=datetime(2026, 1, 31, tzinfo=UTC),
        delivery_count=0,
        is_resubmitted=is_resubmitted,
    )


class World:
    """A worker's group processor that looks up what is delivered again only, and whose head remembers little."""

    def __init__(self) -> None:
        self.store = MemoryBrookStore()
        limits = Limits(recent_commands_max=WINDOW)
        handler = AppendHandler(self.store, limits, replans_max=3, lookup=Lookup.REDELIVERED)
        self.groups = GroupProcessor(Intake(Guards(), frozenset()), handler, MemoryReplies())

    async def decide(self, *deliveries: Delivery) -> list[bytes]:
        decided: list[Decided] = await self.groups.decide(Brooks(10), deliveries, doubtful=False)
        return [one.reply.body for one in decided if one.reply is not None]


async def forgotten(world: World) -> tuple[AppendCommand, bytes]:
    """A command that took effect so long ago that the head has forgotten it, and its reply."""
    old = command(command_id="old", events=2)
    await world.decide(delivery(command(command_id="first")))
    (reply,) = await world.decide(delivery(old))
    for number in range(WINDOW + 1):
        await world.decide(delivery(command(command_id=f"later-{number}")))
    return old, reply


async def test_a_resubmitted_command_that_the_head_has_forgotten_gets_its_first_reply() -> None:
    world = World()
    old, reply = await forgotten(world)
    head = await world.store.head_position(KEY)
    assert await world.decide(delivery(old, is_resubmitted=True)) == [reply]
    assert await world.store.head_position(KEY) == head, "nothing was appended twice"
    found = decode_reply(reply)
    assert isinstance(found, Appended)
    assert (found.first_position, found.last_position) == (1, 2)


async def test_without_the_mark_it_would_not_be_known_again() -> None:
    """What the mark is for: under `redelivered` nothing else tells of it."""
    world = World()
    old, reply = await forgotten(world)
    assert await world.decide(delivery(old)) != [reply]


async def test_the_mark_changes_nothing_for_a_command_that_never_took_effect() -> None:
    world = World()
    old, _ = await forgotten(world)
    del old
    head = await world.store.head_position(KEY)
    (body,) = await world.decide(delivery(command(command_id="new"), is_resubmitted=True))
    reply = decode_reply(body)
    assert isinstance(reply, Appended)
    assert reply.first_position == Position(head + 1)
