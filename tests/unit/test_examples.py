"""The committed examples are what their script makes, and hold what they are there to show."""

import importlib.util
import json
import re
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from schemas.codec import decode_command
from schemas.commands import AppendCommand
from schemas.guards import Guards, check_command

EXAMPLES = Path(__file__).parents[2] / "examples"


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_commands", EXAMPLES / "make_commands.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def commands() -> list[AppendCommand]:
    lines = [line for path in sorted(EXAMPLES.glob("*.ndjson")) for line in path.read_bytes().splitlines()]
    return [decode_command(line) for line in lines]


def test_the_script_makes_exactly_the_committed_files() -> None:
    script = load_script()
    made = {f"{name}.ndjson": script.render(lines) for name, lines in script.make().items()}
    committed = {path.name: path.read_bytes() for path in EXAMPLES.glob("*.ndjson")}
    assert made.keys() == committed.keys()
    for name, content in committed.items():
        assert made[name] == content, f"{name} differs: run python examples/make_commands.py"


def test_they_stay_small_enough_for_a_repository() -> None:
    assert sum(path.stat().st_size for path in EXAMPLES.glob("*.ndjson")) < 2_000_000


def test_they_are_many_over_many_brooks(commands: list[AppendCommand]) -> None:
    per_brook = Counter(command.brook for command in commands)
    assert len(commands) >= 2_000
    assert len(per_brook) >= 60
    assert sum(count >= 100 for count in per_brook.values()) >= 3, "hot brooks with long queues"


def test_they_repeat_commands_both_next_to_each_other_and_later(commands: list[AppendCommand]) -> None:
    queues: dict[object, list[AppendCommand]] = {}
    for command in commands:
        queues.setdefault(command.brook, []).append(command)
    distances = [
        later - earlier
        for queue in queues.values()
        for later, command in enumerate(queue)
        for earlier in [next(i for i, other in enumerate(queue) if other.command_id == command.command_id)]
        if later != earlier
    ]
    assert distances.count(1) >= 20
    assert sum(distance > 1 for distance in distances) >= 20
    assert max(distances) > 128, "one lies beyond the window of recent commands"


def test_they_hold_commands_that_are_rejected_for_different_reasons(commands: list[AppendCommand]) -> None:
    codes = Counter(found.code for command in commands if (found := check_command(command, Guards())))
    assert set(codes) == {"no-events", "invalid-event", "invalid-expected", "invalid-brook-key"}


def test_no_append_is_larger_than_one_batch(commands: list[AppendCommand]) -> None:
    assert max(len(command.events) for command in commands) <= 99


def test_the_known_session_ids_are_those_that_are_made() -> None:
    spec = importlib.util.spec_from_file_location("make_session_ids", EXAMPLES / "make_session_ids.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    committed = (EXAMPLES / "session-ids.json").read_text(encoding="utf-8")
    assert committed == module.render(), "run python examples/make_session_ids.py"


def test_the_page_for_producers_shows_session_ids_that_are_right() -> None:
    page = (EXAMPLES.parent / "docs" / "producers.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| `.*` \| (\d*) \| `(.*)` \|$", page, re.MULTILINE)
    known = {
        (str(each.get("buckets", "")), each["sessionId"].replace("|", "\\|"))
        for each in json.loads((EXAMPLES / "session-ids.json").read_text(encoding="utf-8"))
    }
    assert len(shown) > 20
    assert set(shown) <= known
