"""docs/acceptance.md names tests: each of them must be there, and each item must name one."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "acceptance.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE)


def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_named_test_is_there() -> None:
    assert len(NAMED) > 50
    missing = [
        f"{file}::{name}"
        for file, name in NAMED
        if not (TESTS / file).exists() or name not in functions_of(TESTS / file)
    ]
    assert missing == []
    assert all(name.startswith("test_") for _, name in NAMED)


def test_every_item_names_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| item")]
    assert len(rows) > 35
    assert [row for row in rows if "::test_" not in row] == []
