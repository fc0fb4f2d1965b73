"""`brook-worker check` against the embedded services: each row, made to fail by a fault or a setting, and only that."""

import io
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Final

import anyio
import pytest
from anyio.abc import SocketAttribute
from azure.cosmos import PartitionKey
from azure.cosmos.aio import CosmosClient
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio.management import ServiceBusAdministrationClient
from azure.servicebus.management import QueueProperties
from azure.storage.blob.aio import BlobServiceClient
from rich.console import Console

from emulator.app import Emulator
from emulator.config import QueueConfig, ServiceBusConfig, TopicConfig
from emulator.faults import Answer, Rule
from tests.support.worker_process import ROOT
from tests.support.worker_settings import worker_settings
from worker.checks import Row, Status, blob, check_all, cosmos, rows, servicebus
from worker.clients import blob_service_client, cosmos_client, servicebus_admin_client, servicebus_client
from worker.commands.check import check_and_tell
from worker.configuration import PREFIX, variable
from worker.provisioning import provision
from worker.redaction import Secret
from worker.settings import Settings

pytestmark = pytest.mark.anyio

ENTITIES: Final = ServiceBusConfig(
    queues=(
        QueueConfig(name="brook-commands", requires_session=True, dead_lettering_on_message_expiration=True),
        QueueConfig(
            name="brook-replies", requires_session=True, requires_duplicate_detection=True, default_message_ttl_s=86_400
        ),
        QueueConfig(name="plain"),
        QueueConfig(name="keeping", requires_session=True, requires_duplicate_detection=True),
        QueueConfig(name="hasty", requires_session=True, lock_duration_s=10, max_delivery_count=2),
        QueueConfig(name="repeating", requires_session=True),
    ),
    topics=(
        TopicConfig(name="events"),
        TopicConfig(name="unique", requires_duplicate_detection=True, default_message_ttl_s=86_400),
    ),
)
RECEIVE, SEND, CLOCK = "receive from brook-commands", "send to brook-replies", "clock"
REFUSED: Final = "the service refuses the credentials, or they may not do this"
_numbers = itertools.count()
Found = Mapping[tuple[str, str], Row]


@pytest.fixture(scope="module")
async def azure() -> AsyncIterator[Emulator]:
    async with Emulator(config=ENTITIES) as emulator:
        yield emulator


@pytest.fixture(scope="module")
async def provisioned(azure: Emulator) -> Settings:
    async with BlobServiceClient.from_connection_string(azure.blob_connection_string) as service:
        await service.create_container("brook-claims")
    settings = worker_settings(
        servicebus_connection_string=Secret(azure.servicebus_connection_string),
        servicebus_admin_endpoint=azure.servicebus_admin_endpoint,
        cosmos_endpoint=azure.cosmos_endpoint,
        cosmos_key=Secret(azure.cosmos_key),
        blob_connection_string=Secret(azure.blob_connection_string),
    )
    await provision(settings)
    return settings


@pytest.fixture(autouse=True)
def _without_faults(azure: Emulator) -> Iterator[None]:
    yield
    azure.faults.clear()


def changed(settings: Settings, **changes: object) -> Settings:
    return worker_settings(**{name: getattr(settings, name) for name in settings.__struct_fields__} | changes)


async def found(settings: Settings, wall_s: Callable[[], float] = time.time) -> Found:
    return {(row.service, row.check): row for row in await check_all(settings, wall_s)}


def not_ok(looked_at: Found) -> dict[tuple[str, str], Status]:
    return {name: row.status for name, row in looked_at.items() if row.status is not Status.OK}


async def test_all_is_well_where_all_is_well(provisioned: Settings) -> None:
    looked_at = await found(provisioned)
    assert not_ok(looked_at) == {}
    assert list(looked_at) == [
        ("settings", "credentials"),
        ("Service Bus", RECEIVE),
        ("Service Bus", SEND),
        ("Service Bus", CLOCK),
        ("Service Bus", "properties of brook-commands"),
        ("Service Bus", "properties of brook-replies"),
        ("Cosmos DB", "connection"),
        ("Cosmos DB", "write region"),
        ("Cosmos DB", "container"),
        ("Cosmos DB", "read items"),
        ("Cosmos DB", "write items"),
        ("Cosmos DB", CLOCK),
        ("Blob Storage", "lease container"),
        ("Blob Storage", "take leases"),
        ("Blob Storage", CLOCK),
    ]


