"""`make diagrams`: draws docs/pictures/*.svg. A test fails when a file is not what this draws."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from docsite.canvas import Canvas, Kind
from docsite.states import states

PICTURES: Final = Path(__file__).parents[1] / "docs" / "pictures"


def architecture() -> str:
    """Who talks to whom."""
    canvas = Canvas(940, 450, "Producers, Service Bus, workers, Cosmos DB and Blob Storage")
    canvas.box(24, 60, 150, 74, ["Producers", "brook_client,", "or any SDK"], kind="outside")
    canvas.box(24, 330, 150, 74, ["Readers", "projections,", "read models"], kind="outside")
    canvas.frame(268, 24, 190, 300, "Service Bus")
    canvas.box(284, 60, 158, 74, ["Command queue", "a session for each", "brook, or bucket"], kind="azure")
    canvas.box(284, 214, 158, 74, ["Reply queue", "or topic; one reply", "for each command"], kind="azure")
    canvas.frame(536, 24, 160, 300, "Workers, any number")
    for index in (2, 1, 0):
        canvas.box(556 + 7 * index, 70 + 7 * index, 104, 190, [], kind="ours")
    canvas.text(608, 102, "Worker", "title")
    canvas.labels(608, 138, ["receive", "decide", "write", "reply", "complete"], halo=False)
    canvas.box(784, 84, 134, 74, ["Cosmos DB", "a partition for", "each brook"], kind="azure")
    canvas.box(784, 214, 134, 58, ["Blob Storage", "leases, claims"], kind="azure")
    canvas.arrow((174, 84), (282, 84))
    canvas.labels(222, 62, ["1 append", "commands"])
    canvas.arrow((442, 97), (554, 112))
    canvas.labels(497, 78, ["2 a group of", "commands"])
    canvas.arrow((674, 121), (782, 121))
    canvas.labels(738, 84, ["3 conditional", "batches"])
    canvas.arrow((556, 226), (444, 246))
    canvas.labels(497, 262, ["4 replies"])
    canvas.arrow((556, 160), (500, 160), (500, 126), (444, 116))
    canvas.labels(497, 178, ["5 complete"])
    canvas.arrow((674, 243), (782, 243), dashed=True)
    canvas.labels(738, 262, ["lease"])
    canvas.arrow((284, 251), (99, 251), (99, 136))
    canvas.labels(180, 268, ["replies, by reply session"])
    canvas.arrow((851, 158), (851, 186), (928, 186), (928, 367), (176, 367), dashed=True)
    canvas.labels(540, 386, ["read, up to the head and never past it"])
    canvas.labels(
        470,
        426,
        ["Nothing but these services is shared: a worker keeps no state that it could not lose at any moment."],
    )
    return canvas.svg()


_LANES: Final = {
    "Producer": 80,
    "Command queue": 232,
    "Worker": 400,
    "Blob Storage": 560,
    "Cosmos DB": 700,
    "Replies": 846,
}


def append() -> str:
    """What happens to a command, from the queue to the reply."""
    canvas = Canvas(930, 600, "A command on its way, from the queue to the reply")
    for name, x in _LANES.items():
        kind: Kind = "ours" if name == "Worker" else "outside" if name == "Producer" else "azure"
        canvas.box(x - 68, 18, 136, 38, [name], kind=kind)
        canvas.line((x, 58), (x, 584))
    at = 62.0

    def step(source: str, target: str, *lines: str, dashed: bool = False) -> None:
        nonlocal at
        at += 26 + 15 * len(lines)
        start, end = _LANES[source], _LANES[target]
        canvas.arrow((start, at), (end, at), dashed=dashed)
        canvas.labels((start + end) / 2, at - 7 - 15 * (len(lines) - 1), lines)

    def work(*lines: str) -> None:
        nonlocal at
        height = 12 + 15 * len(lines)
        canvas.box(_LANES["Worker"] - 118, at + 14, 236, height, [], kind="ours")
        canvas.labels(_LANES["Worker"], at + 32, lines, halo=False)
        at += height + 10

    step("Producer", "Command queue", "command; message id", "= command id")
    step("Worker", "Command queue", "accept the session")
    step("Worker", "Blob Storage", "acquire its lease")
    step("Command queue", "Worker", "all that has queued up")
    step("Worker", "Cosmos DB", "load the head (once a session)")
    work("decide each, on the head as it would", "then be; as few batches as fit")
    step("Worker", "Cosmos DB", "batch: head If-Match, create events")
    step("Cosmos DB", "Worker", "took effect, whole", dashed=True)
    step("Worker", "Replies", "one reply for each command, in order")
    step("Worker", "Command queue", "complete")
    step("Replies", "Producer", "appended, conflict or rejected")
    return canvas.svg()


def pending() -> str:
    """A large append under way: what exists, and what is seen."""
    canvas = Canvas(880, 236, "A large append under way")
    width = 44
    for position in range(16):
        x = 30 + position * (width + 7)
        written, committed = position <= 10, position <= 5  # noqa: PLR2004 - the figure's own numbers
        canvas.box(x, 70, width, 40, [str(position)], kind="ours" if committed else "azure" if written else "faint")
    canvas.labels(180, 50, ["committed: readers see these"])
    canvas.labels(462, 50, ["written, invisible"])
    canvas.labels(718, 50, ["still to be written"])
    for position, lines in (
        (5, ["head.position = 5", "originalPosition = 5"]),
        (10, ["writtenPosition = 10"]),
        (15, ["position = 15,", "the target"]),
    ):
        middle = 30 + position * (width + 7) + width / 2
        canvas.arrow((middle, 140), (middle, 114))
        canvas.labels(middle, 156, lines)
    canvas.labels(
        440,
        214,
        ["The commit moves the head from 5 to 15 and deletes head-pending, in one batch: all of it shows at once."],
    )
    return canvas.svg()


DIAGRAMS: Final[dict[str, Callable[[], str]]] = {
    "architecture.svg": architecture,
    "append.svg": append,
    "pending.svg": pending,
    "states.svg": states,
}


def main() -> int:
    """Write all of them; the exit code."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name, draw in DIAGRAMS.items():
        (PICTURES / name).write_text(draw(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
