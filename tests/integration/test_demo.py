"""The demo end to end, on a small share of the examples: it passes, it notices, and it leaves nothing behind."""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from rich.console import Console

from tests.support.waiting import wait_until
from worker.demo.expectation import Expected
from worker.demo.run import EXAMPLES, Tamper, run_demo

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture
def few_examples(tmp_path: Path) -> Path:
    folder = tmp_path / "examples"
    folder.mkdir()
    for path in EXAMPLES.glob("*.ndjson"):
        lines = path.read_bytes().splitlines(keepends=True)[:60]
        (folder / path.name).write_bytes(b"".join(lines))
    return folder


def processes_of(folder: Path) -> Iterator[int]:
    """The ids of running processes that write into `folder` or were told of it."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # it may end meanwhile
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                outputs = [str(file.readlink()) for file in (entry / "fd").iterdir()]
                told = str(folder).encode() in (entry / "cmdline").read_bytes()
                if told or any(output.startswith(str(folder)) for output in outputs):
                    yield int(entry.name)


async def run(examples: Path, folder: Path, tamper: Tamper | None = None) -> tuple[bool, str]:
    output = io.StringIO()
    passed = await run_demo(examples, folder, Console(file=output, width=200), tamper=tamper)
    return passed, output.getvalue()


async def test_it_passes_and_prints_its_figures(few_examples: Path, tmp_path: Path) -> None:
    passed, output = await run(few_examples, tmp_path / "demo")
    assert passed, output
    assert "All as expected" in output
    for name in ("commands per second", "Cosmos DB requests per command", "p99", "commands in a batch"):
        assert name in output
    assert float(re.findall(r"requests per command\W+([\d.]+)", output)[0]) < 1


async def test_it_fails_when_the_expectation_is_tampered_with(few_examples: Path, tmp_path: Path) -> None:
    def tamper(expected: Expected) -> None:
        brook = next(brook for brook, events in expected.events.items() if events)
        expected.events[brook][0]["eventType"] = "Tampered"
        command_id = next(name for name, replies in expected.replies.items() if replies[0]["outcome"] == "appended")
        expected.replies[command_id][0] = {**expected.replies[command_id][0], "lastPosition": 99}

    passed, output = await run(few_examples, tmp_path / "demo", tamper)
    assert not passed
    assert "not 'Tampered'" in output
    assert "not 99" in output
    assert re.search(r"Not as expected: \d+ findings", output)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_demo_leaves_no_process(
    few_examples: Path, tmp_path: Path, number: signal.Signals
) -> None:
    folder = tmp_path / "demo"
    arguments = ["-m", "worker.cli", "demo", "--examples", str(few_examples), "--folder", str(folder)]
    demo = await anyio.open_process([sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        worker_log = folder / "worker.log"
        started = "the worker has started"
        await wait_until(lambda: worker_log.exists() and "worker.started" in worker_log.read_text(), started, 30)
        assert len(list(processes_of(folder))) == 3, "the demo, the emulator and the worker"
        demo.send_signal(number)
        with anyio.fail_after(30):
            await demo.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            demo.kill()
        await demo.aclose()
    assert demo.returncode == 1
    assert list(processes_of(folder)) == []


async def test_a_folder_without_examples_is_told_before_anything_starts(tmp_path: Path) -> None:
    done = await anyio.run_process(
        [sys.executable, "-m", "worker.cli", "demo", "--examples", str(tmp_path), "--folder", str(tmp_path / "demo")],
        check=False,
    )
    assert done.returncode == 1
    assert b"error: there is no .ndjson file in" in done.stderr
    assert not (tmp_path / "demo").exists()
