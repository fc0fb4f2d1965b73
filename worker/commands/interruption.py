"""SIGINT and SIGTERM end a command in order: what it holds is given back, and what it did is told."""

import signal
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import anyio

from worker.commands.shared import run_async

ResultT = TypeVar("ResultT")


class InterruptedBySignalError(Exception):
    """A signal ended the command, after it had cleaned up."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


def run_interruptible(function: Callable[..., Awaitable[ResultT]], *args: Any) -> ResultT:
    """Run as `run_async` does. Raises InterruptedBySignalError at the end of a command that a signal has cancelled.

    A second signal ends the program at once. Without this a cancellation would cut through shielded clean-up.
    """
    return run_async(partial(_run, function, args))


async def _run(function: Callable[..., Awaitable[ResultT]], args: tuple[Any, ...]) -> ResultT:
    results: list[ResultT] = []
    received: list[int] = []
    exits: list[SystemExit] = []

    async def watch() -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for number in signals:
                received.append(number)
                break
        work.cancel()

    async def run() -> None:
        try:
            results.append(await function(*args))
        except SystemExit as exit_:  # rich, when whoever reads our output has gone: no bug, so no traceback
            exits.append(exit_)
        work.cancel()

    with anyio.CancelScope() as work:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            tasks.start_soon(run)
    if exits:
        raise exits[0]
    if results:
        return results[0]
    raise InterruptedBySignalError(received[0])
