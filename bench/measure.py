"""One worker, one queue full of commands: how long, how much CPU, how many requests, and whether it was right."""

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Final

import anyio
import msgspec

from bench.lab import COMMANDS, REPLIES, Lab, Latency, open_lab
from bench.processes import Usage, WorkerProcess, usage, worker_process
from bench.verify import WrongOutcomeError, charge_ru, check, check_null, read_brooks
from brook_client.client import BrookClient
from brook_client.connect import with_connection_string
from brook_client.messages import ReceivedReply
from schemas.commands import AppendCommand

_POLL_S: Final = 0.01
_POLL_START_S: Final = 0.005
_START_S: Final = 30.0
_REPLIES_S: Final = 90.0

PROGRAMS: Final = {
    "seed": ("-m", "bench.seed_flow"),
    "null": ("-m", "bench.null_worker"),
    "ours": ("-m", "worker.cli", "run"),
}
"""What is compared: the modules that are run, each as a process of its own."""


Watch = Callable[[int], AbstractAsyncContextManager[None]]
"""Looks at a process, by its id, while it works."""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What is queued before the worker starts, and how long it may work on it."""

    commands: Sequence[AppendCommand]
    latency: Latency
    window_s: float
    """After so long the run ends, done or not; its rate is that of what was done until then."""

    settings: dict[str, str] = {}
    buckets: int | None = None
    processes: int = 1


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What one run came to. Times are from the first session that was worked on to the last command settled."""

    worker: str
    queued: int
    commands: int
    """Settled, and their replies sent, when the clock was stopped."""

    work_s: float
    from_start_s: float
    """As `work_s`, but from the start of the process: imports, connections and the first accept included."""

    cpu_s: float
    cpu_from_start_s: float
    emulator_cpu_s: float
    requests: dict[str, dict[str, int]]
    charge_ru: float | None
    repeated: int
    """Replies that came a second time, with the same content."""

    memory_bytes: int

    @property
    def rate(self) -> float:
        """Commands a second."""
        return self.commands / self.work_s

    @property
    def cpu_ms(self) -> float:
        """CPU of the worker for each command."""
        return 1000 * self.cpu_s / self.commands

    def per_command(self, service: str) -> float:
        """Requests to a service for each command."""
        return sum(self.requests.get(service, {}).values()) / self.commands


class _Reading(msgspec.Struct, frozen=True, kw_only=True):
    """The clock, and what the processes had used when it was read."""

    at_s: float
    worker: Usage
    emulator: Usage


class _Work(msgspec.Struct, frozen=True, kw_only=True):
    """A worker from its start to the last command, before anything was checked."""

    started_s: float
    begun: _Reading
    ended: _Reading
    commands: int
    requests: dict[str, dict[str, int]]


async def measure(worker: str, load: Load, *, tree: Path | None = None, watch: Watch | None = None) -> Run:
    """Queue the commands, start the worker, stop the clock when all are settled, then check what came of it.

    `tree` is the folder whose `worker` package is run, by default ours. Raises WorkerFailedError or WrongOutcomeError.
    """
    async with open_lab() as lab:
        connect = with_connection_string(lab.settings["servicebus_connection_string"])
        async with BrookClient(connect, session_buckets=load.buckets) as client:
            await client.send_many(load.commands)
            work = await _work(lab, worker, load, tree, watch)
            await lab.control.clear_rules()
            replies = await read_replies(client, lab)
        if worker == "null":
            repeated = check_null(load.commands, replies, settled=work.commands)
        else:
            repeated = check(load.commands, replies, await read_brooks(lab), settled=work.commands)
    return Run(
        worker=worker,
        queued=len(load.commands),
        commands=work.commands,
        work_s=work.ended.at_s - work.begun.at_s,
        from_start_s=work.ended.at_s - work.started_s,
        cpu_s=work.ended.worker.cpu_s - work.begun.worker.cpu_s,
        cpu_from_start_s=work.ended.worker.cpu_s,
        emulator_cpu_s=work.ended.emulator.cpu_s - work.begun.emulator.cpu_s,
        requests=work.requests,
        charge_ru=charge_ru(replies),
        repeated=repeated,
        memory_bytes=work.ended.worker.memory_bytes,
    )


