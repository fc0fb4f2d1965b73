"""`brook-worker run --processes N`: workers of one command, and how they end."""

import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import aiohttp
import anyio
import anyio.abc
import pytest

from emulator.app import Emulator
from emulator.config import QueueConfig, ServiceBusConfig
from tests.support.processes import gone_at_end
from tests.support.waiting import wait_until
from worker.configuration import variable
from worker.errors import StartError
from worker.supervisor import run_processes

pytestmark = pytest.mark.anyio

QUEUES = ServiceBusConfig(
    queues=(
        QueueConfig(name="brook-commands", requires_session=True),
        QueueConfig(name="brook-replies", requires_session=True),
    )
)


def settings_of(azure: Emulator) -> dict[str, str]:
    given = {
        "servicebus_connection_string": azure.servicebus_connection_string,
        "cosmos_endpoint": azure.cosmos_endpoint,
        "cosmos_key": azure.cosmos_key,
        "blob_connection_string": azure.blob_connection_string,
        "auto_provision": "true",
        "log_format": "json",
    }
    return {f"BROOK_WORKER_{name.upper()}": value for name, value in given.items()}


@asynccontextmanager
async def supervisor(azure: Emulator, log: Path, **more: str) -> AsyncIterator[anyio.abc.Process]:
    command = [sys.executable, "-m", "worker.cli", "run", "--processes", "2"]
    given = {variable(name): value for name, value in more.items()}
    with log.open("wb") as output:
        process = await anyio.open_process(
            command,
            stdout=output,
            stderr=output,
            env={**os.environ, **settings_of(azure), **given},
            start_new_session=True,
        )
    async with gone_at_end(process):
        await wait_until(lambda: log.read_text().count("worker.started") == 2, "both workers started", 30)
        yield process


def two_free_ports() -> int:
    """The first of two ports in a row that are free."""
    for _ in range(50):
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            with suppress(OSError, OverflowError):
                second.bind(("127.0.0.1", port + 1))
                return port
    raise AssertionError("no two ports in a row are free")


async def instance_at(port: int) -> str:
    """Which worker answers there; it must be ready."""
    url = f"http://127.0.0.1:{port}"
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        async with session.get(f"{url}/readyz") as answer:
            assert answer.status == 200, await answer.text()
        async with session.get(f"{url}/metrics") as answer:
            (line,) = [line for line in (await answer.text()).splitlines() if line.startswith("target_info")]
    return line


def test_more_processes_than_ports_are_refused() -> None:
    with pytest.raises(StartError, match="http_port: 65535 and the next 1 are beyond 65535"):
        anyio.run(partial(run_processes, 2, (), grace_s=1, http_port=65_535))


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks at processes in /proc")
async def test_a_signal_drains_all_of_them_and_none_is_left(tmp_path: Path) -> None:
    port = two_free_ports()
    async with Emulator(config=QUEUES) as azure, supervisor(azure, tmp_path / "log", http_port=str(port)) as process:
        children = children_of(process.pid)
        assert len(children) == 2
        assert await instance_at(port) != await instance_at(port + 1), "each worker has a port of its own"
        process.send_signal(signal.SIGTERM)
        with anyio.fail_after(30):
            assert await process.wait() == 0
        assert not any(map(is_running, children))
    assert (tmp_path / "log").read_text().count("worker.stopped") == 2


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks at processes in /proc")
async def test_when_one_dies_the_others_drain_and_the_command_fails(tmp_path: Path) -> None:
    async with Emulator(config=QUEUES) as azure, supervisor(azure, tmp_path / "log") as process:
        first, second = children_of(process.pid)
        os.kill(first, signal.SIGKILL)
        with anyio.fail_after(30):
            assert await process.wait() == 1
        assert not is_running(second)
    text = (tmp_path / "log").read_text()
    assert text.count("worker.stopped") == 1
    assert "error: workers ended with exit codes" in text


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks at processes in /proc")
async def test_when_the_command_itself_is_killed_its_workers_drain_and_end(tmp_path: Path) -> None:
    """They ran on without an owner, and kept the ports that the next start needs."""
    async with Emulator(config=QUEUES) as azure, supervisor(azure, tmp_path / "log") as process:
        children = children_of(process.pid)
        process.kill()
        try:
            await wait_until(lambda: not any(map(is_running, children)), "the workers ended", 30)
        finally:
            for child in filter(is_running, children):
                os.kill(child, signal.SIGKILL)
    assert (tmp_path / "log").read_text().count("worker.stopped") == 2


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks at processes in /proc")
async def test_a_signal_while_the_first_of_them_starts_leaves_none(tmp_path: Path) -> None:
    settings = {
        "servicebus_connection_string": "Endpoint=sb://127.0.0.1:1/;SharedAccessKeyName=a;SharedAccessKey=b",
        "cosmos_endpoint": "http://127.0.0.1:1",
        "cosmos_key": "a2V5",
        "blob_connection_string": "AccountName=a;AccountKey=a2V5",
    }
    environment = {**os.environ, **{f"BROOK_WORKER_{name.upper()}": value for name, value in settings.items()}}
    command = [sys.executable, "-m", "worker.cli", "run", "--processes", "3"]
    with (tmp_path / "log").open("wb") as output:
        process = await anyio.open_process(command, stdout=output, stderr=output, env=environment)
    await wait_until(lambda: bool(children_of(process.pid)), "the first worker is there", 30)
    children = children_of(process.pid)
    process.send_signal(signal.SIGTERM)
    try:
        with anyio.fail_after(30):
            assert await process.wait() >= 0, "it ends by itself"
        assert not any(map(is_running, children))
    finally:
        for child in filter(is_running, children):
            os.kill(child, signal.SIGKILL)
