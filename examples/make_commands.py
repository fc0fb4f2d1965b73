"""Writes the example commands beside itself: the same files every time.

Each line of an `.ndjson` file is one append command, in the order in which it is to be sent. Among ordinary commands
there are some that expect a head which is not there, some that are sent twice, and some that can never take effect.

    python examples/make_commands.py
"""

import base64
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

SEED: Final = 20_240_229

Command = dict[str, Any]

HOT_BROOKS: Final = {
    ("ledger", "main"): 320,
    ("ledger", "Zürich"): 180,
    ("stock", "倉庫-7"): 150,
    ("sensor", "north/gate 3"): 130,
}
SMALL_NAMES: Final = ("order", "cart", "konto", "заказ")
SMALL_BROOKS: Final = 120
KINDS: Final = ("Opened", "LineAdded", "LineRemoved", "Paid", "Shipped", "Notiz 📝", "Closed")

CONFLICT_SHARE: Final = 0.06
ADJACENT_REPEAT_SHARE: Final = 0.03
LATER_REPEAT_SHARE: Final = 0.04
INVALID_SHARE: Final = 0.03
TIME_SHARE: Final = 0.2
METADATA_SHARE: Final = 0.1
# A conflict is remembered for as long as the worker's window of recent commands: repeat it within that.
REPEAT_DISTANCE_MAX: Final = 40


class BrookWriter:
    """Writes the commands of one brook as a producer would who knows its head."""

    def __init__(self, rng: random.Random, name: str, entity_id: str) -> None:
        self._rng = rng
        self._brook = {"name": name, "entityId": entity_id}
        self._number = 0
        self._position = -1

    def commands(self, count: int) -> Iterator[Command]:
        """Yield `count` commands and, among them, repetitions of earlier ones."""
        later: list[tuple[int, Command]] = []
        for turn in range(count):
            command = self._next()
            yield command
            if self._rng.random() < ADJACENT_REPEAT_SHARE:
                yield command
            elif self._rng.random() < LATER_REPEAT_SHARE:
                later.append((turn + self._rng.randint(2, REPEAT_DISTANCE_MAX), command))
            yield from [due for when, due in later if when == turn]
        yield from [due for when, due in later if when >= count]

    def _next(self) -> Command:
        chance = self._rng.random()
        if chance < INVALID_SHARE:
            return self._invalid()
        if chance < INVALID_SHARE + CONFLICT_SHARE:
            return self._command(self._wrong_expectation(), self._events())
        expected = self._right_expectation()
        events = self._events()
        self._position += len(events)
        return self._command(expected, events)

    def _command(self, expected: str | int, events: list[dict[str, Any]]) -> Command:
        self._number += 1
        command: Command = {
            "commandId": f"{self._brook['name']}-{self._brook['entityId']}-c{self._number}",
            "brook": self._brook,
            "expected": expected,
            "events": events,
        }
        if self._number % 5 == 0:
            command["correlationId"] = f"case-{self._number // 5}"
        return command

    def _right_expectation(self) -> str | int:
        if self._position < 0:
            return self._rng.choice(("any", "empty", -1))
        return self._rng.choice(("any", "any", "exists", self._position, self._position))

    def _wrong_expectation(self) -> str | int:
        if self._position < 0:
            return self._rng.choice(("exists", 0, 5))
        return self._rng.choice(("empty", self._position + 1, max(self._position - 1, -1)))

    def _events(self) -> list[dict[str, Any]]:
        count = self._rng.choice((1, 1, 1, 1, 2, 2, 3, 5))
        return [self._event(index) for index in range(count)]

    def _event(self, index: int) -> dict[str, Any]:
        kind = self._rng.choice(KINDS)
        data = {"amount": self._rng.randint(1, 99_999), "note": self._rng.choice(("", "gift", "für später", "✓"))}
        event: dict[str, Any] = {
            "eventId": f"e{self._number + 1}.{index}",
            "eventType": kind,
            "data": base64.b64encode(json.dumps(data, ensure_ascii=False).encode()).decode(),
            "dataContentType": "application/json",
        }
        if self._rng.random() < TIME_SHARE:
            event["time"] = f"2026-01-{self._rng.randint(1, 28):02d}T{self._rng.randint(0, 23):02d}:30:00Z"
        if self._rng.random() < METADATA_SHARE:
            event["metadata"] = {"user": f"u{self._rng.randint(1, 20)}", "tags": ["web", "größe L"]}
        return event

    def _invalid(self) -> Command:
        spoil: Callable[[Command], None] = self._rng.choice((_no_events, _repeated_event_id, _impossible_position))
        command = self._command("any", self._events())
        spoil(command)
        return command


def _no_events(command: Command) -> None:
    command["events"] = []


def _repeated_event_id(command: Command) -> None:
    command["events"] = [*command["events"], command["events"][0]]


def _impossible_position(command: Command) -> None:
    command["expected"] = -7


def bad_keys(rng: random.Random) -> Iterator[Command]:
    """Yield commands for brooks that cannot be."""
    for name, entity_id in (("", "nobody"), ("order", ""), ("or|der", "1"), ("order", "1|2"), ("order", "tab\there")):
        command = next(BrookWriter(rng, name, entity_id).commands(1))
        yield {**command, "commandId": f"bad-key-{name}-{entity_id}".replace("\t", " "), "expected": "any"}


def reused_ids(commands: list[Command]) -> list[Command]:
    """Repeat the first and the last accepted command's id with another content, and an old one with its own.

    The old one lies further back than the worker's window of recent commands.
    """
    accepted = [command for command in commands if command["expected"] == "any" and _distinct_events(command)]
    changed = {**accepted[-1], "events": [{**accepted[-1]["events"][0], "eventType": "Forged"}]}
    return [changed, accepted[0], accepted[1]]


def _distinct_events(command: Command) -> bool:
    ids = [event["eventId"] for event in command["events"]]
    return bool(ids) and len(ids) == len(set(ids))


def interleave(rng: random.Random, queues: list[list[Command]]) -> Iterator[Command]:
    """Mix the queues at random, each in its own order."""
    turns = [index for index, queue in enumerate(queues) for _ in queue]
    rng.shuffle(turns)
    iterators = [iter(queue) for queue in queues]
    for index in turns:
        yield next(iterators[index])


def make() -> dict[str, list[Command]]:
    """Make all commands by file name."""
    rng = random.Random(SEED)
    hot = [list(BrookWriter(rng, *key).commands(count)) for key, count in HOT_BROOKS.items()]
    hot[0] += reused_ids(hot[0])
    small = [
        list(BrookWriter(rng, rng.choice(SMALL_NAMES), f"№{number}").commands(rng.randint(1, 24)))
        for number in range(SMALL_BROOKS)
    ]
    small.append(list(bad_keys(rng)))
    return {"1-many-small-brooks": list(interleave(rng, small)), "2-few-hot-brooks": list(interleave(rng, hot))}


def render(commands: list[Command]) -> bytes:
    """Encode as newline-delimited JSON in UTF-8."""
    return "".join(
        json.dumps(command, ensure_ascii=False, separators=(",", ":")) + "\n" for command in commands
    ).encode()


def main() -> None:
    """Write each file beside this script."""
    for name, commands in make().items():
        Path(__file__).with_name(f"{name}.ndjson").write_bytes(render(commands))


if __name__ == "__main__":
    main()