UNAUTHORIZED: Final = Answer(status=401, condition="amqp:unauthorized-access")


@pytest.mark.parametrize(
    ("rule", "row", "told"),
    [
        (
            Rule(service="servicebus", operation="accept-session", effect=UNAUTHORIZED),
            ("Service Bus", RECEIVE),
            f"{REFUSED}; check servicebus_connection_string",
        ),
        (
            Rule(service="servicebus", operation="open-sender", effect=UNAUTHORIZED),
            ("Service Bus", SEND),
            f"{REFUSED}; check servicebus_connection_string",
        ),
        (
            Rule(service="cosmos", operation="query", effect=Answer(status=403)),
            ("Cosmos DB", "read items"),
            f"{REFUSED}; check cosmos_endpoint and cosmos_key",
        ),
        (
            Rule(service="cosmos", operation="batch", effect=Answer(status=403)),
            ("Cosmos DB", "write items"),
            f"{REFUSED}; check cosmos_endpoint and cosmos_key",
        ),
        (
            Rule(service="cosmos", operation="read-container", effect=Answer(status=403)),
            ("Cosmos DB", "container"),
            f"{REFUSED}; check cosmos_endpoint and cosmos_key",
        ),
        (
            Rule(service="blob", operation="get-container-properties", effect=Answer(status=403)),
            ("Blob Storage", "lease container"),
            f"{REFUSED}; check blob_connection_string",
        ),
        (
            Rule(service="blob", operation="acquire-lease", effect=Answer(status=403)),
            ("Blob Storage", "take leases"),
            f"{REFUSED}; check blob_connection_string",
        ),
        (
            Rule(service="blob", operation="renew-lease", effect=Answer(status=503)),
            ("Blob Storage", "take leases"),
            "the service answers 503",
        ),
    ],
)
async def test_a_right_that_is_missing_is_told_in_its_row_alone(
    rule: Rule, row: tuple[str, str], told: str, provisioned: Settings, azure: Emulator
) -> None:
    azure.faults.add(rule)
    looked_at = await found(provisioned)
    assert looked_at[row].status is Status.FAILED
    assert told in looked_at[row].note
    others = {name: status for name, status in not_ok(looked_at).items() if name != row}
    assert {name[0] for name in others} <= {row[0]}
    if rule.operation != "read-container":  # which the client reads before any item
        # Without a session there is no time to see; what cannot be looked at is said, and no fault.
        assert set(others.values()) <= {Status.NOT_CHECKED}


