"""Every block of the documentation is run, or is checked against the code, or says why it is not."""

import functools
import importlib
import importlib.util
import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer.main
import yaml
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

from emulator.faults import Rule
from schemas import codec
from tests.support.page_shell import SHELLS, command_text, commands
from tests.support.pages import ROOT, Block, blocks, pages, prose
from worker.cli import app
from worker.configuration import FILE_VARIABLE, PREFIX, load_settings, variable
from worker.errors import SettingsError
from worker.settings import Settings

BLOCKS = [block for page in pages() for block in blocks(page)]
REASON_LENGTH_MIN = 10
CLI: object = typer.main.get_command(app)


def of(*languages: str) -> list[Any]:
    return [pytest.param(block, id=block.where) for block in BLOCKS if block.language in languages]


def test_there_are_blocks_of_each_kind() -> None:
    assert {"sh", "python", "json"} <= {block.language for block in BLOCKS}


def test_every_block_is_of_a_kind_that_is_checked_or_says_why_not() -> None:
    unchecked = [
        f"{block.where}: {block.language or 'no language'}"
        for block in BLOCKS
        if block.language not in CHECKS and block.marker("not run") is None
    ]
    assert unchecked == [], "name the language, or mark the block: <!-- not run: why -->"


def test_every_reason_is_one_and_every_marker_is_known() -> None:
    known = {"not run", "run", "file", "settings", "command", "reply", "fault"}
    for block in BLOCKS:
        names = {marker.partition(":")[0].strip() for marker in block.markers}
        assert names <= known, f"{block.where}: {names - known}"
        reason = block.marker("not run")
        assert reason is None or len(reason) >= REASON_LENGTH_MIN, f"{block.where}: say why it is not run"


def test_no_command_hides_in_plain_text() -> None:
    hidden = [
        block.where
        for block in BLOCKS
        if block.language == "text" and re.search(r"^(\$ |brook-worker |make |curl |python )", block.text, re.MULTILINE)
    ]
    assert hidden == [], "a command stands in an `sh` block, or after `$ ` in a `console` block"


@pytest.mark.parametrize("block", of(*SHELLS))
def test_shell_can_be_read_and_its_commands_exist(block: Block) -> None:
    text = command_text(block)
    assert text.strip(), f"{block.where}: no command; write it after `$ `"
    parsed = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
    assert parsed.returncode == 0, f"{block.where}: {parsed.stderr}"
    for words in commands(text):
        if (check := COMMANDS.get(words[0])) is not None:
            check(block, words)


def check_brook_worker(block: Block, words: list[str], *, complete: bool = True) -> None:
    """Name, options and arguments are those of the command line; not all arguments where it is not `complete`."""
    command, path, rest = CLI, ["brook-worker"], words[1:]
    while isinstance(command, TyperGroup) and rest and not rest[0].startswith("-"):
        found = command.commands.get(rest[0])
        assert found is not None, f"{block.where}: there is no command {' '.join([*path, rest[0]])!r}"
        command, path, rest = found, [*path, rest[0]], rest[1:]
    if "--help" in rest:
        return
    if not complete and isinstance(command, TyperGroup):
        return
    assert isinstance(command, TyperCommand), f"{block.where}: {words} names no command"
    placeholders = re.compile(r"^\$\w+$" if complete else r"^(\$\w+|[A-Z]+)$")
    try:
        command.make_context(path[-1], [placeholders.sub("1", argument) for argument in rest])
    except TyperException as error:
        if not complete and type(error).__name__ == "MissingParameter":
            return
        pytest.fail(f"{block.where}: {' '.join(words)}: {error.format_message()}")


INLINE = re.compile(r"(?<!`)`(brook-worker [^`]+)`(?!`)")


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages()])
def test_commands_that_a_page_names_in_its_text_exist(page: Path) -> None:
    """In a sentence a command may go without its arguments, and `…` or a word in capitals stands for any."""
    for number, line in prose(page):
        for text in INLINE.findall(line):
            for words in commands(text.replace("\\|", "|").replace("…", "")):
                check_brook_worker(Block(page, number, "sh", text, ()), words, complete=False)


@functools.cache
def make_targets() -> frozenset[str]:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return frozenset(re.findall(r"^([a-z][a-z-]*):", text, re.MULTILINE))


def check_make(block: Block, words: list[str]) -> None:
    for word in words[1:]:
        if "=" not in word and not word.startswith("-"):
            assert word in make_targets(), f"{block.where}: the Makefile has no target {word!r}"


def check_python(block: Block, words: list[str]) -> None:
    if words[1:2] == ["-m"]:
        assert importlib.util.find_spec(words[2]) is not None, f"{block.where}: there is no module {words[2]}"


def check_pytest(block: Block, words: list[str]) -> None:
    for word in words[1:]:
        if word.startswith("tests/"):
            assert (ROOT / word.partition("::")[0]).exists(), f"{block.where}: {word} is not there"


