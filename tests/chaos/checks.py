"""Compares what came of the commands with what must have come of them. Every difference is one line."""

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from schemas.keys import BrookKey
from schemas.types import CommandId
from tests.chaos.load import Json
from tests.support.site import Place, Replies
from worker.demo.checks import check_brook
from worker.demo.expectation import Expected, differing_fields, expect


async def findings(place: Place, keys: Sequence[BrookKey], sent: Sequence[Json], replies: Replies) -> list[str]:
    """Everything that is not as it must be: replies, events, raw documents, dead letters."""
    expected = expect(sent)
    found = list(reply_findings(expected, replies))
    for key in keys:
        documents = {document["id"]: document for document in await place.documents(key)}
        found += document_findings(key, documents)
        wanted = expected.events.get((key.name, key.entity_id), [])
        found += check_brook((key.name, key.entity_id), wanted, await place.events(key))
    letters = await place.dead_letters()
    return [*found, *(f"dead letter {name!r}: {letter.dead_letter_reason}" for name, letter in letters.items())]


def reply_findings(expected: Expected, replies: Replies) -> Iterator[str]:
    """At least one reply to each command, all of the same bytes, and of the content that it must have."""
    for command_id, wanted in expected.replies.items():
        given = replies.by_command.get(CommandId(command_id), [])
        if not given:
            yield f"command {command_id!r}: no reply"
            continue
        if len({reply.body for reply in given}) > 1:
            yield f"command {command_id!r}: {len(given)} replies that are not the same: {[one.body for one in given]}"
        if fields := differing_fields(wanted[0], msgspec.to_builtins(given[0].reply)):
            yield f"command {command_id!r}: {fields} of {given[0].reply} are not as in {wanted[0]}"
    if strange := replies.by_command.keys() - expected.replies.keys():
        yield f"replies to commands that were never sent: {sorted(strange)[:5]}"


def document_findings(key: BrookKey, documents: Mapping[str, Json]) -> Iterator[str]:
    """A head that names nothing pending, and exactly the events that it covers."""
    head = documents.get("head", {"position": -1})
    wanted = {"head", *map(str, range(head["position"] + 1))} if head["position"] >= 0 else documents.keys() & {"head"}
    if extra := documents.keys() - wanted:
        yield f"brook {key}: documents that the head at {head['position']} does not cover: {sorted(extra)[:5]}"
    if missing := wanted - documents.keys():
        yield f"brook {key}: documents are missing below the head at {head['position']}: {sorted(missing)[:5]}"
    if head.get("pending") is not None:
        yield f"brook {key}: the head still names {head['pending']!r}"
