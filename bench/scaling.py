"""One, two and four workers on the same work: what grows with them, what does not, and what their signal says.

    make bench-scaling

Three kinds of work, each at every number of workers, under injected latency: more sessions than all slots together, six
sessions that never run out, and one. Of the figures the ratios within one run count. Under three minutes.
"""

import argparse
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import aiohttp
import anyio
import msgspec
from rich.console import Console
from rich.table import Table

from bench.lab import COMMANDS, Lab, Latency, open_lab
from bench.measure import read_replies
from bench.processes import Usage, WorkerFailedError, WorkerProcess, total, usage, worker_process
from bench.running import log_warnings, run_to_end
from bench.verify import WrongOutcomeError, check, read_brooks
from bench.workloads import many
from brook_client.client import BrookClient
from brook_client.connect import with_connection_string
from schemas.commands import AppendCommand
from worker.telemetry.scaling import Scaling

WORKERS: Final = (1, 2, 4)
WINDOW_S: Final = 7.0
TIME_MAX_S: Final = 175.0
SLOTS: Final = 4
LATENCY: Final = Latency(cosmos_ms=40, blob_ms=20, servicebus_ms=10)
"""Of a region next door. So waiting dominates: the workers and the services share the cores of this machine."""

SETTINGS: Final = {
    "max_concurrent_sessions": str(SLOTS),
    "group_commands_max": "5",  # else one worker would write a hot brook as fast as its core allows
    "session_idle_s": "0.2",
    "session_hold_max_s": "2",
    "session_accept_wait_s": "1",
    "http_port": "0",
    "log_format": "json",
}

_START_S: Final = 30.0
_WIDTH: Final = 170
_POLL_S: Final = 0.01
_ASK_S: Final = 5.0


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """Brooks with a backlog each, more than the window is long enough for."""

    name: str
    brooks: int
    commands: int

    def queued(self) -> list[AppendCommand]:
        """Brook by brook in turn."""
        return many(self.brooks, self.commands, "scaling")


WORKS: Final = (
    Work(name="many sessions", brooks=400, commands=8),
    Work(name="six sessions", brooks=6, commands=700),
    Work(name="one hot session", brooks=1, commands=1_500),
)


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What so many workers did with one kind of work in the window, which begins when all of it is queued."""

    work: str
    workers: int
    commands: int
    window_s: float
    cpu_s: float
    services_cpu_s: float
    signals: tuple[Scaling, ...]
    sockets: tuple[int, ...]
    """Of each worker: its connections, its listener and the event loop's own two."""

    @property
    def rate(self) -> float:
        """Commands a second."""
        return self.commands / self.window_s

    @property
    def cpu_ms(self) -> float:
        """Processor time of the workers for each command."""
        return 1000 * self.cpu_s / self.commands

    @property
    def cores(self) -> float:
        """How many cores the workers and the services kept busy."""
        return (self.cpu_s + self.services_cpu_s) / self.window_s

    @property
    def accepted(self) -> tuple[int, ...]:
        """Sessions that each worker accepted."""
        return tuple(signal.accepted for signal in self.signals)

    @property
    def idle_workers(self) -> int:
        """Workers that accepted no session."""
        return self.accepted.count(0)

    @property
    def busy(self) -> float:
        """Slots that were busy on average, of all workers."""
        return sum(signal.busy_average for signal in self.signals)

    @property
    def wanted(self) -> float:
        """What the workers' signals add up to."""
        return sum(signal.wanted for signal in self.signals)

    @property
    def fairness(self) -> float:
        """Of the sessions: 1 when each worker accepted as many, 1 / workers when one had all (Jain's index)."""
        squares = sum(count**2 for count in self.accepted)
        return sum(self.accepted) ** 2 / (self.workers * squares) if squares else 0.0


async def measure(work: Work, workers: int, *, window_s: float = WINDOW_S) -> Run:
    """Start the workers on an empty queue, queue the work, and look at what they have done after `window_s`.

    Then everything is checked. Raises WorkerFailedError or WrongOutcomeError.
    """
    commands = work.queued()
    async with open_lab() as lab:
        connect = with_connection_string(lab.settings["servicebus_connection_string"])
        async with BrookClient(connect) as client:
            async with _running(lab, workers) as running:
                await lab.inject(LATENCY)
                await client.send_many(commands)
                run = await _window(lab, running, work, window_s)
            await lab.control.clear_rules()
            replies = await read_replies(client, lab)
        check(commands, replies, await read_brooks(lab), settled=run.commands)
    return run


@asynccontextmanager
async def _running(lab: Lab, workers: int) -> AsyncIterator[list[WorkerProcess]]:
    """So many workers, all ready; at the end of the context they are stopped, at the same time."""
    async with AsyncExitStack() as stack:
        running = [
            await stack.enter_async_context(
                worker_process(
                    f"worker {number}",
                    ("-m", "worker.cli", "run"),
                    lab.settings | SETTINGS,
                    lab.folder / f"{number}.log",
                )
            )
            for number in range(workers)
        ]
        for worker in running:
            await _logged(worker, "worker.started")
        yield running
        async with anyio.create_task_group() as tasks:
            for worker in running:
                tasks.start_soon(worker.stop)


