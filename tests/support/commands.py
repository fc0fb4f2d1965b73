"""Commands for tests: one that is well, and Hypothesis strategies for any that can be written."""

from typing import Any

import msgspec
from hypothesis import strategies as st

from schemas.commands import AppendCommand, NewEvent
from schemas.keys import BrookKey
from schemas.types import CommandId

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=10,
)

EVENTS = st.builds(
    NewEvent,
    event_id=TEXT,
    event_type=TEXT,
    data=st.binary(max_size=100),
    data_content_type=st.none() | TEXT,
    source=st.none() | TEXT,
    time=st.none() | TEXT,
    metadata=st.none() | st.dictionaries(TEXT, JSON_VALUES, max_size=3),
)

COMMANDS = st.builds(
    AppendCommand,
    command_id=TEXT.map(CommandId),
    brook=st.builds(BrookKey, TEXT, TEXT),
    expected=st.sampled_from(["any", "empty", "exists"]) | st.integers(-(2**63), 2**63),
    events=st.lists(EVENTS, max_size=4).map(tuple),
    correlation_id=st.none() | TEXT,
    causation_id=st.none() | TEXT,
)


def event(event_id: str = "e1", **changes: Any) -> NewEvent:
    return msgspec.structs.replace(NewEvent(event_id=event_id, event_type="added", data=b"{}"), **changes)


def command(**changes: Any) -> AppendCommand:
    """A command with which nothing is wrong, with changes."""
    good = AppendCommand(command_id=CommandId("c1"), brook=BrookKey("orders", "1"), expected="any", events=(event(),))
    return msgspec.structs.replace(good, **changes)
