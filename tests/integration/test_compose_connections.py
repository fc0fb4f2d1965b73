"""The worker as docker-compose.yml sets it up, where Service Bus takes ten connections in all, as the emulator does."""

from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
import structlog.testing
import yaml

from brook_client.client import BrookClient
from brook_client.connect import with_connection_string
from emulator.app import Emulator
from emulator.config import load_config
from emulator.servicebus.limits import Limits
from schemas.keys import BrookKey
from schemas.replies import Appended
from schemas.types import CommandId
from tests.support.commands import command
from tests.support.worker_process import worker_process
from worker import probe
from worker.configuration import PREFIX

ROOT = Path(__file__).parents[2]
CONNECTIONS_MAX = 10

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


def as_compose_has_it() -> dict[str, str]:
    """The worker's settings in the compose file, by name."""
    compose: Any = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    given: dict[str, str] = compose["services"]["worker"]["environment"]
    return {name.removeprefix(PREFIX).lower(): value for name, value in given.items()}


async def test_worker_and_client_together_stay_within_the_emulators_ten_connections(tmp_path: Path) -> None:
    async with Emulator(config=load_config(ROOT / "emulator" / "Config.json")) as azure:
        azure.servicebus.limits = Limits(connections_max=CONNECTIONS_MAX)
        here = {
            "servicebus_connection_string": azure.servicebus_connection_string,
            "cosmos_endpoint": azure.cosmos_endpoint,
            "cosmos_key": azure.cosmos_key,
            "blob_connection_string": azure.blob_connection_string,
            # Sessions come and go faster than there: more of them are being closed at any time.
            "session_idle_s": "0.05",
            "http_port": "0",
        }
        with structlog.testing.capture_logs() as logs:
            async with (
                worker_process(as_compose_has_it() | here, tmp_path / "worker.log") as worker,
                BrookClient(with_connection_string(azure.servicebus_connection_string)) as client,
            ):
                await worker.started()
                await worker.logged("http.listening")
                port = worker.lines("http.listening")[0]["port"]
                urls = [f"http://127.0.0.1:{port}/{path}" for path in ("healthz", "readyz", "scaling", "metrics")]
                assert await anyio.to_thread.run_sync(probe.main, urls) == 0, "as the image's health check asks"
                commands = [
                    command(command_id=CommandId(f"c{number}"), brook=BrookKey("basket", str(number)))
                    for number in range(10)
                ]
                replies = await client.request_many(commands, timeout_s=60.0)
        assert [type(reply.reply) for reply in replies] == [Appended] * len(commands)
        assert [entry for entry in logs if entry["event"] == "servicebus.connection-refused"] == []
