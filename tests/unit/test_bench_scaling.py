"""The sums of the scaling benchmark: ratios, fairness, what stays idle, and what it says limited it."""

import io
import os
from collections.abc import Sequence

import msgspec
import pytest
from rich.console import Console

from bench.scaling import SLOTS, WORKS, Run, limits, table
from worker.telemetry.scaling import Scaling

IDLE = Scaling(
    slots=SLOTS,
    busy=0,
    busy_average=0.0,
    accepted=0,
    turns=0,
    turns_at_once=0,
    timed_out=9,
    failed=0,
    wanted=0.0,
    held=False,
    window_s=60.0,
)


def signal(accepted: int, wanted: float) -> Scaling:
    return msgspec.structs.replace(IDLE, accepted=accepted, busy_average=min(wanted, SLOTS), wanted=wanted)


def run_of(
    signals: Sequence[Scaling], *, commands: int = 100, work: str = "one hot session", cpu_s: float = 0.5
) -> Run:
    return Run(
        work=work,
        workers=len(signals),
        commands=commands,
        window_s=5.0,
        cpu_s=cpu_s,
        services_cpu_s=0.5,
        signals=tuple(signals),
        sockets=(9,) * len(signals),
    )


@pytest.mark.parametrize(
    ("accepted", "fairness"), [((5, 5, 5, 5), 1.0), ((8, 0, 0, 0), 0.25), ((0, 0), 0.0), ((3, 1), 0.8), ((7,), 1.0)]
)
def test_fairness_is_one_where_all_have_as_many_and_a_share_where_one_has_all(
    accepted: tuple[int, ...], fairness: float
) -> None:
    assert run_of([signal(count, 1) for count in accepted]).fairness == pytest.approx(fairness)


def test_rates_signals_and_processor_time_are_those_of_all_workers() -> None:
    run = run_of([signal(3, 2.5), signal(0, 0.0)])
    assert [run.rate, run.cpu_ms, run.cores] == pytest.approx([20, 5, 0.2])
    assert (run.wanted, run.busy, run.idle_workers) == (2.5, 2.5, 1)


def test_ratios_are_to_the_fewest_workers_of_the_same_work() -> None:
    runs = [
        run_of([signal(1, 1)], work="a", commands=100),
        run_of([signal(1, 1)] * 2, work="a", commands=190),
        run_of([signal(1, 1)], work="b", commands=10),
    ]
    console = Console(file=io.StringIO(), width=200)
    console.print(table(runs))
    assert isinstance(console.file, io.StringIO)
    rows = [line.split("│") for line in console.file.getvalue().splitlines() if line.startswith("│")]
    assert [row[3].strip() for row in rows] == ["1.00", "1.90", "1.00"]


def test_it_says_who_had_nothing_to_do_and_when_the_processor_was_the_limit() -> None:
    assert limits([run_of([signal(3, 2)])]) == []
    (told,) = limits([run_of([signal(3, 1), IDLE, IDLE, IDLE])])
    assert "3 of 4 workers had nothing to do" in told
    assert "1.0 slots of 16" in told
    (told,) = limits([run_of([signal(3, 1)], cpu_s=5.0 * (os.cpu_count() or 1))])
    assert "the processor limits it" in told


def test_no_work_has_a_brook_twice_and_each_has_more_than_a_window_takes() -> None:
    for work in WORKS:
        commands = work.queued()
        assert len(commands) == work.brooks * work.commands
        assert len({command.brook for command in commands}) == work.brooks
        assert len({command.command_id for command in commands}) == len(commands)
