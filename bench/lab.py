"""Where measurements are made: the embedded services in a process of their own, with injected latency."""

import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from emulator.faults import Rule
from emulator.handle import EmulatorHandle, start_emulator_process
from worker.configuration import load_settings, variable
from worker.provisioning import provision
from worker.settings import Settings

COMMANDS: Final = "brook-commands"
REPLIES: Final = "brook-replies"

_CONFIG: Final = Path(__file__).parents[1] / "emulator" / "Config.json"


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """What every request waits before it is answered, as if the services were across a network."""

    cosmos_ms: float = 5.0
    blob_ms: float = 5.0
    servicebus_ms: float = 2.0

    @property
    def name(self) -> str:
        """For tables: Cosmos DB, Blob Storage, Service Bus."""
        return f"{self.cosmos_ms:g}/{self.blob_ms:g}/{self.servicebus_ms:g} ms"

    def rules(self) -> tuple[Rule, ...]:
        """As fault rules; none where there is nothing to wait for."""
        waits_ms = {"cosmos": self.cosmos_ms, "blob": self.blob_ms, "servicebus": self.servicebus_ms}
        return tuple(Rule(service=name, latency_s=wait_ms / 1000) for name, wait_ms in waits_ms.items() if wait_ms)


NO_LATENCY: Final = Latency(cosmos_ms=0, blob_ms=0, servicebus_ms=0)


class Lab(msgspec.Struct, frozen=True, kw_only=True):
    """The services of one measurement: fresh, provisioned and empty."""

    settings: dict[str, str]
    """What leads to them, by the names of the worker's settings."""

    control: EmulatorHandle
    pid: int
    folder: Path
    """For logs and other files; gone afterwards."""

    def worker_settings(self, **more: str) -> Settings:
        """The settings that a worker process gets, `more` over them."""
        given = self.settings | more
        return load_settings(environ={variable(name): value for name, value in given.items()})

    async def inject(self, latency: Latency) -> int:
        """Let requests wait from now on, count them from zero, and note when a session is first worked on.

        Returns the id of a rule that fires once: when the first session of the command queue asks for messages.
        """
        await self.control.clear_rules()
        for rule in latency.rules():
            await self.control.add_rule(rule)
        first = Rule(service="servicebus", operation="receive", where={"entity": COMMANDS}, times=1)
        await self.control.reset_requests()
        return await self.control.add_rule(first)


@asynccontextmanager
async def open_lab() -> AsyncIterator[Lab]:
    """Run the embedded services while the context lasts. Nothing is kept."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        config = folder / "Config.json"
        config.write_text(json.dumps(_with_every_reply(json.loads(_CONFIG.read_bytes()))))
        async with start_emulator_process(config=config) as emulator:
            known = {field.name for field in msgspec.structs.fields(Settings)}
            given = {name: value for name, value in msgspec.to_builtins(emulator.ready).items() if name in known}
            lab = Lab(settings=given, control=emulator.control, pid=emulator.pid, folder=folder)
            await provision(lab.worker_settings())
            yield lab


def _with_every_reply(config: dict[str, Any]) -> dict[str, Any]:
    """Let the second reply to a command through: duplicate detection would drop it, and it is to be compared."""
    for namespace in config["UserConfig"]["Namespaces"]:
        for queue in namespace["Queues"]:
            queue["Properties"]["RequiresDuplicateDetection"] = False
    return config
