"""The published schemas say what the codec and the guards do: they take what these take, and refuse nothing else."""

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from schemas import asyncapi, codec, export, json_schema
from schemas.claims import Claim, Encoding
from schemas.commands import AppendCommand, ClaimedCommand, Command
from schemas.events import RecordedEvent
from schemas.guards import Guards, check_command
from schemas.keys import BrookKey, session_id_for
from schemas.replies import Appended, ConcurrencyConflict, Rejected, Reply
from schemas.types import CommandId, Position
from tests.support import commands as made
from tests.support.pages import blocks, pages

ROOT = Path(__file__).parents[2]
LENIENT = Guards(event_ids=False, events_max=10**9, metadata_depth_max=10**6, metadata_bytes_max=10**9)
"""What no setting relaxes is left."""

VALIDATORS = {title: Draft202012Validator(json_schema.schema_of(title)) for title in json_schema.ROOTS}

ENOUGH = settings(max_examples=150, deadline=None)
Json = Any

CLAIMS = st.builds(
    Claim,
    blob=made.TEXT | st.just("2026/claim-1.json"),
    size_bytes=st.integers(-1, 2**40),
    sha256=st.just("a" * 64) | made.TEXT,
    event_count=st.integers(-1, 100_000),
    encoding=st.sampled_from(Encoding),
    expires_at=st.none() | st.just("2026-01-31T12:00:00Z") | made.TEXT,
    payload_digest=st.none() | st.just("abcDEF012_-x") | made.TEXT,
)
CLAIMED = st.builds(
    ClaimedCommand,
    command_id=made.TEXT.map(CommandId),
    brook=st.builds(BrookKey, made.TEXT, made.TEXT),
    expected=st.sampled_from(["any", "empty", "exists"]) | st.integers(-(2**63), 2**63),
    claim=CLAIMS,
    correlation_id=st.none() | made.TEXT,
)
REPLIES = st.one_of(
    st.builds(
        Appended,
        command_id=made.TEXT.map(CommandId),
        first_position=st.integers(0, 2**53).map(Position),
        last_position=st.integers(0, 2**53).map(Position),
    ),
    st.builds(
        ConcurrencyConflict,
        command_id=made.TEXT.map(CommandId),
        expected=st.sampled_from(["any", "empty", "exists"]) | st.integers(-1, 2**53),
        actual=st.integers(-1, 2**53).map(Position),
    ),
    st.builds(Rejected, command_id=st.none() | made.TEXT.map(CommandId), code=made.TEXT, message=made.TEXT),
)
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(max_codepoint=0x17F, exclude_categories=["Cs"]), max_size=8),
    st.sampled_from(["any", "appended", "rejected", "x" * 129, "a|b", "\n", "QQ==", "QQ", "2026-02-31T00:00:00Z", "é"]),
    st.just([]),
    st.just({}),
    st.dictionaries(st.sampled_from(["name", "entityId", "x"]), st.text(max_size=3), max_size=3),
)


def is_taken(body: bytes) -> bool:
    """Whether a worker with the most lenient settings takes a command."""
    try:
        command = codec.decode_message(body)
    except codec.CommandDecodeError:
        return False
    return check_command(command, LENIENT) is None


def is_valid(title: str, instance: Json) -> bool:
    return bool(VALIDATORS[title].is_valid(instance))


def places(node: Json) -> Iterator[tuple[Json, Any]]:
    """Every place in a JSON value: what holds it, and under which name or index."""
    for name, inner in list(node.items() if isinstance(node, dict) else enumerate(node)):
        yield node, name
        if isinstance(inner, dict | list):
            yield from places(inner)


@st.composite
def mutated(draw: st.DrawFn, bases: st.SearchStrategy[Json]) -> Json:
    """A JSON object with one thing changed, taken away or added."""
    value = copy.deepcopy(draw(bases))
    holder, name = draw(st.sampled_from(list(places(value))))
    match draw(st.sampled_from(["replace", "remove", "add"])):
        case "replace":
            holder[name] = draw(JUNK)
        case "remove":
            del holder[name]
        case "add" if isinstance(holder, dict):
            holder[draw(st.sampled_from(["extra", "commandId", "claim", "events", "schemaVersion"]))] = draw(JUNK)
    return value


