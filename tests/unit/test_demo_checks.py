"""The demo's expectation and its checks: whatever is off is found."""

import base64
import json
from typing import Any

import pytest

from schemas.events import RecordedEvent
from schemas.types import CommandId, Position
from worker.demo.checks import GivenReply, check_brook, check_replies
from worker.demo.expectation import Expected, expect

BROOK = ("order", "1")


def command(
    command_id: str, *event_ids: str, expected: str | int = "any", brook: tuple[str, str] = BROOK
) -> dict[str, Any]:
    return {
        "commandId": command_id,
        "brook": {"name": brook[0], "entityId": brook[1]},
        "expected": expected,
        "events": [
            {"eventId": event_id, "eventType": "Opened", "data": base64.b64encode(event_id.encode()).decode()}
            for event_id in event_ids
        ],
    }


def outcomes(*commands: dict[str, Any]) -> list[tuple[Any, ...]]:
    expected = expect(commands)
    seen: dict[str, int] = {}
    told = []
    for sent in commands:
        index = seen.get(sent["commandId"], 0)
        seen[sent["commandId"]] = index + 1
        reply = expected.replies[sent["commandId"]][index]
        told.append(tuple(value for name, value in reply.items() if name != "commandId"))
    return told


def test_appends_follow_each_other_and_conflicts_change_nothing() -> None:
    assert outcomes(
        command("a", "1", "2", expected="empty"),
        command("b", "3", expected="empty"),
        command("c", "3", expected=1),
        command("d", "4", expected=1),
        command("e", "5", expected="exists"),
    ) == [
        ("appended", 0, 1),
        ("concurrency-conflict", "empty", 1),
        ("appended", 2, 2),
        ("concurrency-conflict", 1, 2),
        ("appended", 3, 3),
    ]


def test_a_repeated_command_is_answered_as_the_first_time() -> None:
    appended, conflict = command("a", "1"), command("b", "2", expected="empty")
    assert outcomes(appended, appended, conflict, command("c", "3"), conflict, appended) == [
        ("appended", 0, 0),
        ("appended", 0, 0),
        ("concurrency-conflict", "empty", 0),
        ("appended", 1, 1),
        ("concurrency-conflict", "empty", 0),
        ("appended", 0, 0),
    ]


@pytest.mark.parametrize(
    ("spoilt", "code"),
    [
        (command("a"), "no-events"),
        (command("a", "1", "1"), "invalid-event"),
        (command("a", "1", expected=-2), "invalid-expected"),
        (command("a", "1", brook=("", "1")), "invalid-brook-key"),
        (command("a", "1", brook=("x", "a|b")), "invalid-brook-key"),
    ],
)
def test_an_invalid_command_is_rejected_each_time(spoilt: dict[str, Any], code: str) -> None:
    assert outcomes(spoilt, spoilt) == [("rejected", code)] * 2


def test_an_id_with_another_content_is_rejected() -> None:
    assert outcomes(command("a", "1"), command("a", "2")) == [("appended", 0, 0), ("rejected", "command-id-reused")]


SENT = (command("a", "1", "2"), command("b", "3", expected="empty"), command("a", "1", "2"))
A, B = (json.dumps(expect(SENT).replies[name][0]).encode() for name in "ab")


def given(bodies: dict[str, list[bytes]]) -> dict[str, list[GivenReply]]:
    return {name: [GivenReply(body, json.loads(body)) for body in found] for name, found in bodies.items()}


def recorded(position: int, event_id: str, command_id: str = "a", event_type: str = "Opened") -> RecordedEvent:
    return RecordedEvent(
        position=Position(position),
        event_id=event_id,
        event_type=event_type,
        data=event_id.encode(),
        time="2026-01-01T00:00:00Z",
        command_id=CommandId(command_id),
    )


def test_what_came_as_expected_is_not_complained_about() -> None:
    expected = expect(SENT)
    assert list(check_replies(expected, given({"a": [A, A], "b": [B]}))) == []
    assert list(check_brook(BROOK, expected.events[BROOK], [recorded(0, "1"), recorded(1, "2")])) == []


@pytest.mark.parametrize(
    ("received", "complaint"),
    [
        ({"a": [A], "b": [B]}, "sent 2 times, 1 replies"),
        ({"a": [A, A, A], "b": [B]}, "sent 2 times, 3 replies"),
        ({"a": [A, A]}, "sent 1 times, 0 replies"),
        ({"a": [A, A + b" "], "b": [B]}, "got another reply than the first time"),
        ({"a": [A, A], "b": [A]}, "outcome is 'appended', not 'concurrency-conflict'"),
        ({"a": [A, A], "b": [B.replace(b"1", b"7")]}, "actual is 7, not 1"),
        ({"a": [A, A], "b": [B], "c": [B]}, "was never sent"),
    ],
)
def test_replies_that_are_off_are_found(received: dict[str, list[bytes]], complaint: str) -> None:
    assert any(complaint in found for found in check_replies(expect(SENT), given(received)))


@pytest.mark.parametrize(
    ("events", "complaint"),
    [
        ([recorded(0, "1")], "holds 1 events, not 2"),
        ([recorded(0, "1"), recorded(1, "2"), recorded(2, "3")], "holds 3 events, not 2"),
        ([recorded(0, "1"), recorded(1, "1")], "is there 2 times"),
        ([recorded(0, "2"), recorded(1, "1")], "position 0: eventId is '2', not '1'"),
        ([recorded(0, "1"), recorded(2, "2")], "positions are not 0 to 1"),
        ([recorded(0, "1"), recorded(1, "2", event_type="Closed")], "eventType is 'Closed', not 'Opened'"),
        ([recorded(0, "1"), recorded(1, "2", command_id="b")], "commandId is 'b', not 'a'"),
    ],
)
def test_a_brook_that_is_off_is_found(events: list[RecordedEvent], complaint: str) -> None:
    assert any(complaint in found for found in check_brook(BROOK, expect(SENT).events[BROOK], events))


def test_a_tampered_expectation_is_found() -> None:
    expected: Expected = expect(SENT)
    expected.events[BROOK][1]["data"] = b"tampered"
    found = list(check_brook(BROOK, expected.events[BROOK], [recorded(0, "1"), recorded(1, "2")]))
    assert found == ["brook order|1, position 1: data is b'2', not b'tampered'"]
