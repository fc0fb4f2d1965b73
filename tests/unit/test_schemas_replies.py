import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import codec
from schemas.problems import Problem
from schemas.replies import Appended, ConcurrencyConflict, Rejected, RejectionCode, Reply, rejected
from schemas.types import EMPTY, POSITION_MAX, CommandId, Position
from tests.support.commands import TEXT

KINDS = [codec.JSON, codec.MSGPACK]
POSITIONS = st.integers(EMPTY, POSITION_MAX).map(Position)
PROBLEMS = st.builds(Problem, TEXT, TEXT, TEXT)
REPLIES = (
    st.builds(Appended, command_id=TEXT.map(CommandId), first_position=POSITIONS, last_position=POSITIONS)
    | st.builds(
        ConcurrencyConflict,
        command_id=TEXT.map(CommandId),
        expected=st.sampled_from(["empty", "exists"]) | POSITIONS,
        actual=POSITIONS,
    )
    | st.builds(rejected, TEXT.map(CommandId) | st.none(), st.sampled_from(RejectionCode), PROBLEMS, PROBLEMS)
)


@pytest.mark.parametrize("kind", KINDS)
@given(REPLIES)
def test_a_reply_is_the_same_after_its_way_and_the_same_bytes_again(kind: str, reply: Reply) -> None:
    encoded = codec.encode_reply(reply, kind)
    decoded = codec.decode_reply(encoded, kind)
    assert decoded == reply
    assert codec.encode_reply(decoded, kind) == encoded == codec.encode_reply(reply, kind)


def test_each_outcome_says_which_it_is() -> None:
    replies = (
        Appended(command_id=CommandId("c"), first_position=Position(3), last_position=Position(4)),
        ConcurrencyConflict(command_id=CommandId("c"), expected="empty", actual=Position(2)),
        rejected(None, RejectionCode.NO_EVENTS, Problem("events", "is empty", "send at least one event")),
    )
    assert [json.loads(codec.encode_reply(reply)) for reply in replies] == [
        {"outcome": "appended", "commandId": "c", "firstPosition": 3, "lastPosition": 4},
        {"outcome": "concurrency-conflict", "commandId": "c", "expected": "empty", "actual": 2},
        {
            "outcome": "rejected",
            "commandId": None,
            "code": "no-events",
            "message": "events: is empty; send at least one event",
            "details": [{"field": "events", "problem": "is empty", "remedy": "send at least one event"}],
        },
    ]


def test_a_reply_of_tomorrow_can_be_read_today() -> None:
    later = {"outcome": "appended", "commandId": "c", "firstPosition": 0, "lastPosition": 0, "shard": {"a": [1]}}
    assert codec.decode_reply(json.dumps(later).encode()) == Appended(
        command_id=CommandId("c"), first_position=Position(0), last_position=Position(0)
    )
    unknown = {"outcome": "rejected", "commandId": None, "code": "of-tomorrow", "message": "m"}
    assert codec.decode_reply(json.dumps(unknown).encode()) == Rejected(
        command_id=None, code="of-tomorrow", message="m"
    )


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b"{}", b'{"outcome":"lost"}', b'{"outcome":"appended"}'])
def test_what_is_no_reply_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        codec.decode_reply(body)


def test_a_reply_nested_without_end_is_a_value_error() -> None:
    deep = b'{"outcome":"appended","commandId":"c","firstPosition":0,"lastPosition":1,"x":' + b"[" * 100_000
    with pytest.raises(ValueError, match="nested too deeply"):
        codec.decode_reply(deep)


def test_the_message_of_a_rejection_is_its_first_problem_and_says_how_many_there_are() -> None:
    first, second = Problem("a", "is odd", "make it even"), Problem("b", "is odd", "make it even")
    assert rejected(None, RejectionCode.INVALID_EVENT, first).message == "a: is odd; make it even"
    both = rejected(None, RejectionCode.INVALID_EVENT, first, second)
    assert both.message == "a: is odd; make it even (and 1 more)"
    assert both.details == (first, second)
