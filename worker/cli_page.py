"""docs/cli.md, generated from the command line itself. A test fails when the page is not up to date."""

import inspect
import types
import typing
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final

import msgspec
import typer.main
from msgspec.structs import FieldInfo
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from schemas.events import RecordedEvent
from worker.cli import app
from worker.commands.board import Board
from worker.commands.brooks import BrooksShown
from worker.commands.check import Report
from worker.commands.dead_letter_shown import LettersShown, LetterWhole, ReportShown
from worker.commands.inspect import Inspection
from worker.commands.stats import Stats

EXIT_CODES: Final = {
    0: "All that was asked for was done. Also where SIGINT or SIGTERM ends what runs until then: `run`, `emulator`,"
    " `read --follow`, `watch`.",
    1: "An error, told on stderr in lines that begin with `error:` and say what to do. Also where a check found"
    " something to do, or an operator has to look: `check`, `provision --check`, `inspect`, `recover`, `demo`.",
    2: "The command line is wrong: an unknown option, a value out of bounds, options that do not fit each other.",
    3: "Some of it was done. What was not is printed with its reason: `send`, `dead-letter resubmit`,"
    " `dead-letter purge`, `stats`.",
    130: "SIGINT ended it before it was done. What was under way was finished or given back; running it again is safe.",
    143: "The same by SIGTERM.",
}

SHAPES: Final[Mapping[str, type[msgspec.Struct]]] = {
    "check": Report,
    "read": RecordedEvent,
    "inspect": Inspection,
    "recover": Inspection,
    "stats": Stats,
    "watch": Board,
    "brooks list": BrooksShown,
    "dead-letter list": LettersShown,
    "dead-letter show": LetterWhole,
    "dead-letter resubmit": ReportShown,
    "dead-letter purge": ReportShown,
}
"""What each command prints with `--json`."""

_INTRODUCTION: Final = """\
# The command line

What an operator does with `brook-worker`. Each command reads its [settings](settings.md) as the worker does: from
`BROOK_WORKER_*` variables, over the file that `--config` names. What was asked for goes to stdout, all else to stderr.

With `--json` a command prints one JSON object on one line (`read` and `watch`: one after the other), whose keys stay:
new ones may be added, so ignore those that you do not know. Some keys of events may be absent, as is said there; all
others are always there, if need be as null.

## Exit codes

| code | when |
|---|---|
"""

_OUTRO: Final = """
This page is generated: `python -m worker.cli_page > docs/cli.md`.
"""

_ADVICE: Final = """
## Dead letters

What a worker cannot take for a command it dead-letters with its reason; what fails ten times or expires, the broker
does. `brook-worker dead-letter resubmit` sends such commands again once the cause is mended:

- *In order*: within a session by their sequence numbers, and last in it: behind what was sent meanwhile. Where one has
  to be kept, those behind it in its session are kept too, and told.
- *Nothing is lost*: a letter is removed after the queue has taken the command. Whoever interrupts it in between finds
  both, and may run it again.
- *Nothing happens twice*: the command keeps its id and is marked with the property `brook-resubmitted`. A worker looks
  a marked command up whatever `command_lookup` says: one that took effect before gets its first reply again, byte for
  byte. A conflict that the brook's head has forgotten is decided anew.
- *Duplicate detection*: a queue that drops what comes under a message id again would make the command vanish. The
  command queue that `brook-worker provision` makes does not. Where yours does, letters are kept until its window is
  over. The window is read from the management interface; where that does not answer, give it as `--duplicate-window`.

Choosing some of many letters takes those before them under lock for a while, a minute at most as provisioned: no letter
can be received by its number. They are given back at the end.

## Following a brook

`brook-worker read BROOK --follow` looks at the head after 0.2 s, then less and less often up to `--interval`, and again
after 0.2 s once something came. An event is printed when its whole command is committed, a large append all at once. An
outage is told on stderr and waited out.

## What is measured

`brook-worker stats` and `brook-worker watch` ask the workers that `--url` names (`http_port`), the namespace's
management interface for counts (an emulator's is set as `servicebus_admin_endpoint`), and peek at the queue for its
oldest command. Subscriptions of a reply topic are not among the queues. What does not answer is shown as such. Rates
are between two looks; a worker that was restarted between them has none.
"""


