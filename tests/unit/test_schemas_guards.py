import math
import tracemalloc
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import codec
from schemas.commands import AppendCommand
from schemas.guards import EventChecker, Guards, check_command
from schemas.keys import BrookKey
from schemas.replies import Rejected, RejectionCode
from schemas.types import POSITION_MAX
from tests.support.commands import COMMANDS, JSON_VALUES, TEXT, command, event


def refusal(guards: Guards | None = None, **changes: Any) -> Rejected:
    found = check_command(command(**changes), guards or Guards())
    assert found is not None
    codec.encode_reply(found)
    codec.encode_reply(found, codec.MSGPACK)
    return found


def of_event(**changes: Any) -> str:
    found = refusal(events=(event(), event("e2", **changes)))
    assert found.code == RejectionCode.INVALID_EVENT
    return found.message


def test_nothing_speaks_against_a_good_command() -> None:
    assert check_command(command(), Guards()) is None
    good = event(time="2026-01-31T12:00:00Z", metadata={"a": [1, {"b": None}], "c": 2.5, "d": "ä", "e": True})
    assert check_command(command(events=(good,), expected=0, correlation_id="x"), Guards()) is None


@given(COMMANDS)
def test_every_command_is_judged_and_every_refusal_is_small_and_can_be_sent(sent: AppendCommand) -> None:
    found = check_command(sent, Guards())
    if found is not None:
        assert len(codec.encode_reply(found)) < 20_000
        assert len(codec.encode_reply(found, codec.MSGPACK)) < 20_000
        assert all(problem.field and problem.problem and problem.remedy for problem in found.details)


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"command_id": ""}, "invalid-command-id", "commandId: is empty; give each command an id of its own"),
        (
            {"command_id": "x" * 129},
            "invalid-command-id",
            "commandId: is 129 characters long (UTF-16); use at most 128",
        ),
        (
            {"command_id": "😀" * 65},
            "invalid-command-id",
            "commandId: is 130 characters long (UTF-16); use at most 128",
        ),
        ({"command_id": "a\nb"}, "invalid-command-id", "commandId: contains a control character; use printable"),
        ({"command_id": "\ud800"}, "invalid-command-id", "commandId: contains a lone surrogate; use printable"),
        ({"correlation_id": "x" * 129}, "invalid-command-id", "correlationId: is 129 characters long"),
        ({"causation_id": "\x00"}, "invalid-command-id", "causationId: contains a control character"),
        ({"brook": BrookKey("a|b", "1")}, "invalid-brook-key", "brook.name: contains '|'; leave it out"),
        (
            {"expected": -2},
            "invalid-expected",
            "expected: is -2; give a position between -1 (empty) and 9007199254740990",
        ),
        ({"expected": POSITION_MAX + 1}, "invalid-expected", "expected: is 9007199254740991; give a position"),
        ({"expected": 10**1000}, "invalid-expected", "expected: is 1000000"),
        ({"events": ()}, "no-events", "events: is empty; send at least one event"),
    ],
)
def test_what_can_never_take_effect_says_why(changes: dict[str, Any], code: str, message: str) -> None:
    found = refusal(**changes)
    assert found.code == code
    assert found.message.startswith(message)
    assert len(found.message) < 300


def test_the_bounds_themselves_are_allowed() -> None:
    for changes in ({"command_id": "x" * 128}, {"command_id": "😀" * 64}, {"expected": -1}, {"expected": POSITION_MAX}):
        assert check_command(command(**changes), Guards()) is None
    assert check_command(command(correlation_id=""), Guards()) is None


def test_the_number_of_events_is_bounded() -> None:
    events = tuple(event(f"e{number}") for number in range(4))
    assert check_command(command(events=events[:3]), Guards(events_max=3)) is None
    found = refusal(Guards(events_max=3), events=events)
    assert (found.code, found.message) == (
        "too-many-events",
        "events: holds 4 events; send at most 3 in a command",
    )


def test_event_ids_are_guarded_unless_told_otherwise() -> None:
    assert refusal(events=(event(""),)).message == "events[0].eventId: is empty; give each event an id of its own"
    repeated = (event("a"), event("b"), event("a"))
    assert (
        refusal(events=repeated).message == "events[2].eventId: repeats that of events[0]; give each event its own id"
    )
    loose = Guards(event_ids=False)
    assert check_command(command(events=repeated), loose) is None
    assert check_command(command(events=(event(""),)), loose) is None
    assert check_command(command(events=(event("a", event_type=""),)), loose) is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"event_type": ""}, "events[1].eventType: is empty; name the kind of event"),
        ({"event_type": "\ud800"}, "events[1].eventType: contains a lone surrogate; send well-formed Unicode"),
        ({"source": "\udfff"}, "events[1].source: contains a lone surrogate"),
        ({"data_content_type": "\udfff"}, "events[1].dataContentType: contains a lone surrogate"),
        ({"metadata": {"a": float("nan")}}, "events[1].metadata.a: is not finite; send a finite number or null"),
        ({"metadata": {"a": [1, float("inf")]}}, "events[1].metadata.a[1]: is not finite"),
        ({"metadata": {"a": 2**53}}, "events[1].metadata.a: is beyond 2^53 - 1 and would lose digits; send it as a "),
        ({"metadata": {"a": {"b": -(2**53)}}}, "events[1].metadata.a.b: is beyond 2^53 - 1"),
        ({"metadata": {"a": b"x"}}, "events[1].metadata.a: is a bytes; send JSON values only"),
        ({"metadata": {"a": datetime.now(UTC)}}, "events[1].metadata.a: is a datetime; send JSON values only"),
        ({"metadata": {"a": {1: 2}}}, "events[1].metadata.a: has a key that is not well-formed text; use strings as"),
        ({"metadata": {"a": "\ud800"}}, "events[1].metadata.a: contains a lone surrogate"),
        ({"metadata": {"\ud800": 1}}, "events[1].metadata: has a key that is not well-formed text"),
        ({"metadata": {"k" * 100_000: b""}}, "events[1].metadata.kkk"),
    ],
)
def test_an_event_that_cannot_be_stored_is_named_by_its_index(changes: dict[str, Any], message: str) -> None:
    found = of_event(**changes)
    assert found.startswith(message)
    assert len(found) < 500


