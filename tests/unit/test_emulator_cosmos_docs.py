"""docs/emulator-cosmos.md says what is so: every test that it names exists, and every operation is one of the front."""

import re
from pathlib import Path

from emulator.clock import ManualClock
from emulator.cosmos.engine import CosmosEngine
from emulator.cosmos.handlers import Handlers
from emulator.cosmos.operations import OPERATIONS
from emulator.journal import MemoryJournal

ROOT = Path(__file__).parent.parent.parent
TEXT = (ROOT / "docs" / "emulator-cosmos.md").read_text()


def test_every_test_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    defined = {
        name
        for path in (ROOT / "tests").rglob("test_emulator_cosmos*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    assert len(named) > 60
    assert not named - defined


def test_the_page_names_every_operation_and_no_other() -> None:
    section = TEXT.split("## Faults")[1].split("All effects work")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`([a-z-]+)`", row)}
    assert named == set(OPERATIONS)


def test_every_operation_has_a_name_that_rules_can_use() -> None:
    engine = CosmosEngine(clock=ManualClock(), journal=MemoryJournal())
    assert {*Handlers(engine, dict).routes, "not-covered", "unknown"} == set(OPERATIONS)
    assert len(OPERATIONS) == len(set(OPERATIONS))


def test_every_row_of_behaviours_has_a_test() -> None:
    section = TEXT.split("## Behaviours")[1].split("## Request charges")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ") and not line.startswith("| what")]
    assert len(rows) > 50
    assert not [row for row in rows if "`test_" not in row.rsplit("|", 2)[1]]
