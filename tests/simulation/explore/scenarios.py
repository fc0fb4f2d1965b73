"""The scenarios: small worlds that between them reach every decision of the protocol."""

from typing import Any, Final

from schemas.types import Position
from tests.simulation.explore.scenario import KEY, Scenario, command, withheld
from worker.handlers.lookup import Lookup
from worker.protocol.documents import head_document
from worker.protocol.model import Head
from worker.protocol.pending import Pending, pending_document

_OLD: Final = command("old", 1)
_NEWER: Final = command("newer", 1)
_LOOKS: Final = command("looks", 1, "exists")
_LEFT: Final = command("left", 3)
"""What an older writer was appending, and what was there before and came after."""


def _left(head: int, original: int, target: int, *events: int) -> tuple[dict[str, Any], ...]:
    """A brook as an older writer left it: no command ids in the head, no `writtenPosition` in the marker."""
    before = (head_document(KEY, Head(position=Position(head))), _OLD.event_document(0, Position(0)))
    return (*before, *_marked(original, target, *events))


def _marked(original: int, target: int, *events: int) -> tuple[dict[str, Any], ...]:
    """The marker and the events of what it was appending."""
    marker = pending_document(KEY, Pending(original=Position(original), target=Position(target)))
    return (marker, *(_LEFT.event_document(position - original - 1, Position(position)) for position in events))


