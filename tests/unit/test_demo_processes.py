"""What the demo starts is gone when it ends, and says why when it ends too early."""

import os
import signal
import sys
from pathlib import Path

import anyio
import pytest

from tests.support.waiting import wait_until
from worker.commands.failures import CommandError
from worker.demo import processes
from worker.demo.processes import child

pytestmark = pytest.mark.anyio


def script(text: str) -> list[str]:
    return [sys.executable, "-u", "-c", text]


WAITS = script("import os, signal; print('pid', os.getpid(), 'up'); signal.pause()")
STUBBORN = script(
    "import os, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('pid', os.getpid(), 'up')\n"
    "while True: signal.pause()"
)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def pid_in(log_file: Path) -> int:
    return int(log_file.read_text().split()[1])


async def test_a_process_is_gone_when_its_context_ends(tmp_path: Path) -> None:
    log_file = tmp_path / "log"
    async with child("waiter", WAITS, log_file=log_file) as running:
        await running.logged("up")
        assert is_running(pid_in(log_file))
    assert not is_running(pid_in(log_file))


async def test_a_process_that_ignores_the_polite_signal_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_STOP_TIMEOUT_S", 0.2)
    log_file = tmp_path / "log"
    async with child("stubborn", STUBBORN, log_file=log_file) as running:
        await running.logged("up")
    assert not is_running(pid_in(log_file))


async def test_a_process_is_gone_also_when_its_user_is_cancelled(tmp_path: Path) -> None:
    log_file = tmp_path / "log"
    with anyio.CancelScope() as scope:
        async with child("waiter", WAITS, log_file=log_file) as running:
            await running.logged("up")
            scope.cancel()
            await anyio.sleep_forever()
    assert not is_running(pid_in(log_file))


async def test_an_early_end_is_told_with_the_end_of_the_log(tmp_path: Path) -> None:
    async with child("loser", script("print('no luck'); raise SystemExit(3)"), log_file=tmp_path / "log") as running:
        with pytest.raises(CommandError, match=r"(?s)the loser ended with exit code 3; .*no luck"):
            await running.logged("never logged")


async def test_a_process_that_never_gets_ready_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_START_TIMEOUT_S", 0.2)
    async with child("waiter", WAITS, log_file=tmp_path / "log") as running:
        with pytest.raises(CommandError, match=r"the waiter was not ready within 0\.2 s"):
            await running.logged("never logged")


async def test_settings_are_passed_on_and_those_of_this_process_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROOK_WORKER_COSMOS_KEY", "ours")
    shows = script("import os; print({k: v for k, v in os.environ.items() if k.startswith('BROOK')}, 'shown')")
    log_file = tmp_path / "log"
    async with child("shower", shows, log_file=log_file, settings={"log_level": "debug"}) as running:
        await wait_until(lambda: "shown" in log_file.read_text(), "the process shows its environment")
        del running
    assert log_file.read_text() == "{'BROOK_WORKER_LOG_LEVEL': 'debug'} shown\n"


async def test_a_ctrl_c_in_the_terminal_does_not_reach_the_process(tmp_path: Path) -> None:
    log_file = tmp_path / "log"
    async with child("waiter", WAITS, log_file=log_file) as running:
        await running.logged("up")
        assert os.getpgid(pid_in(log_file)) != os.getpgid(0), "a terminal signals its foreground process group"
        os.kill(pid_in(log_file), signal.SIGTERM)
        await wait_until(lambda: not is_running(pid_in(log_file)), "the process ends")
