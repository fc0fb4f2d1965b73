"""Dead letters as a table: what an operator types again or compares stays in one piece."""

import io

from rich.console import Console

from worker.commands.dead_letter_shown import LetterShown, letters_table

LETTER = LetterShown(
    sequence_number=3_000_887,
    message_id="x" * 128,
    session_id="customer-with-a-long-name|6bafd41d-8808-4878-a22f-51ba43e7531b",
    brook=None,
    events=None,
    reason="undecodable",
    description="body: is nested too deeply",
    problem=None,
    enqueued_at="2026-01-31T12:00:00.055+00:00",
    delivery_count=1,
    resubmitted=2,
    body_bytes=1,
    content_type=None,
    correlation_id=None,
    reply_to=None,
    reply_to_session_id=None,
    properties={},
)


def shown(width: int) -> str:
    output = io.StringIO()
    Console(file=output, width=width).print(letters_table([LETTER], "dead letters of q"))
    return output.getvalue()


def test_on_a_narrow_terminal_numbers_times_and_words_stay_whole() -> None:
    text = shown(80)
    for piece in ("3000887", "2026-01-31T12:00:00", "undecodable:", "nested"):
        assert piece in text
    assert max(map(len, text.splitlines())) <= 80


def test_with_room_the_reason_has_it() -> None:
    assert "undecodable: body: is nested too deeply (resubmitted: 2)" in shown(160)
