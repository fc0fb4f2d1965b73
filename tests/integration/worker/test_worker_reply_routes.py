"""Replies that cannot be routed as their sender asked: the sender is told where it can be, and its brook goes on."""

from typing import Any

import pytest
from azure.servicebus import ServiceBusMessage

from schemas.codec import encode_command
from schemas.keys import BrookKey, session_id_for
from tests.support.brooks import command
from tests.support.site import Place
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.mark.parametrize("reply_session", ["s" * 129, "é" * 200, b"\xff\xfe"])
async def test_a_reply_session_that_no_message_can_have_never_blocks_its_brook(
    place: Place, reply_session: Any
) -> None:
    """No client of Azure sets such an id, but the broker does not look at it: it would refuse the reply."""
    key = BrookKey("routes", "1")
    bad = command(command_id="bad", key=key)
    message = ServiceBusMessage(encode_command(bad), session_id=session_id_for(key), message_id="bad")
    properties = message.raw_amqp_message.properties
    assert properties is not None
    properties.reply_to_group_id = reply_session
    async with place.ready_worker(), place.client() as (client, replies):
        async with place.broker.get_queue_sender(place.command_queue) as sender:
            await sender.send_messages(message)
        good = command(command_id="good", key=key)
        await client.send(good)
        await replies.to_each([good], timeout_s=20)
        await wait_until(place.is_drained, "nothing is left in the queue")
