"""Signals end a command in order: clean-up is finished first, and the exit code tells which signal it was."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from worker.commands.failures import CommandError
from worker.commands.interruption import run_interruptible

ROOT = Path(__file__).parents[2]

Start = Callable[[float], subprocess.Popen[str]]

COMMAND = """
import anyio
import typer
from worker.commands.failures import reported
from worker.commands.interruption import run_interruptible

async def work(clean_up_s):
    try:
        print("started", flush=True)
        await anyio.sleep_forever()
    finally:
        with anyio.CancelScope(shield=True):
            print("cleaning", flush=True)
            await anyio.sleep(clean_up_s)
            print("cleaned", flush=True)

app = typer.Typer()

@app.command()
def main(clean_up_s: float):
    with reported():
        run_interruptible(work, clean_up_s)

app()
"""


@pytest.fixture
def started() -> Iterator[Start]:
    """Starts the command, and sees that it is gone at the end."""
    running: list[subprocess.Popen[str]] = []

    def start(clean_up_s: float) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, str(clean_up_s)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        running.append(process)
        assert line_of(process) == "started"
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_is_shielded_is_finished_first(started: Start, number: signal.Signals, code: int) -> None:
    process = started(0.1)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (out.split(), process.returncode) == (["cleaning", "cleaned"], code)
    assert err == ""


def test_a_second_signal_ends_it_at_once(started: Start) -> None:
    process = started(600)
    process.send_signal(signal.SIGINT)
    assert line_of(process) == "cleaning"
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert "cleaned" not in out
    assert process.returncode != 0


def test_a_result_and_an_error_pass_through() -> None:
    async def seven() -> int:
        return 7

    async def fail() -> None:
        raise CommandError("no")

    assert run_interruptible(seven) == 7
    with pytest.raises(ExceptionGroup) as raised:
        run_interruptible(fail)
    assert raised.group_contains(CommandError, match="no")


def test_a_reader_that_goes_away_ends_it_without_a_word() -> None:
    """As `brook-worker read … | head` does."""
    endless = (
        "import anyio, rich.console\n"
        "from worker.commands.interruption import run_interruptible\n"
        "async def work():\n"
        "    console = rich.console.Console()\n"
        "    while True:\n"
        "        console.out('x' * 1000)\n"
        "        await anyio.sleep(0)\n"
        "run_interruptible(work)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", endless], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process:
        assert process.stdout.read(10) == "x" * 10
        process.stdout.close()
        assert (process.stderr.read(), process.wait(timeout=30)) == ("", 1)