@pytest.mark.parametrize("value", [0, [], {}, None, ""])
def test_metadata_of_too_many_values_is_told_before_any_of_them_is_looked_at(value: Any) -> None:
    """Millions of values in one message would keep a worker from renewing its locks meanwhile."""
    too_many = {"a": [[value] * 200_000], "b": math.nan}
    assert of_event(metadata=too_many).startswith(
        "events[1].metadata: takes over 256,000 bytes as JSON; send at most 256,000 bytes of it with an event"
    )
    for count in (1, 7, 500):
        metadata = {"a": [value] * count}
        good = command(events=(event(metadata=metadata),))
        size_bytes = len(msgspec.json.encode(metadata))
        assert check_command(good, Guards(metadata_bytes_max=size_bytes)) is None
        assert check_command(good, Guards(metadata_bytes_max=size_bytes - 1)) is not None


def test_event_ids_of_any_length_take_little_memory_until_the_last_is_seen() -> None:
    """A claim's events are never all held at once, and neither are their ids."""
    checker = EventChecker(Guards())
    tracemalloc.start()
    try:
        for index in range(200):
            assert not list(checker.problems(index, event(f"{index}".rjust(50_000))))
        held_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held_bytes < 500_000, "of 10 MB that went by"
    (problem,) = checker.problems(200, event("7".rjust(50_000)))
    assert str(problem) == "events[200].eventId: repeats that of events[7]; give each event its own id"


def test_metadata_may_be_nested_so_deep_and_no_deeper() -> None:
    def nested(depth: int) -> dict[str, Any]:
        return {"a": nested(depth - 1)} if depth > 1 else {"a": 1}

    assert check_command(command(events=(event(metadata=nested(16)),)), Guards()) is None
    assert "is nested too deeply; flatten the metadata" in of_event(metadata=nested(17))
    assert "is nested too deeply" in of_event(metadata=nested(500))


@given(st.dictionaries(TEXT, JSON_VALUES, max_size=3))
def test_metadata_of_json_values_is_stored_as_it_was_sent(metadata: dict[str, Any]) -> None:
    sent = command(events=(event(metadata=metadata),))
    assert check_command(sent, Guards()) is None
    assert codec.decode_command(codec.encode_command(sent)).events[0].metadata == metadata


@pytest.mark.parametrize(
    "time",
    [
        "2026-01-31T12:00:00Z",
        "2026-01-31t12:00:00z",
        "2026-01-31T12:00:00.1234567+02:00",
        "2024-02-29T23:59:59.999999999999-23:59",
    ],
)
def test_a_time_with_offset_is_taken_with_any_fraction(time: str) -> None:
    assert check_command(command(events=(event(time=time),)), Guards()) is None


@pytest.mark.parametrize(
    "time",
    [
        "",
        "2026-01-31",
        "2026-01-31T12:00:00",
        "2026-01-31 12:00:00Z",
        "2026-02-29T12:00:00Z",
        "2026-01-31T24:00:00Z",
        "2026-01-31T12:00:00+24:00",
        "2026-01-31T12:00:00+01:60",
        "2026-01-31T12:00:00+0100",
        "2026-01-31T12:00:00Z\n",
        "٢٠٢٦-01-31T12:00:00Z",
        "20260131T120000Z",
    ],
)
def test_what_is_no_time_with_offset_is_refused(time: str) -> None:
    assert of_event(time=time) == (
        "events[1].time: is not an RFC 3339 date-time with offset; write 2026-01-31T12:00:00Z"
    )


def test_ten_problems_are_listed_and_no_more() -> None:
    found = refusal(events=tuple(event(str(number), event_type="") for number in range(50)))
    assert len(found.details) == 10
    assert found.message.endswith("(and 9 more)")


def test_one_kind_of_problem_is_told_at_a_time_the_earliest_first() -> None:
    found = refusal(command_id="", brook=BrookKey("", ""), events=())
    assert [problem.field for problem in found.details] == ["commandId"]
