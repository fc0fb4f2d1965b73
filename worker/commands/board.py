"""What `brook-worker watch` shows: workers and queue at one moment, and what went through since the moment before."""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from rich.console import Group
from rich.table import Table
from rich.text import Text

from worker.operations.queues import QueueFacts
from worker.operations.workers import Look, Sample
from worker.telemetry import instruments as of
from worker.telemetry.kinds import Counter, Histogram

_P95: Final = 0.95
_ASIDE_MAX: Final = 3
_RATES: Final = (
    "commands/s",
    "appended/s",
    "conflicts/s",
    "rejected/s",
    "dead-lettered/s",
    "group",
    "95 of 100 within",
    "RU/s",
    "retries/s",
)


class Rates(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What went through between two looks, each a second but for the last two.

    `group_commands` is the average size of a group. `latency_p95_s` is a bound from enqueue to reply that 95 of 100
    commands kept to. Both are null where there was none.
    """

    commands: float
    outcomes: dict[str, float]
    events: float
    request_charge: float
    retries: float
    group_commands: float | None
    latency_p95_s: float | None


class WorkerShown(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One worker. Where `problem` is set it did not answer and the rest is null; `rates` is null at its first look."""

    url: str
    problem: str | None
    state: str | None = None
    ready: bool | None = None
    reasons: tuple[str, ...] = ()
    slots: int | None = None
    busy: int | None = None
    wanted: float | None = None
    in_hand: int | None = None
    breaker_open: bool | None = None
    rates: Rates | None = None


class QueueShown(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The command queue. `problem` says why counts or age are null; `age_s` is how old this knowledge is.

    `oldest_s` is the age of the oldest command that is not settled, null where there is none.
    """

    name: str
    active: int | None = None
    dead_lettered: int | None = None
    scheduled: int | None = None
    oldest_s: float | None = None
    age_s: float | None = None
    problem: str | None = None


class Board(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`watch --json`: one line a tick. `total` is of all workers whose rates are known."""

    at: str
    queue: QueueShown
    workers: list[WorkerShown]
    total: Rates | None


def worker_shown(look: Look, before: Sample | None) -> WorkerShown:
    """A worker as it answered, with its rates since `before`."""
    sample, readiness, slots = look.sample, look.readiness, look.slots
    if sample is None or readiness is None or slots is None:
        return WorkerShown(url=look.url, problem=look.problem or "does not answer")
    return WorkerShown(
        url=look.url,
        problem=None,
        state=readiness.state,
        ready=readiness.ok,
        reasons=tuple(f"{reason.code}: {reason.detail}" for reason in readiness.reasons),
        slots=slots.slots,
        busy=slots.busy,
        wanted=slots.wanted,
        in_hand=round(sample.total(of.IN_HAND)),
        breaker_open=sample.total(of.BREAKER_OPEN) > 0,
        rates=rates([(before, sample)]),
    )


def rates(pairs: Sequence[tuple[Sample | None, Sample]]) -> Rates | None:
    """Rates of one worker or of several together; None where none was looked at before by the same process."""
    known = [
        (before, now)
        for before, now in pairs
        if before is not None and now.at_s > before.at_s and _same_process(before, now)
    ]
    if not known:
        return None

    def a_second(instrument: Counter, **labels: str) -> float:
        return sum(
            (now.total(instrument, **labels) - before.total(instrument, **labels)) / (now.at_s - before.at_s)
            for before, now in known
        )

    outcomes = {
        outcome: round(a_second(of.COMMANDS, outcome=outcome), 2) for outcome in of.COMMANDS.attributes["outcome"]
    }
    groups = _grown(known, of.GROUP_COMMANDS, "_count")
    return Rates(
        commands=round(a_second(of.COMMANDS), 2),
        outcomes=outcomes,
        events=round(a_second(of.EVENTS), 2),
        request_charge=round(a_second(of.REQUEST_CHARGE), 2),
        retries=round(a_second(of.RETRIES), 2),
        group_commands=round(_grown(known, of.GROUP_COMMANDS, "_sum") / groups, 2) if groups else None,
        latency_p95_s=_quantile(_buckets(known, of.LATENCY_FROM_ENQUEUE), _P95),
    )


def _same_process(before: Sample, now: Sample) -> bool:
    return before.total(of.START_TIME) == now.total(of.START_TIME)


def _grown(known: Sequence[tuple[Sample, Sample]], instrument: Histogram, part: str) -> float:
    return sum(now.total(instrument, part) - before.total(instrument, part) for before, now in known)


def _buckets(known: Sequence[tuple[Sample, Sample]], instrument: Histogram) -> dict[float, float]:
    """How much each cumulative bucket has grown, by its bound."""
    grown: dict[float, float] = {}
    for before, now in known:
        old = before.by(instrument, "le", "_bucket")
        for bound, count in now.by(instrument, "le", "_bucket").items():
            grown[float(bound)] = grown.get(float(bound), 0.0) + count - old.get(bound, 0.0)
    return grown


def _quantile(buckets: Mapping[float, float], share: float) -> float | None:
    """The least bound that so many kept to; None where there were none, or the bound is infinite."""
    total = max(buckets.values(), default=0.0)
    if total <= 0:
        return None
    bound = min(bound for bound, count in buckets.items() if count >= share * total)
    return None if bound == float("inf") else bound


def rendered(board: Board) -> Group:
    """The board for a terminal."""
    notes = [
        f"{one.url}: {one.problem or '; '.join(one.reasons)}" for one in board.workers if one.problem or one.reasons
    ]
    if board.queue.problem is not None:
        notes.append(f"queue: {board.queue.problem}")
    parts: list[Table | Text] = [Text(board.at), _queue_table(board.queue)]
    if board.workers:
        parts.append(_workers_table(board))
    else:
        parts.append(Text("Workers are shown where --url names their HTTP endpoints (http_port)."))
    return Group(*parts, *(Text(note, style="yellow") for note in notes))


def _queue_table(queue: QueueShown) -> Table:
    table = Table(title=Text(f"queue {queue.name}"), title_justify="left")
    for name in ("active", "scheduled", "dead letters", "oldest", "as of"):
        table.add_column(name, justify="right")
    counts = (queue.active, queue.scheduled, queue.dead_lettered)
    oldest = "-" if queue.oldest_s is None else f"{queue.oldest_s:,.1f} s"
    as_of = "-" if queue.age_s is None else f"{queue.age_s:,.0f} s ago"
    table.add_row(*("?" if count is None else f"{count:,}" for count in counts), oldest, as_of)
    return table


def oriented(title: str, names: Sequence[str], rows: Sequence[Sequence[Text | str]]) -> Table:
    """A table of few rows lies on its side, so that it fits a narrow terminal; many rows stand under each other."""
    upright = len(rows) > _ASIDE_MAX
    lines: list[Sequence[Text | str]] = [names, *rows]
    cells: list[Sequence[Text | str]] = lines if upright else list(zip(*lines, strict=True))
    table = Table(title=Text(title), title_justify="left")
    for place, name in enumerate(cells[0]):
        table.add_column(name, justify="left" if place == 0 else "right", overflow="fold")
    for line in cells[1:]:
        table.add_row(*line)
    return table


def _workers_table(board: Board) -> Table:
    names = ("worker", "state", "slots busy", "wanted", "in hand", "breaker", *_RATES)
    rows = [_worker_cells(one) for one in board.workers]
    if len(rows) > 1:
        rows.append((Text("all"), *[Text()] * 5, *_rate_cells(board.total)))
    return oriented("workers", names, rows)


def _worker_cells(one: WorkerShown) -> tuple[Text, ...]:
    if one.problem is not None:
        return (Text(one.url), Text("no answer", style="red"), *[Text()] * (4 + len(_RATES)))
    return (
        Text(one.url),
        Text(one.state or "", style="green" if one.ready else "yellow"),
        Text(f"{one.busy} of {one.slots}"),
        Text(f"{one.wanted:,.1f}"),
        Text(f"{one.in_hand:,}"),
        Text("open", style="red") if one.breaker_open else Text("closed"),
        *_rate_cells(one.rates),
    )


def _rate_cells(rates: Rates | None) -> tuple[Text, ...]:
    if rates is None:
        return (Text("-"),) * len(_RATES)
    shown = (
        f"{rates.commands:,.1f}",
        *(f"{rates.outcomes[name]:,.1f}" for name in ("appended", "conflict", "rejected", "dead-lettered")),
        "-" if rates.group_commands is None else f"{rates.group_commands:,.1f}",
        "-" if rates.latency_p95_s is None else f"≤ {rates.latency_p95_s:g} s",
        f"{rates.request_charge:,.1f}",
        f"{rates.retries:,.1f}",
    )
    return tuple(map(Text, shown))


def queue_shown(
    name: str, facts: QueueFacts | None, oldest_s: float | None, age_s: float, problems: Sequence[str]
) -> QueueShown:
    """The queue as far as it is known."""
    return QueueShown(
        name=name,
        active=None if facts is None else facts.active,
        dead_lettered=None if facts is None else facts.dead_lettered,
        scheduled=None if facts is None else facts.scheduled,
        oldest_s=None if oldest_s is None else round(oldest_s, 3),
        age_s=round(age_s, 1),
        problem="; ".join(problems) or None,
    )
