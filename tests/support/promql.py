"""PromQL as far as it can be judged without Prometheus: its words, its brackets, and what it says of our metrics."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import REGISTRY

from worker.telemetry.instruments import INSTRUMENTS
from worker.telemetry.kinds import Counter, Gauge, Instrument

PREFIX: Final = "brook_worker_"

_TOKEN: Final = re.compile(
    r"""(?P<space>\s+)
    |(?P<string>"(?:[^"\\]|\\.)*")
    |(?P<duration>\[(?:\d+(?:ms|[smhdw])|\$__(?:rate_interval|interval|range))\])
    |(?P<number>\d+(?:\.\d+)?)
    |(?P<name>[A-Za-z_:][\w:]*)
    |(?P<operator>=~|!~|!=|==|<=|>=|[-+*/%^<>=,])
    |(?P<bracket>[(){}])""",
    re.VERBOSE,
)
_FUNCTIONS: Final = frozenset(
    [
        "rate",
        "increase",
        "irate",
        "changes",
        "histogram_quantile",
        "min_over_time",
        "max_over_time",
        "time",
        "sum",
        "min",
        "max",
        "avg",
        "count",
        "topk",
    ]
)
_KEYWORDS: Final = frozenset(["by", "without", "on", "ignoring", "and", "or", "unless", "bool", "offset"])
_SELECTOR: Final = re.compile(r"(?P<metric>[A-Za-z_:][\w:]*)(?P<braces>\{[^}]*\})?")
_MATCHER: Final = re.compile(r'\s*(?P<label>\w+)\s*(?P<operator>=~|!~|!=|=)\s*"(?P<value>[^"]*)"\s*,?')
_GROUPING: Final = re.compile(r"\b(?:by|on)\s*\(([^)]*)\)")
_OF_PROMETHEUS: Final = frozenset({"job", "instance", "le", "alertname", "alertstate"})
_PARTNER: Final = {"(": ")", "{": "}"}


@dataclass(frozen=True)
class Selector:
    """One choice of series."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...]


def exposed() -> Mapping[str, Instrument]:
    """The table's instruments by the names that Prometheus gives their series, as the exporter makes them."""
    reader = PrometheusMetricReader()
    provider = MeterProvider([reader])
    meter = provider.get_meter("names")
    named: dict[str, Instrument] = {}
    try:
        for instrument in INSTRUMENTS:
            before = {sample.name for family in REGISTRY.collect() for sample in family.samples}
            match instrument:
                case Counter():
                    meter.create_counter(instrument.name, unit=instrument.unit).add(1)
                case Gauge():
                    meter.create_gauge(instrument.name, unit=instrument.unit).set(1)
                case _:
                    meter.create_histogram(instrument.name, unit=instrument.unit).record(1)
            after = {sample.name for family in REGISTRY.collect() for sample in family.samples}
            named |= dict.fromkeys((name for name in after - before if name.startswith(PREFIX)), instrument)
    finally:
        provider.shutdown()
    return named


def selectors(expression: str) -> Iterator[Selector]:
    """Every choice of series in an expression."""
    for found in _SELECTOR.finditer(_without_strings_outside_braces(expression)):
        metric = found["metric"]
        if metric in _FUNCTIONS | _KEYWORDS or (found["braces"] is None and not metric.startswith(PREFIX)):
            continue
        matchers = tuple(
            (matcher["label"], matcher["operator"], matcher["value"])
            for matcher in _MATCHER.finditer((found["braces"] or "{}")[1:-1])
        )
        yield Selector(metric, matchers)


def problems(expression: str, metrics: Mapping[str, Instrument]) -> Iterator[str]:
    """What is wrong with an expression: words, brackets, metrics, labels and their values."""
    yield from _of_form(expression)
    labels: set[str] = set(_OF_PROMETHEUS)
    for selector in selectors(expression):
        if selector.metric in ("up", "ALERTS"):
            continue
        if (instrument := metrics.get(selector.metric)) is None:
            yield f"{selector.metric} is no metric of the worker"
            continue
        labels |= set(instrument.attributes)
        for label, operator, value in selector.matchers:
            if label in _OF_PROMETHEUS:
                continue
            values = instrument.attributes.get(label)
            if values is None:
                yield f"{selector.metric} has no label {label}"
            elif operator in ("=", "!=") and value not in values:
                yield f"{selector.metric}: {label} is never {value!r}"
    for group in _GROUPING.findall(expression):
        yield from (f"nothing here has the label {name}" for name in re.findall(r"\w+", group) if name not in labels)


def _of_form(expression: str) -> Iterator[str]:
    open_brackets: list[str] = []
    position = 0
    while position < len(expression):
        token = _TOKEN.match(expression, position)
        if token is None:
            yield f"cannot be read from {expression[position : position + 20]!r} on"
            return
        text, rest = token[0], expression[token.end() :].lstrip()
        if token.lastgroup == "name" and rest.startswith("(") and text not in _FUNCTIONS | _KEYWORDS:
            yield f"{text} is no function that is used here"
        if text in _PARTNER:
            open_brackets.append(_PARTNER[text])
        elif text in _PARTNER.values() and (not open_brackets or open_brackets.pop() != text):
            yield f"a {text} too many"
        position = token.end()
    if open_brackets:
        yield f"{' '.join(open_brackets)} missing"


def _without_strings_outside_braces(expression: str) -> str:
    return re.sub(r"\b(?:by|on|without|ignoring)\s*\([^)]*\)", "", expression)
