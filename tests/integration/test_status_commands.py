"""`brook-worker stats` and `watch`: a real worker's endpoint, the queue, the leases, and what does not answer."""

import io
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from brook_client.messages import command_message
from emulator.config import QueueConfig
from schemas.keys import BrookKey
from tests.support.brooks import command
from tests.support.operators import Services, brook_worker, running_command, running_services
from tests.support.site import QUICK
from tests.support.waiting import wait_until
from tests.support.worker_process import worker_process
from worker.commands.failures import PartlyDoneError
from worker.commands.stats import stats_and_tell
from worker.commands.watch import watch
from worker.operations.workers import UrlError
from worker.provisioning import provision
from worker.redaction import Secret

pytestmark = pytest.mark.anyio

QUEUE = "commands"
IDLE = "idle"
NOWHERE = "http://127.0.0.1:1"


@pytest.fixture(scope="module")
async def services() -> AsyncIterator[Services]:
    names = (QUEUE, f"{QUEUE}-replies", IDLE, f"{IDLE}-replies")
    async with running_services(*(QueueConfig(name=name, requires_session=True) for name in names)) as it:
        await provision(it.settings(QUEUE), check_only=False)
        yield it


@pytest.fixture(scope="module")
async def worker_url(services: Services, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A worker that has a session in hand from time to time."""
    log_file: Path = tmp_path_factory.mktemp("status") / "worker.log"
    given = {
        "servicebus_connection_string": services.azure.servicebus_connection_string,
        "cosmos_endpoint": services.azure.cosmos_endpoint,
        "cosmos_key": services.azure.cosmos_key,
        "blob_connection_string": services.azure.blob_connection_string,
        "command_queue": QUEUE,
        "reply_queue": f"{QUEUE}-replies",
        "http_port": "0",
    }
    async with worker_process(QUICK | given, log_file) as worker:
        await worker.started()
        (line,) = worker.lines("http.listening")
        yield f"http://127.0.0.1:{line['port']}"


async def send(services: Services, queue: str, count: int) -> None:
    messages = [command_message(command(key=BrookKey("order", str(number % 3)))) for number in range(count)]
    async with services.broker.get_queue_sender(queue) as sender:
        await sender.send_messages(messages)


async def stats(services: Services, queue: str, *urls: str, **options: Any) -> dict[str, Any]:
    out = io.StringIO()
    given: dict[str, Any] = {"brooks": False, "leases_max": 100} | options
    try:
        await stats_and_tell(
            services.settings(queue, **given.pop("settings", {})),
            list(urls),
            as_json=True,
            console=Console(file=out),
            **given,
        )
    except PartlyDoneError:
        assert json.loads(out.getvalue())["problems"] != {}
    found: dict[str, Any] = json.loads(out.getvalue())
    return found


@pytest.mark.slow
async def test_stats_of_everything(services: Services, worker_url: str) -> None:
    await send(services, QUEUE, 9)

    async def all_appended() -> bool:
        (worker,) = (await stats(services, QUEUE, worker_url))["workers"]
        return bool(worker["commands"]["appended"] >= 9)

    await wait_until(all_appended, "nine commands appended", 30)
    found = await stats(services, QUEUE, worker_url, brooks=True)
    assert found["problems"] == {}
    (worker,) = found["workers"]
    assert (worker["state"], worker["ready"], worker["slots"], worker["breakerOpen"]) == ("running", True, 4, False)
    assert worker["events"] == worker["commands"]["appended"]
    assert worker["requestCharge"] > 0
    assert found["brooks"]["count"] == 3
    assert found["brooks"]["requestCharge"] > 0
    assert found["leases"]["complete"]
    assert found["leases"]["lookedAt"] >= 3
    assert not (await stats(services, QUEUE, leases_max=2))["leases"]["complete"]
    table = await brook_worker("stats", "--url", worker_url, "--count-brooks", variables=services.variables(QUEUE))
    assert (table.code, table.err) == (0, "")
    for text in ("brooks: 3 (", "leases held: ", " blobs", worker_url, "appended", "closed"):
        assert text in table.out


async def test_the_queue_as_it_waits(services: Services) -> None:
    services.azure.clock.jump_s(-7.0)
    try:
        await send(services, IDLE, 5)
    finally:
        services.azure.clock.jump_s(7.0)
    found = await stats(services, IDLE)
    queue, replies = found["queues"]
    assert (queue["name"], queue["active"], queue["deadLettered"], queue["duplicatesWindowS"]) == (IDLE, 5, 0, 0)
    assert (replies["name"], replies["active"]) == (f"{IDLE}-replies", 0)
    assert 7 <= found["oldestCommandS"] < 60
    assert services.azure.servicebus.engine.counts(IDLE).locked == 0, "looking took nothing"


async def test_each_part_that_does_not_answer_is_told_and_hides_no_other(services: Services) -> None:
    changes = {
        "servicebus_admin_endpoint": None,
        "blob_connection_string": Secret(
            "DefaultEndpointsProtocol=http;AccountName=account;AccountKey=YmxvYg==;BlobEndpoint=http://127.0.0.1:1/account;"
        ),
    }
    found = await stats(services, IDLE, NOWHERE, settings=changes)
    assert set(found["problems"]) == {"queues", "leases", NOWHERE}
    assert "set servicebus_admin_endpoint" in found["problems"]["queues"]
    assert "is http_port set" in found["problems"][NOWHERE]
    assert (found["queues"], found["leases"]) == (None, None)
    with pytest.raises(UrlError, match="give it as http://HOST:PORT"):
        await stats(services, IDLE, "localhost:9464")


async def test_something_that_is_no_worker_is_told_as_such(services: Services) -> None:
    found = await stats(services, IDLE, services.azure.control_endpoint)
    assert "is it a worker" in found["problems"][services.azure.control_endpoint]


@pytest.mark.slow
async def test_watching_a_worker_that_comes_and_goes(services: Services, worker_url: str) -> None:
    words = ("watch", "--url", worker_url, "--url", NOWHERE, "--interval", "0.5", "--json")
    async with running_command(*words, variables=services.variables(QUEUE)) as process:
        await wait_until(lambda: len(process.lines) >= 2, "two looks", 30)
        await send(services, QUEUE, 30)

        def moved() -> bool:
            boards = [json.loads(line) for line in process.lines[1:-1]]
            return any(board["total"]["outcomes"]["appended"] > 0 for board in boards if board["total"])

        await wait_until(moved, "the appends show", 30)
        process.send_signal(signal.SIGINT)
        assert await process.ended() == 0
    assert "Traceback" not in process.err
    boards = list(process.json_lines())
    assert boards[0]["total"] is None, "no rates at the first look"
    for board in boards:
        worker, gone = board["workers"]
        assert (worker["problem"], worker["state"], worker["slots"]) == (None, "running", 4)
        assert "does not answer" in gone["problem"]
        assert board["queue"]["active"] is not None
    assert all(board["workers"][0]["rates"] is not None for board in boards[1:])


async def test_the_board_ends_after_its_count_and_shows_a_queue_that_does_not_answer(services: Services) -> None:
    nowhere = Secret(
        "Endpoint=sb://127.0.0.1:1;SharedAccessKeyName=n;SharedAccessKey=a2V5;UseDevelopmentEmulator=true;"
    )
    settings = services.settings(QUEUE, servicebus_connection_string=nowhere, servicebus_admin_endpoint=NOWHERE)
    out = io.StringIO()
    await watch(settings, [], interval_s=0.5, count=2, as_json=False, console=Console(file=out, width=300))
    text = out.getvalue()
    assert text.count("queue commands") == 2
    assert "the management interface does not answer" in text
    assert "peek at 'commands': ServiceBusConnectionError" in text
    assert "Workers are shown where --url names" in text
