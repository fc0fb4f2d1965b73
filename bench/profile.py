"""Where the worker's processor time goes: `python -m bench.profile`. Needs py-spy (the extra `bench`).

Samples the worker process under three loads, a hot brook, many brooks and single commands on an idle session, and
parts its time by what it was doing, told by the functions that were active while it held the interpreter's lock.
"""

import argparse
import asyncio
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from bench.idle import measure_idle
from bench.lab import Latency
from bench.measure import Load, measure
from bench.running import log_warnings, run_to_end
from bench.scenarios import MANY_SESSIONS
from bench.workloads import hot, many

_SAMPLES_A_SECOND: Final = 400
_END_S: Final = 15.0

COMPONENTS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("Service Bus: accept and close sessions", ("ServiceBusSessionSource.accept", "_accepted (", "_close (")),
    ("Service Bus: renew session locks", ("keep_locked (",)),
    ("Service Bus: receive", ("receive_messages (", "Session.receive (")),
    ("Service Bus: complete", ("complete_message (", "Session.settle (", "Session.complete (")),
    ("replies: build and encode", ("_outgoing (", "add_message (", "_message (worker", "_reply_message (bench")),
    ("Service Bus: send replies", ("ServiceBusReplies.send", "ReplySenders.send")),
    ("Service Bus: the client's own tasks", ("(servicebus/",)),
    ("Cosmos DB: batches", ("execute_item_batch (", "BrookStore.write (")),
    (
        "Cosmos DB: queries",
        ("query_items (", "BrookStore._query", "_query_iterable", "find_commands (", "Writer.load (", "Store.load ("),
    ),
    ("Cosmos DB: the client's own tasks", ("(cosmos/",)),
    ("leases", ("(worker/locking/", "(storage/")),
    ("commands: decode, check, measure", ("intake.py", "(schemas/", "prepare.py")),
    ("decide", ("(worker/protocol/", "(worker/handlers/")),
    ("log", ("(structlog/", "logs.py", "telemetry/")),
    ("stages of a session", ("(worker/", "(bench/")),
    ("HTTP", ("(aiohttp/", "(core/")),
    ("threads", ("(concurrent/futures/", "(threading.py")),
    ("event loop", ("",)),
)
"""What a stack is counted as: the first of these that any of its functions belongs to. The last one takes the rest."""

_ALWAYS_THERE: Final = ("worker/cli.py", "worker/app.py", "bench/seed_flow.py:main", "bench/null_worker.py:main")
"""Frames of the program's entry, which would make everything the worker's own."""


class Share(msgspec.Struct, frozen=True):
    """What one component takes."""

    component: str
    share: float
    us_per_command: float


class Sampler:
    """Has py-spy sample a process for as long as `running` lasts."""

    def __init__(self, file: Path) -> None:
        self._file = file

    @asynccontextmanager
    async def running(self, pid: int) -> AsyncIterator[None]:
        """Sample `pid`. Raises FileNotFoundError where py-spy is not installed."""
        program = Path(sys.executable).parent / "py-spy"
        # Only threads that hold the interpreter's lock: whether others wait or work cannot be told from outside.
        options = ("--gil", "-f", "raw", "-r", str(_SAMPLES_A_SECOND), "-d", "600", "-o", str(self._file))
        process = await asyncio.create_subprocess_exec(
            program,
            "record",
            "-p",
            str(pid),
            *options,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            yield
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGINT)
            async with asyncio.timeout(_END_S):
                await process.communicate()

    def shares(self, cpu_ms: float) -> list[Share]:
        """The time by component, largest first; `cpu_ms` is all of it, for each command."""
        counts: Counter[str] = Counter()
        for line in self._file.read_text().splitlines():
            stack, _, count = line.rpartition(" ")
            counts[component(stack.split(";"))] += int(count)
        total = counts.total()
        return [Share(name, count / total, 1000 * cpu_ms * count / total) for name, count in counts.most_common()]


def component(frames: Sequence[str]) -> str:
    """What a stack, outermost function first, is counted as."""
    telling = [frame for frame in frames if not any(entry in frame for entry in _ALWAYS_THERE)]
    for name, marks in COMPONENTS[:-1]:
        if any(mark in frame for frame in telling for mark in marks):
            return name
    return COMPONENTS[-1][0]


async def profile_hot(worker: str, commands: int, folder: Path, tree: Path | None) -> list[Share]:
    """The profile of a worker on one hot brook."""
    sampler = Sampler(folder / f"hot-{worker}.raw")
    load = Load(commands=hot(commands, "profile"), latency=Latency(), window_s=120.0)
    run = await measure(worker, load, tree=tree, watch=sampler.running)
    return sampler.shares(run.cpu_ms)


async def profile_many(worker: str, brooks: int, folder: Path, tree: Path | None) -> list[Share]:
    """The profile of a worker on many brooks with four commands each, 64 sessions at once."""
    sampler = Sampler(folder / f"many-{worker}.raw")
    load = Load(commands=many(brooks, 4, "profile"), latency=Latency(), window_s=120.0, settings=MANY_SESSIONS)
    run = await measure(worker, load, tree=tree, watch=sampler.running)
    return sampler.shares(run.cpu_ms)


async def profile_idle(worker: str, samples: int, folder: Path, tree: Path | None) -> list[Share]:
    """The profile of a worker with one command at a time."""
    sampler = Sampler(folder / f"idle-{worker}.raw")
    run = await measure_idle(worker, samples, Latency(), tree=tree, watch=sampler.running)
    return sampler.shares(run.cpu_ms)


def table(title: str, shares: Sequence[Share]) -> Table:
    """One profile for a person."""
    made = Table(title=title, title_justify="left")
    made.add_column("what the worker did")
    made.add_column("share", justify="right")
    made.add_column("µs a command", justify="right")
    for share in shares:
        made.add_row(share.component, f"{share.share:.1%}", f"{share.us_per_command:,.0f}")
    made.add_section()
    made.add_row("all", "", f"{sum(share.us_per_command for share in shares):,.0f}")
    return made


def main() -> int:
    """Run both loads and print the profiles."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker", choices=("seed", "null", "ours"), default="ours")
    parser.add_argument("--commands", type=int, default=8_000, help="on the hot brook")
    parser.add_argument("--brooks", type=int, default=256, help="of many brooks")
    parser.add_argument("--samples", type=int, default=150, help="single commands on the idle session")
    parser.add_argument("--tree", type=Path, help="folder whose worker package is run")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args()
    log_warnings()
    given.results.mkdir(parents=True, exist_ok=True)
    console = Console()
    runs = (
        ("hot brook", profile_hot, given.commands),
        ("many brooks", profile_many, given.brooks),
        ("idle session", profile_idle, given.samples),
    )
    for name, run, size in runs:
        shares = run_to_end(run, given.worker, size, given.results, given.tree)
        console.print(table(f"{given.worker}, {name}", shares))
    return 0


if __name__ == "__main__":
    sys.exit(main())
