"""The commands of each page are run in order, in a folder of their own, against the embedded services and a worker."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import anyio
import pytest

from emulator.app import Emulator
from tests.support.page_shell import SHELLS, command_text, commands, is_lasting, script, shown_output
from tests.support.pages import ROOT, Block, blocks, pages
from tests.support.worker_process import worker_process
from worker.configuration import PREFIX, variable

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(240)]

PAGE_TIMEOUT_S = 180.0
END_S = 15.0
CONNECTIONS = ("servicebus_connection_string", "cosmos_endpoint", "cosmos_key", "blob_connection_string")
WITHOUT_WORKER = {("brook-worker", command) for command in ("check", "provision")}
QUICK = {"auto_provision": "true", "session_idle_s": "0.2", "session_accept_wait_s": "1", "log_format": "json"}


def runs(page: Path) -> list[tuple[int, Block]]:
    """The blocks of a page that its run consists of, with their numbers: commands, and files that they need."""
    return [
        (number, block)
        for number, block in enumerate(blocks(page))
        if block.marker("not run") is None
        and (block.language in SHELLS or block.marker("run") is not None or block.marker("file") is not None)
    ]


PAGES = [
    page
    for page in pages()
    if any(block.language in SHELLS or block.marker("run") is not None for _, block in runs(page))
]


def test_pages_with_commands_are_found() -> None:
    assert ROOT / "README.md" in PAGES


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES])
async def test_the_commands_of_a_page_work_as_they_are_shown(page: Path, tmp_path: Path) -> None:
    parts = runs(page)
    folder = sandbox(tmp_path / "repository")
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    async with services(parts, tmp_path) as settings:
        text = script([(number, as_shell(block)) for number, block in parts], str(outputs))
        code, printed = await run(text, folder, settings)
    assert code == 0, f"{printed.strip().splitlines()[-1:]} of {page.name} failed:\n{all_of(outputs, parts)}"
    for number, block in parts:
        if block.language == "console":
            output = (outputs / f"{number}.out").read_text(errors="replace")
            assert is_as_shown(shown_output(block), output), f"{block.where} shows something else than:\n{output}"


@contextlib.asynccontextmanager
async def services(parts: Sequence[tuple[int, Block]], folder: Path) -> AsyncIterator[Mapping[str, str]]:
    """What the page needs and does not start by itself; the variables that lead there."""
    words = [found for _, block in parts if block.language in SHELLS for found in commands(command_text(block))]
    starts = {found[1] for found in words if found[0] == "brook-worker" and is_lasting(found)}
    needs = any(found[0] in ("brook-worker", "python") for found in words) or any(
        block.marker("run") == "" for _, block in parts
    )
    if not needs or "emulator" in starts:
        yield {}
        return
    async with Emulator(config=ROOT / "emulator" / "Config.json") as azure, contextlib.AsyncExitStack() as stack:
        settings = {name: getattr(azure, name) for name in CONNECTIONS} | QUICK
        if "run" not in starts and not {tuple(found[:2]) for found in words} <= WITHOUT_WORKER:
            worker = await stack.enter_async_context(worker_process(settings, folder / "worker.log"))
            await worker.started()
        yield {variable(name): value for name, value in settings.items()}


def sandbox(folder: Path) -> Path:
    """A folder that looks like a clone: what is tracked at the top, as links."""
    folder.mkdir()
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, text=True, capture_output=True, check=True).stdout
    for name in {line.partition("/")[0] for line in tracked.splitlines()} | {".venv"}:
        if (ROOT / name).exists():
            (folder / name).symlink_to(ROOT / name)
    return folder


def as_shell(block: Block) -> Block:
    """A file or a Python block as the commands that write and execute it."""
    if block.language in SHELLS and block.marker("file") is None:
        return block
    name = block.marker("file") or "block.py"
    text = f"cat >{name} <<'END-OF-BLOCK'\n{block.text}END-OF-BLOCK\n"
    if block.marker("run") is not None:
        text += f"python {ROOT / 'tests' / 'support' / 'run_block.py'} {name}\n"
    return Block(block.page, block.line, "sh", text, block.markers)


async def run(text: str, folder: Path, settings: Mapping[str, str]) -> tuple[int, str]:
    """Run the script in a session of its own, of which nothing is left afterwards; exit code and where it got to."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "100",
        "HOME": str(folder),
        **settings,
    }
    process = await anyio.open_process(
        ["bash", "-c", text],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    printed: list[bytes] = []
    try:
        with anyio.move_on_after(PAGE_TIMEOUT_S):
            assert process.stdout is not None
            printed.extend([chunk async for chunk in process.stdout])
            await process.wait()
    finally:
        with anyio.CancelScope(shield=True):
            await end(process)
    code = process.returncode if process.returncode is not None else -1
    return code, b"".join(printed).decode(errors="replace")


async def end(process: anyio.abc.Process) -> None:
    """End the whole process group: politely, and then by force."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with anyio.move_on_after(END_S):
            await process.wait()
            break
    await process.aclose()


def all_of(outputs: Path, parts: Sequence[tuple[int, Block]]) -> str:
    logs = sorted(outputs.iterdir(), key=lambda path: path.stat().st_mtime)
    where = {str(number): block.where for number, block in parts}
    return "\n".join(
        f"--- {where.get(path.name.partition('.')[0])} ({path.name})\n{path.read_text(errors='replace')[-3000:]}"
        for path in logs
        if path.stat().st_size
    )


def is_as_shown(shown: str, output: str) -> bool:
    """Whether the output is as shown. `…` stands for anything, and so does a line of dots; blanks count as one."""
    lines = [" ".join(line.split()) for line in shown.splitlines() if line.strip()]
    parts = [".*" if line in ("…", "...") else ".*".join(map(re.escape, line.split("…"))) for line in lines]
    pattern = r"\s*".join(parts) if parts else ".*"
    plain = "\n".join(" ".join(line.split()) for line in output.splitlines() if line.strip())
    return re.search(pattern, plain, re.DOTALL) is not None


def test_output_is_compared_but_for_what_is_left_out() -> None:
    assert is_as_shown("a  1\n…\nz\n", "a 1\nb\nc\nz\n")
    assert is_as_shown("port … is taken", "port 1234 is taken\n")
    assert not is_as_shown("a 2", "a 1\n")
    assert is_as_shown("", "anything")


def test_a_page_whose_command_fails_is_told(tmp_path: Path) -> None:
    assert shutil.which("bash")
    text = script([(3, Block(ROOT / "README.md", 7, "sh", "true\nfalse\ntrue\n", ()))], str(tmp_path))
    done = subprocess.run(["bash", "-c", text], text=True, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, "README.md:7\n")


async def test_what_should_last_and_ends_early_is_told_with_its_output(tmp_path: Path) -> None:
    block = Block(ROOT / "README.md", 7, "sh", "brook-worker run --config nowhere.toml\n", ())
    code, _ = await run(script([(0, block)], str(tmp_path)), tmp_path, {})
    output = (tmp_path / "0.out").read_text()
    assert code == 1
    assert "not ready: brook-worker run --config nowhere.toml" in output
    assert "cannot read 'nowhere.toml'" in output
