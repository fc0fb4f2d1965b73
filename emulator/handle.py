"""A typed handle on an emulator that runs as another process, for tests and benchmarks.

```python
async with start_emulator_process(config=path) as process:
    await process.control.add_rule(Rule(service="cosmos", effect=Answer(status=429), times=3))
```
"""

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import aiohttp
import msgspec

from emulator.app import Ready
from emulator.faults import Rule

REQUEST_S: Final = 10.0
START_S: Final = 30.0
TERMINATE_S: Final = 25.0
KILL_S: Final = 5.0
_STDERR_BYTES_MAX: Final = 2000


class ControlError(Exception):
    """The control interface refused; the message is its sentence."""


class EntityCounts(msgspec.Struct, frozen=True):
    """How many messages an entity has, by what they are doing. `locked` counts among active and deferred."""

    active: int
    deferred: int
    scheduled: int
    dead_lettered: int
    locked: int


class EmulatorHandle:
    """The control interface of an emulator at `endpoint`. Enter it; every call is bounded by REQUEST_S."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=REQUEST_S))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def is_healthy(self) -> bool:
        """Whether it answers."""
        return bool((await self._call("GET", "/health"))["status"] == "healthy")

    async def add_rule(self, rule: Rule) -> int:
        """Install a fault rule; returns its id."""
        return int((await self._call("POST", "/faults", rule))["id"])

    async def remove_rule(self, rule_id: int) -> None:
        """Take a rule away."""
        await self._call("DELETE", f"/faults/{rule_id}")

    async def clear_rules(self) -> None:
        """Take all rules away."""
        await self._call("DELETE", "/faults")

    async def fired(self, rule_id: int) -> int:
        """How often a rule has acted."""
        return int((await self._call("GET", f"/faults/{rule_id}"))["fired"])

    async def rules(self) -> dict[int, Rule]:
        """The installed rules by id."""
        rows = (await self._call("GET", "/faults"))["rules"]
        return {int(row["id"]): msgspec.convert(row["rule"], Rule) for row in rows}

    async def requests(self) -> Counter[tuple[str, str]]:
        """Requests by (service, operation)."""
        counts = await self._call("GET", "/requests")
        return Counter(
            {
                (service, operation): count
                for service, operations in counts.items()
                for operation, count in operations.items()
            }
        )

    async def reset_requests(self) -> None:
        """Count from zero."""
        await self._call("DELETE", "/requests")

    async def now_s(self) -> float:
        """The emulator's time."""
        return float((await self._call("GET", "/clock"))["now_s"])

    async def jump(self, seconds: float) -> float:
        """Move the clock; returns the new time."""
        return float((await self._call("POST", "/clock/jump", {"seconds": seconds}))["now_s"])

    async def take_session_lock(self, entity: str, session_id: str) -> None:
        """Take a session from its holder, as when its lock expires."""
        await self._call("POST", "/servicebus/sessions/take-lock", {"entity": entity, "session_id": session_id})

    async def break_lease(self, container: str, blob: str) -> None:
        """End a blob's lease at once."""
        await self._call("POST", "/blob/leases/break", {"container": container, "blob": blob})

    async def entities(self) -> dict[str, EntityCounts]:
        """Queues and subscriptions with their counts."""
        return msgspec.convert((await self._call("GET", "/servicebus/entities"))["entities"], dict[str, EntityCounts])

    async def _call(self, method: str, path: str, body: object = None) -> Any:
        if self._session is None:
            raise RuntimeError("enter the handle first: `async with EmulatorHandle(...)`")
        data = None if body is None else msgspec.json.encode(body)
        async with self._session.request(method, self._endpoint + path, data=data) as response:
            content = await response.read()
            if not response.ok:
                raise ControlError(msgspec.json.decode(content)["error"])
            return msgspec.json.decode(content) if content else None


