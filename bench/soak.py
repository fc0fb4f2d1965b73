"""A long run: memory, connections and files of the worker must not grow.

python -m bench.soak [--commands N]

A producer keeps a bounded number of commands queued, half of them for one hot brook, half for small brooks that come
and go, so that sessions are accepted and closed all the time. Replies are read all along.
"""

import argparse
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final

import anyio
import anyio.abc
import msgspec
from rich.console import Console
from rich.table import Table

from bench.lab import Lab, Latency, open_lab
from bench.measure import Load, worker_at
from bench.processes import Usage, WorkerProcess
from bench.running import log_warnings, run_to_end
from brook_client.client import BrookClient
from brook_client.connect import with_connection_string
from brook_client.messages import ReceivedReply
from schemas.commands import AppendCommand, NewEvent
from schemas.keys import BrookKey, partition_key
from schemas.replies import Appended
from schemas.types import CommandId
from worker.clients import brooks_container, cosmos_client

_WAVE: Final = 400
_QUEUED_MAX: Final = 2_400
_SMALL_BROOKS: Final = 8
"""In each wave, as many brooks that no wave before had."""

_DATA: Final = bytes(200)
_SAMPLE_EVERY_S: Final = 0.25
_MEMORY_TOLERANCE: Final = 0.10
_QUIET_S: Final = 60.0


class Sample(msgspec.Struct, frozen=True):
    """The worker after so many replies."""

    at_s: float
    replies: int
    usage: Usage


class Soak(msgspec.Struct, kw_only=True):
    """What a run came to."""

    commands: int
    warm_up: int
    took_s: float
    samples: list[Sample]
    findings: list[str]

    def settled(self) -> list[Sample]:
        """The samples after the warm-up."""
        return [sample for sample in self.samples if sample.replies >= self.warm_up]


class _Ledger:
    """Which command got which positions, and what is still under way."""

    def __init__(self) -> None:
        self.brook_of: dict[CommandId, BrookKey] = {}
        self.positions: dict[BrookKey, list[int]] = defaultdict(list)
        self.findings: list[str] = []
        self.replies = 0
        self.changed = anyio.Event()

    @property
    def queued(self) -> int:
        return len(self.brook_of)

    def take(self, reply: ReceivedReply) -> None:
        """Note a reply: each command gets one, and it says where its event stands."""
        brook = self.brook_of.pop(reply.command_id, None)
        if brook is None:
            self.findings.append(f"command {reply.command_id}: a second reply, or one to a command never sent")
        elif isinstance(reply.reply, Appended):
            self.positions[brook].append(reply.reply.first_position)
        else:
            self.findings.append(f"command {reply.command_id}: {reply.reply}")
        self.replies += 1
        self.changed.set()
        self.changed = anyio.Event()

    def check(self, heads: dict[str, int]) -> None:
        """Positions 0 to the head, once each, in every brook."""
        for brook, positions in self.positions.items():
            if sorted(positions) != list(range(len(positions))):
                self.findings.append(f"brook {brook}: its {len(positions)} replies do not tell of positions in a row")
            if heads.get(partition_key(brook)) != len(positions) - 1:
                head = heads.get(partition_key(brook))
                self.findings.append(f"brook {brook}: the head is {head}, not {len(positions) - 1}")


async def soak(commands: int, warm_up: int) -> Soak:
    """Send `commands` through a worker and watch it. What is wrong is in the findings."""
    began_s = time.monotonic()
    ledger = _Ledger()
    samples: list[Sample] = []
    async with open_lab() as lab:
        load = Load(commands=(), latency=Latency(), window_s=0, settings={"session_idle_s": "0.2"})
        connect = with_connection_string(lab.settings["servicebus_connection_string"])
        async with worker_at(lab, "ours", load, None) as worker, BrookClient(connect) as client:
            with client.listen(ledger.take):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_watch, worker, ledger, samples, began_s)
                    await _produce(client, ledger, commands)
                    tasks.cancel_scope.cancel()
        ledger.check(await _heads(lab))
    took_s = time.monotonic() - began_s
    result = Soak(commands=commands, warm_up=warm_up, took_s=took_s, samples=samples, findings=ledger.findings)
    result.findings += growth(result.settled())
    return result


async def _produce(client: BrookClient, ledger: _Ledger, commands: int) -> None:
    """Send wave after wave, then wait for the last reply. Gives up when no reply comes for a minute."""
    for first in range(0, commands, _WAVE):
        wave = _wave(first, min(_WAVE, commands - first))
        await _until_queued(ledger, _QUEUED_MAX - len(wave))
        ledger.brook_of.update((command.command_id, command.brook) for command in wave)
        await client.send_many(wave)
    await _until_queued(ledger, 0)