SCENARIOS: Final = (
    Scenario(
        name="takeover",
        commands=(command("a", 2),),
        sessions=((0,),),
        writers=(0, 0),
        faults_max=5,
        late_max=2,
        older_max=2,
    ),
    Scenario(
        name="three-writers",
        commands=(command("a", 2),),
        sessions=((0,),),
        writers=(0, 0, 0),
        faults_max=3,
    ),
    Scenario(
        name="two-large",
        commands=(command("a", 2), command("b", 2)),
        sessions=((0, 1),),
        writers=(0, 0),
        faults_max=3,
        weight=3,
    ),
    Scenario(
        name="two-sessions",
        weight=3,
        commands=(command("a", 2), command("x", 2)),
        sessions=((0,), (1,)),
        writers=(0, 1),
        faults_max=3,
    ),
    Scenario(
        name="outsider",
        commands=(command("a", 2), command("x", 1)),
        sessions=((0,), (1,)),
        writers=(0, 0, 1),
        faults_max=1,
    ),
    Scenario(
        name="outsider-twice-unlucky",
        commands=(command("a", 2), command("x", 1)),
        sessions=((0,), (1,)),
        writers=(0, 0, 1),
        faults_max=2,
        older_max=0,
        weight=4,
    ),
    Scenario(
        name="ahead",
        commands=(command("a", 1, 0), command("b", 2), command("c", 1, "exists")),
        sessions=((0, 1, 2),),
        writers=(0, 0),
        group_max=1,
        ahead_max=2,
        faults_max=3,
        older_max=0,
        weight=2,
    ),
    Scenario(
        name="expectations",
        commands=(command("a", 1, 0), command("b", 2, -1), command("x", 1, "exists")),
        sessions=((0, 1), (2,)),
        writers=(0, 1),
        faults_max=2,
    ),
    Scenario(
        name="presumed-new",
        commands=(command("a", 1, "empty"), command("x", 2, "empty")),
        sessions=((0,), (1,)),
        writers=(0, 0, 1),
        faults_max=2,
        late_max=1,
    ),
    Scenario(
        name="presumed-new-any",
        commands=(command("a", 1), command("b", 2)),
        sessions=((0,), (1,)),
        writers=(0, 1),
        faults_max=3,
        expects_new=True,
    ),
    Scenario(
        name="presumed-new-redelivered",
        commands=(command("a", 1), command("x", 1), command("y", 1)),
        sessions=((0,), (1, 2)),
        writers=(0, 0, 1),
        group_max=1,
        faults_max=2,
        late_max=2,
        recent_max=1,
        lookup=Lookup.REDELIVERED,
        expects_new=True,
    ),
    Scenario(
        name="presumed-new-but-left",
        commands=(command("a", 1), command("b", 2), _LEFT),
        sessions=((0, 1),),
        writers=(0, 0),
        faults_max=2,
        documents=_marked(-1, 2, 0),
        expects_new=True,
    ),
    Scenario(
        name="presumed-new-but-left-unwritten",
        commands=(withheld(command("w", 1)), command("a", 1), command("c", 1, 7), command("b", 1), _LOOKS, _LEFT),
        sessions=((0, 1, 2, 3), (4,)),
        writers=(0, 1),
        group_max=1,
        faults_max=1,
        documents=_marked(-1, 2),
        expects_new=True,
    ),
    Scenario(
        name="sent-twice",
        commands=(command("a", 1), command("b", 2)),
        sessions=((0, 0, 1, 0),),
        writers=(0, 0),
        group_max=2,
        faults_max=2,
        recent_max=2,
    ),
    Scenario(
        name="id-used-twice",
        commands=(command("a", 2), command("a", 2, content="'")),
        sessions=((0,), (1,)),
        writers=(0, 1),
        faults_max=2,
    ),
    Scenario(
        name="blob-gone",
        commands=(command("a", 1), withheld(command("a", 1)), command("x", 1)),
        sessions=((0,), (1, 2)),
        writers=(0, 1),
        faults_max=2,
    ),
    Scenario(
        name="blob-gone-large",
        commands=(command("a", 2), withheld(command("a", 2))),
        sessions=((0,), (1,)),
        writers=(0, 1),
        faults_max=3,
    ),
    Scenario(
        name="blob-back",
        commands=(command("a", 2), withheld(command("a", 2))),
        sessions=((1, 0), (0,)),
        writers=(0, 0, 1),
        group_max=1,
        faults_max=1,
        older_max=0,
    ),
    Scenario(
        name="window-outlived",
        commands=(command("a", 1), command("x", 1), command("y", 1)),
        sessions=((0,), (1, 2)),
        writers=(0, 0, 1),
        group_max=1,
        faults_max=2,
        older_max=2,
        recent_max=1,
    ),
    Scenario(
        name="lookup-redelivered",
        commands=(command("a", 1), command("x", 1), command("y", 1)),
        sessions=((0,), (1, 2)),
        writers=(0, 1),
        group_max=1,
        faults_max=2,
        recent_max=1,
        lookup=Lookup.REDELIVERED,
    ),
    Scenario(
        name="groups",
        commands=(command("a", 1), command("b", 1, "empty"), command("c", 3, 0), command("x", 2)),
        sessions=((0, 1, 2), (3,)),
        writers=(0, 1),
        operations_max=3,
        faults_max=2,
        weight=2,
    ),
    Scenario(
        name="long",
        commands=(command("a", 3), command("x", 1)),
        sessions=((0,), (1,)),
        writers=(0, 1),
        faults_max=2,
    ),
    Scenario(
        name="left-incomplete",
        commands=(command("a", 2), _OLD, _LEFT),
        sessions=((0,),),
        writers=(0, 0),
        faults_max=3,
        documents=_left(0, 0, 3, 1, 2),
        operations_max=3,
    ),
    Scenario(
        name="left-complete",
        commands=(command("a", 2), _OLD, _LEFT),
        sessions=((0,),),
        writers=(0, 0),
        faults_max=3,
        documents=_left(0, 0, 3, 1, 2, 3),
        operations_max=3,
    ),
    Scenario(
        name="left-stale",
        commands=(command("a", 2), _OLD, _LEFT),
        sessions=((0,),),
        writers=(0, 0),
        faults_max=3,
        documents=_left(3, 0, 3, 1, 2, 3),
        operations_max=3,
    ),
    Scenario(
        name="left-stale-with-events",
        commands=(command("a", 2), _OLD, _NEWER, _LEFT),
        sessions=((0,),),
        writers=(0, 0),
        faults_max=3,
        documents=(*_left(1, 0, 3, 2, 3), _NEWER.event_document(0, Position(1))),
    ),
)

BY_NAME: Final = {scenario.name: scenario for scenario in SCENARIOS}
