"""Python in the documentation is checked against the code that it shows: it compiles, and its types are right."""

import ast
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.pages import ROOT, Block, blocks, pages

FRAGMENTS_ALLOWED = (
    "name-defined, no-untyped-def, no-untyped-call, no-redef, type-arg, used-before-def, unreachable, misc"
)
HEADER = f'# mypy: check-untyped-defs, allow-untyped-defs, disable-error-code="{FRAGMENTS_ALLOWED}"'
MYPY_TIMEOUT_S = 280


def python_blocks(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language == "python"]


PAGES = [page for page in pages() if python_blocks(page)]


@pytest.mark.parametrize(
    "block", [pytest.param(block, id=block.where) for page in PAGES for block in python_blocks(page)]
)
def test_a_block_compiles(block: Block) -> None:
    compile(block.text, block.where, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_blocks_use_what_they_show_as_it_is(tmp_path: Path) -> None:
    assert errors_in({page: python_blocks(page) for page in PAGES}, tmp_path) == []


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_block_that_is_wrong_is_found(tmp_path: Path) -> None:
    text = "from schemas.commands import NewEvent\n\nNewEvent(event_idd='1')\nawait nobody.knows()\n"
    [error] = {
        line.partition(" ")[0]
        for line in errors_in({Path("p.md"): [Block(Path("p.md"), 9, "python", text, ())]}, tmp_path)
    }
    assert error == "p.md:12:"


def errors_in(by_page: dict[Path, Sequence[Block]], folder: Path) -> list[str]:
    """What the type checker finds, by page and line. All blocks of a page that are no files of their own are one."""
    names: dict[str, Path] = {}
    for page, page_blocks in by_page.items():
        fragments = [block for block in page_blocks if block.marker("file") is None]
        programs = [[block] for block in page_blocks if block.marker("file") is not None]
        for group in (fragments, *programs):
            if group:
                name = f"block_{len(names)}.py"
                names[name] = page
                (folder / name).write_text(as_module(group, whole=group is not fragments), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", *(str(folder / name) for name in names)],
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=False,
        timeout=MYPY_TIMEOUT_S,
    )
    assert done.stderr == ""
    return [
        re.sub(r"^.*?(block_\d+\.py)", lambda found: names[found[1]].name, line)
        for line in done.stdout.splitlines()
        if ": error:" in line
    ]


def as_module(group: Sequence[Block], *, whole: bool) -> str:
    """The blocks at the lines that they have on their page; fragments as the body of one function."""
    lines = [HEADER] if whole else [HEADER, "async def page() -> None:"]
    indent = "" if whole else "    "
    for block in group:
        lines += [""] * (block.line - len(lines))
        lines += [f"{indent}{line}" if line else "" for line in block.text.splitlines()]
    return "\n".join(lines) + "\n"