async def _logged(worker: WorkerProcess, event: str) -> dict[str, object]:
    """The first line of an event, once it is there."""
    with anyio.move_on_after(_START_S):
        while True:
            for line in worker.log_text().splitlines():
                if f'"{event}"' in line:
                    return msgspec.json.decode(line, type=dict[str, object])
            worker.check_running()
            await anyio.sleep(_POLL_S)
    raise worker.failure(f"has not logged {event} within {_START_S:g} s")


async def _window(lab: Lab, running: Sequence[WorkerProcess], work: Work, window_s: float) -> Run:
    before, services_before = _usage(running), usage(lab.pid)
    queued, began_s = await _left(lab), time.perf_counter()
    await anyio.sleep(window_s)
    after, services_after = _usage(running), usage(lab.pid)
    left, took_s = await _left(lab), time.perf_counter() - began_s
    for worker in running:
        worker.check_running()
    if left == queued:
        raise WorkerFailedError(f"{work.name}: nothing was settled within {window_s:g} s")
    if not left:
        raise WrongOutcomeError(f"{work.name}: the work ran out before the window ended; queue more")
    return Run(
        work=work.name,
        workers=len(running),
        commands=queued - left,
        window_s=took_s,
        cpu_s=after.cpu_s - before.cpu_s,
        services_cpu_s=services_after.cpu_s - services_before.cpu_s,
        signals=tuple([await _signal(worker) for worker in running]),
        sockets=tuple(worker.usage().sockets for worker in running),
    )


async def _left(lab: Lab) -> int:
    """Commands that are not settled."""
    return (await lab.control.entities())[COMMANDS].active


def _usage(running: Sequence[WorkerProcess]) -> Usage:
    return total([worker.usage() for worker in running])


async def _signal(worker: WorkerProcess) -> Scaling:
    """What the worker tells a scaler."""
    port = (await _logged(worker, "http.listening"))["port"]
    timeout = aiohttp.ClientTimeout(total=_ASK_S)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.get(f"http://127.0.0.1:{port}/scaling") as response,
    ):
        return msgspec.json.decode(await response.read(), type=Scaling)


def table(runs: Sequence[Run]) -> Table:
    """A row for each run; ratios to the run of the same work with the fewest workers."""
    made = Table(title=f"{SLOTS} slots a worker, latency {LATENCY.name} of Cosmos DB, Blob Storage, Service Bus")
    made.title_justify = "left"
    columns = (
        "work, workers",
        "commands/s",
        "x",
        "CPU ms a command",
        "sessions accepted, by worker",
        "fairness",
        "slots busy",
        "signal",
        "sockets a worker",
        "cores used",
    )
    for name in columns:
        made.add_column(name, justify="right" if name != columns[0] else "left")
    for run in runs:
        base = next(one for one in runs if one.work == run.work)
        made.add_row(
            f"{run.work}, {run.workers}",
            f"{run.rate:,.0f}",
            f"{run.rate / base.rate:.2f}",
            f"{run.cpu_ms:.1f}",
            " ".join(map(str, run.accepted)),
            f"{run.fairness:.2f}",
            f"{run.busy:.1f} of {run.workers * SLOTS}",
            f"{run.wanted:.1f}",
            f"{min(run.sockets)}-{max(run.sockets)}",
            f"{run.cores:.2f} of {os.cpu_count()}",
        )
    return made


def limits(runs: Sequence[Run]) -> list[str]:
    """What kept the figures from being better, as far as they tell."""
    cores = os.cpu_count() or 1
    found = [
        f"{run.work}, {run.workers}: {run.cores:.2f} of {cores} cores were busy, so the processor limits it here"
        for run in runs
        if run.cores > 0.8 * cores
    ]
    found += [
        f"{run.work}, {run.workers}: {run.idle_workers} of {run.workers} workers had nothing to do, and the signal"
        f" asks for {run.wanted:.1f} slots of {run.workers * SLOTS}"
        for run in runs
        if run.idle_workers
    ]
    return found


async def measure_all(workers: Sequence[int], console: Console) -> list[Run]:
    """Every kind of work at every number of workers. Gives up after TIME_MAX_S with what there is."""
    runs: list[Run] = []
    with anyio.move_on_after(TIME_MAX_S) as scope:
        for work in WORKS:
            for count in workers:
                runs.append(await measure(work, count))
                console.print(f"{work.name}, {count}: {runs[-1].rate:,.0f} commands/s")
    if scope.cancelled_caught:
        console.print(f"not all was measured within {TIME_MAX_S:g} s: this machine has too much else to do")
    return runs


def main() -> int:
    """Run it; 1 when a worker failed or did something wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=WORKERS, metavar="N", help="default: 1 2 4")
    given = parser.parse_args()
    log_warnings()
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    try:
        runs = run_to_end(measure_all, given.workers, console)
    except (WorkerFailedError, WrongOutcomeError) as error:
        console.print(str(error), style="red", markup=False)
        return 1
    console.print(table(runs))
    for line in limits(runs):
        console.print(line, markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
