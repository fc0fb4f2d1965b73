"""What a worker takes of what anybody may send: reply addresses by the list, sizes and depths within their limits."""

import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest

from schemas.codec import JSON, MSGPACK
from schemas.guards import Guards
from schemas.keys import BrookKey, session_id_for
from schemas.replies import RejectionCode
from tests.support.worker_settings import worker_settings
from worker.app import _reply_addresses
from worker.sessions.base import Complete, DeadLetter, Delivery
from worker.sessions.intake import Intake, Taken, TurnedAway

KEY = BrookKey("orders", "1")
COMMAND: dict[str, Any] = {
    "commandId": "c",
    "brook": {"name": "orders", "entityId": "1"},
    "expected": "any",
    "events": [{"eventId": "1", "eventType": "t", "data": ""}],
}


def with_metadata(metadata: Any) -> dict[str, Any]:
    return COMMAND | {"events": [COMMAND["events"][0] | {"metadata": metadata}]}


def delivery(body: bytes | None = None, *, content_type: str = JSON, reply_to: str | None = None) -> Delivery:
    return Delivery(
        body=msgspec.json.encode(COMMAND) if body is None else body,
        content_type=content_type,
        message_id="c",
        session_id=session_id_for(KEY),
        reply_to=reply_to,
        reply_to_session_id=None,
        enqueued_at=datetime(2026, 1, 1, tzinfo=UTC),
        delivery_count=0,
    )


def taken_by(intake: Intake, one: Delivery) -> TurnedAway | None:
    """What is said against it; None when it is taken."""
    found = intake.take(one)
    if isinstance(found, Taken):
        return None
    assert isinstance(found, TurnedAway)
    return found


def intake(**settings: Any) -> Intake:
    return Intake(Guards(), _reply_addresses(worker_settings(**settings)))


def test_an_event_without_a_time_is_of_the_time_at_which_the_broker_took_its_command() -> None:
    """The same at each delivery, in one zone whatever zone it was told in."""
    east = timezone(timedelta(hours=2))
    one = msgspec.structs.replace(delivery(), enqueued_at=datetime(2026, 1, 31, 14, 0, 0, 5_999, tzinfo=east))
    found = intake().take(one)
    assert isinstance(found, Taken)
    assert found.command.default_time == "2026-01-31T12:00:00.005Z"


@pytest.mark.parametrize(
    ("settings", "reply_to"),
    [
        ({}, "brook-replies"),
        ({}, "Brook-REPLIES"),
        ({}, None),
        ({}, ""),
        ({"reply_queue": "Replies.Of/Mine"}, "replies.of/mine"),
        ({"reply_queue": None, "reply_topic": "Events"}, "EVENTS"),
        ({"reply_entities_allowed": ("Elsewhere",)}, "elseWHERE"),
    ],
)
def test_an_address_of_the_list_is_taken_in_whatever_case(settings: dict[str, Any], reply_to: str | None) -> None:
    ours = intake(**settings)
    asked = delivery(reply_to=reply_to)
    assert taken_by(ours, asked) is None
    assert ours.reply_address(asked) == (reply_to or None)


@pytest.mark.parametrize(
    ("settings", "reply_to"),
    [
        ({}, "elsewhere"),
        ({}, "brook-commands"),
        ({}, " brook-replies"),
        ({}, "brook-replies/"),
        ({}, "brook-replies/$deadletterqueue"),
        ({}, "sb://other.servicebus.windows.net/brook-replies"),
        ({}, "brook-replies\x00"),
        ({}, "broo\u212a-replies"),
        ({"reply_queue": None, "reply_topic": "events"}, "brook-replies"),
        ({"reply_queue": None, "reply_topic": "events"}, "events/subscriptions/all"),
        ({"reply_entities_allowed": ("a", "b")}, "a,b"),
        ({}, "x" * 100_000),
    ],
)
def test_any_other_address_is_rejected_and_the_reply_goes_to_our_own(settings: dict[str, Any], reply_to: str) -> None:
    ours = intake(**settings)
    asked = delivery(reply_to=reply_to)
    found = taken_by(ours, asked)
    assert found is not None
    assert (found.reply.code, found.settlement) == (RejectionCode.REPLY_ADDRESS_NOT_ALLOWED, Complete())
    assert ours.reply_address(asked) is None
    assert len(str(found.reply.details)) < 1_000