def cli_page() -> str:
    """The whole page."""
    rows = "".join(f"| {code} | {text} |\n" for code, text in EXIT_CODES.items())
    parts = "".join("\n".join(_command(path, command)) + "\n" for path, command in commands())
    return _INTRODUCTION + rows + _ADVICE + "\n" + parts.rstrip("\n") + "\n" + _OUTRO


def commands() -> Iterator[tuple[str, TyperCommand]]:
    """Every command by its words, in the order of the help."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    yield from _commands(group, "")


def _commands(group: TyperGroup, path: str) -> Iterator[tuple[str, TyperCommand]]:
    for name, command in group.commands.items():
        words = f"{path} {name}".strip()
        if isinstance(command, TyperGroup):
            yield from _commands(command, words)
        elif isinstance(command, TyperCommand):
            yield words, command


def _command(path: str, command: TyperCommand) -> Iterator[str]:
    yield f"## brook-worker {path}"
    yield ""
    yield inspect.cleandoc(command.help or "")
    yield ""
    if command.epilog:
        yield f"{command.epilog}"
        yield ""
    yield "| argument, option | default | what it is |"
    yield "|---|---|---|"
    for parameter in command.params:
        if isinstance(parameter, TyperArgument):
            metavar = parameter.metavar or str(parameter.name).upper()
            yield f"| `{_cell(metavar)}` | *required* | {_cell(parameter.help or '')} |"
        elif isinstance(parameter, TyperOption) and parameter.name != "help":
            yield _option(parameter)
    yield ""
    if (shape := SHAPES.get(path)) is not None:
        yield "With `--json`:"
        yield ""
        yield "```text"
        yield from _shape(shape)
        yield "```"
        yield ""


def _option(option: TyperOption) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    value = "" if option.is_flag else f" `{_cell(_value(option))}`"
    default = "" if option.default is None or option.default is False else f"`{option.default}`"
    return f"| {names}{value} | {default} | {_cell(option.help or '')}{_bounds(option)} |"


def _value(option: TyperOption) -> str:
    """What stands for the value: its name, its choices, or what kind it is of."""
    if option.metavar:
        return option.metavar
    kind: Any = option.type_descriptor.annotation
    if typing.get_origin(kind) is typing.Literal:
        return "|".join(typing.get_args(kind))
    return "N" if kind in (int, float, int | None) else "TEXT"


def _bounds(option: TyperOption) -> str:
    if option.min is None:
        return ""
    return f" At least {option.min:,}." if option.max is None else f" {option.min:,} to {option.max:,}."


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _shape(kind: type[msgspec.Struct], indent: str = "") -> Iterator[str]:
    """The keys of an object, each with what its value may be."""
    yield f"{indent}{{"
    left_out = kind.__struct_config__.omit_defaults
    for field in msgspec.structs.fields(kind):
        yield from _field(field, indent + "  ", may_be_absent=left_out and not field.required)
    yield f"{indent}}}"


def _field(field: FieldInfo, indent: str, *, may_be_absent: bool) -> Iterator[str]:
    inner, words = _described(field.type)
    words = words.replace("null", "absent") if may_be_absent else words
    key = f"{indent}{field.encode_name}: "
    if inner is None:
        yield f"{key}{words}"
        return
    first, *rest = _shape(inner, indent)
    yield f"{key}{words}{first.strip()}"
    yield from rest


_WORDS: Final[Mapping[object, str]] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    bytes: "base64",
    datetime: "time",
    Any: "any",
    type(None): "null",
}


def _described(kind: Any) -> tuple[type[msgspec.Struct] | None, str]:
    """A struct in it, if any, and the words before it; else the words that say it all."""
    kind = getattr(kind, "__supertype__", kind)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind, ""
    if origin is typing.Annotated:
        return _described(arguments[0])
    if origin in (types.UnionType, typing.Union):
        described = [_described(one) for one in arguments]
        plain = " or ".join(words for inner, words in described if inner is None)
        for inner, words in described:
            if inner is not None:
                return inner, f"{plain} or {words}"
        return None, plain
    if origin in (list, tuple):
        inner, words = _described(arguments[0])
        return (inner, f"list of {words}") if inner is not None else (None, f"list of {words}")
    if origin is dict:
        return None, f"object of {_described(arguments[1])[1]}"
    if origin is typing.Literal:
        return None, " or ".join(f'"{value}"' for value in arguments)
    return None, _WORDS.get(kind, "text")


if __name__ == "__main__":
    print(cli_page(), end="")  # noqa: T201 - the page is what this prints
