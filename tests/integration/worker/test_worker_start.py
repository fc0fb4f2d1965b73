"""The start of a worker: one clear line when something is not as it must be."""

import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import anyio
import anyio.abc
import pytest

from tests.support.listening import listening
from tests.support.site import Place, Site
from tests.support.worker_process import START_S

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

WRONG_KEY: Final = "cGxhbnRlZC1zZWNyZXQ="


async def refusal(place: Place, **changes: str) -> str:
    """The one line that a worker with these settings ends with."""
    async with place.worker(log_level="error", **changes) as worker:
        assert await worker.ended(timeout_s=START_S) == 1, worker.text()
        text = worker.text()
    assert "Traceback" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
    assert WRONG_KEY not in text
    return line


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"command_queue": "nowhere"}, "nowhere"),
        ({"command_queue": "nowhere", "auto_provision": "false"}, "nowhere"),
        ({"reply_queue": "nobody"}, "nobody"),
        ({"cosmos_key": WRONG_KEY}, "refuses the key; check cosmos_key"),
        ({"cosmos_endpoint": "http://127.0.0.1:1/"}, "check cosmos_endpoint"),
        ({"auto_provision": "false", "cosmos_database": "absent"}, "absent"),
    ],
)
async def test_what_is_not_as_it_must_be_ends_the_start_with_one_line(
    site: Site, place: Place, changes: dict[str, str], told: str
) -> None:
    if changes.get("auto_provision") == "false" and "command_queue" in changes:
        await place.make_container()
        await site.blobs.create_container(place.lease_container)
    assert told in await refusal(place, **changes)


async def test_a_wrong_service_bus_key_ends_the_start_with_one_line(place: Place) -> None:
    good = place.settings()["servicebus_connection_string"]
    wrong = ";".join(
        f"SharedAccessKey={WRONG_KEY}" if part.startswith("SharedAccessKey=") else part for part in good.split(";")
    )
    assert wrong != good
    await place.make_container()
    line = await refusal(place, servicebus_connection_string=wrong, auto_provision="false")
    assert "the credentials are refused; check them" in line


async def test_a_missing_lease_container_ends_the_start_with_one_line(place: Place) -> None:
    """Without it no command is ever appended: sessions would be accepted and given back for ever."""
    await place.make_container()
    line = await refusal(place, auto_provision="false")
    assert f"Blob container {place.lease_container}: missing; run `brook-worker provision`" in line


@pytest.mark.parametrize("auto_provision", ["true", "false"])
async def test_a_container_with_another_key_path_ends_the_start_and_is_left_as_it_is(
    place: Place, auto_provision: str
) -> None:
    await place.make_container("/tenant")
    line = await refusal(place, auto_provision=auto_provision)
    assert "/tenant" in line
    assert "/brookPartitionKey" in line
    properties = await place.container.read()
    assert properties["partitionKey"]["paths"] == ["/tenant"]


@asynccontextmanager
async def silent_port() -> AsyncIterator[int]:
    """A server that takes every connection and never says a word."""

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await anyio.sleep_forever()

    async with listening(serve) as port:
        yield port


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("service", ["servicebus_connection_string", "cosmos_endpoint", "blob_connection_string"])
async def test_a_signal_while_a_silent_service_is_opened_ends_it_at_once_and_in_order(
    site: Site, place: Place, service: str, number: signal.Signals
) -> None:
    """Whoever stops a worker that is not up yet must not be told of a failure, nor wait for its time-outs."""
    await place.make_container()
    await site.blobs.create_container(place.lease_container)
    async with silent_port() as port:
        silent = re.sub(r"(?<=//127\.0\.0\.1):\d+", f":{port}", place.settings()[service])
        assert f":{port}" in silent
        async with place.worker(auto_provision="false", cosmos_timeout_s="20", **{service: silent}) as worker:
            await worker.logged("worker.starting", timeout_s=START_S)
            worker.send_signal(number)
            told_s = anyio.current_time()
            assert await worker.ended() == 0, worker.text()
            assert anyio.current_time() - told_s < 4
    assert "error:" not in worker.text()
    assert [len(worker.lines(event)) for event in ("worker.started", "worker.stopped")] == [0, 1]
