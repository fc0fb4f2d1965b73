import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import codec
from schemas.codec import CommandDecodeError, canonical_content_type, decode_command, encode_command
from schemas.commands import AppendCommand
from schemas.replies import RejectionCode, rejected
from schemas.types import CommandId
from tests.support.commands import COMMANDS, command, event

KINDS = [codec.JSON, codec.MSGPACK]


def body(**changes: Any) -> bytes:
    """A command as a producer in another language would write it."""
    return json.dumps(
        {
            "commandId": "c1",
            "brook": {"name": "orders", "entityId": "1"},
            "expected": "any",
            "events": [{"eventId": "e1", "eventType": "added", "data": "e30="}],
        }
        | changes
    ).encode()


def refusal(data: bytes, content_type: str | None = None) -> CommandDecodeError:
    with pytest.raises(CommandDecodeError) as caught:
        decode_command(data, content_type)
    error = caught.value
    assert str(error) == str(error.problem)
    assert len(str(error)) < 500, "a reply must stay small whatever was sent"
    for kind in KINDS:
        codec.encode_reply(rejected(error.command_id, error.code, error.problem), kind)
    return error


@pytest.mark.parametrize("kind", KINDS)
@given(COMMANDS)
def test_a_command_is_the_same_after_its_way(kind: str, sent: AppendCommand) -> None:
    assert decode_command(encode_command(sent, kind), kind) == sent


def test_json_is_camel_case_with_base64_data_and_without_what_is_not_set() -> None:
    sent = command(events=(event(data=b"\x00\xff", source="web"),), causation_id="before")
    assert json.loads(encode_command(sent)) == {
        "commandId": "c1",
        "brook": {"name": "orders", "entityId": "1"},
        "expected": "any",
        "events": [
            {"eventId": "e1", "eventType": "added", "data": base64.b64encode(b"\x00\xff").decode(), "source": "web"}
        ],
        "causationId": "before",
    }


def test_json_is_assumed_where_no_content_type_is_given() -> None:
    assert decode_command(body()) == decode_command(body(), "application/json") == command()


def test_messagepack_carries_data_as_it_is() -> None:
    raw = msgspec.msgpack.decode(encode_command(command(), codec.MSGPACK))
    assert raw["events"][0]["data"] == b"{}"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (None, codec.JSON),
        ("", codec.JSON),
        ("Application/JSON; charset=utf-8", codec.JSON),
        ("text/json", codec.JSON),
        ("application/vnd.orders+json", codec.JSON),
        (" application/msgpack ", codec.MSGPACK),
        ("application/x-msgpack", codec.MSGPACK),
        ("application/vnd.msgpack", codec.MSGPACK),
        ("application/xml", None),
        ("json", None),
    ],
)
def test_content_types_are_known_by_the_names_they_go_by(name: str | None, kind: str | None) -> None:
    assert canonical_content_type(name) == kind


def test_another_content_type_is_refused_in_every_direction() -> None:
    error = refusal(body(), "application/xml" + "x" * 100_000)
    assert error.code is RejectionCode.UNSUPPORTED_CONTENT_TYPE
    assert str(error).startswith("contentType: 'application/xmlxxx")
    assert str(error).endswith("is not supported; use application/json or application/msgpack")
    for call in (codec.encode_command, codec.encode_reply):
        with pytest.raises(ValueError, match="use application/json or application/msgpack"):
            call(command(), "text/plain")  # type: ignore[arg-type]  # refused before it is looked at
    with pytest.raises(ValueError, match="'text/plain' is not supported"):
        codec.decode_reply(b"{}", "text/plain")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (body(colour="red"), "body: Object contains unknown field `colour`"),
        (body(brook={"name": "a", "entityId": "b", "x": 1}), "brook: Object contains unknown field `x`"),
        (body(events=[{"eventId": "e", "eventType": "t", "data": "", "Data": ""}]), "events[0]: Object contains unk"),
        (body(brook={"name": "a"}), "brook: Object missing required field `entityId`"),
        (body(events=[{"eventId": "e", "data": ""}]), "events[0]: Object missing required field `eventType`"),
        (body(expected="some"), "expected: Invalid enum value 'some'"),
        (body(expected=1.5), "expected: Expected `int | str`, got `float`"),
        (body(expected=True), "expected: Expected `int | str`, got `bool`"),
        (body(expected=None), "expected: Expected `int | str`, got `null`"),
        (body(commandId=7), "commandId: Expected `str`, got `int`"),
        (body(events=[{"eventId": "e", "eventType": "t", "data": "!"}]), "events[0].data: Invalid base64"),
        (body(events={}), "events: Expected `array`, got `object`"),
        (body(events=[{"eventId": "e", "eventType": "t", "data": "", "metadata": [1]}]), "events[0].metadata: Expec"),
        (b"", "body: Input data was truncated"),
        (b"null", "body: Expected `object`, got `null`"),
        (b"{", "body: Input data was truncated"),
        (b"\xff\xfe", "body: JSON is malformed"),
        (body() + b"x", "body: JSON is malformed: trailing characters"),
        (body(commandId="c1").replace(b"c1", b"\\ud800"), "body: JSON is malformed"),
        (body(x="y" * 100_000), "body: Object contains unknown field `x`"),
        (body(**{"y" * 100_000: 1}), "body: Object contains unknown field `yyy"),
        (body(expected="y" * 100_000), "expected: Invalid enum value 'yyy"),
    ],
)
def test_what_is_no_command_says_where_and_what(data: bytes, message: str) -> None:
    error = refusal(data)
    assert error.code is RejectionCode.UNDECODABLE
    assert str(error).startswith(message)
    assert error.problem.remedy


