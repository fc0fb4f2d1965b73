"""What a command looks like as a message."""

import math
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from brook_client.messages import command_message
from schemas.codec import JSON, MSGPACK, decode_command
from schemas.commands import AppendCommand, NewEvent
from schemas.keys import BrookKey, session_id_for
from schemas.types import CommandId


def command(command_id: str = "c1", entity_id: str = "7") -> AppendCommand:
    return AppendCommand(
        command_id=CommandId(command_id),
        brook=BrookKey("order", entity_id),
        expected="any",
        events=(NewEvent(event_id="e1", event_type="Opened", data=b"\x00\xff"),),
        correlation_id="case-1",
    )


@pytest.mark.parametrize("content_type", ["application/json", MSGPACK])
def test_a_message_carries_the_command_in_its_brooks_session(content_type: str) -> None:
    message = command_message(command(), content_type=content_type, reply_to="replies", reply_session_id="client-1")
    assert decode_command(b"".join(message.body), message.content_type) == command()
    assert (message.message_id, message.session_id, message.correlation_id) == ("c1", "order|7", "case-1")
    assert (message.reply_to, message.reply_to_session_id) == ("replies", "client-1")


def test_a_long_brook_key_travels_as_its_hash() -> None:
    long = command(entity_id="x" * 200)
    assert command_message(long).session_id == session_id_for(long.brook)
    assert len(session_id_for(long.brook)) <= 128


@pytest.mark.parametrize("command_id", ["", "x" * 129, "\N{GRINNING FACE}" * 65])
def test_a_command_id_that_no_message_can_have_is_refused_before_sending(command_id: str) -> None:
    with pytest.raises(ValueError, match=r"commandId: .* use 1 to 128"):
        command_message(command(command_id))


@pytest.mark.parametrize("content_type", [JSON, MSGPACK])
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_cannot_hold_is_refused_and_does_not_become_null(number: float, content_type: str) -> None:
    good = command()
    events = (good.events[0], msgspec.structs.replace(good.events[0], metadata={"a": [{"b": number}]}))
    with pytest.raises(ValueError, match=r"events\[1\].metadata: .* finite"):
        command_message(msgspec.structs.replace(good, events=events), content_type=content_type)


@pytest.mark.parametrize("content_type", [JSON, MSGPACK])
@pytest.mark.parametrize("data", ["text", {"by": "me"}, None])
def test_data_that_is_not_bytes_is_refused_and_not_taken_for_base64(data: Any, content_type: str) -> None:
    good = command()
    events = (good.events[0], msgspec.structs.replace(good.events[0], data=data))
    with pytest.raises(TypeError, match=rf"events\[1\].data: is of the type {type(data).__name__}; give bytes"):
        command_message(msgspec.structs.replace(good, events=events), content_type=content_type)


@pytest.mark.parametrize("content_type", [JSON, MSGPACK])
@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_data_in_any_buffer_is_sent(kind: Any, content_type: str) -> None:
    good = command()
    sent = msgspec.structs.replace(good, events=(msgspec.structs.replace(good.events[0], data=kind(b"\x00text")),))
    message = command_message(sent, content_type=content_type)
    assert decode_command(b"".join(message.body), content_type).events[0].data == b"\x00text"


def test_metadata_that_is_written_as_text_is_sent() -> None:
    good = command()
    metadata = {"at": datetime(2026, 1, 31, tzinfo=UTC), "price": Decimal("1.5"), "by": {7: 1.5}}
    sent = msgspec.structs.replace(good, events=(msgspec.structs.replace(good.events[0], metadata=metadata),))
    body = b"".join(command_message(sent).body)
    assert decode_command(body).events[0].metadata == {
        "at": "2026-01-31T00:00:00Z",
        "price": "1.5",
        "by": {"7": 1.5},
    }
