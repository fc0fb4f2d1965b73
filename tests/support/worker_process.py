"""A worker as a process of its own, which a test may end as it likes."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.abc
import msgspec

from tests.support.waiting import wait_until
from worker.configuration import PREFIX, variable

ROOT: Final = Path(__file__).parents[2]
START_S: Final = 60.0
END_S: Final = 40.0

Line = dict[str, Any]


class WorkerProcess:
    """One `brook-worker run`. Its log, JSON lines, tells what it does."""

    def __init__(self, process: anyio.abc.Process, log_file: Path) -> None:
        self._process = process
        self.log_file = log_file

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    def lines(self, event: str | None = None) -> list[Line]:
        """The log's lines, or those of one event."""
        found = []
        for line in self.log_file.read_bytes().splitlines():
            with suppress(msgspec.DecodeError):
                record = msgspec.json.decode(line)
                if isinstance(record, dict) and event in (None, record.get("event")):
                    found.append(record)
        return found

    def text(self) -> str:
        return self.log_file.read_text(errors="replace")

    async def logged(self, event: str, count: int = 1, timeout_s: float = 30.0) -> None:
        """Wait until it has logged `event` so often."""

        def is_there() -> bool:
            assert self.returncode is None, f"the worker ended with {self.returncode}: {self.text()[-3000:]}"
            return len(self.lines(event)) >= count

        await wait_until(is_there, f"{count} times {event} in {self.log_file}", timeout_s)

    async def started(self) -> None:
        await self.logged("worker.started", timeout_s=START_S)

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def ended(self, timeout_s: float = END_S) -> int:
        """Wait for its end; its exit code."""
        with anyio.move_on_after(timeout_s):
            return await self._process.wait()
        raise AssertionError(f"the worker has not ended within {timeout_s} s: {self.text()[-3000:]}")

    async def kill(self) -> None:
        """`kill -9`, and see it gone."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self.ended()


@asynccontextmanager
async def worker_process(
    settings: Mapping[str, str], log_file: Path, further: Mapping[str, str] | None = None
) -> AsyncIterator[WorkerProcess]:
    """Start a worker, with `further` variables; at the end of the context it is gone, if need be by `kill -9`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    environment |= {variable(name): value for name, value in settings.items()} | {"PYTHONPATH": str(ROOT)}
    environment |= further or {}
    with log_file.open("wb") as log, anyio.CancelScope(shield=True):
        process = await anyio.open_process(
            [sys.executable, "-m", "worker.cli", "run"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    worker = WorkerProcess(process, log_file)
    try:
        yield worker
    finally:
        with anyio.CancelScope(shield=True):
            await worker.kill()
            await process.aclose()
