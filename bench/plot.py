"""The benchmark as a picture. Needs matplotlib (the extra `bench`)."""

import importlib.util
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bench.figures import Figure
from bench.measure import Run
from bench.runner import Results

_COLOURS: Final = {"seed": "#9a9a9a", "null": "#7aa6c2", "ours": "#c2553f"}
_OTHER: Final = ("#c2553f", "#d99a6c")


def draw(path: Path, results: Results, figures: Sequence[Figure]) -> bool:
    """Draw rates and ratios into `path`; False where matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    from matplotlib.figure import Figure as Canvas  # noqa: PLC0415 - an optional extra

    canvas = Canvas(figsize=(11, 4.6), layout="constrained")
    rates, ratios = canvas.subplots(1, 2)
    _draw_rates(rates, results)
    _draw_ratios(ratios, [figure for figure in figures if figure.must is not None])
    canvas.savefig(path, dpi=110)
    return True


def _draw_rates(axes: Any, results: Results) -> None:
    labels: list[str] = []
    for scenario, contenders in results.runs.items():
        for index, (name, runs) in enumerate(contenders.items()):
            if done := [run for run in runs if run is not None]:
                colour = _COLOURS.get(name, _OTHER[index % len(_OTHER)])
                axes.barh(len(labels), _rate(done), color=colour)
                labels.append(f"{scenario}: {name}")
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_title("commands a second (median of the rounds)")


def _draw_ratios(axes: Any, figures: Sequence[Figure]) -> None:
    """Each figure over what it must be, so that the line at 1 parts reached from missed whichever way it is."""
    for index, figure in enumerate(figures):
        assert figure.must is not None, "only figures with something to reach are drawn here"
        value = figure.median / figure.must
        colour = "#5a8f5a" if figure.reached else "#c2553f"
        axes.barh(index, value, color=colour)
    labels = [f"{figure.scenario}: {figure.what} ({figure.direction} {figure.must:g})" for figure in figures]
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_title("median ÷ target (green: reached)")


def _rate(runs: Sequence[Run]) -> float:
    return statistics.median(run.rate for run in runs)
