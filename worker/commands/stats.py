"""`brook-worker stats`: numbers of this moment, each part for itself: one that does not answer hides no other."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from worker.clients import brooks_container, cosmos_client, store_retries
from worker.commands.board import oriented
from worker.commands.console import print_json
from worker.commands.failures import EXPECTED, PartlyDoneError
from worker.operations.brooks import BrookCount, count_brooks
from worker.operations.leases import LeaseCounts, lease_counts
from worker.operations.queues import QueueFacts, oldest_age_s, queue_facts
from worker.operations.workers import Look, checked_url, reachable_workers
from worker.settings import Settings
from worker.telemetry import instruments as of


class WorkerStats(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One worker since it started. Where `problem` is set it did not answer and the rest is null."""

    url: str
    problem: str | None
    version: str | None = None
    state: str | None = None
    ready: bool | None = None
    slots: int | None = None
    busy: int | None = None
    wanted: float | None = None
    breaker_open: bool | None = None
    commands: dict[str, int] | None = None
    events: int | None = None
    request_charge: float | None = None
    losses: dict[str, int] | None = None


class Stats(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`stats --json`. What could not be had is null, and `problems` has a line for it, by the name of the part.

    `brooks` is null without `--count-brooks`. `oldest_command_s` is null, too, where no command waits.
    """

    queues: list[QueueFacts] | None
    oldest_command_s: float | None
    leases: LeaseCounts | None
    brooks: BrookCount | None
    workers: list[WorkerStats]
    problems: dict[str, str]


async def stats_and_tell(
    settings: Settings, urls: list[str], *, brooks: bool, leases_max: int, as_json: bool, console: Console
) -> None:
    """Ask everything at once and print it. Raises UrlError, and PartlyDoneError where something did not answer."""
    addresses = [checked_url(url) for url in urls]
    found: dict[str, Any] = {}
    problems: dict[str, str] = {}
    names = [name for name in (settings.command_queue, settings.reply_queue) if name is not None]
    parts: dict[str, Callable[[], Awaitable[Any]]] = {
        "queues": partial(queue_facts, settings, names),
        "oldestCommandS": partial(oldest_age_s, settings, settings.command_queue),
        "leases": partial(lease_counts, settings, blobs_max=leases_max),
        "workers": partial(_workers, addresses),
    }
    if brooks:
        parts["brooks"] = partial(_brooks, settings)

    async def ask(name: str, part: Callable[[], Awaitable[Any]]) -> None:
        try:
            found[name] = await part()
        except EXPECTED as error:
            problems[name] = str(error)

    async with anyio.create_task_group() as tasks:
        for name, part in parts.items():
            tasks.start_soon(ask, name, part)
    workers = found.get("workers", [])
    problems |= {one.url: one.problem for one in workers if one.problem is not None}
    stats = Stats(
        queues=found.get("queues"),
        oldest_command_s=found.get("oldestCommandS"),
        leases=found.get("leases"),
        brooks=found.get("brooks"),
        workers=workers,
        problems=dict(sorted(problems.items())),
    )
    if as_json:
        print_json(console, stats)
    else:
        _print_tables(stats, console)
    if problems:
        raise PartlyDoneError("\n".join(f"{name}: {problem}" for name, problem in stats.problems.items()))


async def _brooks(settings: Settings) -> BrookCount:
    async with cosmos_client(settings) as client:
        return await count_brooks(brooks_container(client, settings), store_retries(settings))


async def _workers(urls: list[str]) -> list[WorkerStats]:
    async with reachable_workers(urls) as workers:
        return [worker_stats(look) for look in await workers.look()]


def worker_stats(look: Look) -> WorkerStats:
    """A worker's numbers since it started."""
    sample, readiness, slots = look.sample, look.readiness, look.slots
    if sample is None or readiness is None or slots is None:
        return WorkerStats(url=look.url, problem=look.problem or "does not answer")
    return WorkerStats(
        url=look.url,
        problem=None,
        version=sample.label(of.INFO, "version"),
        state=readiness.state,
        ready=readiness.ok,
        slots=slots.slots,
        busy=slots.busy,
        wanted=slots.wanted,
        breaker_open=sample.total(of.BREAKER_OPEN) > 0,
        commands={name: round(count) for name, count in sorted(sample.by(of.COMMANDS, "outcome").items())},
        events=round(sample.total(of.EVENTS)),
        request_charge=round(sample.total(of.REQUEST_CHARGE), 2),
        losses={name: round(count) for name, count in sorted(sample.by(of.LOSSES, "what").items())},
    )


def _print_tables(stats: Stats, console: Console) -> None:
    if stats.queues is not None:
        table = Table(title="queues", title_justify="left")
        table.add_column("queue", overflow="fold")
        for name in ("active", "scheduled", "dead letters", "bytes"):
            table.add_column(name, justify="right")
        for queue in stats.queues:
            counts = (queue.active, queue.scheduled, queue.dead_lettered, queue.size_bytes)
            table.add_row(Text(queue.name), *(f"{count:,}" for count in counts))
        console.print(table)
    rows = []
    if stats.oldest_command_s is not None:
        rows.append(f"oldest command: {stats.oldest_command_s:,.1f} s")
    if stats.leases is not None:
        of_all = "" if stats.leases.complete else "; there are more blobs: raise --leases-max"
        rows.append(f"leases held: {stats.leases.held:,} of {stats.leases.looked_at:,} blobs{of_all}")
    if stats.brooks is not None:
        rows.append(f"brooks: {stats.brooks.count:,} ({stats.brooks.request_charge:,.2f} RU to count them)")
    for row in rows:
        console.print(Text(row))
    if stats.workers:
        console.print(_workers_table(stats.workers))


def _workers_table(workers: list[WorkerStats]) -> Table:
    names = ("worker", "version", "state", "slots busy", "commands", "events", "RU", "lost", "breaker")
    return oriented("workers since they started", names, [_worker_cells(one) for one in workers])


def _worker_cells(one: WorkerStats) -> tuple[Text, ...]:
    if one.problem is not None:
        return (Text(one.url), Text(), Text("no answer", style="red"), *[Text()] * 6)
    cells = (
        one.url,
        one.version or "",
        one.state or "",
        f"{one.busy} of {one.slots}",
        ", ".join(f"{count:,} {name}" for name, count in (one.commands or {}).items() if count) or "0",
        f"{one.events:,}",
        f"{one.request_charge:,.1f}",
        ", ".join(f"{count:,} {name}" for name, count in (one.losses or {}).items() if count) or "0",
        "open" if one.breaker_open else "closed",
    )
    return tuple(map(Text, cells))