def as_json(value: object) -> Json:
    return msgspec.json.decode(msgspec.json.encode(value))


GOOD = st.sampled_from(
    [
        made.command(correlation_id="case-1"),
        made.command(events=(made.event("e1", time="2026-01-31T12:00:00.1234567+01:00", metadata={"a": [1]}),)),
        ClaimedCommand(
            command_id=CommandId("c1"),
            brook=BrookKey("orders", "1"),
            expected=5,
            claim=Claim(blob="a/b.json", size_bytes=10, sha256="0" * 64, event_count=2),
        ),
    ]
).map(as_json)


def test_the_committed_files_are_those_that_the_types_give() -> None:
    assert export.differing(export.FOLDER) == [], "run make schemas"


def test_a_file_that_differs_is_missing_or_is_left_over_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export.main([str(tmp_path)]) == 0
    assert export.main([str(tmp_path), "--check"]) == 0
    (tmp_path / "reply.schema.json").write_text("{}")
    (tmp_path / "command.schema.json").unlink()
    (tmp_path / "old.schema.json").write_text("{}")
    assert export.main([str(tmp_path), "--check"]) == 1
    assert (
        "command.schema.json, old.schema.json, reply.schema.json; run python -m schemas.export"
        in capsys.readouterr().err
    )
    assert export.main([str(tmp_path)]) == 0
    assert export.differing(tmp_path) == []
    (tmp_path / "file").write_text("")
    assert export.main([str(tmp_path / "file")]) == 1
    assert "give a folder" in capsys.readouterr().err


@pytest.mark.parametrize("title", json_schema.ROOTS)
def test_each_is_a_schema_complete_in_itself_and_told_in_the_words_of_json(title: str) -> None:
    schema = json_schema.schema_of(title)
    Draft202012Validator.check_schema(schema)
    text = json.dumps(schema)
    assert set(re.findall(r'"#/\$defs/(\w+)"', text)) == set(schema["$defs"])
    described = " ".join(re.findall(r'"description": "([^"]*)"', text))
    assert not re.findall(r"`[a-z]+_[a-z_]+`|None", described), "names of Python, not of JSON"


@ENOUGH
@given(made.COMMANDS | CLAIMED)
def test_a_command_that_is_taken_is_valid_and_one_that_is_not_valid_is_not_taken(command: Command) -> None:
    body = codec.encode_command(command)
    if is_taken(body):
        assert is_valid("Command", json.loads(body))


@ENOUGH
@given(mutated(GOOD))
def test_a_command_that_the_schema_refuses_is_refused_by_the_worker(instance: Json) -> None:
    if not is_valid("Command", instance):
        assert not is_taken(msgspec.json.encode(instance))


@ENOUGH
@given(REPLIES)
def test_every_reply_is_valid(reply: Reply) -> None:
    assert is_valid("Reply", json.loads(codec.encode_reply(reply)))


@ENOUGH
@given(mutated(REPLIES.map(as_json)))
def test_a_reply_that_the_schema_refuses_is_refused_by_the_client(instance: Json) -> None:
    body = msgspec.json.encode(instance)
    if not is_valid("Reply", instance):
        with pytest.raises((ValueError, TypeError)):
            codec.decode_reply(body)


def test_an_event_as_it_is_printed_is_valid() -> None:
    event = RecordedEvent(
        position=Position(3), event_id="e", event_type="Opened", data=b"\xff", time="2026-01-31T12:00:00Z"
    )
    assert is_valid("RecordedEvent", as_json(event))
    assert not is_valid("RecordedEvent", {"position": "3"})