class EmulatorProcess:
    """An emulator as another process, while `start_emulator_process` runs it."""

    def __init__(
        self, process: asyncio.subprocess.Process, ready: Ready, control: EmulatorHandle, stderr: IO[bytes]
    ) -> None:
        self._process = process
        self._stderr = stderr
        self.ready = ready
        self.control = control
        self.stderr_text = ""
        """The end of what it wrote to stderr, once it has ended."""

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, None while it runs."""
        return self._process.returncode

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        await _end(self._process, signal.SIGKILL)
        self.stderr_text = _tail(self._stderr)

    async def terminate(self) -> int:
        """SIGTERM, then SIGKILL after TERMINATE_S; returns the exit code."""
        await _end(self._process, signal.SIGTERM)
        assert self._process.returncode is not None
        self.stderr_text = _tail(self._stderr)
        return self._process.returncode


@contextlib.asynccontextmanager
async def start_emulator_process(
    *,
    config: Path | None = None,
    data_dir: Path | None = None,
    servicebus_port: int = 0,
    cosmos_port: int = 0,
    blob_port: int = 0,
    control_port: int = 0,
    admin_port: int = 0,
    seed: int = 0,
    start_s: float = START_S,
) -> AsyncIterator[EmulatorProcess]:
    """Run `python -m emulator` until the context ends; then it is gone, if need be by SIGKILL.

    Where this process is killed the emulator ends as well, and neither leaves a file behind.

    Raises:
        RuntimeError: it ended, or was not ready within `start_s`; with the end of what it wrote to stderr.
    """
    arguments = ["--end-with-stdin", "--seed", str(seed)]
    arguments += ["--servicebus-port", str(servicebus_port), "--cosmos-port", str(cosmos_port)]
    arguments += ["--blob-port", str(blob_port), "--control-port", str(control_port)]
    arguments += ["--admin-port", str(admin_port)]
    arguments += ["--config", str(config)] if config is not None else []
    arguments += ["--data", str(data_dir)] if data_dir is not None else []
    with tempfile.TemporaryFile() as stderr:  # it has no name
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "emulator",
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            env=_environment(),
        )
        try:
            ready = await _await_ready(process, stderr, start_s)
            async with EmulatorHandle(ready.control_endpoint) as control:
                yield EmulatorProcess(process, ready, control, stderr)
        finally:
            await _end(process, signal.SIGTERM)


async def _await_ready(process: asyncio.subprocess.Process, stderr: IO[bytes], start_s: float) -> Ready:
    """The one line that it writes to stdout, once everything listens."""
    assert process.stdout is not None, "it was started with a pipe"
    try:
        async with asyncio.timeout(start_s):
            line = await process.stdout.readline()
            if line:
                return msgspec.json.decode(line, type=Ready)
            code = await process.wait()
    except TimeoutError:
        raise RuntimeError(f"the emulator was not ready within {start_s:.0f} s: {_tail(stderr)}") from None
    raise RuntimeError(f"the emulator ended with code {code}: {_tail(stderr)}")


async def _end(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """Send a signal to the process, by its id, and see it gone; SIGKILL when it takes too long."""
    if process.returncode is not None:
        return
    for each, wait_s in ((number, TERMINATE_S), (signal.SIGKILL, KILL_S)):
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(each)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await process.wait()
                return
    raise RuntimeError(f"process {process.pid} did not end")


def _environment() -> dict[str, str]:
    """This environment, with this very package on the path of the other process."""
    root = str(Path(__file__).resolve().parents[1])
    inherited = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": root if not inherited else f"{root}{os.pathsep}{inherited}"}


def _tail(stderr: IO[bytes]) -> str:
    """The end of what was written. Reading must not move the place at which the process goes on writing."""
    size_bytes = os.fstat(stderr.fileno()).st_size
    end = os.pread(stderr.fileno(), _STDERR_BYTES_MAX, max(size_bytes - _STDERR_BYTES_MAX, 0))
    return end.decode(errors="replace").strip() or "it wrote nothing to stderr"