def test_a_body_over_the_limit_is_not_decoded_and_kept_for_whoever_looks_into_it() -> None:
    body = msgspec.json.encode(COMMAND)
    exact = Intake(Guards(), frozenset(), command_bytes_max=len(body))
    assert taken_by(exact, delivery(body)) is None
    found = taken_by(exact, delivery(body + b" "))
    assert found is not None
    assert found.reply.code == RejectionCode.COMMAND_TOO_LARGE
    assert isinstance(found.settlement, DeadLetter)
    assert f"body: takes {len(body) + 1:,} bytes; send at most {len(body):,}" in str(found.settlement.description)


@pytest.mark.parametrize("content_type", [JSON, MSGPACK])
def test_metadata_over_the_limit_is_rejected_with_its_size(content_type: str) -> None:
    encode = msgspec.json.encode if content_type == JSON else msgspec.msgpack.encode
    ours = Intake(Guards(metadata_bytes_max=100), frozenset())
    fitting = {"a": "x" * (100 - len('{"a":""}'))}
    good = COMMAND if content_type == JSON else COMMAND | {"events": [COMMAND["events"][0] | {"data": b""}]}
    for metadata, is_taken in ((fitting, True), ({"a": fitting["a"] + "x"}, False)):
        sent = good | {"events": [good["events"][0] | {"metadata": metadata}]}
        found = taken_by(ours, delivery(encode(sent), content_type=content_type))
        assert (found is None) is is_taken
        if found is not None:
            (problem,) = found.reply.details
            assert (problem.field, problem.problem) == ("events[0].metadata", "takes 101 bytes as JSON")


def nested(depth: int, *, kind: str, content_type: str) -> bytes:
    """A command whose metadata is nested so deeply, written by hand: no encoder would."""
    if content_type == JSON:
        before, inner, after = (b"[", b"1", b"]") if kind == "list" else (b'{"a":', b"1", b"}")
        text = msgspec.json.encode(with_metadata({"a": "HERE"}))
        return text.replace(b'"HERE"', before * depth + inner + after * depth)
    before = b"\x91" if kind == "list" else b"\x81\xa1a"
    made = COMMAND | {"events": [COMMAND["events"][0] | {"data": b"", "metadata": {"a": "HERE"}}]}
    return msgspec.msgpack.encode(made).replace(b"\xa4HERE", before * depth + b"\x01")


@pytest.mark.parametrize("content_type", [JSON, MSGPACK])
@pytest.mark.parametrize("kind", ["list", "object"])
@pytest.mark.parametrize("depth", [15, 16, 100, 5_000, 1_000_000])
def test_however_deeply_metadata_is_nested_it_is_taken_or_told_and_never_the_stacks_end(
    depth: int, kind: str, content_type: str
) -> None:
    started_s = time.monotonic()
    found = taken_by(intake(), delivery(nested(depth, kind=kind, content_type=content_type), content_type=content_type))
    assert time.monotonic() - started_s < 5
    if depth <= 15:  # the object around it is the sixteenth
        assert found is None
        return
    assert found is not None
    assert found.reply.code in (RejectionCode.INVALID_EVENT, RejectionCode.UNDECODABLE)
    assert found.reply.details[0].problem == "is nested too deeply"
    assert len(str(found.reply.details)) < 2_000


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"[" * 1_000_000, JSON),
        (b'{"schemaVersion":' + b"[" * 500_000 + b"]" * 500_000 + b"}", JSON),
        (b'{"commandId":' + b'{"a":' * 500_000 + b"1" + b"}" * 500_000 + b"}", JSON),
        (b'{"expected":' + b"9" * 1_000_000 + b"}", JSON),
        (b'{"unknown":' + b"[" * 1_000_000, JSON),
        (b"\x91" * 1_000_000, MSGPACK),
        (b"\xdd\xff\xff\xff\xff", MSGPACK),
        (b"\xdf\xff\xff\xff\xff", MSGPACK),
        (b"\xc6\xff\xff\xff\xff", MSGPACK),
        (b"", JSON),
        (b"\xff\xfe", JSON),
    ],
)
def test_hostile_bodies_are_dead_lettered_with_a_short_reason(body: bytes, content_type: str) -> None:
    found = taken_by(intake(), delivery(body, content_type=content_type))
    assert found is not None
    assert isinstance(found.settlement, DeadLetter)
    assert 0 < len(found.settlement.description) <= 1_024


def test_many_bad_values_in_one_event_are_told_in_a_small_reply() -> None:
    metadata = {f"k{index}" * 50: 2**60 for index in range(5_000)}
    found = taken_by(intake(), delivery(msgspec.json.encode(with_metadata(metadata))))
    assert found is not None
    assert len(found.reply.details) == 10
    assert len(msgspec.json.encode(found.reply)) < 10_000
