"""The command line: `brook-worker`.

Exit codes are in docs/cli.md, which `worker.cli_page` makes.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from worker.commands import brook_cli, brooks_cli, check, dead_letter_cli, send_cli, status_cli
from worker.commands.bugs import hide_secrets_in_tracebacks
from worker.commands.console import SafeConsole
from worker.commands.failures import CommandError, reported
from worker.commands.interruption import run_interruptible
from worker.commands.shared import ConfigOption, example, open_standard_streams, run_async, settings_of

app = typer.Typer(
    name="brook-worker",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # else the lines of a docstring end in the help where they do in the code
)

app.add_typer(brooks_cli.app)
app.add_typer(dead_letter_cli.app)

PortOption = Annotated[int, typer.Option(min=0, max=65_535, metavar="N", help="0: any free port.")]


def main() -> None:
    """Run the command line."""
    open_standard_streams()
    hide_secrets_in_tracebacks()
    app(prog_name="brook-worker")


def _tell_version(wanted: bool) -> None:  # noqa: FBT001 - Typer calls it so
    if wanted:
        from worker.telemetry.instruments import VERSION  # noqa: PLC0415 - the other commands need no metrics

        typer.echo(f"brook-worker {VERSION}")
        raise typer.Exit


@app.callback()
def common(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Append worker for event sourcing on Azure Service Bus, Cosmos DB and Blob Storage."""


@app.command(epilog=example("brook-worker run --config worker.toml"))
def run(
    *,
    config: ConfigOption = None,
    processes: Annotated[
        int, typer.Option(min=1, max=64, metavar="N", help="So many workers, each in a process of its own.")
    ] = 1,
) -> None:
    """Run a worker until SIGTERM or SIGINT. With --processes, several: a worker uses one core."""
    with reported():
        from worker.app import run_worker  # noqa: PLC0415 - the other commands need no worker
        from worker.garbage import collect_seldom  # noqa: PLC0415
        from worker.supervisor import run_processes  # noqa: PLC0415

        settings = settings_of(config)
        if processes == 1:
            run_async(run_worker, settings, collect_seldom)
        else:
            arguments = () if config is None else ("--config", str(config))
            supervise = partial(run_processes, grace_s=settings.drain_grace_s, http_port=settings.http_port)
            run_async(supervise, processes, arguments)


@app.command(epilog=example("brook-worker emulator --config emulator/Config.json --settings-file worker.toml"))
def emulator(
    *,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Entities, as in the official Config.json.")
    ] = None,
    servicebus_port: PortOption = 0,
    cosmos_port: PortOption = 0,
    blob_port: PortOption = 0,
    control_port: PortOption = 0,
    admin_port: PortOption = 0,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="Keep everything there; without it, in memory.")
    ] = None,
    ready_file: Annotated[
        Path | None, typer.Option("--ready-file", metavar="FILE", help="Written once all ports listen.")
    ] = None,
    settings_file: Annotated[
        Path | None, typer.Option("--settings-file", metavar="FILE", help="Written then, too: settings for a worker.")
    ] = None,
    seed: Annotated[int, typer.Option(help="For faults with a probability or a jitter.")] = 0,
) -> None:
    """Run Service Bus, Cosmos DB and Blob Storage on 127.0.0.1, until SIGTERM or SIGINT."""
    from emulator.app import EmulatorError  # noqa: PLC0415 - only this command may know it
    from emulator.config import ConfigError  # noqa: PLC0415
    from emulator.process import log_to  # noqa: PLC0415
    from emulator.serving import Options, serve  # noqa: PLC0415
    from worker.commands.local import write_settings_file  # noqa: PLC0415

    def announce(line: str) -> None:
        if settings_file is not None:
            write_settings_file(settings_file, line)
        typer.echo(line)

    options = Options(
        config=config,
        servicebus_port=servicebus_port,
        cosmos_port=cosmos_port,
        blob_port=blob_port,
        control_port=control_port,
        admin_port=admin_port,
        data_dir=data,
        ready_file=ready_file,
        seed=seed,
    )
    # Nothing but the ready line goes to stdout.
    log_to(sys.stderr)
    with reported(EmulatorError, ConfigError):
        try:
            run_async(partial(serve, announce=announce), options)
        except TimeoutError as error:
            raise CommandError("not everything stopped in time; what was acknowledged is safe with --data") from error


app.command(epilog=example("brook-worker send commands.ndjson --await"))(send_cli.send)
app.command(
    epilog=example("brook-worker read 'order|1042' --limit 10", "brook-worker read 'order|1042' --follow --from end")
)(brook_cli.read)
app.command(epilog=example("brook-worker inspect 'order|1042' --json"))(brook_cli.inspect)
app.command(epilog=example("brook-worker recover 'order|1042' --dry-run"))(brook_cli.recover)
app.command(epilog=example("brook-worker stats --url http://127.0.0.1:9464 --json"))(status_cli.stats)
app.command(epilog=example("brook-worker watch --url http://127.0.0.1:9464"))(status_cli.watch)
app.command(epilog=example("brook-worker check --json"))(check.check)


@app.command(epilog=example("brook-worker provision --check"))
def provision(
    *,
    config: ConfigOption = None,
    check: Annotated[bool, typer.Option("--check", help="Change nothing; fail when something is missing.")] = False,
) -> None:
    """Make the missing database, containers and queues. Nothing is ever deleted."""
    from worker.commands.provision import provision_and_tell  # noqa: PLC0415 - the other commands need no such client

    with reported():
        run_interruptible(partial(provision_and_tell, check_only=check, console=SafeConsole()), settings_of(config))


@app.command(epilog=example("brook-worker demo"))
def demo(
    *,
    examples: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of .ndjson files; default: those of the repository.")
    ] = None,
    folder: Annotated[Path, typer.Option(metavar="DIR", help="For the logs of what the demo starts.")] = Path(".demo"),
) -> None:
    """Send the example commands through the embedded services and a worker, and check all that comes of it."""
    from worker.demo.run import EXAMPLES, run_demo  # noqa: PLC0415 - the other commands need no emulator

    with reported():
        if not run_async(run_demo, examples or EXAMPLES, folder, SafeConsole()):
            raise typer.Exit(1)


if __name__ == "__main__":
    main()
