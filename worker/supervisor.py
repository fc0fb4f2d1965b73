"""Several workers on one machine: one process each, since Python uses one core a process. They share nothing."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Final

import anyio
import anyio.abc
import structlog

from worker.configuration import variable
from worker.errors import StartError

log = structlog.get_logger()

_WORKER: Final = (sys.executable, "-m", "worker.supervised", "run")
_KILL_AFTER_S: Final = 10.0
_PORT_MAX: Final = 65_535


async def run_processes(count: int, arguments: Sequence[str], *, grace_s: float, http_port: int | None = None) -> None:
    """Run `count` workers with `arguments` until SIGTERM or SIGINT, or until one of them ends.

    Signals are passed on, so that each drains by itself; the second one ends them at once. When a worker ends without
    having been asked to, the others are drained and StartError is raised: whatever runs this command decides whether
    to start it again. Afterwards no process is left: one that outlives its grace period by ten seconds is killed. Where
    this process itself is killed, the workers drain and end by themselves.

    With `http_port`, the first worker listens there and each further one on the next port; with 0, on any free one.
    Raises StartError when there are not so many ports.
    """
    if http_port is not None and http_port + count - 1 > _PORT_MAX:
        raise StartError(f"http_port: {http_port} and the next {count - 1} are beyond {_PORT_MAX}; give a lower one")
    # From before the first worker is started: a signal that came earlier would leave workers without a supervisor.
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with AsyncExitStack() as stack:
            workers = [await _started(stack, arguments, _environment(http_port, index)) for index in range(count)]
            log.info("supervisor.started", workers=[worker.pid for worker in workers])
            asked = await _supervised(workers, signals, grace_s)
    codes = [worker.returncode for worker in workers]
    # A worker that was not up yet does not know the signal, and has nothing in hand.
    if not asked or any(code not in (0, -signal.SIGTERM) for code in codes):
        raise StartError(f"workers ended with exit codes {', '.join(map(str, codes))}; their own lines say why")


def _environment(http_port: int | None, index: int) -> dict[str, str] | None:
    """What one worker's environment is; None for ours as it is."""
    if not http_port:
        return None
    return {**os.environ, variable("http_port"): str(http_port + index)}


async def _started(
    stack: AsyncExitStack, arguments: Sequence[str], environment: dict[str, str] | None
) -> anyio.abc.Process:
    """One more worker, in a session of its own: a Ctrl-C in the terminal reaches it through here, once."""
    worker = await anyio.open_process(
        [*_WORKER, *arguments],
        stdin=subprocess.PIPE,  # its end tells the worker that we are gone
        stdout=None,
        stderr=None,
        start_new_session=True,
        env=environment,
    )
    return await stack.enter_async_context(worker)


async def _supervised(
    workers: Sequence[anyio.abc.Process], signals: AsyncIterator[signal.Signals], grace_s: float
) -> bool:
    """Until no worker is left; tells whether a signal asked for that."""
    asked = False
    ending = anyio.Event()

    async def watch(worker: anyio.abc.Process) -> None:
        await worker.wait()
        ending.set()

    async def pass_on() -> None:
        nonlocal asked
        async for _ in signals:
            asked = True
            _terminate(workers)
            ending.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pass_on)
        async with anyio.create_task_group() as watchers:
            for worker in workers:
                watchers.start_soon(watch, worker)
            await ending.wait()
            if not asked:
                _terminate(workers)
            with anyio.move_on_after(grace_s + _KILL_AFTER_S):
                for worker in workers:
                    await worker.wait()
            for worker in workers:
                if worker.returncode is None:
                    worker.kill()
        tasks.cancel_scope.cancel()
    return asked


def _terminate(workers: Sequence[anyio.abc.Process]) -> None:
    for worker in workers:
        if worker.returncode is None:
            worker.terminate()