@pytest.mark.parametrize(
    "change",
    [
        {"commandId": ""},
        {"commandId": "x" * 129},
        {"commandId": "a\x00b"},
        {"brook": "orders|1"},
        {"brook": {"name": "a|b", "entityId": "1"}},
        {"brook": {"name": "", "entityId": "1"}},
        {"expected": -2},
        {"expected": "never"},
        {"expected": 2**53},
        {"expected": True},
        {"events": []},
        {"events": [{"eventId": "e", "eventType": "", "data": ""}]},
        {"events": [{"eventId": "e", "eventType": "t", "data": "not base64"}]},
        {"events": [{"eventId": "e", "eventType": "t", "data": "", "time": "yesterday"}]},
        {"events": [{"eventId": "e", "eventType": "t", "data": "", "meta": {}}]},
        {"schemaVersion": 2},
        {"schemaVersion": True},
        {"colour": "red"},
        {"claim": {"blob": "b", "sizeBytes": 1, "sha256": "0" * 64, "eventCount": 1}},
    ],
)
def test_what_is_wrong_whatever_the_settings_are_is_refused_by_schema_and_worker(change: Json) -> None:
    good = as_json(made.command())
    assert is_valid("Command", good)
    assert not is_valid("Command", good | change)
    assert not is_taken(msgspec.json.encode(good | change))


@pytest.mark.parametrize(
    "change",
    [{"blob": "../x"}, {"sizeBytes": 0}, {"sha256": "A" * 64}, {"eventCount": 0}, {"expiresAt": "soon"}],
)
def test_a_claim_that_is_none_is_refused_by_schema_and_worker(change: Json) -> None:
    claim = {"blob": "b", "sizeBytes": 1, "sha256": "0" * 64, "eventCount": 1}
    command = {"commandId": "c", "brook": {"name": "n", "entityId": "e"}, "expected": "any"}
    assert is_valid("Command", command | {"claim": claim})
    assert is_taken(msgspec.json.encode(command | {"claim": claim}))
    assert not is_valid("Command", command | {"claim": claim | change})
    assert not is_taken(msgspec.json.encode(command | {"claim": claim | change}))


def test_the_examples_are_valid_where_the_worker_takes_them() -> None:
    lines = [line for path in sorted((ROOT / "examples").glob("*.ndjson")) for line in path.read_bytes().splitlines()]
    taken = [json.loads(line) for line in lines[::10] if is_taken(line)]
    assert len(taken) > 100
    assert [each["commandId"] for each in taken if not is_valid("Command", each)] == []


def test_every_command_and_reply_in_the_documentation_is_valid() -> None:
    found = [json.loads(block.text) for page in pages() for block in blocks(page) if block.language == "json"]
    commands = [each for each in found if isinstance(each, dict) and {"commandId", "brook"} <= each.keys()]
    replies = [each for each in found if isinstance(each, dict) and {"commandId", "outcome"} <= each.keys()]
    assert len(commands) >= 1
    assert len(replies) >= 3
    assert [each for each in commands if not is_valid("Command", each)] == []
    assert [each for each in replies if not is_valid("Reply", each)] == []


# --- AsyncAPI ---


def resolved(document: Json, reference: str) -> Json:
    node = document
    for step in reference.removeprefix("#/").split("/"):
        node = node[step]
    return node


def references(node: Json) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for inner in node.values():
            yield from references(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from references(inner)


def test_every_reference_of_the_asyncapi_document_leads_somewhere() -> None:
    document = asyncapi.document()
    found = set(references(document))
    assert len(found) > 20
    for reference in found:
        assert resolved(document, reference)


def test_its_examples_are_messages_as_the_client_sends_them_and_the_worker_answers() -> None:
    messages = asyncapi.document()["components"]["messages"]
    for name, title in (("command", "Command"), ("reply", "Reply")):
        [example] = messages[name]["examples"]
        assert is_valid(title, example["payload"])
        headers = messages[name]["headers"]
        assert Draft202012Validator(headers).is_valid(example["headers"])
        assert example["headers"].keys() <= headers["properties"].keys()
    command, reply = (messages[name]["examples"][0] for name in ("command", "reply"))
    decoded = codec.decode_command(msgspec.json.encode(command["payload"]))
    assert isinstance(decoded, AppendCommand)
    assert command["headers"]["messageId"] == decoded.command_id == reply["headers"]["correlationId"]
    assert command["headers"]["sessionId"] == session_id_for(decoded.brook)


def test_the_schemas_in_it_are_the_published_ones() -> None:
    inside = asyncapi.document()["components"]["schemas"]
    for title in json_schema.ROOTS:
        alone = json_schema.schema_of(title)
        for name, schema in alone["$defs"].items():
            there = json.loads(json.dumps(inside[name]).replace("#/components/schemas/", "#/$defs/"))
            assert there == json.loads(json.dumps(schema))
