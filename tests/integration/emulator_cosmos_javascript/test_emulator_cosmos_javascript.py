"""Several physical partitions, driven by the JavaScript client: it plans and merges queries by code of its own."""

import asyncio
import os
from pathlib import Path

import pytest

from emulator.clock import SystemClock
from emulator.cosmos import CosmosServer
from emulator.faults import Faults
from emulator.journal import MemoryJournal
from tests.support.node import NodeUnavailableError, installed, node

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

PACKAGES = ("@azure/service-bus@7.9.5", "@azure/cosmos@4.9.3", "@azure/storage-blob@12.32.0")
SCRIPT_S = 90


@pytest.mark.timeout(SCRIPT_S + 60)
async def test_the_javascript_client_merges_what_the_partitions_answer() -> None:
    try:
        packages = installed("azure-sdk-" + "-".join(each.rpartition("@")[2] for each in PACKAGES), *PACKAGES)
    except NodeUnavailableError as error:
        pytest.skip(str(error))
    server = CosmosServer(clock=SystemClock(), journal=MemoryJournal(), faults=Faults())
    await server.start()
    where = {"NODE_PACKAGES": str(packages), "COSMOS_ENDPOINT": server.endpoint, "COSMOS_KEY": server.key}
    process = await asyncio.create_subprocess_exec(
        node(),
        str(Path(__file__).with_name("partitions.mjs")),
        env={**os.environ, **where},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(SCRIPT_S):
            printed, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await server.stop()
    assert process.returncode == 0, printed.decode()
    assert b"all as on Azure" in printed