async def _until_queued(ledger: _Ledger, count: int) -> None:
    while ledger.queued > count:
        with anyio.fail_after(_QUIET_S):
            await ledger.changed.wait()


def _wave(first: int, count: int) -> list[AppendCommand]:
    return [_command(first + index, _brook(first, index)) for index in range(count)]


def _brook(first: int, index: int) -> BrookKey:
    return BrookKey("soak", "hot") if index % 2 else BrookKey("soak", f"{first}-{index // 2 % _SMALL_BROOKS}")


def _command(number: int, brook: BrookKey) -> AppendCommand:
    event = NewEvent(event_id=f"e-{number}", event_type="Soaked", data=_DATA)
    return AppendCommand(command_id=CommandId(f"c-{number}"), brook=brook, expected="any", events=(event,))


async def _watch(worker: WorkerProcess, ledger: _Ledger, samples: list[Sample], began_s: float) -> None:
    while True:
        worker.check_running()
        samples.append(Sample(time.monotonic() - began_s, ledger.replies, worker.usage()))
        await anyio.sleep(_SAMPLE_EVERY_S)


async def _heads(lab: Lab) -> dict[str, int]:
    await lab.control.clear_rules()
    settings = lab.worker_settings()
    async with cosmos_client(settings) as client:
        container = brooks_container(client, settings)
        query = 'SELECT c.brookPartitionKey, c.position FROM c WHERE c.id = "head"'
        rows = container.query_items(query, max_item_count=1_000)
        return {row["brookPartitionKey"]: row["position"] async for row in rows}


def growth(samples: Sequence[Sample]) -> list[str]:
    """What grew: memory beyond its tolerance, or the connections, files or threads there are at least."""
    parts = 4
    size = len(samples) // parts
    if not size:
        return ["too few samples after the warm-up to tell whether anything grew"]
    findings = []
    start = statistics.median(sample.usage.memory_bytes for sample in samples[:size])
    for sample in samples:
        if abs(sample.usage.memory_bytes / start - 1) > _MEMORY_TOLERANCE:
            found = f"{sample.usage.memory_bytes / 1e6:.0f} MB after {sample.replies:,} commands"
            findings.append(f"memory: {found}, from {start / 1e6:.0f} MB after the warm-up")
            break
    for name in ("sockets", "files", "threads"):
        # Sessions come and go, and so do their connections: what leaks shows in how few there are at the least.
        counts = [getattr(sample.usage, name) for sample in samples]
        floors = [min(counts[part * size : (part + 1) * size]) for part in range(parts - 1)]
        last = min(counts[(parts - 1) * size :])
        if last > max(floors):
            findings.append(f"{name}: at least {last} in the last quarter, but {max(floors)} before")
    return findings


def summary(result: Soak) -> Table:
    """What the worker used, from the warm-up to the end."""
    rate = result.commands / result.took_s
    table = Table(title=f"{result.commands:,} commands in {result.took_s:.0f} s, {rate:,.0f}/s", title_justify="left")
    for name in ("", "after the warm-up", "lowest", "highest", "at the end"):
        table.add_column(name, justify="right" if name else "left")
    samples = result.settled()
    rows: tuple[tuple[str, Callable[[Usage], float], str], ...] = (
        ("memory, MB", lambda usage: usage.memory_bytes / 1e6, ".1f"),
        ("sockets", lambda usage: usage.sockets, ".0f"),
        ("files", lambda usage: usage.files, ".0f"),
        ("threads", lambda usage: usage.threads, ".0f"),
        ("CPU, s", lambda usage: usage.cpu_s, ".1f"),
    )
    for name, value, form in rows:
        values = [value(sample.usage) for sample in samples]
        if values:
            shown = (values[0], min(values), max(values), values[-1])
            table.add_row(name, *(format(each, form) for each in shown))
    return table


def main() -> int:
    """Run it; 1 when something grew or was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", type=int, default=200_000)
    parser.add_argument("--warm-up", type=int, default=20_000, help="commands before memory is looked at")
    parser.add_argument("--time-max-s", type=float, default=1_800.0)
    given = parser.parse_args()
    log_warnings()

    async def run() -> Soak:
        with anyio.fail_after(given.time_max_s):
            return await soak(given.commands, given.warm_up)

    result = run_to_end(run)
    console = Console()
    console.print(summary(result))
    for finding in result.findings:
        console.print(finding, style="red", markup=False)
    if not result.findings:
        console.print("Nothing grew, and every command took effect once.", style="green")
    return 1 if result.findings else 0


if __name__ == "__main__":
    sys.exit(main())
