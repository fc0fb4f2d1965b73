"""Replies that cannot be routed as their sender asked: the sender is told where it can be, and its brook goes on."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from azure.servicebus import ServiceBusMessage

from brook_client.client import BrookClient
from schemas.codec import encode_command
from schemas.keys import BrookKey, session_id_for
from tests.support.brooks import command
from tests.support.site import Place, Replies, Site
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture(scope="module")
async def served(site: Site) -> AsyncIterator[tuple[Place, BrookClient, Replies]]:
    """One worker for all tests here, and a client."""
    place = site.place()
    async with place.ready_worker(), place.client() as (client, replies):
        yield place, client, replies


@pytest.mark.parametrize("reply_session", ["s" * 129, "é" * 200, b"\xff\xfe"], ids=["long", "wide", "no-text"])
async def test_a_reply_session_that_no_message_can_have_never_blocks_its_brook(
    served: tuple[Place, BrookClient, Replies], request: pytest.FixtureRequest, reply_session: Any
) -> None:
    """No client of Azure sets such an id, but the broker does not look at it: it would refuse the reply."""
    place, client, replies = served
    key = BrookKey("routes", request.node.callspec.id)
    bad = command(command_id=f"bad-{key}", key=key)
    message = ServiceBusMessage(encode_command(bad), session_id=session_id_for(key), message_id=bad.command_id)
    properties = message.raw_amqp_message.properties
    assert properties is not None
    properties.reply_to_group_id = reply_session
    async with place.broker.get_queue_sender(place.command_queue) as sender:
        await sender.send_messages(message)
    good = command(command_id=f"good-{key}", key=key)
    await client.send(good)
    await replies.to_each([good], timeout_s=20)
    await wait_until(place.is_drained, "nothing is left in the queue")
