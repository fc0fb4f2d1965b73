"""docs/emulator-blob.md is true: its operations exist, its codes are known, and each row's tests are there."""

import re
from pathlib import Path

import pytest

from emulator.blob.connections import HEADER_BYTES_MAX
from emulator.blob.errors import _KNOWN
from emulator.blob.operations import OPERATIONS
from emulator.blob.reception import PUT_BLOB_BYTES_MAX, PUT_BLOCK_BYTES_MAX, READ_IDLE_S, RECEIVING_BYTES_MAX
from emulator.http_connections import CONNECTIONS_MAX, IDLE_S

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "emulator-blob.md").read_text()
TESTS = {
    path.stem: path.read_text()
    for folder in ("unit", "integration/emulator_blob")
    for path in (ROOT / "tests" / folder).glob("test_emulator_blob_*.py")
}


def rows() -> list[list[str]]:
    """The rows of the tables of behaviours, which have five columns."""
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in PAGE.splitlines()]
    return [row for row in cells if len(row) == 5 and row[0] != "when"]


def named_tests(cell: str) -> list[tuple[str, str]]:
    """(file, part of the test's name) of a row's last column."""
    found, file = [], ""
    for part in cell.strip("| ").split(", "):
        if matched := re.match(r"`([^`]+)`\s*(.*)", part):
            file, part = matched[1].replace("…", "test_emulator_blob"), matched[2]  # noqa: PLW2901
        found.append((file, part))
    return found


def test_there_are_rows_for_every_part() -> None:
    assert len(rows()) > 55


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:60])
def test_each_row_has_its_tests(row: list[str]) -> None:
    for file, part in named_tests(row[-1]):
        tests = re.findall(r"def (test_\w+)", TESTS[file])
        assert any(part in test for test in tests), f"no test named …{part}… in {file}"


def test_operations_are_all_named_and_exist() -> None:
    table = PAGE.partition("## Operations and facts")[2].partition("\n## ")[0].partition("\n| the rest")[0]
    assert set(re.findall(r"`([a-z]+(?:-[a-z]+)+)`", table)) == set(OPERATIONS) - {"unsupported"}


def test_codes_are_all_explained_and_exist() -> None:
    explained = set(re.findall(r"\b[A-Z]\w+\b", PAGE))
    assert set(_KNOWN) - explained == set()


@pytest.mark.parametrize(
    ("figure", "sentence"),
    [
        (PUT_BLOB_BYTES_MAX / 1024**2, "Put Blob up to {:.0f} MiB"),
        (PUT_BLOCK_BYTES_MAX / 1024**2, "Put Block up to {:.0f} MiB"),
        (RECEIVING_BYTES_MAX / 1024**3, "| {:.0f} GiB, then 503 `ServerBusy`"),
        (CONNECTIONS_MAX, "| connections | {:,}; further ones are closed"),
        (IDLE_S, "| closed after {:.0f} s"),
        (READ_IDLE_S, "content that does not arrive for {:.0f} s"),
        (HEADER_BYTES_MAX / 1024, "| {:.0f} KiB |"),
    ],
)
def test_figures_are_those_of_the_code(figure: float, sentence: str) -> None:
    assert sentence.format(figure) in PAGE
