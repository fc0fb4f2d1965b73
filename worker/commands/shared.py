"""What all subcommands have in common: their options, their settings, and how they run."""

import importlib.util
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import anyio
import typer

from worker.commands.bugs import hide_secrets_in_tracebacks
from worker.configuration import load_settings
from worker.logs import configure_logs
from worker.settings import Settings

ResultT = TypeVar("ResultT")

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="TOML file with settings; BROOK_WORKER_* variables go over it."),
]
BrookArgument = Annotated[str, typer.Argument(metavar="BROOK", help="The brook: name|entityId.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")]


def open_standard_streams() -> None:
    """Open those of stdin, stdout and stderr that are closed, for nothing: what is opened next would take their place.

    Other data would go there then; uvloop ends the program where it does.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free


def example(*lines: str) -> str:
    """The end of a command's help: how it is called."""
    return "Example: " + " or ".join(f"`{line}`" for line in lines)


def settings_of(config: Path | None) -> Settings:
    """Read the settings and send the log to stderr: stdout is for what was asked for."""
    settings = load_settings(config_file=config)
    hide_secrets_in_tracebacks(settings.secrets())
    configure_logs(settings)
    return settings


def run_async(function: Callable[..., Awaitable[ResultT]], *args: Any) -> ResultT:
    """Run on the faster event loop where it is installed: the Azure SDKs need asyncio."""
    uvloop = importlib.util.find_spec("uvloop") is not None
    return anyio.run(function, *args, backend="asyncio", backend_options={"use_uvloop": uvloop})
