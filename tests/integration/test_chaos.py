"""A few kills under load and faults; `make chaos` has fifty."""

import msgspec
import pytest

from brook_client.messages import ReceivedReply
from schemas.codec import decode_reply
from schemas.keys import BrookKey
from schemas.replies import Appended
from schemas.types import CommandId, Position
from tests.chaos.checks import document_findings, reply_findings
from tests.chaos.load import Json, make_commands
from tests.chaos.run import chaos
from tests.support.site import Replies
from worker.demo.expectation import expect

pytestmark = pytest.mark.anyio

KEY = BrookKey("chaos", "0")


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_killed_workers_lose_double_and_block_nothing() -> None:
    outcome = await chaos(kills=5, seed=11, tell=lambda _: None, brooks=20)
    assert outcome.findings == []
    assert outcome.toll.kills == 5
    assert outcome.commands > 100
    assert outcome.toll.recoveries_s


def some_commands() -> list[Json]:
    stream = make_commands(1, 0)
    return [next(stream) for _ in range(40)]


def test_the_same_seed_makes_the_same_commands_and_they_are_mixed() -> None:
    commands = some_commands()
    assert commands == some_commands()
    outcomes = {reply["outcome"] for found in expect(commands).replies.values() for reply in found}
    assert outcomes == {"appended", "concurrency-conflict"}
    assert any(len(one["events"]) > 99 for one in commands), "some need several batches"
    assert len({one["commandId"] for one in commands}) < len(commands), "some are sent again"


def given(commands: list[Json]) -> Replies:
    """Replies that are as they must be, received through the same door as real ones."""
    replies = Replies()
    for command_id, wanted in expect(commands).replies.items():
        for reply in wanted:
            replies.take(received(command_id, reply))
    return replies


def received(command_id: str, reply: Json) -> ReceivedReply:
    body = msgspec.json.encode(reply)
    return ReceivedReply(command_id=CommandId(command_id), reply=decode_reply(body), body=body, facts={})


def test_replies_that_differ_are_missing_or_wrong_are_found() -> None:
    commands = some_commands()
    replies = given(commands)
    assert list(reply_findings(expect(commands), replies)) == []
    first, second, third = list(replies.by_command)[:3]
    del replies.by_command[first]
    other = Appended(command_id=second, first_position=Position(900), last_position=Position(901))
    replies.by_command[second].append(received(second, msgspec.to_builtins(other)))
    replies.by_command[third] = [received(third, {**msgspec.to_builtins(other), "commandId": third})]
    found = list(reply_findings(expect(commands), replies))
    assert [any(f"'{name}'" in line for line in found) for name in (first, second, third)] == [True] * 3


@pytest.mark.parametrize(
    ("documents", "told"),
    [
        ([{"id": "head", "position": 0}, {"id": "0"}], []),
        ([], []),
        ([{"id": "head", "position": 0}, {"id": "0"}, {"id": "1"}], ["does not cover: ['1']"]),
        ([{"id": "head", "position": 1}, {"id": "0"}], ["missing below the head at 1: ['1']"]),
        ([{"id": "head", "position": 0}, {"id": "0"}, {"id": "head-pending"}], ["does not cover: ['head-pending']"]),
        ([{"id": "head", "position": 0, "pending": "c"}, {"id": "0"}], ["still names 'c'"]),
        ([{"id": "0"}], ["does not cover: ['0']"]),
    ],
)
def test_orphans_gaps_and_marks_are_found(documents: list[Json], told: list[str]) -> None:
    found = list(document_findings(KEY, {document["id"]: document for document in documents}))
    assert len(found) == len(told)
    assert all(part in line for part, line in zip(told, found, strict=True))