@asynccontextmanager
async def worker_at(lab: Lab, worker: str, load: Load, tree: Path | None) -> AsyncIterator[WorkerProcess]:
    """Run a worker on the services of `lab` while the context lasts."""
    settings = lab.settings | {"log_format": "json"} | load.settings
    arguments = [*PROGRAMS[worker], *(("--processes", str(load.processes)) if load.processes > 1 else ())]
    async with worker_process(worker, arguments, settings, lab.folder / f"{worker}.log", tree=tree) as running:
        yield running


@asynccontextmanager
async def watched(watch: Watch | None, worker: WorkerProcess) -> AsyncIterator[None]:
    """Have a process looked at, if anybody wants to."""
    async with watch(worker.pid) if watch is not None else nullcontext():
        yield


async def _work(lab: Lab, worker: str, load: Load, tree: Path | None, watch: Watch | None) -> _Work:
    first = await lab.inject(load.latency)
    started_s = time.perf_counter()
    async with worker_at(lab, worker, load, tree) as running:
        begun = await _begun(lab, running, first)
        async with watched(watch, running):
            ended, left, requests = await _ended(lab, running, len(load.commands), begun.at_s + load.window_s)
    commands = len(load.commands) - left
    if not commands:
        raise running.failure(f"settled nothing within {load.window_s:g} s")
    return _Work(started_s=started_s, begun=begun, ended=ended, commands=commands, requests=requests)


async def _begun(lab: Lab, running: WorkerProcess, first: int) -> _Reading:
    """Wait until a session of the command queue asks for messages."""
    with anyio.move_on_after(_START_S):
        while not await lab.control.fired(first):
            running.check_running()
            await anyio.sleep(_POLL_START_S)
        return _read(lab, running)
    raise running.failure(f"accepted no session within {_START_S:g} s")


async def _ended(
    lab: Lab, running: WorkerProcess, queued: int, until_s: float
) -> tuple[_Reading, int, dict[str, dict[str, int]]]:
    """Wait until all commands are settled, or until the window ends: how many are left, and the requests until then.

    Counting requests costs the services nothing, but counting messages means a look at each; so that comes last.
    """
    while True:
        requests = await lab.control.requests()
        over = time.perf_counter() >= until_s
        if over or requests["servicebus", "settle"] >= queued:
            reading = _read(lab, running)
            left = (await lab.control.entities())[COMMANDS].active
            if over or not left:
                return reading, left, _by_service(requests)
        running.check_running()
        await anyio.sleep(_POLL_S)


def _by_service(requests: Mapping[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for (service, operation), count in sorted(requests.items()):
        counts.setdefault(service, {})[operation] = count
    return counts


def _read(lab: Lab, running: WorkerProcess) -> _Reading:
    return _Reading(at_s=time.perf_counter(), worker=running.usage(), emulator=usage(lab.pid))


async def read_replies(client: BrookClient, lab: Lab) -> list[ReceivedReply]:
    """All replies that are in the queue: they are read only now, so that reading them slows no worker down."""
    replies: list[ReceivedReply] = []
    count = (await lab.control.entities())[REPLIES].active
    complete = anyio.Event()

    def take(reply: ReceivedReply) -> None:
        replies.append(reply)
        if len(replies) == count:
            complete.set()

    if count:
        with client.listen(take), anyio.move_on_after(_REPLIES_S):
            await complete.wait()
    if len(replies) < count:
        raise WrongOutcomeError(f"only {len(replies):,} of {count:,} replies could be read within {_REPLIES_S:g} s")
    return replies