CASES: Final[list[tuple[dict[str, Any], tuple[str, str], Status, str]]] = [
    ({"command_queue": "absent"}, ("Service Bus", "receive from absent"), Status.FAILED, "missing: make it"),
    (
        {"servicebus_admin_endpoint": None, "command_queue": "absent"},
        ("Service Bus", "receive from absent"),
        Status.FAILED,
        "Config.json: add it there",
    ),
    ({"command_queue": "plain"}, ("Service Bus", "receive from plain"), Status.FAILED, "no queue with sessions"),
    ({"command_queue": "plain"}, ("Service Bus", "properties of plain"), Status.FAILED, "has no sessions"),
    ({"command_queue": "hasty"}, ("Service Bus", "properties of hasty"), Status.ADVICE, "after 2 deliveries"),
    ({"command_queue": "hasty"}, ("Service Bus", "properties of hasty"), Status.ADVICE, "locks last 10 s only"),
    ({"reply_queue": "plain"}, ("Service Bus", "properties of plain"), Status.FAILED, "has no sessions"),
    ({"reply_queue": "absent"}, ("Service Bus", "send to absent"), Status.FAILED, "missing: make it"),
    ({"reply_queue": "repeating"}, ("Service Bus", "properties of repeating"), Status.ADVICE, "no duplicates"),
    (
        {"reply_queue": None, "reply_topic": "events"},
        ("Service Bus", "properties of events"),
        Status.ADVICE,
        "detects no duplicates",
    ),
    ({"reply_queue": "keeping"}, ("Service Bus", "properties of keeping"), Status.ADVICE, "replies that nobody reads"),
    (
        {"reply_queue": None, "reply_topic": "events"},
        ("Service Bus", "properties of events"),
        Status.ADVICE,
        "set its default time to live to a day",
    ),
    ({"reply_queue": None, "reply_topic": "unique"}, ("Service Bus", "send to unique"), Status.OK, "opened"),
    ({"reply_entities_allowed": ("absent",)}, ("Service Bus", "send to absent"), Status.FAILED, "missing"),
    ({"servicebus_admin_endpoint": None}, ("Service Bus", "properties of brook-commands"), Status.NOT_CHECKED, ""),
    ({"cosmos_container": "absent"}, ("Cosmos DB", "container"), Status.FAILED, "missing: run `brook-worker"),
    ({"cosmos_container": "absent"}, ("Cosmos DB", "write items"), Status.NOT_CHECKED, "container is missing"),
    ({"cosmos_key": Secret("cGxhbnRlZA==")}, ("Cosmos DB", "connection"), Status.FAILED, "refuses the key"),
    ({"cosmos_endpoint": "http://127.0.0.1:1"}, ("Cosmos DB", "connection"), Status.FAILED, "does not answer"),
    ({"claim_container": "absent"}, ("Blob Storage", "claims"), Status.FAILED, "'absent' is missing; run"),
    ({"claim_container": "brook-claims"}, ("Blob Storage", "claims"), Status.OK, "brook-claims: may read"),
    ({"lease_container": "absent"}, ("Blob Storage", "lease container"), Status.FAILED, "is missing; run"),
    ({"lease_container": "absent"}, ("Blob Storage", "take leases"), Status.NOT_CHECKED, "container is missing"),
]


@pytest.fixture(scope="module")
async def of_cases(provisioned: Settings) -> list[Found]:
    """What is found in each case, all looked at together: one after the other they would take half a minute."""
    looked_at: dict[int, Found] = {}

    async def look(index: int, changes: dict[str, Any]) -> None:
        looked_at[index] = await found(changed(provisioned, **changes))

    async with anyio.create_task_group() as tasks:
        for index, (changes, *_) in enumerate(CASES):
            tasks.start_soon(look, index, changes)
    return [looked_at[index] for index in range(len(CASES))]


@pytest.mark.parametrize("index", range(len(CASES)), ids=[f"{next(iter(case[0]))}: {case[1][1]}" for case in CASES])
async def test_what_is_not_as_a_worker_needs_it_is_told(index: int, of_cases: list[Found]) -> None:
    _, row, status, told = CASES[index]
    looked_at = of_cases[index]
    assert looked_at[row].status is status
    assert told in looked_at[row].note
    wrong = {name[0] for name, status in not_ok(looked_at).items() if status is not Status.NOT_CHECKED}
    assert wrong <= {row[0]}, "the other services have nothing to do with it"


async def test_a_wrong_key_of_each_service_is_told_by_each(provisioned: Settings) -> None:
    def wrong(secret: Secret | None, name: str) -> Secret:
        assert secret is not None
        return Secret(secret.reveal().replace(f"{name}=", f"{name}=AAAA"))

    looked_at = await found(
        changed(
            provisioned,
            servicebus_connection_string=wrong(provisioned.servicebus_connection_string, "SharedAccessKey"),
            cosmos_key=Secret("cGxhbnRlZA=="),
            blob_connection_string=wrong(provisioned.blob_connection_string, "AccountKey"),
        )
    )
    for row in (("Service Bus", RECEIVE), ("Service Bus", SEND), ("Cosmos DB", "connection")):
        assert looked_at[row].status is Status.FAILED
    for row in (("Blob Storage", "lease container"), ("Blob Storage", "take leases")):
        assert (looked_at[row].status, REFUSED in looked_at[row].note) == (Status.FAILED, True)
    assert "cGxhbnRlZA" not in repr(looked_at)


