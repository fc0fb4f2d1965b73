"""The options of `brook-worker brooks`."""

from functools import partial
from typing import Annotated, Literal

import typer

from schemas.problems import is_encodable
from worker.commands.console import SafeConsole
from worker.commands.failures import UsageError, reported
from worker.commands.interruption import run_interruptible
from worker.commands.shared import ConfigOption, JsonOption, example, settings_of

app = typer.Typer(name="brooks", no_args_is_help=True, rich_markup_mode="markdown")


@app.callback()
def brooks() -> None:
    """The brooks of the container."""


@app.command("list", epilog=example("brook-worker brooks list --name order --pending --json"))
def list_(
    *,
    config: ConfigOption = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Those of this name: NAME|….")] = None,
    prefix: Annotated[str | None, typer.Option(metavar="TEXT", help="Those whose key begins so.")] = None,
    pending: Annotated[bool, typer.Option("--pending", help="Those with a large append under way, or left.")] = False,
    sort: Annotated[
        Literal["stored", "name"],
        typer.Option(help="stored: as the container has them. name: looks at all heads, for each page."),
    ] = "stored",
    limit: Annotated[int, typer.Option(min=1, max=10_000, metavar="N", help="No more than so many.")] = 100,
    continuation: Annotated[
        str | None, typer.Option(metavar="TOKEN", help="Go on where a listing with the same options ended.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List brooks with their heads. A query across all partitions: it costs request units, which are told.

    A page in stored order costs by its length, one by name by the number of brooks.
    """
    from worker.commands.brooks import list_brooks  # noqa: PLC0415 - the other commands need no such client
    from worker.operations.brooks import BrookFilter  # noqa: PLC0415

    with reported():
        if name is not None and prefix is not None:
            raise UsageError("--name and --prefix say the same in two ways; give one of them")
        for option, text in (("--name", name), ("--prefix", prefix)):
            if text is not None and not is_encodable(text):
                raise UsageError(f"{option}: is not UTF-8, as every brook key is; write it in UTF-8")
        which = BrookFilter(prefix=prefix or (f"{name}|" if name is not None else ""), pending_only=pending)
        tell = partial(
            list_brooks, sort=sort, limit=limit, continuation=continuation, as_json=as_json, console=SafeConsole()
        )
        run_interruptible(tell, settings_of(config), which)