COMMANDS: dict[str, Callable[[Block, list[str]], None]] = {
    "brook-worker": check_brook_worker,
    "make": check_make,
    "python": check_python,
    ".venv/bin/python": check_python,
    "pytest": check_pytest,
    ".venv/bin/pytest": check_pytest,
}


def check_json(block: Block, _: Path) -> None:
    value = json.loads(block.text)
    if block.marker("command") is not None or (isinstance(value, dict) and {"commandId", "brook"} <= value.keys()):
        codec.decode_message(block.text.encode(), codec.JSON)
    elif block.marker("reply") is not None or (isinstance(value, dict) and "outcome" in value):
        codec.decode_reply(block.text.encode())
    elif block.marker("fault") is not None:
        msgspec.json.decode(block.text, type=Rule)


def check_toml(block: Block, folder: Path) -> None:
    """Where a key is a setting, all are, and their values fit each other."""
    table = tomllib.loads(block.text)
    fields = {field.name for field in msgspec.structs.fields(Settings)}
    if block.marker("settings") is None and not (table.keys() & fields):
        return
    path = folder / "worker.toml"
    path.write_text(block.text, encoding="utf-8")
    missing = {name: value for name, value in CONNECTIONS.items() if name not in table}
    if {"servicebus_namespace", "azure_credential"} & table.keys():
        missing = {}
    load_settings(environ={variable(name): value for name, value in missing.items()}, config_file=path)


def check_yaml(block: Block, _: Path) -> None:
    assert list(yaml.safe_load_all(block.text)), block.where


def check_javascript(block: Block, folder: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    path = folder / "block.mjs"
    path.write_text(block.text, encoding="utf-8")
    done = subprocess.run([node, "--check", str(path)], text=True, capture_output=True, check=False)
    assert done.returncode == 0, f"{block.where}: {done.stderr}"


CONNECTIONS = {
    "servicebus_connection_string": "Endpoint=sb://127.0.0.1:1;SharedAccessKeyName=n;SharedAccessKey=a2V5",
    "cosmos_endpoint": "http://127.0.0.1:1",
    "cosmos_key": "a2V5",
    "blob_connection_string": "DefaultEndpointsProtocol=http;AccountName=a;AccountKey=a2V5;"
    "BlobEndpoint=http://127.0.0.1:1/a",
}
DATA: dict[str, Callable[[Block, Path], None]] = {
    "json": check_json,
    "toml": check_toml,
    "yaml": check_yaml,
    "javascript": check_javascript,
    "js": check_javascript,
}


@pytest.mark.parametrize("block", of(*DATA))
def test_data_is_what_it_is_said_to_be(block: Block, tmp_path: Path) -> None:
    DATA[block.language](block, tmp_path)


CHECKS = frozenset({*SHELLS, *DATA, "python", "text"})


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages()])
def test_variables_that_a_page_names_are_settings(page: Path) -> None:
    known = {variable(field.name) for field in msgspec.structs.fields(Settings)} | {FILE_VARIABLE, PREFIX}
    named = set(re.findall(rf"{PREFIX}[A-Z0-9_]*", page.read_text(encoding="utf-8")))
    assert named <= known, f"{page}: {sorted(named - known)}"


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages()])
def test_targets_and_paths_that_a_page_names_in_code_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"`make ([a-z][a-z-]*)", text))
    assert named <= make_targets(), f"{page}: {sorted(named - make_targets())}"
    folders = "bench|brook_client|deploy|docs|emulator|examples|schemas|tests|worker"
    for path in re.findall(rf"`((?:{folders})/[\w./-]*[\w/])`", text):
        assert (ROOT / path).exists(), f"{page}: `{path}` is not there"


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("sh", "brook-worker nonsense"),
        ("sh", "brook-worker read 'a|b' --nonsense"),
        ("sh", "brook-worker send"),
        ("sh", "brook-worker run --processes many"),
        ("sh", "true && make nonsense"),
        ("sh", "python -m nonsense"),
        ("sh", "echo 'open"),
        ("toml", "lease_duration_s = 5"),
        ("toml", "lease_duration_s = 30\nnonsense = 1"),
        ("json", '{"commandId": "c", "brook": {"name": "a", "entityId": "b"}, "expected": "any", "event": []}'),
        ("json", '{"outcome": "nonsense"}'),
        ("json", "{'a': 1}"),
        ("yaml", "a: [b"),
    ],
)
def test_what_is_wrong_is_found(language: str, text: str, tmp_path: Path) -> None:
    block = Block(ROOT / "README.md", 1, language, f"{text}\n", ())
    check = DATA.get(language, lambda block, _: test_shell_can_be_read_and_its_commands_exist(block))
    with pytest.raises((AssertionError, pytest.fail.Exception, ValueError, SettingsError, yaml.YAMLError)):
        check(block, tmp_path)  # type: ignore[no-untyped-call]  # a lambda has no types
