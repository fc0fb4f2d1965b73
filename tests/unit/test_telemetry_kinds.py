"""Counters, gauges and histograms as plain numbers, and the table made of them."""

import re
import tokenize
from itertools import pairwise
from pathlib import Path

import pytest

from worker.telemetry import instruments
from worker.telemetry.instruments import INSTRUMENTS
from worker.telemetry.kinds import OTHER, Counter, Gauge, Histogram, Instrument

ROOT = Path(__file__).resolve().parents[2]
SERIES_MAX = 1_000
"""What all metrics together may come to: a Prometheus server takes thousands of workers with so many."""

CONSTANTS = {name: value for name, value in vars(instruments).items() if isinstance(value, Instrument)}


def counter() -> Counter:
    return Counter("a.b", unit="{thing}", description="", attributes={"color": ("red", "blue"), "size": ("s", "l")})


def test_a_counter_adds_up_by_its_attributes() -> None:
    it = counter()
    it.add(1, "red", "s")
    it.add(2, "red", "s")
    it.add(5, "blue", "l")
    assert (it.get("red", "s"), it.get("blue", "l"), it.get("blue", "s")) == (3, 5, 0)


def test_every_series_of_a_small_counter_is_told_from_the_start() -> None:
    assert counter().series() == {(color, size): 0 for color in ("red", "blue") for size in ("s", "l")}


def test_a_value_that_is_not_listed_becomes_other_however_many_there_are() -> None:
    it = counter()
    for number in range(1_000):
        it.add(1, f"brook-{number}", "s")
    assert it.get(OTHER, "s") == 1_000
    assert len(it.series()) == 5


@pytest.mark.parametrize("labels", [(), ("red",), ("red", "s", "more")])
def test_the_wrong_number_of_attributes_is_a_bug_that_shows(labels: tuple[str, ...]) -> None:
    with pytest.raises(TypeError, match="takes color, size"):
        counter().add(1, *labels)


def test_a_gauge_goes_up_and_down() -> None:
    it = Gauge("a.b", unit="{thing}", description="")
    it.add(3)
    it.add(-1)
    assert it.get() == 2
    it.set(7)
    assert it.series() == {(): 7}


def test_a_value_is_in_the_first_bucket_whose_bound_is_not_below_it() -> None:
    it = Histogram("a.b", unit="s", description="", bounds=(1, 2, 5))
    for value in (0.5, 1, 1.5, 2, 5, 6):
        it.record(value)
    assert it.series()[()].counts == [2, 2, 1, 1]
    assert (it.count(), it.total()) == (6, 16)


def test_many_values_at_once_come_to_the_same_as_one_by_one() -> None:
    values = [0.001 * number for number in range(400)]
    one, all_ = (Histogram("a.b", unit="s", description="", bounds=(0.1, 0.2), attributes={"x": ("y",)}) for _ in "ab")
    for value in values:
        one.record(value, "y")
    all_.record_all(values, "y")
    assert one.series()[("y",)].counts == all_.series()[("y",)].counts == [101, 100, 199]
    assert one.total("y") == pytest.approx(all_.total("y"))


def test_all_metrics_together_have_a_bounded_number_of_series() -> None:
    assert sum(one.series_max for one in INSTRUMENTS) <= SERIES_MAX


@pytest.mark.parametrize("one", INSTRUMENTS, ids=lambda one: one.name)
def test_a_metric_is_named_as_the_others_and_says_what_it_is(one: Instrument) -> None:
    assert re.fullmatch(r"brook\.worker(\.[a-z][a-z_]*)+", one.name)
    assert one.unit in ("s", "By") or re.fullmatch(r"\{[A-Za-z]+\}", one.unit)
    assert one.description.endswith(".")
    assert 20 < len(one.description) < 130
    assert not {"brook", "session", "command", "key", "id"} & set(one.attributes), "of these there are too many"
    for values in one.attributes.values():
        assert len(set(values)) == len(values) > 0
        assert all(re.fullmatch(r"[a-z0-9.-]+", value) for value in values)
    if isinstance(one, Histogram):
        assert list(one.bounds) == sorted(set(one.bounds))


def test_no_name_occurs_twice() -> None:
    assert len({one.name for one in INSTRUMENTS}) == len(INSTRUMENTS) == len(CONSTANTS)
    assert len({one.prometheus_name for one in INSTRUMENTS}) == len(INSTRUMENTS)


def test_every_metric_is_recorded_somewhere_in_the_worker() -> None:
    used: set[str] = set()
    for path in (ROOT / "worker").rglob("*.py"):
        if path.name != "instruments.py":
            with tokenize.open(path) as file:
                tokens = list(tokenize.generate_tokens(file.readline))
            used |= {
                first.string
                for first, second in pairwise(tokens)
                if first.type == tokenize.NAME and second.string in (".", "if", ")")
            }
    assert set(CONSTANTS) - used == set()