@pytest.mark.parametrize(
    ("data", "remedy"),
    [
        (b"{", "send one command, in the form that its content type says: application/json or application/msgpack"),
        (body(brok=1), "take it out, or correct its name: a field that is not known is an error"),
        (b'{"commandId":"c1"}', "add it"),
        (body(expected="anyy"), 'give "any", "empty", "exists" or the position of the head'),
        (body(brook="order|1"), 'give an object: {"name": …, "entityId": …}'),
        (body(events=[{"eventId": "e", "eventType": "t", "data": "!"}]), "give the event's bytes: as base64 text in"),
        (body(events=[{"eventId": "e", "eventType": "t", "data": 7}]), "give the event's bytes: as base64 text in"),
        (body(commandId=7), "schemas/json/command.schema.json has what each field may be"),
    ],
)
def test_what_is_no_command_says_what_to_change(data: bytes, remedy: str) -> None:
    assert refusal(data).problem.remedy.startswith(remedy)


@pytest.mark.parametrize("kind", KINDS)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_command_or_refused(kind: str, data: bytes) -> None:
    try:
        decode_command(data, kind)
    except CommandDecodeError as error:
        codec.encode_reply(rejected(error.command_id, error.code, error.problem), kind)


@pytest.mark.parametrize("kind", KINDS)
@given(st.data())
def test_a_command_with_a_byte_changed_is_a_command_or_refused(kind: str, data: st.DataObject) -> None:
    whole = bytearray(encode_command(command(events=(event(metadata={"a": [1, None]}),)), kind))
    whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode_command(bytes(whole), kind)
    except CommandDecodeError as error:
        codec.encode_reply(rejected(error.command_id, error.code, error.problem), kind)


@pytest.mark.parametrize("nested", [b"[" * 100_000, b'{"a":' * 100_000, b'{"schemaVersion":' + b"[" * 100_000])
def test_depth_without_end_is_refused(nested: bytes) -> None:
    assert refusal(nested).code is RejectionCode.UNDECODABLE
    packed = msgspec.msgpack.encode({"commandId": "c1"})[:-3] + b"\x91" * 100_000
    assert refusal(packed, codec.MSGPACK).code is RejectionCode.UNDECODABLE


@pytest.mark.parametrize("version", [2, 0, "1", True, None, [[1]], "x" * 100_000])
def test_a_version_that_is_not_ours_is_told_before_its_unknown_fields(version: Any) -> None:
    error = refusal(body(schemaVersion=version, fieldOfTomorrow=1))
    assert error.code is RejectionCode.UNKNOWN_VERSION
    assert str(error).startswith("schemaVersion: is ")
    assert str(error).endswith("; send version 1 or run a newer worker")
    assert error.command_id == "c1"


@pytest.mark.parametrize(
    "version", [b"\xd4\x05a", b"\x91\xd4\x05a", b"\xc7\x0c\x07twelve bytes", b"\x81\xa1a\xd4\x05a"]
)
def test_a_version_of_any_kind_is_told_in_the_same_words_each_time(version: bytes) -> None:
    """A rejection is the same each time, byte for byte: no address in memory may stand in it."""
    data = b"\x81\xadschemaVersion" + version
    first, again = refusal(data, codec.MSGPACK), refusal(data, codec.MSGPACK)
    assert first.code is RejectionCode.UNKNOWN_VERSION
    assert str(first) == str(again)
    assert "0x" not in str(first)


def test_the_version_may_be_said() -> None:
    assert decode_command(body(schemaVersion=1)) == command()


def test_the_sender_is_known_where_the_id_can_still_be_read() -> None:
    assert refusal(body(colour="red")).command_id == "c1"
    assert refusal(body(commandId=7)).command_id is None
    assert refusal(b"[]").command_id is None
    packed = msgspec.msgpack.encode({"commandId": "c2", "colour": "red"})
    assert refusal(packed, codec.MSGPACK).command_id == "c2"


def test_an_id_that_no_message_can_have_is_not_sent_back() -> None:
    error = refusal(body(commandId="x" * 129, colour="red"))
    assert rejected(error.command_id, error.code, error.problem).command_id is None
    assert rejected(CommandId("x" * 128), error.code, error.problem).command_id == "x" * 128
    assert rejected(CommandId("\ud800"), error.code, error.problem).command_id is None
