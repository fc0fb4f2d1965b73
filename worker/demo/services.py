"""What the demo runs on: the embedded services and one worker, each a process of its own."""

import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from emulator.handle import EmulatorHandle
from worker.commands.failures import CommandError
from worker.configuration import load_settings, variable
from worker.demo.processes import Child, child
from worker.settings import Settings

_EMULATOR_CONFIG: Final = Path(__file__).parents[2] / "emulator" / "Config.json"
_BROOK_WORKER: Final = (sys.executable, "-m", "worker.cli")
_WORKER_READY: Final = "worker.started"
_CONNECTIONS: Final = (
    "servicebus_connection_string",
    "cosmos_endpoint",
    "cosmos_key",
    "blob_connection_string",
)
"""What the embedded services tell of themselves under the names of the settings; they tell more than that."""

_WORKER_SETTINGS: Final = {
    "auto_provision": "true",
    "log_format": "json",
    # Many small brooks: sessions are given back soon, so that the next ones need not wait.
    "max_concurrent_sessions": "32",
    "session_idle_s": "0.2",
}


@dataclass(frozen=True)
class Services:
    """Everything is up. `settings` lead to it, `control` counts the requests that the services got."""

    settings: Settings
    control: EmulatorHandle
    emulator: Child
    worker: Child

    def check_running(self) -> None:
        """Raise CommandError when one of the processes has ended."""
        self.emulator.check_running()
        self.worker.check_running()


@asynccontextmanager
async def services(folder: Path, console: Console) -> AsyncIterator[Services]:
    """Run the embedded services and a worker while the context lasts; afterwards both are gone.

    `folder` gets their logs. Raises CommandError when one of them does not start.
    """
    config, ready = _prepared(folder)
    console.print("Starting the embedded Service Bus, Cosmos DB and Blob Storage, and a worker ...")
    command = [*_BROOK_WORKER, "emulator", "--config", str(config), "--ready-file", str(ready)]
    async with child("emulator", command, log_file=folder / "emulator.log") as emulator:
        addresses = await emulator.ready_file(ready)
        given = {name: addresses[name] for name in _CONNECTIONS} | _WORKER_SETTINGS
        settings = load_settings(environ={variable(name): value for name, value in given.items()})
        async with (
            EmulatorHandle(addresses["control_endpoint"]) as control,
            child("worker", [*_BROOK_WORKER, "run"], settings=given, log_file=folder / "worker.log") as worker,
        ):
            await worker.logged(_WORKER_READY)
            await control.reset_requests()
            yield Services(settings, control, emulator, worker)


def _prepared(folder: Path) -> tuple[Path, Path]:
    """Make the folder and the emulator's config in it; drop what an earlier run left. Config and ready file."""
    config, ready = folder / "Config.json", folder / "ready.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        ready.unlink(missing_ok=True)
        config.write_text(json.dumps(_without_duplicate_detection(json.loads(_EMULATOR_CONFIG.read_bytes()))))
    except OSError as error:
        raise CommandError(f"cannot prepare {folder}: {error.strerror} ({error.filename})") from error
    return config, ready


def _without_duplicate_detection(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Let every reply through: the broker would drop the second one to a command, which the demo wants to compare."""
    for namespace in config["UserConfig"]["Namespaces"]:
        for queue in namespace["Queues"]:
            queue["Properties"]["RequiresDuplicateDetection"] = False
    return config
