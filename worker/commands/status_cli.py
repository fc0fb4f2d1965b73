"""The options of `brook-worker stats` and `brook-worker watch`."""

from functools import partial
from typing import Annotated

import typer

from worker.commands.console import SafeConsole
from worker.commands.failures import reported
from worker.commands.interruption import InterruptedBySignalError, run_interruptible
from worker.commands.shared import ConfigOption, JsonOption, settings_of

UrlsOption = Annotated[
    list[str] | None,
    typer.Option("--url", metavar="URL", help="HTTP endpoint of a worker (http_port); give it again for several."),
]


def stats(
    *,
    config: ConfigOption = None,
    url: UrlsOption = None,
    count_brooks: Annotated[
        bool, typer.Option("--count-brooks", help="Count the brooks, too: a query across all partitions.")
    ] = False,
    leases_max: Annotated[
        int, typer.Option(min=1, max=1_000_000, metavar="N", help="Look at no more blobs for leases held.")
    ] = 10_000,
    as_json: JsonOption = False,
) -> None:
    """Show the numbers of this moment: queues, leases, brooks, and workers since they started."""
    from worker.commands.stats import stats_and_tell  # noqa: PLC0415 - the other commands need no such clients

    with reported():
        tell = partial(
            stats_and_tell, brooks=count_brooks, leases_max=leases_max, as_json=as_json, console=SafeConsole()
        )
        run_interruptible(tell, settings_of(config), url or [])


def watch(
    *,
    config: ConfigOption = None,
    url: UrlsOption = None,
    interval_s: Annotated[
        float, typer.Option("--interval", min=0.5, max=3600, metavar="SECONDS", help="From one look to the next.")
    ] = 2.0,
    count: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="End after so many looks; default: at SIGINT.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a look, each on a line.")] = False,
) -> None:
    """Watch workers and queue: sessions, rates, outcomes, lag, group size, request units, breaker."""
    from worker.commands.watch import watch as show  # noqa: PLC0415 - the other commands need no such clients

    with reported():
        look = partial(show, interval_s=interval_s, count=count, as_json=as_json, console=SafeConsole())
        try:
            run_interruptible(look, settings_of(config), url or [])
        except InterruptedBySignalError:
            return
