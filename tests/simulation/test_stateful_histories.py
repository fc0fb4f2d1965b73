"""The checker of histories, on histories that are known to be good or bad."""

import pytest

from schemas.types import CommandId
from tests.simulation.histories import Operation, Seen, Sent, order_of


def sent(name: str, begin: int, end: int | None = None, **fields: object) -> Sent:
    told = {"expected": "any", "events": 1, **fields}
    return Sent(command_id=CommandId(name), begin=begin, end=end, **told)  # type: ignore[arg-type]


def seen(begin: int, end: int, *names: str) -> Seen:
    return Seen(begin=begin, end=end, events=brook(*names))


def brook(*names: str) -> tuple[CommandId, ...]:
    return tuple(map(CommandId, names))


GOOD: dict[str, tuple[list[Operation], tuple[CommandId, ...]]] = {
    "nothing": ([], ()),
    "one after the other": ([sent("a", 1, 2, first=0), sent("b", 3, 4, first=1)], brook("a", "b")),
    "at once, in either order": ([sent("a", 1, 4, first=1), sent("b", 2, 3, first=0)], brook("b", "a")),
    "no reply, took effect late": (
        [sent("a", 1), sent("b", 2, 3, first=0), seen(4, 5, "b"), seen(6, 7, "b", "a")],
        brook("b", "a"),
    ),
    "no reply, took no effect": ([sent("a", 1), sent("b", 2, 3, first=0)], brook("b")),
    "a conflict while another took effect": (
        [sent("a", 1, 9, expected="empty", actual=0), sent("b", 2, 3, first=0)],
        brook("b"),
    ),
    "a conflict before the expected head came": (
        [sent("a", 1, 9, expected=0, actual=-1), sent("b", 2, 3, first=0)],
        brook("b"),
    ),
    "several events at one point": (
        [sent("a", 1, 9, events=3, first=0), seen(2, 3), seen(4, 5, "a", "a", "a")],
        brook("a", "a", "a"),
    ),
    "a reading that met a command half-way": ([sent("a", 2, 3, first=0), seen(1, 4)], brook("a")),
}

BAD: dict[str, tuple[list[Operation], tuple[CommandId, ...]]] = {
    "lost": ([sent("a", 1, 2, first=0)], ()),
    "twice": ([sent("a", 1, 2, first=0)], brook("a", "a")),
    "by nobody": ([], brook("a")),
    "before it was sent": ([sent("a", 1, 2, first=1), sent("b", 3, 4, first=0)], brook("b", "a")),
    "at another place than told": ([sent("a", 1, 2, first=1), sent("b", 1, 2, first=1)], brook("a", "b")),
    "seen in part": (
        [sent("a", 1, 9, events=2, first=0), seen(2, 3, "a")],
        brook("a", "a"),
    ),
    "seen and gone": ([sent("a", 1), seen(2, 3, "a"), seen(4, 5)], brook("a")),
    "not seen after its reply": ([sent("a", 1, 2, first=0), seen(3, 4)], brook("a")),
    "against what it expected": (
        [sent("a", 1, 2, first=0), sent("b", 3, 4, expected="empty", first=1)],
        brook("a", "b"),
    ),
    "a conflict with what was expected": ([sent("a", 1, 2, expected="empty", actual=-1)], ()),
    "a conflict with a head that was not there yet": (
        [sent("a", 1, 2, expected="empty", actual=0), sent("b", 3, 4, first=0)],
        brook("b"),
    ),
    "a conflict, and appended": ([sent("a", 1, 2, expected=5, actual=-1)], brook("a")),
    "no reply, against what it expected": (
        [sent("a", 1, expected=5), sent("b", 2, 3, first=0)],
        brook("b", "a"),
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_history_has_an_order(name: str) -> None:
    history, final = GOOD[name]
    order = order_of(history, final)
    assert order is not None
    assert len(order) == len(set(order))
    assert {index for index, one in enumerate(history) if one.end is not None} <= set(order)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_history_has_none(name: str) -> None:
    assert order_of(*BAD[name]) is None


def test_a_long_history_is_checked_in_no_time() -> None:
    history: list[Operation] = [sent(f"c{index}", index, index + 40, first=index) for index in range(400)]
    assert order_of(history, brook(*(f"c{index}" for index in range(400)))) is not None
