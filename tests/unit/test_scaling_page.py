"""docs/scaling.md does sums: they are done again here, with the worker's own bounds."""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from schemas.types import CommandId
from tests.support.commands import command, event
from tests.support.worker_settings import worker_settings
from worker.protocol.documents import event_sizes
from worker.sessions.replies import SENDERS_MAX_DEFAULT
from worker.sessions.serve import _CLOSING_MAX
from worker.telemetry.scaling import Scaling, ScalingSignal

PAGE = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text(encoding="utf-8")
SETTINGS = worker_settings()

ALONE_MS, BUCKETED_MS, SEVERAL_MS, GROUPED_MS = 7.2, 1.2, 2.1, 0.26
ALONE_RU, GROUPED_RU = 16.4, 5.6
VISIT_S = 1.3
CORE_USED, SLOTS_USED = 0.7, 0.75


@dataclass(frozen=True)
class Load:
    """One row's assumptions. `open_sessions`: those that stay; else each command is a visit of its own."""

    commands_per_s: float
    cpu_ms: float
    ru: float
    sessions_max: int
    open_sessions: int | None = None

    def row(self) -> list[str]:
        """What follows: slots, cores, M, workers, connections, lease requests and RU a second."""
        cores = self.commands_per_s * self.cpu_ms / 1000
        slots: float
        if self.open_sessions is not None:
            slots, leases = self.open_sessions, self.open_sessions / SETTINGS.lease_renew_after_s
        else:
            slots, leases = self.commands_per_s * VISIT_S, 2 * self.commands_per_s
        workers = max(1, math.ceil(cores / CORE_USED), math.ceil(slots / (SLOTS_USED * self.sessions_max)))
        connections = workers * (
            self.sessions_max + min(self.sessions_max, _CLOSING_MAX) + min(self.sessions_max, SENDERS_MAX_DEFAULT)
        )
        shown_leases = f"{leases:.1f}" if leases < 1 else f"{leases:,.0f}"
        return [
            f"{self.commands_per_s:,.0f}",
            f"{slots:,.0f}",
            f"{cores:.1f}",
            str(self.sessions_max),
            str(workers),
            f"{connections:,}",
            shown_leases,
            f"{self.commands_per_s * self.ru:,.0f}",
        ]


LOADS = (
    Load(1000, GROUPED_MS, GROUPED_RU, 16, open_sessions=1),
    Load(1000, SEVERAL_MS, ALONE_RU, 32, open_sessions=200),
    Load(10_000 / 60, ALONE_MS, ALONE_RU, 64),
    Load(1_000_000 / 3600, ALONE_MS, ALONE_RU, 64),
    Load(1_000_000 / 3600, BUCKETED_MS, ALONE_RU, 32, open_sessions=64),
    Load(1_000_000 / 60, ALONE_MS, ALONE_RU, 64),
    Load(1_000_000 / 60, BUCKETED_MS, ALONE_RU, 12, open_sessions=1024),
)


def rows(first_column: str) -> list[list[str]]:
    """The cells of the table whose header begins so."""
    found = re.search(rf"^\| {re.escape(first_column)} \|.*?\n\n", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None
    lines = found[0].strip().splitlines()[2:]
    return [[cell.strip().strip("*") for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize(("load", "written"), list(zip(LOADS, rows("load"), strict=True)))
def test_a_row_of_the_table_is_what_the_formulas_give(load: Load, written: list[str]) -> None:
    assert written[2:] == load.row()


def test_the_assumptions_are_those_that_are_written() -> None:
    assumed = re.search(r"^Assumed: .*?\n\n", PAGE, re.MULTILINE | re.DOTALL)
    assert assumed is not None
    for number in (ALONE_MS, BUCKETED_MS, SEVERAL_MS, GROUPED_MS, ALONE_RU, GROUPED_RU, VISIT_S):
        assert re.search(rf"(?<![\d.]){re.escape(str(number))}(?![\d.]) (ms|RU|s)", assumed[0]), number


def test_the_bounds_of_one_brook_follow_from_the_size_of_an_event() -> None:
    name = "0123456789abcdef0123456789abcdef"
    one = command(command_id=CommandId(name), events=(event(name, data=bytes(1000)),))
    (stored,) = event_sizes(one, "2026-01-01T00:00:00.000Z")
    assert stored == pytest.approx(1600, abs=50), "1.6 KB as stored"
    of_cosmos = 230  # _rid, _self, _etag, _attachments, _ts
    assert 20e9 / (stored + of_cosmos) == pytest.approx(11e6, rel=0.05)
    assert pytest.approx(600, rel=0.05) == 10_000 / ALONE_RU
    assert pytest.approx(1700, rel=0.06) == 10_000 / GROUPED_RU


def test_the_settings_that_are_named_have_the_values_that_are_named() -> None:
    assert SETTINGS.session_idle_s == 1.0
    assert SETTINGS.max_concurrent_sessions == 16
    assert SETTINGS.lease_renew_after_s == 10.0
    assert (_CLOSING_MAX, SENDERS_MAX_DEFAULT) == (32, 8)
    for name in re.findall(r"`((?:max|session|lease|group)_\w+)`", PAGE):
        assert name in SETTINGS.__struct_fields__, name


def test_the_answer_that_is_shown_has_the_fields_of_the_real_one() -> None:
    shown = re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert shown is not None
    answer = json.loads(shown[1])
    assert list(answer) == list(json.loads(msgspec.json.encode(ScalingSignal(16).read())))
    assert msgspec.convert(answer, Scaling).wanted == pytest.approx(
        answer["busyAverage"] + min(answer["turnsAtOnce"], answer["slots"] * answer["turnsAtOnce"] / answer["turns"])
    )


@pytest.mark.parametrize("row", rows("what is in the queue"))
def test_the_examples_of_the_autoscaler_are_its_arithmetic(row: list[str]) -> None:
    assert math.ceil(float(row[1]) / 12) == int(row[2].partition(",")[0])