@pytest.mark.parametrize(
    ("ahead_s", "status"), [(30, Status.ADVICE), (-30, Status.ADVICE), (600, Status.FAILED), (-600, Status.FAILED)]
)
async def test_a_clock_that_is_wrong_is_told_by_each_service_that_says_its_time(
    ahead_s: float, status: Status, provisioned: Settings
) -> None:
    looked_at = await found(provisioned, lambda: time.time() + ahead_s)
    told = {name: row for name, row in looked_at.items() if name[1] == CLOCK}
    assert told["Cosmos DB", CLOCK].status is told["Blob Storage", CLOCK].status is status
    if abs(ahead_s) > 300:  # a lock's end tells the time to within the longest lock only
        assert told["Service Bus", CLOCK].status is status
    assert ("ahead of" if ahead_s > 0 else "behind") in told["Cosmos DB", CLOCK].note


async def test_an_account_with_several_write_regions_fails_its_row(
    provisioned: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The embedded account has one region, as it must: here its answer is changed on the way."""
    original = CosmosClient._get_database_account

    async def several(self: CosmosClient) -> object:
        account = await original(self)
        account._EnableMultipleWritableLocations = True
        return account

    monkeypatch.setattr(CosmosClient, "_get_database_account", several)
    row = (await found(provisioned))["Cosmos DB", "write region"]
    assert (row.status, "turn multi-region writes off" in row.note) == (Status.FAILED, True)


async def test_a_container_with_a_short_partition_key_fails_its_row(provisioned: Settings) -> None:
    name = f"short-{next(_numbers)}"
    async with cosmos_client(provisioned) as client:
        database = client.get_database_client(provisioned.cosmos_database)
        await database.create_container(name, PartitionKey("/brookPartitionKey", version=1))
    row = (await found(changed(provisioned, cosmos_container=name)))["Cosmos DB", "container"]
    assert (row.status, "of version 1" in row.note) == (Status.FAILED, True)


@pytest.mark.slow
async def test_a_service_that_is_silent_ends_its_own_rows_in_time(provisioned: Settings, azure: Emulator) -> None:
    azure.faults.add(Rule(service="blob", latency_s=60))
    started_s = time.monotonic()
    looked_at = await found(provisioned)
    assert time.monotonic() - started_s < 30
    assert {name[0] for name in not_ok(looked_at)} == {"Blob Storage"}
    assert "check blob_connection_string and the network" in looked_at["Blob Storage", "lease container"].note


@pytest.mark.slow
async def test_properties_that_cannot_be_seen_are_no_fault(
    provisioned: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a worker nor its network needs to reach the management interface."""
    monkeypatch.setattr(servicebus, "_MANAGEMENT_TIMEOUT_S", 0.5)
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as silent:
        port = silent.extra(SocketAttribute.local_port)
        for endpoint in (f"http://127.0.0.1:{port}", "http://127.0.0.1:1"):
            looked_at = await found(changed(provisioned, servicebus_admin_endpoint=endpoint))
            assert not_ok(looked_at) == {
                ("Service Bus", f"properties of {name}"): Status.NOT_CHECKED
                for name in ("brook-commands", "brook-replies")
            }


class LargeMessages:
    """The management client of a namespace in the premium tier, whose queues take large messages."""

    def __init__(self, admin: ServiceBusAdministrationClient) -> None:
        self._admin = admin

    async def get_queue(self, name: str) -> QueueProperties:
        queue: QueueProperties = await self._admin.get_queue(name)
        queue.max_message_size_in_kilobytes = 102_400
        return queue


async def test_a_queue_that_takes_more_than_the_worker_gets_advice(provisioned: Settings) -> None:
    async with servicebus_admin_client(provisioned) as admin:
        large: Any = LargeMessages(admin)
        told = await servicebus.property_outcomes(large, provisioned)
        assert told["properties of brook-commands"].status is Status.ADVICE
        assert "of which those over 1,048,576 are dead-lettered; raise command_bytes_max" in (
            told["properties of brook-commands"].note
        )
        told = await servicebus.property_outcomes(large, changed(provisioned, command_bytes_max=104_857_600))
        assert told["properties of brook-commands"].status is Status.OK


async def test_a_check_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "CHECK_TIMEOUT_S", 0.05)
    outcome = await rows.bounded(anyio.sleep_forever, "a_setting")  # type: ignore[arg-type]  # it has no outcome
    assert outcome == rows.failed("no answer within 0.05 s; check a_setting and the network")


