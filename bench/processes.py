"""Worker processes under measurement, and what the system knows of them."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec

from worker.configuration import PREFIX, variable

_STOP_S: Final = 35.0
_KILL_S: Final = 5.0
_LOG_CHARS_MAX: Final = 3_000
_NS: Final = 1e-9
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class WorkerFailedError(Exception):
    """A worker process ended early or did not do its work; the message has the end of its log."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a process and its children use at one moment; `cpu_s` since they were started."""

    cpu_s: float
    memory_bytes: int
    files: int
    sockets: int
    threads: int


class WorkerProcess:
    """A worker that runs as a process of its own."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log
        self.name = name
        self.started_s = time.perf_counter()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def check_running(self) -> None:
        """Raise WorkerFailedError when it has ended."""
        if self._process.returncode is not None:
            raise self.failure(f"ended with exit code {self._process.returncode}")

    def failure(self, what: str) -> WorkerFailedError:
        """Make the error that says what went wrong, with the end of the log."""
        return WorkerFailedError(f"{self.name} {what}; the end of its log:\n{self.log_text()[-_LOG_CHARS_MAX:]}")

    def log_text(self) -> str:
        """What it has logged so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def usage(self) -> Usage:
        """What it and its children use now."""
        return usage(self.pid)

    async def stop(self) -> float:
        """SIGTERM, and wait; SIGKILL when it takes too long. Returns the seconds that it took."""
        began_s = time.perf_counter()
        for number, wait_s in ((signal.SIGTERM, _STOP_S), (signal.SIGKILL, _KILL_S)):
            if self._process.returncode is not None:
                break
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._process.wait()
        return time.perf_counter() - began_s


@asynccontextmanager
async def worker_process(
    name: str, arguments: Sequence[str], settings: Mapping[str, str], log: Path, *, tree: Path | None = None
) -> AsyncIterator[WorkerProcess]:
    """Run `python ARGUMENTS` while the context lasts, with `settings` as a worker's variables and no others.

    `tree` is the folder whose packages it imports; by default that of this file.
    """
    root = tree or Path(__file__).parents[1]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)}
    environment |= {variable(key): value for key, value in settings.items()} | {"PYTHONPATH": str(root)}
    with log.open("wb") as sink:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=sink,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
            cwd=root,
            start_new_session=True,
        )
    running = WorkerProcess(name, process, log)
    try:
        yield running
    finally:
        await running.stop()


def usage(pid: int) -> Usage:
    """What a process and its children use now, as /proc tells. Zeros once it has ended."""
    return total([_usage_of_one(each) for each in _family(pid)])


def total(usages: Sequence[Usage]) -> Usage:
    """What several processes use together."""
    return Usage(
        cpu_s=sum(one.cpu_s for one in usages),
        memory_bytes=sum(one.memory_bytes for one in usages),
        files=sum(one.files for one in usages),
        sockets=sum(one.sockets for one in usages),
        threads=sum(one.threads for one in usages),
    )


def _usage_of_one(pid: int) -> Usage:
    folder = Path(f"/proc/{pid}")
    cpu_s = 0.0
    memory_bytes = files = sockets = threads = 0
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        tasks = list((folder / "task").iterdir())
        threads = len(tasks)
        # In nanoseconds; the times in `stat` are in hundredths of a second, too coarse for one short run.
        cpu_s = sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) * _NS
        memory_bytes = int((folder / "statm").read_text().split()[1]) * _PAGE_BYTES
        links = list(_links(folder / "fd"))
        files, sockets = len(links), sum(link.startswith("socket:") for link in links)
    return Usage(cpu_s=cpu_s, memory_bytes=memory_bytes, files=files, sockets=sockets, threads=threads)


def _family(pid: int) -> Iterator[int]:
    """The process and all that it started."""
    yield pid
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from _family(int(child))


def _links(folder: Path) -> Iterator[str]:
    for entry in folder.iterdir():
        with contextlib.suppress(OSError):
            yield str(entry.readlink())
