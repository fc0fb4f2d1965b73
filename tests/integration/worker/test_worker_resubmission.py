"""A command that took effect, was dead-lettered all the same, and is resubmitted by an operator."""

import io
import json

import pytest
from rich.console import Console

from schemas.keys import BrookKey, session_id_for
from tests.support.brooks import command
from tests.support.site import Place
from tests.support.waiting import wait_until
from worker.commands.dead_letter import Intent, Output, resubmit
from worker.configuration import load_settings, variable
from worker.deadletters.base import Selection

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

FORGETFUL = {"recent_commands_max": "5", "group_commands_max": "5", "command_lookup": "redelivered"}


async def test_it_gets_its_first_reply_and_nothing_is_appended_twice(place: Place) -> None:
    """Dead-lettered after the commit, as when a worker is killed each time before it settles; forgotten since."""
    key = BrookKey("resubmitted", "1")
    old = command(command_id="old", events=3, key=key)
    later = [command(key=key) for _ in range(8)]
    async with place.client() as (client, replies):
        async with place.ready_worker(**FORGETFUL):
            await client.send_many([command(key=key), old])
            await replies.to_each([old])
            for one in later:
                await client.send_many([one])
                await replies.to_each([one])
            await wait_until(place.is_drained, "every command settled")
        before = await place.events(key)
        await client.send_many([old])
        await dead_letter(place, key)
        async with place.ready_worker(**FORGETFUL):
            out = io.StringIO()
            given = {variable(name): value for name, value in place.settings().items()}
            await resubmit(
                load_settings(environ=given),
                Intent(action="resubmit", selection=Selection(brook=key), limit=10, dry_run=False),
                Output(Console(file=out, width=200), Console(file=io.StringIO()), as_json=True),
                duplicate_window_s=0,
            )
            assert [one["messageId"] for one in json.loads(out.getvalue())["done"]] == ["old"]
            first, second = await replies.number(2, old.command_id)
    assert first.body == second.body
    assert await place.events(key) == before
    assert await place.dead_letters() == {}


async def dead_letter(place: Place, key: BrookKey) -> None:
    """Dead-letter the one command that waits for a brook."""
    async with place.broker.get_queue_receiver(place.command_queue, session_id=session_id_for(key)) as receiver:
        (received,) = await receiver.receive_messages(1, max_wait_time=5)
        await receiver.dead_letter_message(received, reason="MaxDeliveryCountExceeded", error_description="for a test")
