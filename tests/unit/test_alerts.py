"""The alert rules: each is about metrics that there are, has its page, and every failure has its alert."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.pages import anchors
from tests.support.promql import exposed, problems, selectors
from tests.support.promtool import needs_promtool, promtool
from worker.telemetry.kinds import Gauge, Histogram, Instrument

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
PAGE = ROOT / "docs" / "operations.md"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((FOLDER / "alerts.yml").read_text("utf-8"))["groups"] for rule in group["rules"]
]
NAMES = [rule["alert"] for rule in RULES]


@pytest.fixture(scope="module")
def metrics() -> Mapping[str, Instrument]:
    return exposed()


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_an_alert_is_about_what_the_worker_tells(rule: dict[str, Any], metrics: Mapping[str, Instrument]) -> None:
    assert list(problems(rule["expr"], metrics)) == []


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_an_alert_says_how_bad_what_it_means_and_where_its_page_is(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"].endswith(".")
    assert rule["annotations"]["runbook_url"] == f"docs/operations.md#{rule['alert'].lower()}"
    named = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
    kept = re.findall(r"(?:by|on) \(([^)]*)\)", rule["expr"])
    assert not kept or named <= {label.strip() for group in kept for label in group.split(",")}, "summed away"


@pytest.mark.parametrize("rule", [pytest.param(rule, id=rule["alert"]) for rule in RULES if "quantile" in rule["expr"]])
def test_a_quantile_is_compared_with_a_bound_of_its_histogram(
    rule: dict[str, Any], metrics: Mapping[str, Instrument]
) -> None:
    """Between two bounds a quantile is a guess: one at the limit must be told apart for sure."""
    (selector,) = selectors(rule["expr"])
    histogram = metrics[selector.metric]
    assert isinstance(histogram, Histogram)
    assert float(rule["expr"].rpartition(">")[2]) in histogram.bounds


def test_each_name_is_there_once() -> None:
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("rate(brook_worker_nothing_total[5m])", "is no metric"),
        ('sum(brook_worker_commands_total{result="appended"})', "has no label result"),
        ('sum(brook_worker_commands_total{outcome="append"})', "outcome is never 'append'"),
        ("sum by (reason) (brook_worker_commands_total)", "nothing here has the label reason"),
        ("sum(brook_worker_slots", "missing"),
        ("brook_worker_slots)", "too many"),
        ("rates(brook_worker_slots[5m])", "is no function"),
        ("rate(brook_worker_commands_total[5 minutes])", "cannot be read"),
        ("brook_worker_commands", "is no metric"),
    ],
)
def test_a_wrong_expression_is_found(expression: str, problem: str, metrics: Mapping[str, Instrument]) -> None:
    assert any(problem in found for found in problems(expression, metrics)), list(problems(expression, metrics))


# --- the pages ---


def section(name: str) -> str:
    """An alert's section of the page."""
    text = PAGE.read_text(encoding="utf-8")
    found = re.search(rf"^### {name}$(.*?)(?=^#{{2,3}} |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"docs/operations.md has no section {name}"
    return found[1]


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_an_alert_leads_to_a_page_that_helps(rule: dict[str, Any]) -> None:
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert anchor in anchors(ROOT / page)
    text = section(rule["alert"])
    for part in ("**Means.**", "**Confirm.**", "**Do.**", "**Do not.**"):
        assert part in text, part
    assert f"`{rule['labels']['severity']}`" in text


def test_no_page_is_of_an_alert_that_is_gone() -> None:
    written = set(re.findall(r"^### (BrookWorker\w+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    assert written == set(NAMES)


FAILURES = (
    "undecodable, unknown version, wrong session, no session",
    "invalid",
    "expected position differs",
    "throttled",
    "store or lease unavailable",
    "session lock, lease or connection lost",
    "head and events contradict each other",
    "a bug",
    "SIGTERM",
)
"""What can go wrong with a command, as the worker tells failures apart."""


def test_every_failure_has_an_alert_or_a_reason_for_none() -> None:
    text = PAGE.read_text(encoding="utf-8")
    table = re.search(r"^\| what fails \|.*?\n\n", text, re.MULTILINE | re.DOTALL)
    assert table is not None
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[0].strip().splitlines()[2:]]
    told = {row[0]: row[2] for row in rows}
    assert [failure for failure in FAILURES if not any(what.startswith(failure) for what in told)] == []
    for what, how in told.items():
        alerts = re.findall(r"\[(BrookWorker\w+)\]\(#(\w+)\)", how)
        assert alerts or how.startswith("none: "), f"{what}: neither an alert nor a reason"
        assert {name for name, anchor in alerts if name not in NAMES or anchor != name.lower()} == set()


# --- with Prometheus's own tool, where it is installed ---


@needs_promtool
def test_prometheus_takes_the_rules_and_the_config() -> None:
    promtool("check", "rules", "alerts.yml", folder=FOLDER)
    promtool("check", "config", "--syntax-only", "prometheus.yml", folder=FOLDER)


@needs_promtool
def test_each_alert_fires_for_what_it_is_about_and_for_nothing_else() -> None:
    promtool("test", "rules", "alerts.test.yml", folder=FOLDER)


def test_each_alert_is_among_those_that_must_fire() -> None:
    tests = yaml.safe_load((FOLDER / "alerts.test.yml").read_text(encoding="utf-8"))["tests"]
    fired = {
        name
        for test in tests
        for expected in test["promql_expr_test"]
        for sample in expected["exp_samples"]
        for name in re.findall(r'alertname="(\w+)"', sample["labels"])
    }
    assert fired == set(NAMES)


def test_each_series_that_an_alert_waits_for_is_told_before_it_moves(metrics: Mapping[str, Instrument]) -> None:
    """A rate needs a first value to rise from: what appears with its first event has not risen."""
    script = "import json; from worker.telemetry.instruments import INSTRUMENTS as all_of_them; print(json.dumps("
    script += "{one.prometheus_name: [list(labels) for labels in one.series()] for one in all_of_them}))"
    fresh = json.loads(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, cwd=ROOT).stdout)
    missing = []
    for rule in RULES:
        for selector in selectors(rule["expr"]):
            if (instrument := metrics.get(selector.metric)) is None or isinstance(instrument, Gauge):
                continue
            wanted = {label: value for label, operator, value in selector.matchers if operator == "="}
            told = [dict(zip(instrument.attributes, one, strict=True)) for one in fresh[instrument.prometheus_name]]
            if not any(wanted.items() <= one.items() for one in told):
                missing.append(f"{rule['alert']}: {selector}")
    assert missing == []
