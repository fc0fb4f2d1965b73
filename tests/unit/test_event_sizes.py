"""The size of an event, which batches are filled by, is that of its document, to the byte."""

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.commands import AppendCommand
from schemas.keys import BrookKey
from schemas.types import CommandId, Position
from tests.support.commands import COMMANDS, event
from worker.protocol.documents import encoded_bytes
from worker.protocol.prepare import prepare

AWKWARD = 'quote " backslash \\ tab \t bell \x07 delete \x7f line \u2028 größe 海 🌊'


@settings(max_examples=300)
@given(COMMANDS.filter(lambda command: bool(command.events)), st.integers(0, 10**15))
def test_the_size_of_any_event_at_any_position_is_exact(command: AppendCommand, position: int) -> None:
    prepared = prepare(command, "2026-01-31T12:00:00.000Z")
    for index in range(len(prepared)):
        document = prepared.event_document(index, Position(position))
        assert prepared.event_bytes(index, Position(position)) == encoded_bytes(document)


def test_awkward_characters_in_every_field_are_counted_as_they_are_written() -> None:
    awkward = event(
        AWKWARD,
        event_type=AWKWARD,
        data=b"\0" * 1000,
        source=AWKWARD,
        data_content_type=AWKWARD,
        time=AWKWARD,
        metadata={AWKWARD: [AWKWARD, None, 1.5, {}]},
    )
    command = AppendCommand(
        command_id=CommandId(AWKWARD),
        brook=BrookKey(AWKWARD, AWKWARD),
        expected="any",
        events=(event(), awkward, event(data=b"")),
        correlation_id=AWKWARD,
        causation_id=AWKWARD,
    )
    prepared = prepare(command, AWKWARD)
    for index in range(3):
        document = prepared.event_document(index, Position(9))
        assert prepared.event_bytes(index, Position(9)) == encoded_bytes(document)
