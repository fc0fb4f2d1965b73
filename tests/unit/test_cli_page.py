"""docs/cli.md says what the command line is; and every command has what an operator may expect of it."""

import re
import shlex
from pathlib import Path

import pytest
import typer.main
from typer.core import TyperCommand, TyperGroup, TyperOption

from worker.cli import app
from worker.cli_page import EXIT_CODES, SHAPES, cli_page, commands
from worker.commands.failures import CommandError
from worker.commands.interruption import InterruptedBySignalError

COMMANDS = dict(commands())
PAGE = Path(__file__).resolve().parents[2] / "docs" / "cli.md"


def options(command: TyperCommand) -> set[str]:
    return {name for one in command.params if isinstance(one, TyperOption) for name in one.opts}


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == cli_page(), "run: python -m worker.cli_page > docs/cli.md"


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_and_option_is_on_the_page(path: str) -> None:
    section = cli_page().partition(f"## brook-worker {path}\n")[2].partition("\n## ")[0]
    assert section
    for name in options(COMMANDS[path]) - {"--help"}:
        assert f"`{name}`" in section


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_has_an_example_that_its_options_take(path: str) -> None:
    command = COMMANDS[path]
    examples = re.findall(r"`(brook-worker [^`]+)`", f"{command.help} {command.epilog}")
    assert examples, "give it an epilog: example(…)"
    for text in examples:
        words = shlex.split(text)[1:]
        found: object = typer.main.get_command(app)
        while isinstance(found, TyperGroup):
            found = found.commands[words.pop(0)]
        assert found is not None
        assert isinstance(found, TyperCommand)
        found.make_context(path, words)


def test_the_shape_of_all_that_is_printed_as_json_is_told() -> None:
    assert {path for path, command in COMMANDS.items() if "--json" in options(command)} == set(SHAPES)


def test_operators_commands_have_json() -> None:
    for path in ("read", "inspect", "recover", "brooks list", "stats", "watch", "dead-letter list", "dead-letter show"):
        assert "--json" in options(COMMANDS[path])


def test_every_exit_code_that_is_raised_is_on_the_page() -> None:
    kinds = [CommandError]
    for kind in kinds:
        kinds += kind.__subclasses__()
        assert kind.exit_code in EXIT_CODES
    assert {InterruptedBySignalError(number).exit_code for number in (2, 15)} <= EXIT_CODES.keys()
