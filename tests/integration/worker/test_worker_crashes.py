"""A worker that is killed between two steps: what it committed stays, and the reply is the same, byte for byte."""

import msgspec
import pytest

from emulator.faults import Rule
from schemas.codec import encode_reply
from schemas.keys import BrookKey, partition_key, session_id_for
from schemas.replies import Appended, ConcurrencyConflict, Reply
from schemas.types import Position
from tests.support.brooks import command
from tests.support.site import Place
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

HELD_S = 600.0
"""A latency that outlives the worker; it ends with its connection."""


def expected_replies(key: BrookKey) -> dict[str, bytes]:
    """What a conflict and an append of two events to an empty brook are answered with."""
    made: list[Reply] = [
        ConcurrencyConflict(command_id=f"late-{key}", expected="exists", actual=Position(-1)),  # type: ignore[arg-type]
        Appended(command_id=f"two-{key}", first_position=Position(0), last_position=Position(1)),  # type: ignore[arg-type]
    ]
    return {str(reply.command_id): encode_reply(reply) for reply in made}


async def test_killed_after_the_commit_and_before_the_reply(place: Place) -> None:
    key = BrookKey("killed", "before-reply")
    late = command(command_id=f"late-{key}", expected="exists", key=key)
    two = command(command_id=f"two-{key}", events=2, key=key)
    held = Rule(service="servicebus", operation="send", where={"entity": place.reply_queue}, latency_s=HELD_S)
    async with place.client() as (client, replies):
        async with place.ready_worker() as worker, place.rule(held) as fired:
            await client.send_many([late, two])
            await wait_until(lambda: _acted(fired), "the replies are on their way")
            assert await place.store.head_position(key) == 1, "committed"
            await worker.kill()
        await place.end_lease(session_id_for(key))
        assert replies.count == 0
        async with place.ready_worker():
            await replies.to_each([late, two])
            await client.send_many([late, two])
            await replies.number(2, two.command_id)
            await replies.number(2, late.command_id)
        await wait_until(place.is_drained, "every command settled")
    for command_id, body in expected_replies(key).items():
        assert replies.bodies(command_id) == [body, body]
    assert [event.command_id for event in await place.events(key)] == [two.command_id] * 2


async def test_killed_after_the_reply_and_before_the_completion(place: Place) -> None:
    key = BrookKey("killed", "before-completion")
    late = command(command_id=f"late-{key}", expected="exists", key=key)
    two = command(command_id=f"two-{key}", events=2, key=key)
    held = Rule(service="servicebus", operation="settle", where={"entity": place.command_queue}, latency_s=HELD_S)
    async with place.client() as (client, replies):
        async with place.ready_worker() as worker, place.rule(held) as fired:
            await client.send_many([late, two])
            await replies.to_each([late, two])
            await wait_until(lambda: _acted(fired), "the completion is on its way")
            await worker.kill()
        await place.end_lease(session_id_for(key))
        async with place.ready_worker():
            await replies.number(2, two.command_id)
            await replies.number(2, late.command_id)
            await wait_until(place.is_drained, "every command settled")
    for command_id, body in expected_replies(key).items():
        assert replies.bodies(command_id) == [body, body]
    assert [event.command_id for event in await place.events(key)] == [two.command_id] * 2


@pytest.mark.parametrize("chunk", [1, 2, 3])
async def test_killed_within_a_large_append_which_the_next_worker_completes(place: Place, chunk: int) -> None:
    """Killed while a chunk is in flight, which may land or not; nothing is seen of it before all of it is there."""
    key = BrookKey("killed", f"chunk-{chunk}")
    large = command(command_id=f"large-{key}", events=35, key=key)
    after = command(command_id=f"after-{key}", key=key)
    where = {"partition_key": partition_key(key)}
    held = Rule(service="cosmos", operation="batch", where=where, skip=chunk, times=1, latency_s=0.5)
    async with place.client() as (client, replies):
        async with place.ready_worker(batch_operations_max="11") as worker, place.rule(held) as fired:
            await client.send_many([large, after])
            await wait_until(lambda: _acted(fired), "a chunk is under way")
            await worker.kill()
            assert await place.events(key) == []
        await place.end_lease(session_id_for(key))
        async with place.ready_worker(batch_operations_max="11") as worker:
            await replies.to_each([large, after])
            (line,) = worker.lines("recovery.decided")
    assert msgspec.convert([line["decision"], line["target"], line["command"]], tuple[str, int, str]) == (
        "resume",
        34,
        large.command_id,
    )
    assert [event.command_id for event in await place.events(key)] == [large.command_id] * 35 + [after.command_id]
    assert {document["id"] for document in await place.documents(key)} == {"head", *map(str, range(36))}


async def _acted(fired: object) -> bool:
    assert callable(fired)
    return bool(await fired() >= 1)
