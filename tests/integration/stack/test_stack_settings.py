"""Other ways to set a worker up, on any stack: buckets, a reply topic, replies without duplicates, provisioning."""

import os
import sys
from typing import Final

import anyio
import pytest

from brook_client.client import BrookClient
from brook_client.connect import with_connection_string
from brook_client.messages import command_message
from schemas.codec import decode_reply
from schemas.keys import BrookKey, session_id_for
from schemas.replies import Appended
from tests.support.brooks import command
from tests.support.places import Replies
from tests.support.stacks.stack import Stack, StackPlace
from worker.configuration import load_settings, variable
from worker.provisioning import ProvisioningError, State, provision
from worker.settings import Settings

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

BUCKETS: Final = 2


async def test_brooks_in_few_sessions_each_keep_their_own_order(place: StackPlace) -> None:
    keys = [BrookKey("bucketed", str(number)) for number in range(9)]
    commands = [command(command_id=f"{key}-{n}", events=2, key=key) for n in range(8) for key in keys]
    assert len({session_id_for(key, BUCKETS) for key in keys}) == BUCKETS
    async with (
        place.ready_worker(session_buckets=str(BUCKETS)),
        place.client(session_buckets=BUCKETS) as (client, replies),
    ):
        await client.send_many(commands)
        await replies.to_each(commands, place.patience_s)
    for key in keys:
        mine = [one for one in commands if one.brook == key]
        expected = [event.event_id for one in mine for event in one.events]
        assert [event.event_id for event in await place.events(key)] == expected
        assert [replies.by_command[one.command_id][0].reply for one in mine] == [
            Appended(command_id=one.command_id, first_position=2 * n, last_position=2 * n + 1)  # type: ignore[arg-type]
            for n, one in enumerate(mine)
        ]


async def test_replies_go_to_a_topic_where_the_settings_say_so(place: StackPlace) -> None:
    key = BrookKey("topic", "1")
    one = command(command_id="by-topic", key=key)
    async with (
        place.ready_worker(reply_queue="", reply_topic=place.topic),
        place.broker.get_subscription_receiver(place.topic, place.subscription) as receiver,
        place.broker.get_queue_sender(place.command_queue) as sender,
    ):
        await sender.send_messages(command_message(one))
        (message,) = await receiver.receive_messages(max_message_count=1, max_wait_time=place.patience_s)
        await receiver.complete_message(message)
    reply = decode_reply(b"".join(message.body), message.content_type)
    assert isinstance(reply, Appended)
    assert (reply.command_id, message.correlation_id, message.session_id) == ("by-topic", "by-topic", str(key))


async def test_a_reply_queue_that_detects_duplicates_has_one_reply_to_a_command_sent_twice(
    stack: Stack, place: StackPlace
) -> None:
    key = BrookKey("detecting", "1")
    one, last = command(command_id="sent-twice", key=key), command(command_id="last", key=key)
    connect = with_connection_string(stack.services.connections.servicebus_connection_string)
    replies = Replies()
    async with (
        place.ready_worker(reply_queue=place.detecting_queue),
        BrookClient(connect, command_queue=place.command_queue, reply_queue=place.detecting_queue) as client,
    ):
        with client.listen(replies.take):
            await client.send_many([one, one, last])
            await replies.to_each([last], place.patience_s)
    assert {command_id: len(found) for command_id, found in replies.by_command.items()} == {"sent-twice": 1, "last": 1}
    assert [event.command_id for event in await place.events(key)] == ["sent-twice", "last"]


def settings_of(place: StackPlace, **changes: str) -> Settings:
    return load_settings(environ={variable(name): value for name, value in place.settings(**changes).items()})


async def states(settings: Settings, *, check_only: bool) -> set[State]:
    """How everything was found or left."""
    try:
        return {finding.state for finding in await provision(settings, check_only=check_only)}
    except ProvisioningError as error:
        return {finding.state for finding in error.findings}


async def test_provisioning_tells_what_is_missing_makes_it_and_then_finds_it(place: StackPlace) -> None:
    settings = settings_of(
        place, cosmos_container="provisioned", lease_container=f"{place.lease_container}-provisioned"
    )
    for _ in range(2):  # nothing is made by looking
        assert State.MISSING in await states(settings, check_only=True)
    made = await states(settings, check_only=False)
    assert State.MADE in made
    assert not made & {State.MISSING, State.WRONG}
    for check_only in (False, True):
        assert not await states(settings, check_only=check_only) & {State.MADE, State.MISSING, State.WRONG}


async def test_an_operator_who_checks_is_told_of_a_queue_that_is_not_there(place: StackPlace) -> None:
    given = place.settings(command_queue="brook-test-nowhere", log_level="error")
    environment = {**os.environ, "COLUMNS": "250"} | {variable(name): value for name, value in given.items()}
    check = [sys.executable, "-m", "worker.cli", "provision", "--check"]
    done = await anyio.run_process(check, env=environment, check=False)
    told = done.stderr.decode()
    assert done.returncode == 1
    assert "brook-test-nowhere" in told
    assert "Traceback" not in told
