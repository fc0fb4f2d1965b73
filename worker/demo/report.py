"""The demo's figures as a table."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from rich.table import Table

from worker.demo.traffic import Traffic

_PERCENTILES: Final = (50, 99)


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` of all values do not exceed; 0 without values."""
    if not values:
        return 0.0
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)  # rounded up
    return ordered[max(int(rank) - 1, 0)]


def figures(
    traffic: Traffic, *, brooks: int, events: int, requests: Mapping[tuple[str, str], int]
) -> Iterator[tuple[str, str]]:
    """Yield name and value of each line."""
    yield "commands sent", f"{traffic.reply_count:,} over {brooks:,} brooks"
    for outcome, count in sorted(traffic.outcomes.items()):
        yield f"  {outcome}", f"{count:,}"
    yield "events read back and compared", f"{events:,}"
    yield "commands per second", f"{traffic.reply_count / traffic.duration_s:,.0f}" if traffic.duration_s else "-"
    shown = ", ".join(f"p{percent} {percentile(traffic.latencies_s, percent):.2f} s" for percent in _PERCENTILES)
    yield "from send to reply (all queued at once)", shown
    cosmos = {operation: count for (service, operation), count in requests.items() if service == "cosmos"}
    if traffic.reply_count:
        yield "Cosmos DB requests per command", f"{sum(cosmos.values()) / traffic.reply_count:.2f}"
    for operation, count in sorted(cosmos.items(), key=lambda item: -item[1]):
        yield f"  {operation}", f"{count:,}"
    yield from _batch_figures(traffic.batches)


def _batch_figures(commands_by_size: Counter[tuple[int, int]]) -> Iterator[tuple[str, str]]:
    """Figures of the batches; each of its commands tells the size of the batch that carried it out."""
    sizes = [size for size, commands in commands_by_size.items() for _ in range(round(commands / size[0]))]
    if not sizes:
        return
    yield "batches written", f"{len(sizes):,}"
    for index, name in enumerate(("commands", "events")):
        each = [size[index] for size in sizes]
        shown = f"mean {sum(each) / len(each):.1f}, p99 {percentile(each, 99):,.0f}, max {max(each):,}"
        yield f"  {name} in a batch", shown


def table(rows: Iterator[tuple[str, str]]) -> Table:
    """The figures for the console."""
    made = Table(show_header=False)
    made.add_column(style="bold")
    made.add_column()
    for name, value in rows:
        made.add_row(name, value)
    return made
