"""What a run of the benchmark leaves: a table for a person, JSON for a program, a plot."""

import os
import platform
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from bench.figures import Figure
from bench.measure import Run
from bench.plot import draw
from bench.runner import Results
from bench.scenarios import Plan


def machine() -> dict[str, Any]:
    """What it ran on, as far as the figures depend on it."""
    model = next((line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")), "unknown")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
    }


def ratio_table(plan: Plan, figures: Sequence[Figure]) -> Table:
    """Every figure with what it must be and whether it is."""
    titles = {scenario.name: scenario for scenario in plan.scenarios}
    table = Table(title="Figures: medians of the rounds", title_justify="left")
    table.add_column("scenario")
    table.add_column("latency", no_wrap=True)
    table.add_column("figure", no_wrap=True)
    for name in ("median", "lowest", "highest", "must be"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("reached")
    last = ""
    for figure in figures:
        scenario = titles[figure.scenario]
        first = figure.scenario != last
        last = figure.scenario
        must = "" if figure.must is None else f"{figure.direction} {_shown(figure.must, figure.unit)}"
        table.add_row(
            scenario.title if first else "",
            scenario.latency.name if first else "",
            figure.what,
            *(_shown(value, figure.unit) for value in (figure.median, min(figure.values), max(figure.values))),
            must,
            {None: "", True: "[green]yes[/]", False: "[red]no[/]"}[figure.reached],
            end_section=False,
        )
    return table


def run_table(results: Results) -> Table:
    """Rates, CPU and requests of every contender."""
    table = Table(title="Runs: medians of the rounds", title_justify="left")
    for name in ("scenario", "worker"):
        table.add_column(name, no_wrap=True)
    columns: tuple[tuple[str, Callable[[Run], float], str], ...] = (
        ("commands/s", lambda run: run.rate, ",.0f"),
        ("from process start", lambda run: run.commands / run.from_start_s, ",.0f"),
        ("CPU ms", lambda run: run.cpu_ms, ".2f"),
        ("services' CPU ms", lambda run: 1000 * run.emulator_cpu_s / run.commands, ".2f"),
        ("Service Bus", lambda run: run.per_command("servicebus"), ".3f"),
        ("Cosmos DB", lambda run: run.per_command("cosmos"), ".3f"),
        ("Blob", lambda run: run.per_command("blob"), ".3f"),
        ("RU", lambda run: run.charge_ru or 0.0, ".2f"),
    )
    for name, _, _ in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for scenario, contenders in results.runs.items():
        for name, runs in contenders.items():
            if done := [run for run in runs if run is not None]:
                cells = (format(statistics.median(map(value, done)), form) for _, value, form in columns)
                table.add_row(scenario, name, *cells)
    return table


def write(folder: Path, plan: Plan, results: Results, figures: Sequence[Figure]) -> Path:
    """Write the JSON and, where matplotlib is installed, the plot. Returns the JSON's path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{plan.name}.json"
    document = {
        "machine": machine(),
        "took_s": round(results.took_s, 1),
        "rounds": results.rounds,
        "failures": results.failures,
        "figures": [
            msgspec.to_builtins(figure) | {"median": figure.median, "reached": figure.reached} for figure in figures
        ],
        "runs": msgspec.to_builtins(results.runs),
        "idle": msgspec.to_builtins(results.idle),
    }
    path.write_bytes(msgspec.json.format(msgspec.json.encode(_rounded(document)), indent=1) + b"\n")
    draw(path.with_suffix(".png"), results, figures)
    return path


def print_report(console: Console, plan: Plan, results: Results, figures: Sequence[Figure]) -> None:
    """Everything that a person wants to see."""
    console.print(run_table(results))
    console.print(ratio_table(plan, figures))
    for failure in results.failures:
        console.print(f"FAILED: {failure}", style="red", markup=False)
    told = machine()
    load = ", ".join(map(str, told["load_average"]))
    console.print(f"{results.rounds} rounds in {results.took_s:.0f} s on {told['cores']} cores, load average {load}")


def _shown(value: float, unit: str) -> str:
    return f"{value:.3f}{unit}" if abs(value) < 0.1 else f"{value:.2f}{unit}"  # noqa: PLR2004 - three digits either way


def _rounded(value: Any) -> Any:
    match value:
        case float():
            return round(value, 4)
        case dict():
            return {name: _rounded(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_rounded(inner) for inner in value]
        case _:
            return value


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
