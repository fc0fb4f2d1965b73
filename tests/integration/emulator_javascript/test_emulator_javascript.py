"""The services driven by the JavaScript SDKs: clients that nobody here wrote, over their own AMQP and HTTP stacks."""

import asyncio
import os
from pathlib import Path

import msgspec
import pytest

from emulator.app import Emulator
from emulator.config import QueueConfig, ServiceBusConfig, SubscriptionConfig, TopicConfig
from tests.support.node import NodeUnavailableError, installed, node

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

PACKAGES = {
    "current": ("@azure/service-bus@7.9.5", "@azure/cosmos@4.9.3", "@azure/storage-blob@12.32.0"),
    "older": ("@azure/service-bus@7.9.3", "@azure/cosmos@4.5.1", "@azure/storage-blob@12.17.0"),
}
SCRIPT_S = 90
CONFIG = ServiceBusConfig(
    queues=(
        QueueConfig(name="plain", max_delivery_count=2),
        QueueConfig(name="sessions", requires_session=True),
    ),
    topics=(TopicConfig(name="topic", subscriptions=(SubscriptionConfig(name="one"), SubscriptionConfig(name="two"))),),
)


@pytest.fixture(scope="module", params=PACKAGES)
def packages(request: pytest.FixtureRequest) -> Path:
    named = PACKAGES[request.param]
    try:
        return installed("azure-sdk-" + "-".join(each.rpartition("@")[2] for each in named), *named)
    except NodeUnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.timeout(SCRIPT_S + 60)
@pytest.mark.parametrize("service", ["blob", "cosmos", "servicebus"])
async def test_javascript_sdk_finds_azure(packages: Path, service: str) -> None:
    async with Emulator(config=CONFIG) as azure:
        process = await asyncio.create_subprocess_exec(
            node(),
            str(Path(__file__).with_name(f"{service}.mjs")),
            env={
                **os.environ,
                "NODE_PACKAGES": str(packages),
                "EMULATOR_READY": msgspec.json.encode(azure.ready()).decode(),
            },
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(SCRIPT_S):
                printed, complaints = await process.communicate()
        except TimeoutError:
            pytest.fail(f"{service}.mjs did not end within {SCRIPT_S} s")
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert process.returncode == 0, f"{printed.decode()}{complaints.decode()}"
    assert printed.count(b"ok ") >= 4
