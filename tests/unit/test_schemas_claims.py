"""Commands with a claim: their codec, their form, and the digest that does not depend on how events travel."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import codec
from schemas.claim_content import FRAME_LENGTH_BYTES, decoder, encoded
from schemas.claims import Claim, Encoding, is_blob_name
from schemas.codec import CommandDecodeError, decode_command, decode_message, encode_command
from schemas.commands import ClaimedCommand, NewEvent
from schemas.digests import PayloadDigest, _array_header, payload_digest
from schemas.guards import Guards, check_command
from schemas.replies import RejectionCode
from tests.support.claims import claimed
from tests.support.commands import COMMANDS, EVENTS, TEXT, command

KINDS = [codec.JSON, codec.MSGPACK]

CLAIMS = st.builds(
    Claim,
    blob=TEXT,
    size_bytes=st.integers(-1, 2**40),
    sha256=TEXT,
    event_count=st.integers(-1, 2**20),
    encoding=st.sampled_from(Encoding),
    expires_at=st.none() | TEXT,
    payload_digest=st.none() | TEXT,
)


def body(**changes: Any) -> bytes:
    raw = json.loads(encode_command(claimed(command())[0]))
    raw.update(changes)
    return json.dumps({name: value for name, value in raw.items() if value is not None}).encode()


def refusal(data: bytes, kind: str = codec.JSON) -> CommandDecodeError:
    with pytest.raises(CommandDecodeError) as caught:
        decode_message(data, kind)
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
@given(st.data())
def test_a_message_is_read_as_it_was_written_with_events_or_with_a_claim(kind: str, data: st.DataObject) -> None:
    inline = data.draw(COMMANDS)
    by_claim = msgspec.structs.replace(claimed(command())[0], command_id=inline.command_id, claim=data.draw(CLAIMS))
    assert decode_message(encode_command(inline, kind), kind) == inline
    assert decode_message(encode_command(by_claim, kind), kind) == by_claim


def test_the_wire_has_the_names_that_other_languages_use() -> None:
    sent, _ = claimed(command(), Encoding.MSGPACK_FRAMES, expires_at="2026-01-31T12:00:00Z", payload_digest="a" * 12)
    raw = json.loads(encode_command(sent))
    assert "events" not in raw
    assert set(raw["claim"]) == {
        *("blob", "sizeBytes", "sha256", "eventCount", "encoding", "expiresAt", "payloadDigest"),
    }
    assert raw["claim"]["encoding"] == "msgpack-frames"


@pytest.mark.parametrize("kind", KINDS)
def test_either_events_or_a_claim_are_needed_and_never_both(kind: str) -> None:
    events = json.loads(encode_command(command()))["events"]
    pack = json.dumps if kind == codec.JSON else msgspec.msgpack.encode
    both = {**json.loads(body()), "events": events}
    encoded_both = pack(both) if kind == codec.MSGPACK else json.dumps(both).encode()
    assert isinstance(encoded_both, bytes)
    error = refusal(encoded_both, kind)
    assert (error.code, error.command_id) == (RejectionCode.UNDECODABLE, "c1")
    assert str(error) == "claim: stands beside `events`; send either the events or a claim"
    assert str(refusal(body(claim=None))).startswith("body: Object missing required field `events`")


def test_a_version_that_is_not_ours_is_told_before_anything_about_the_claim() -> None:
    cases: tuple[dict[str, Any], ...] = ({}, {"events": []}, {"claim": 7})
    for changes in cases:
        error = refusal(body(schemaVersion=2, **changes))
        assert (error.code, error.command_id) == (RejectionCode.UNKNOWN_VERSION, "c1")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"claim": {}}, "claim: Object missing required field `blob`"),
        ({"claim": 7}, "claim: Expected `object`, got `int`"),
        ({"colour": 1}, "body: Object contains unknown field `colour`"),
        ({"claim": {**json.loads(body())["claim"], "url": "https://x"}}, "claim: Object contains unknown field `url`"),
        ({"claim": {**json.loads(body())["claim"], "sizeBytes": "1"}}, "claim.sizeBytes: Expected `int`, got `str`"),
        ({"claim": {**json.loads(body())["claim"], "encoding": "csv"}}, "claim.encoding: Invalid enum value 'csv'"),
    ],
)
def test_a_claim_is_read_as_strictly_as_events_are(changes: dict[str, Any], message: str) -> None:
    error = refusal(body(**changes))
    assert error.code is RejectionCode.UNDECODABLE
    assert str(error).startswith(message)


def test_those_who_want_the_events_do_not_get_a_claim() -> None:
    with pytest.raises(CommandDecodeError, match="unknown field `claim`"):
        decode_command(body())


@pytest.mark.parametrize("name", ["a", "0", "a.b", "a/b/c", "2026/01/31/x_y-z.jsonl", "A" * 250])
def test_plain_names_may_name_a_blob(name: str) -> None:
    assert is_blob_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        *("../leases/x", "a/../../leases/x", "a/..", "..", ".", "./a", "a/./b", "a//b", "/a", "a/", "a.", ".a", "a..b"),
        *("%2e%2e/x", "a%2fb", "a b", "a\\b", "a?b", "a#b", "a&comp=list", "a:b", "https://x/y", "ä", "a\n", "a\x00"),
        "A" * 251,
    ],
)
def test_no_name_leads_out_of_the_container(name: str) -> None:
    assert not is_blob_name(name)
    sent, _ = claimed(command(), blob=name)
    reply = check_command(sent, Guards())
    assert reply is not None
    assert (reply.code, reply.details[0].field) == (RejectionCode.INVALID_CLAIM, "claim.blob")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"size_bytes": 0}, "claim.sizeBytes"),
        ({"sha256": "A" * 64}, "claim.sha256"),
        ({"sha256": "a" * 63}, "claim.sha256"),
        ({"event_count": 0}, "claim.eventCount"),
        ({"payload_digest": "short"}, "claim.payloadDigest"),
        ({"expires_at": "tomorrow"}, "claim.expiresAt"),
        ({"expires_at": "2026-01-31T12:00:00"}, "claim.expiresAt"),
    ],
)
def test_a_claim_of_a_bad_form_says_what_to_change(changes: dict[str, Any], field: str) -> None:
    sent, _ = claimed(command(), **changes)
    reply = check_command(sent, Guards())
    assert reply is not None
    assert (reply.code, [problem.field for problem in reply.details]) == (RejectionCode.INVALID_CLAIM, [field])


def test_a_good_claim_passes_and_its_envelope_is_checked_as_any() -> None:
    sent, _ = claimed(command(), expires_at="2026-01-31T12:00:00.1234567+01:00", payload_digest="-_aA0" + "b" * 7)
    assert check_command(sent, Guards()) is None
    for changes, code in (
        ({"command_id": ""}, RejectionCode.INVALID_COMMAND_ID),
        ({"expected": -2}, RejectionCode.INVALID_EXPECTED),
        ({"correlation_id": "a\n"}, RejectionCode.INVALID_COMMAND_ID),
    ):
        reply = check_command(msgspec.structs.replace(sent, **changes), Guards())
        assert reply is not None
        assert reply.code == code


@given(COMMANDS)
def test_the_digest_is_the_same_event_by_event(sent: Any) -> None:
    digest = PayloadDigest(sent.expected, len(sent.events))
    for event in sent.events:
        digest.add(event)
    assert digest.text() == payload_digest(sent)


@pytest.mark.parametrize("length", [0, 1, 15, 16, 255, 256, 65_535, 65_536, 70_000])
def test_the_head_of_an_array_is_that_of_messagepack(length: int) -> None:
    packed = msgspec.msgpack.encode((None,) * length)
    assert packed == _array_header(length) + b"\xc0" * length


@pytest.mark.parametrize("encoding", list(Encoding))
@given(events=st.lists(EVENTS, max_size=5))
@settings(max_examples=30)
def test_events_come_out_of_a_blob_as_they_went_in(encoding: Encoding, events: list[NewEvent]) -> None:
    frames = list(encoded(events, encoding))
    if encoding is Encoding.JSON_LINES:
        assert all(frame.count(b"\n") == 1 and frame.endswith(b"\n") for frame in frames)
        bare = frames
    else:
        bare = [frame[FRAME_LENGTH_BYTES:] for frame in frames]
        assert [int.from_bytes(frame[:FRAME_LENGTH_BYTES], "big") for frame in frames] == [len(one) for one in bare]
    assert [decoder(encoding)(frame) for frame in bare] == events


def test_a_claimed_command_has_no_events_of_its_own() -> None:
    assert "events" not in ClaimedCommand.__struct_fields__
