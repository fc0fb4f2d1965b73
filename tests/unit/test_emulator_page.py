"""docs/emulator.md is true: its routes, options, effects and examples are those of the code."""

import re
from pathlib import Path

import msgspec
import pytest

from emulator.__main__ import main
from emulator.blob import BlobServer
from emulator.clock import ManualClock
from emulator.config import ServiceBusConfig
from emulator.control import ControlServer
from emulator.faults import Effect, Faults, Rule
from emulator.journal import MemoryJournal
from emulator.servicebus import ServiceBusServer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "emulator.md").read_text()


def test_routes_of_the_control_interface_are_all_there() -> None:
    clock, journal, faults = ManualClock(), MemoryJournal(), Faults()
    bus = ServiceBusServer(config=ServiceBusConfig(), clock=clock, journal=journal, faults=faults)
    blob = BlobServer(clock=clock, journal=journal, faults=faults)
    control = ControlServer(faults=faults, clock=clock, servicebus=bus, blob=blob)
    table = PAGE.partition("## Control interface")[2].partition("\n## ")[0]
    described = set(re.findall(r"`(GET|POST|DELETE) (/[^` ]*)`", table))
    assert described == {(route.method, route.path) for route in control.routes()}


def test_options_are_all_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    offered = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help"}
    table = PAGE.partition("| option | |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(--[a-z-]+)", table)) == offered


def test_effects_can_be_written_as_shown() -> None:
    table = PAGE.partition("| `effect` | |")[2].partition("\n\n")[0]
    shown = [msgspec.json.decode(text, type=Effect) for text in re.findall(r"`(\{.*?\})`", table)]
    assert {type(effect) for effect in shown} == set(Effect.__args__)


def test_rule_of_the_example_is_a_rule() -> None:
    [text] = re.findall(r"/faults -d '(.*?)'", PAGE, re.DOTALL)
    rule = msgspec.json.decode(text, type=Rule)
    assert (rule.service, rule.times) == ("cosmos", 3)


def test_fields_of_a_rule_are_all_there() -> None:
    table = PAGE.partition("| field | default | |")[2].partition("\n\n")[0]
    names = [name for line in table.splitlines() for name in re.findall(r"`(\w+)`", line.split(" | ")[0])]
    assert set(names) == set(Rule.__struct_fields__)


def test_pages_and_files_that_it_links_to_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        if not target.startswith("http"):
            assert (ROOT / "docs" / target).exists(), target
    for path in re.findall(r"`((?:tests|emulator|bench|docs)/[\w./-]+)`", PAGE):
        assert (ROOT / path).exists(), path
