"""The demo's processes: each in a session of its own, so that the demo alone decides when it ends."""

import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import anyio
import anyio.abc

from worker.commands.failures import CommandError
from worker.configuration import PREFIX, variable

_START_TIMEOUT_S: Final = 30.0
_STOP_TIMEOUT_S: Final = 10.0
_POLL_S: Final = 0.05
_TAIL_LINES: Final = 15


class Child:
    """A running process, and the file that its output goes to."""

    def __init__(self, name: str, process: anyio.abc.Process, log_file: Path) -> None:
        self._name = name
        self._process = process
        self._log_file = log_file

    def check_running(self) -> None:
        """Raise CommandError, with the end of its log, when it has ended."""
        if self._process.returncode is not None:
            raise self._failure(f"ended with exit code {self._process.returncode}")

    async def ready_file(self, path: Path) -> dict[str, str]:
        """Wait until the process has written `path`, and give the JSON object in it."""
        await self._until(path.exists)
        content: dict[str, str] = json.loads(await anyio.Path(path).read_bytes())
        return content

    async def logged(self, event: str) -> None:
        """Wait until the process has logged `event`."""
        await self._until(lambda: event in self._log_file.read_text(encoding="utf-8", errors="replace"))

    async def _until(self, condition: Callable[[], bool]) -> None:
        with anyio.move_on_after(_START_TIMEOUT_S):
            while not condition():
                self.check_running()
                await anyio.sleep(_POLL_S)
            return
        raise self._failure(f"was not ready within {_START_TIMEOUT_S:g} s")

    def _failure(self, what: str) -> CommandError:
        lines = self._log_file.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
        return CommandError("\n".join([f"the {self._name} {what}; the end of {self._log_file}:", *lines]))

    async def stop(self) -> None:
        """End the process: politely, and after ten seconds by force. Not to be cancelled, but bounded."""
        with anyio.CancelScope(shield=True):
            for signal_number in (signal.SIGTERM, signal.SIGKILL):
                if self._process.returncode is None:
                    self._process.send_signal(signal_number)
                with anyio.move_on_after(_STOP_TIMEOUT_S):
                    await self._process.wait()
                    return


@asynccontextmanager
async def child(
    name: str, command: Sequence[str], *, log_file: Path, settings: Mapping[str, str] | None = None
) -> AsyncIterator[Child]:
    """Run `command` while the context lasts; afterwards it is gone, whatever happens.

    `settings` are given as a worker's variables; those of this process are not passed on.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    environment |= {variable(name): value for name, value in (settings or {}).items()}
    with log_file.open("wb") as log:
        # Shielded: a process that was started, but whose handle was lost to a cancellation, would stay behind.
        with anyio.CancelScope(shield=True):
            process = await anyio.open_process(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        running = Child(name, process, log_file)
        try:
            yield running
        finally:
            await running.stop()
