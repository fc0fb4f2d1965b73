"""What a server needs as a process of its own: an end by signal, a file that is there whole, a fast event loop."""

import asyncio
import contextlib
import importlib
import io
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TextIO, cast

import structlog


class _Unfailing(io.TextIOBase):
    """Writes to `target` what can be written: a full disk under the log must not end what is being logged."""

    def __init__(self, target: TextIO) -> None:
        self._target = target

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):  # ValueError: it was closed
            self._target.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._target.flush()


def log_to(target: TextIO) -> None:
    """Send logs to `target`, an event a line; tracebacks without the values of variables, which hold payloads."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False),
            structlog.dev.ConsoleRenderer(colors=target.isatty(), exception_formatter=structlog.dev.plain_traceback),
        ],
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _Unfailing(target))),
    )


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The faster event loop where it is installed, else None for the standard one."""
    try:
        return importlib.import_module("uvloop").new_event_loop  # type: ignore[no-any-return] # optional, without types
    except ImportError:
        return None


@contextlib.asynccontextmanager
async def stop_signal() -> AsyncIterator[asyncio.Event]:
    """An event that SIGTERM and SIGINT set, where the platform lets an event loop have signals."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    taken = []
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, stop.set)
            taken.append(number)
    try:
        yield stop
    finally:
        for number in taken:
            loop.remove_signal_handler(number)


class _Stdin(asyncio.Protocol):
    """Ignores what comes, and notes its end."""

    def __init__(self, ended: asyncio.Event) -> None:
        self._ended = ended

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._ended.set()


async def watch_stdin(ended: asyncio.Event) -> None:
    """Have `ended` set when stdin ends, which the end of the process that holds the other end of its pipe brings.

    However that one ends: a SIGKILL lets nobody say goodbye.
    """
    await asyncio.get_running_loop().connect_read_pipe(lambda: _Stdin(ended), sys.stdin)


def write_whole(path: Path, content: bytes) -> None:
    """Whoever finds the file finds all of it: it takes its name only when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
