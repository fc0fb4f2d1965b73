"""The limits that the documentation tells are those of the code."""

import re
from pathlib import Path

import pytest

from schemas.guards import Guards
from schemas.keys import BROOK_KEY_BYTES_MAX
from schemas.types import MESSAGE_ID_LENGTH_MAX, POSITION_MAX
from tests.support.pages import ROOT
from tests.support.worker_settings import NOWHERE

README = ROOT / "README.md"
GUARANTEES = ROOT / "docs" / "concepts" / "guarantees.md"

LIMITS = [
    (README, "events in one command", f"{NOWHERE.events_max:,}"),
    (README, "one event, as a stored document", f"{NOWHERE.limits().single_event_bytes_max:,} bytes"),
    (README, "one batch", f"{NOWHERE.batch_operations_max} operations"),
    (README, "a brook key", f"{BROOK_KEY_BYTES_MAX:,} bytes"),
    (README, "a command id", f"{MESSAGE_ID_LENGTH_MAX} characters"),
    (README, "commands that a head remembers", f"{NOWHERE.recent_commands_max}"),
    (README, "sessions at once in one worker", f"{NOWHERE.max_concurrent_sessions}"),
    (GUARANTEES, "events in a command", f"{NOWHERE.events_max:,}"),
    (GUARANTEES, "one event's document", f"{NOWHERE.limits().single_event_bytes_max:,} bytes"),
    (GUARANTEES, "metadata of an event", f"{Guards().metadata_bytes_max:,} bytes as JSON"),
    (GUARANTEES, "metadata of an event", f"{Guards().metadata_depth_max} levels"),
    (GUARANTEES, "operations and bytes in a batch", f"{NOWHERE.batch_operations_max};"),
    (GUARANTEES, "batches written to one brook", f"up to {NOWHERE.batch_operations_max - 1} commands"),
    (GUARANTEES, "brook key", f"{BROOK_KEY_BYTES_MAX:,} bytes"),
    (GUARANTEES, "command id, correlation id, causation id", f"{MESSAGE_ID_LENGTH_MAX} characters"),
]


@pytest.mark.parametrize(("page", "what", "shown"), LIMITS)
def test_a_limit_is_the_codes(page: Path, what: str, shown: str) -> None:
    rows = re.findall(rf"^\| {re.escape(what)} \| (.*?) \|", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) == 1, f"{page.name}: one row says {what!r}"
    assert shown in rows[0]


def test_the_largest_position_is_as_told() -> None:
    assert POSITION_MAX == 2**53 - 2
    assert "| positions | 2^53 - 2 |" in GUARANTEES.read_text(encoding="utf-8")


def test_the_data_of_the_largest_event_is_as_told() -> None:
    """Base64 takes four bytes for three."""
    data_mb = NOWHERE.limits().single_event_bytes_max * 3 / 4 / 1_000_000
    assert f"{data_mb:.2f} MB of data" in GUARANTEES.read_text(encoding="utf-8")


def test_what_the_protocol_page_says_of_the_window_is_the_default() -> None:
    text = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    assert f"`recent_commands_max` ({NOWHERE.recent_commands_max})" in text
