"""The stages of a brook and the writes between them, drawn from the protocol's own table."""

from typing import Final

from docsite.canvas import Canvas, Kind, Point
from worker.protocol.states import MEANINGS, TRANSITIONS, Stage, Transition, Write

_WIDTH: Final = 196
_HEIGHT: Final = 54

_PLACES: Final[dict[Stage, Point]] = {
    Stage.ABSENT: (350, 30),
    Stage.SETTLED: (350, 196),
    Stage.BEGUN: (40, 372),
    Stage.PARTIAL: (350, 372),
    Stage.COMPLETE: (660, 372),
    Stage.LEGACY: (660, 110),
    Stage.STALE: (660, 222),
}
_LINES: Final[dict[tuple[Stage, Stage], tuple[Point, ...]]] = {
    (Stage.ABSENT, Stage.SETTLED): ((448, 86), (448, 194)),
    (Stage.ABSENT, Stage.BEGUN): ((348, 57), (70, 57), (70, 200), (70, 370)),
    (Stage.SETTLED, Stage.SETTLED): ((388, 194), (360, 140), (300, 160), (348, 212)),
    (Stage.SETTLED, Stage.BEGUN): ((348, 214), (150, 214), (130, 300), (130, 370)),
    (Stage.BEGUN, Stage.SETTLED): ((190, 370), (200, 300), (260, 240), (348, 238)),
    (Stage.BEGUN, Stage.PARTIAL): ((238, 388), (348, 388)),
    (Stage.PARTIAL, Stage.BEGUN): ((348, 412), (238, 412)),
    (Stage.BEGUN, Stage.COMPLETE): ((138, 428), (180, 520), (720, 520), (740, 428)),
    (Stage.PARTIAL, Stage.PARTIAL): ((490, 370), (510, 318), (420, 318), (430, 370)),
    (Stage.PARTIAL, Stage.COMPLETE): ((548, 400), (658, 400)),
    (Stage.COMPLETE, Stage.SETTLED): ((716, 370), (690, 320), (620, 250), (548, 240)),
    (Stage.LEGACY, Stage.SETTLED): ((658, 140), (600, 150), (590, 196), (548, 206)),
    (Stage.LEGACY, Stage.LEGACY): ((730, 108), (720, 60), (800, 60), (790, 108)),
    (Stage.LEGACY, Stage.STALE): ((690, 166), (690, 220)),
    (Stage.STALE, Stage.SETTLED): ((658, 240), (620, 232), (590, 226), (548, 224)),
    (Stage.STALE, Stage.STALE): ((730, 278), (720, 326), (800, 326), (790, 278)),
}
_LABELS: Final[dict[tuple[Stage, Stage], Point]] = {
    (Stage.ABSENT, Stage.SETTLED): (456, 124),
    (Stage.ABSENT, Stage.BEGUN): (130, 92),
    (Stage.SETTLED, Stage.SETTLED): (232, 152),
    (Stage.SETTLED, Stage.BEGUN): (100, 300),
    (Stage.BEGUN, Stage.SETTLED): (222, 284),
    (Stage.BEGUN, Stage.PARTIAL): (276, 382),
    (Stage.PARTIAL, Stage.BEGUN): (277, 428),
    (Stage.BEGUN, Stage.COMPLETE): (430, 490),
    (Stage.PARTIAL, Stage.PARTIAL): (426, 322),
    (Stage.PARTIAL, Stage.COMPLETE): (586, 394),
    (Stage.COMPLETE, Stage.SETTLED): (596, 268),
    (Stage.LEGACY, Stage.SETTLED): (562, 160),
    (Stage.LEGACY, Stage.LEGACY): (660, 54),
    (Stage.LEGACY, Stage.STALE): (698, 200),
    (Stage.STALE, Stage.SETTLED): (588, 222),
    (Stage.STALE, Stage.STALE): (636, 334),
}


def states() -> str:
    """Draw the table. Fails where a stage or a transition has no place yet."""
    canvas = Canvas(900, 540, "The stages of a brook and the writes that lead from one to another")
    for stage, (x, y) in _PLACES.items():
        meaning = MEANINGS[stage]
        lines = meaning.split(", ") if len(meaning) > 34 else [meaning]  # noqa: PLR2004 - what a box holds
        canvas.box(x, y, _WIDTH, _HEIGHT + 12 * (len(lines) - 1), [stage, *lines], kind=_kind(stage))
    writes: dict[tuple[Stage, Stage], list[Write]] = {}
    for transition in sorted(TRANSITIONS, key=_order):
        writes.setdefault((transition.before, transition.after), []).append(transition.write)
    assert writes.keys() == _LINES.keys() == _LABELS.keys(), "every transition has its line and its label"
    for ends, labels in writes.items():
        canvas.arrow(*_LINES[ends], curved=True)
        x, y = _LABELS[ends]
        canvas.labels(x, y, [", ".join(labels)], anchor="start")
    return canvas.svg()


def _order(transition: Transition) -> tuple[int, int, int]:
    stages = list(Stage)
    writes = list(Write)
    return stages.index(transition.before), stages.index(transition.after), writes.index(transition.write)


def _kind(stage: Stage) -> Kind:
    match stage:
        case Stage.ABSENT | Stage.SETTLED:
            return "ours"
        case Stage.LEGACY | Stage.STALE:
            return "outside"
        case _:
            return "azure"
