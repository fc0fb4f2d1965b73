"""The Grafana board: it can be provisioned, and each panel asks for metrics that there are."""

import json
import re
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.promql import exposed, problems, selectors
from tests.support.promtool import needs_promtool, promtool
from worker.telemetry.instruments import INSTRUMENTS
from worker.telemetry.kinds import Instrument

ROOT = Path(__file__).parents[2]
PROVISIONING = ROOT / "deploy" / "grafana" / "provisioning"
BOARDS = ROOT / "deploy" / "grafana" / "boards"
BOARD: dict[str, Any] = json.loads((BOARDS / "brook-worker.json").read_bytes())
PANELS: list[dict[str, Any]] = BOARD["panels"]
EXPRESSIONS = [(panel["title"], target["expr"]) for panel in PANELS for target in panel.get("targets", [])]


@pytest.fixture(scope="module")
def metrics() -> Mapping[str, Instrument]:
    return exposed()


def test_every_panel_asks_for_what_the_worker_tells(metrics: Mapping[str, Instrument]) -> None:
    assert len(EXPRESSIONS) > 40
    wrong = {title: found for title, expression in EXPRESSIONS if (found := list(problems(expression, metrics)))}
    assert wrong == {}


def test_every_metric_of_the_worker_is_on_the_board(metrics: Mapping[str, Instrument]) -> None:
    shown = {
        metrics[selector.metric].name
        for _, expression in EXPRESSIONS
        for selector in selectors(expression)
        if selector.metric in metrics
    }
    assert {instrument.name for instrument in INSTRUMENTS} - shown == set()


def test_every_panel_keeps_to_the_chosen_workers() -> None:
    for title, expression in EXPRESSIONS:
        for selector in selectors(expression):
            chosen = {label: value for label, _, value in selector.matchers}
            assert (chosen.get("job"), chosen.get("instance")) == ("$job", "$instance"), title


def test_panels_have_titles_of_their_own_and_do_not_lie_on_each_other() -> None:
    titles = [panel["title"] for panel in PANELS]
    assert len(set(titles)) == len(titles)
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    places = [panel["gridPos"] for panel in PANELS]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below


def test_the_board_takes_any_data_source() -> None:
    variables = {variable["name"]: variable for variable in BOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "instance"]
    named = {panel["datasource"]["uid"] for panel in PANELS if "datasource" in panel}
    named |= {target["datasource"]["uid"] for panel in PANELS for target in panel.get("targets", [])}
    assert named == {"${datasource}"}


def test_grafana_is_given_its_data_source_and_its_boards() -> None:
    compose: Any = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    mounts = dict(mount.split(":")[:2] for mount in compose["services"]["grafana"]["volumes"])
    (source,) = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yml").read_text("utf-8"))["datasources"]
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards" / "boards.yml").read_text("utf-8"))["providers"]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in compose["services"]
    assert mounts["./deploy/grafana/provisioning"] == "/etc/grafana/provisioning"
    assert mounts["./deploy/grafana/boards"] == provider["options"]["path"]
    home = compose["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/brook-worker.json"


@pytest.mark.parametrize("page", ["operations.md", "scaling.md"])
def test_a_panel_that_a_page_names_is_there(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    named = {" ".join(name.split()) for name in re.findall(r"(?<![*\w])\*([A-Z][^*|]+?)\*(?!\*)", text)}
    assert named
    assert named - {panel["title"] for panel in PANELS} == set()


@needs_promtool
def test_prometheus_takes_every_expression(tmp_path: Path) -> None:
    plain = [
        expression.replace("$__rate_interval", "1m").replace("$job", ".+").replace("$instance", ".+")
        for _, expression in EXPRESSIONS
    ]
    rules = [{"record": f"panel:{number}", "expr": expression} for number, expression in enumerate(plain)]
    (tmp_path / "board.yml").write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]}), "utf-8")
    promtool("check", "rules", "board.yml", folder=tmp_path)