async def test_a_bug_in_one_check_hides_no_other(provisioned: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cosmos, "_may_write", broken)
    looked_at = await found(provisioned)
    assert not_ok(looked_at) == {("Cosmos DB", "write items"): Status.FAILED}
    assert "ZeroDivisionError" in looked_at["Cosmos DB", "write items"].note


async def test_checking_leaves_no_trace_but_an_empty_blob(provisioned: Settings, azure: Emulator) -> None:
    async with servicebus_client(provisioned) as broker, broker.get_queue_sender("brook-commands") as sender:
        await sender.send_messages(ServiceBusMessage(b"kept", session_id="orders|1", message_id="kept"))
    before = azure.servicebus.engine.counts("brook-commands")
    assert not_ok(await found(provisioned)) == {}
    assert azure.servicebus.engine.counts("brook-commands") == before
    async with (
        servicebus_client(provisioned) as broker,
        broker.get_queue_receiver("brook-commands", session_id="orders|1") as receiver,
    ):
        (message,) = await receiver.receive_messages(max_wait_time=5)
        assert (message.message_id, message.delivery_count) == ("kept", 0)
        await receiver.complete_message(message)
    async with cosmos_client(provisioned) as client:
        container = client.get_database_client("brooks").get_container_client("events")
        assert [item async for item in container.read_all_items()] == []
    async with blob_service_client(provisioned) as blobs:
        kept = [each async for each in blobs.get_container_client("brook-leases").list_blobs()]
    assert [(each.name, each.size, each.lease.state) for each in kept] == [(blob.PROBE, 0, "available")]


async def test_checks_that_run_at_once_do_not_disturb_each_other(provisioned: Settings) -> None:
    results: list[Found] = []

    async def one() -> None:
        results.append(await found(provisioned))

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(one)
    assert [row for looked_at in results for row in looked_at.values() if row.status is Status.FAILED] == []


async def test_the_table_shows_every_row_and_says_how_it_came_out(provisioned: Settings) -> None:
    printed = io.StringIO()
    console = Console(file=printed, width=160)
    assert await check_and_tell(provisioned, as_json=False, console=console) is True
    assert await check_and_tell(changed(provisioned, lease_container="absent"), as_json=False, console=console) is False
    text = printed.getvalue()
    assert "A worker can work with these settings." in text
    assert "1 of 15 checks failed: their notes say what to do." in text
    assert "container 'absent' is missing; run `brook-worker provision`" in text


@pytest.mark.slow
@pytest.mark.parametrize(("changes", "code"), [({}, 0), ({"cosmos_container": "absent"}, 1)])
async def test_the_command_tells_by_its_exit_code_and_in_json(
    changes: dict[str, str], code: int, azure: Emulator, provisioned: Settings
) -> None:
    given = {
        "servicebus_connection_string": azure.servicebus_connection_string,
        "cosmos_endpoint": azure.cosmos_endpoint,
        "cosmos_key": azure.cosmos_key,
        "blob_connection_string": azure.blob_connection_string,
    } | changes
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    environment |= {variable(name): value for name, value in given.items()} | {"PYTHONPATH": str(ROOT)}
    with anyio.fail_after(60):
        done = await anyio.run_process(
            [sys.executable, "-m", "worker.cli", "check", "--json"],
            env=environment,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    told = json.loads(done.stdout)
    assert (done.returncode, told["ok"]) == (code, code == 0), done.stderr.decode()
    assert {"service", "check", "status", "note"} == set(told["rows"][0])
