"""Provisioning against the embedded services, and a management interface where they have none."""

import contextlib
import io
import itertools
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import anyio
import pytest
from azure.cosmos import PartitionKey
from azure.cosmos.aio import CosmosClient, DatabaseProxy
from azure.servicebus import ServiceBusMessage
from rich.console import Console

from emulator.app import Emulator
from emulator.config import QueueConfig, ServiceBusConfig, TopicConfig
from emulator.faults import Answer, Rule
from tests.support.servicebus_admin import ManagementServer
from tests.support.worker_settings import worker_settings
from worker.clients import blob_service_client, cosmos_client, servicebus_client
from worker.commands.provision import provision_and_tell
from worker.errors import StartError
from worker.provisioning import Finding, ProvisioningError, State, check_leases, check_store, provision
from worker.provisioning import servicebus as provisioning_servicebus
from worker.provisioning.cosmos import INDEXED_PATHS, container_problems, container_properties
from worker.provisioning.servicebus import managed_or_opened
from worker.redaction import Secret
from worker.settings import Settings

pytestmark = pytest.mark.anyio

ENTITIES = ServiceBusConfig(
    queues=(
        QueueConfig(name="brook-commands", requires_session=True),
        QueueConfig(name="brook-replies", requires_session=True),
        QueueConfig(name="plain"),
    ),
    topics=(TopicConfig(name="events"),),
)
_numbers = itertools.count()


@pytest.fixture(scope="module")
async def azure() -> AsyncIterator[Emulator]:
    async with Emulator(config=ENTITIES) as emulator:
        yield emulator


@pytest.fixture(autouse=True)
def _without_faults(azure: Emulator) -> Iterator[None]:
    yield
    azure.faults.clear()


@pytest.fixture
def settings(azure: Emulator) -> Settings:
    """Settings whose database and containers do not exist."""
    number = next(_numbers)
    return worker_settings(
        servicebus_connection_string=Secret(azure.servicebus_connection_string),
        cosmos_endpoint=azure.cosmos_endpoint,
        cosmos_key=Secret(azure.cosmos_key),
        cosmos_database=f"brooks-{number}",
        blob_connection_string=Secret(azure.blob_connection_string),
        lease_container=f"brook-leases-{number}",
    )


def with_changes(settings: Settings, **changes: object) -> Settings:
    return worker_settings(**{name: getattr(settings, name) for name in settings.__struct_fields__} | changes)


@contextlib.asynccontextmanager
async def other_database(settings: Settings) -> AsyncIterator[DatabaseProxy]:
    """The database, made by somebody else."""
    async with cosmos_client(settings) as client:
        yield await client.create_database(settings.cosmos_database)


def states(findings: tuple[Finding, ...]) -> dict[str, State]:
    return {finding.resource.rpartition(" ")[2]: finding.state for finding in findings}


def note(error: ProvisioningError, name: str) -> str:
    [finding] = [finding for finding in error.findings if finding.resource.endswith(name)]
    assert finding.stops
    assert f"{finding.resource}: {finding.state}; {finding.note}" in str(error).splitlines()
    return finding.note


async def test_what_is_missing_is_made_and_found_the_next_time(settings: Settings) -> None:
    container = f"{settings.cosmos_database}/events"
    made = states(await provision(settings))
    assert made[settings.cosmos_database] == made[container] == made[settings.lease_container] == State.MADE
    assert made["brook-commands"] == made["brook-replies"] == made[settings.cosmos_endpoint] == State.FOUND
    assert set(states(await provision(settings)).values()) == {State.FOUND}


async def test_the_container_of_claims_is_made_where_claims_are_taken(settings: Settings) -> None:
    taking = with_changes(settings, claim_container=f"claims-of-{settings.lease_container}")
    name = str(taking.claim_container)
    with pytest.raises(ProvisioningError) as caught:
        await provision(taking, check_only=True)
    assert note(caught.value, name) == "run `brook-worker provision`"
    assert states(await provision(taking))[name] is State.MADE
    assert states(await provision(taking, check_only=True))[name] is State.FOUND
    assert name not in states(await provision(settings))


async def test_the_container_is_made_as_the_worker_needs_it(settings: Settings) -> None:
    await provision(settings)
    async with cosmos_client(settings) as client:
        properties = await client.get_database_client(settings.cosmos_database).get_container_client("events").read()
    assert properties["partitionKey"] == {"paths": ["/brookPartitionKey"], "kind": "Hash", "version": 2}
    assert properties["defaultTtl"] == -1
    policy = properties["indexingPolicy"]
    assert {path["path"] for path in policy["includedPaths"]} == set(INDEXED_PATHS)
    assert "/*" in {path["path"] for path in policy["excludedPaths"]}
    assert list(container_problems(properties)) == []


async def test_a_check_makes_nothing_and_says_how_to_make_it(settings: Settings) -> None:
    for _ in range(2):
        with pytest.raises(ProvisioningError) as caught:
            await provision(settings, check_only=True)
        for name in (settings.cosmos_database, f"{settings.cosmos_database}/events", settings.lease_container):
            assert note(caught.value, name) == "run `brook-worker provision`"
    await provision(settings)
    assert set(states(await provision(settings, check_only=True)).values()) == {State.FOUND}


async def test_a_check_sends_nothing_that_could_change_anything(settings: Settings, azure: Emulator) -> None:
    managed = with_changes(
        settings,
        servicebus_admin_endpoint=azure.servicebus_admin_endpoint,
        claim_container=f"claims-of-{settings.lease_container}",
        command_queue="made-later",
        reply_entities_allowed=("nowhere",),
    )
    asked: list[set[tuple[str, str]]] = []
    for check_only in (True, False):
        azure.faults.requests.clear()
        with pytest.raises(ProvisioningError):
            await provision(managed, check_only=check_only)
        asked.append(set(azure.faults.requests))
    checking, making = asked
    reads = {("cosmos", f"read-{what}") for what in ("account", "database", "container")}
    assert checking == {("blob", "get-container-properties"), *reads}
    assert making > checking, "what makes is counted, so that a check that made something would be seen"


async def test_workers_that_provision_at_once_all_succeed(settings: Settings) -> None:
    results: list[dict[str, State]] = []

    async def one() -> None:
        results.append(states(await provision(settings)))

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(one)
    assert [found[settings.lease_container] for found in results].count(State.MADE) == 1
    assert len(results) == 4


async def test_an_existing_container_with_another_key_stops_and_stays_as_it_is(settings: Settings) -> None:
    async with other_database(settings) as database:
        container = await database.create_container("events", PartitionKey("/customer"))
        await container.create_item({"id": "1", "customer": "a"})
        with pytest.raises(ProvisioningError) as caught:
            await provision(settings)
        text = note(caught.value, "/events")
        assert "is /customer, not /brookPartitionKey" in text
        assert "name another container in cosmos_container (nothing was changed or deleted)" in text
        assert (await container.read_item("1", "a"))["customer"] == "a"


async def test_an_existing_container_whose_key_is_too_short_for_brook_keys_stops(settings: Settings) -> None:
    async with other_database(settings) as database:
        key = PartitionKey("/brookPartitionKey", version=1)
        policy = container_properties("events")["indexingPolicy"]
        await database.create_container("events", key, indexing_policy=policy, default_ttl=-1)
    with pytest.raises(ProvisioningError) as caught:
        await provision(settings)
    assert "of version 1, which takes 101 bytes" in note(caught.value, "/events")
    unsaid = container_properties("events") | {"partitionKey": {"paths": ["/brookPartitionKey"], "kind": "Hash"}}
    assert [problem for problem, _ in container_problems(unsaid)] == [State.WRONG], "the service may not say version 1"


async def test_an_existing_container_without_the_needed_indexes_stops(settings: Settings) -> None:
    policy: Any = {
        "indexingMode": "consistent",
        "includedPaths": [{"path": "/type/?"}],
        "excludedPaths": [{"path": "/*"}],
    }
    async with other_database(settings) as database:
        await database.create_container(
            "events", PartitionKey("/brookPartitionKey"), indexing_policy=policy, default_ttl=-1
        )
        with pytest.raises(ProvisioningError) as caught:
            await provision(settings)
    assert "does not index /position/?, /commandId/?" in note(caught.value, "/events")


async def test_an_existing_container_with_default_indexes_works_and_gets_advice(settings: Settings) -> None:
    async with other_database(settings) as database:
        await database.create_container("events", PartitionKey("/brookPartitionKey"))
    advice = [finding for finding in await provision(settings) if finding.state is State.ADVICE]
    assert ["indexes everything" in advice[0].note, "time to live is off" in advice[1].note] == [True, True]


async def test_an_account_with_several_write_regions_stops(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded account has one region, as it must: here its answer is changed on the way."""
    original = CosmosClient._get_database_account

    async def several(self: CosmosClient) -> object:
        account = await original(self)
        assert account._EnableMultipleWritableLocations is False
        assert len(account.WritableLocations) == 1
        account._EnableMultipleWritableLocations = True
        return account

    monkeypatch.setattr(CosmosClient, "_get_database_account", several)
    with pytest.raises(ProvisioningError) as caught:
        await provision(settings)
    assert "turn multi-region writes off" in note(caught.value, settings.cosmos_endpoint)


@pytest.mark.parametrize(
    ("level", "is_enough"),
    [("Eventual", False), ("ConsistentPrefix", False), ("Session", True), ("BoundedStaleness", True), ("Strong", True)],
)
async def test_an_account_whose_reads_may_go_back_stops(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, level: str, *, is_enough: bool
) -> None:
    """A command is looked up after the head was read: an older answer misses it, and it would take effect twice."""
    await provision(settings)
    original = CosmosClient._get_database_account

    async def of_level(self: CosmosClient) -> object:
        account = await original(self)
        assert account.ConsistencyPolicy == {"defaultConsistencyLevel": "Session"}
        account.ConsistencyPolicy = {"defaultConsistencyLevel": level}
        return account

    monkeypatch.setattr(CosmosClient, "_get_database_account", of_level)
    if is_enough:
        await provision(settings, check_only=True)
        return
    with pytest.raises(ProvisioningError) as caught:
        await provision(settings, check_only=True)
    assert f"is {level}" in note(caught.value, settings.cosmos_endpoint)
    assert "make it session or stronger" in note(caught.value, settings.cosmos_endpoint)


def test_a_container_that_forgets_documents_or_indexes_them_late_is_wrong() -> None:
    for changed, told in (
        ({"defaultTtl": 86_400}, "deletes documents after 86,400 s"),
        ({"indexingPolicy": container_properties("events")["indexingPolicy"] | {"indexingMode": "lazy"}}, "lazy"),
    ):
        ((state, text),) = container_problems(container_properties("events") | changed)
        assert state is State.WRONG
        assert told in text


async def test_the_store_is_checked_at_start_without_making_anything(settings: Settings) -> None:
    async with cosmos_client(settings) as client:
        with pytest.raises(StartError, match=r"events: missing; run `brook-worker provision`"):
            await check_store(client, settings)
        await provision(settings)
        await check_store(client, settings)


async def test_the_lease_container_is_checked_at_start_and_an_outage_is_left_to_pass(
    settings: Settings, azure: Emulator
) -> None:
    async with blob_service_client(settings) as client:
        with pytest.raises(StartError, match=r"brook-leases-\d+: missing; run `brook-worker provision`"):
            await check_leases(client, settings)
        for status in (403, 503):
            rule = azure.faults.add(Rule(service="blob", effect=Answer(status=status)))
            await check_leases(client, settings)
            assert azure.faults.fired(rule) == 1
            azure.faults.remove(rule)
        await provision(settings)
        await check_leases(client, settings)


async def test_a_command_queue_without_sessions_stops(settings: Settings) -> None:
    with pytest.raises(ProvisioningError) as caught:
        await provision(with_changes(settings, command_queue="plain"))
    assert "is no queue with sessions; name one that is in command_queue" in note(caught.value, "queue plain")


async def test_a_missing_queue_of_an_emulator_says_where_to_add_it(settings: Settings) -> None:
    with pytest.raises(ProvisioningError) as caught:
        await provision(with_changes(settings, command_queue="absent", reply_entities_allowed=("nowhere", "events")))
    assert "Config.json: add it there, with sessions" in note(caught.value, "queue absent")
    assert "Config.json: add it there" in note(caught.value, "address nowhere")
    assert states(caught.value.findings)["events"] is State.FOUND


async def test_a_missing_queue_of_an_emulator_is_made_where_its_management_interface_is_known(
    settings: Settings, azure: Emulator
) -> None:
    changed = with_changes(
        settings,
        servicebus_admin_endpoint=azure.servicebus_admin_endpoint,
        command_queue="made-commands",
        reply_queue="made-replies",
    )
    found = states(await provision(changed))
    assert (found["made-commands"], found["made-replies"]) == (State.MADE, State.MADE)
    found = states(await provision(with_changes(changed, servicebus_admin_endpoint=None)))
    assert (found["made-commands"], found["made-replies"]) == (State.FOUND, State.FOUND)


async def test_a_reply_topic_is_verified_too(settings: Settings) -> None:
    found = states(await provision(with_changes(settings, reply_queue=None, reply_topic="events")))
    assert found["events"] is State.FOUND
    assert "brook-replies" not in found


async def test_opening_takes_a_session_of_its_own_and_another_worker_may_have_it(settings: Settings) -> None:
    """The next session with messages would be taken from the worker that is to have it."""
    async with servicebus_client(settings) as client:
        async with client.get_queue_sender("brook-commands") as sender:
            await sender.send_messages(ServiceBusMessage(b"{}", session_id="orders|1"))
        async with client.get_queue_receiver("brook-commands", session_id="brook-worker-check"):
            assert states(await provision(settings))["brook-commands"] is State.FOUND
            async with client.get_queue_receiver("brook-commands", session_id="orders|1") as session:
                [message] = await session.receive_messages(max_wait_time=5)
                assert message.delivery_count == 0
                await session.complete_message(message)


async def test_wrong_keys_are_told_for_each_service_at_once(settings: Settings) -> None:
    assert settings.servicebus_connection_string is not None
    assert settings.blob_connection_string is not None
    wrong = with_changes(
        settings,
        servicebus_connection_string=Secret(
            settings.servicebus_connection_string.reveal().replace("SharedAccessKey=", "SharedAccessKey=x")
        ),
        cosmos_key=Secret("cGxhbnRlZA=="),
        blob_connection_string=Secret(
            settings.blob_connection_string.reveal().replace("AccountKey=", "AccountKey=AAAA")
        ),
    )
    with pytest.raises(ProvisioningError) as caught:
        await provision(wrong)
    text = str(caught.value)
    for setting in ("cosmos_key", "blob_connection_string", "servicebus_connection_string"):
        assert f"check {setting}" in text
    assert len(text.splitlines()) == 3, "a line for each service, not one for each queue"
    assert "cGxhbnRlZA" not in text


async def test_services_that_do_not_answer_are_told_together() -> None:
    with pytest.raises(ProvisioningError) as caught:
        await provision(worker_settings())
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["Cosmos DB", "Blob container brook-leases", "Service Bus"]
    assert all("does not answer" in line for line in lines)


async def test_a_busy_service_is_asked_again(settings: Settings, azure: Emulator) -> None:
    rules = [
        azure.faults.add(
            Rule(service="blob", operation="get-container-properties", times=2, effect=Answer(status=503))
        ),
        azure.faults.add(Rule(service="blob", operation="create-container", times=1, effect=Answer(status=500))),
    ]
    assert states(await provision(settings))[settings.lease_container] is State.MADE
    assert [azure.faults.fired(rule) for rule in rules] == [2, 1]


async def test_the_command_prints_a_row_for_each_resource_even_when_something_is_missing(settings: Settings) -> None:
    printed = io.StringIO()
    console = Console(file=printed, width=200)
    with pytest.raises(ProvisioningError):
        await provision_and_tell(settings, check_only=True, console=console)
    missing = printed.getvalue()
    await provision_and_tell(settings, check_only=False, console=console)
    made = printed.getvalue().removeprefix(missing)
    for text in (missing, made):
        for name in (settings.cosmos_database, settings.lease_container, "brook-commands", "brook-replies"):
            assert name in text
    assert "missing" in missing
    assert "run `brook-worker provision`" in missing
    assert "missing" not in made
    assert "400 RU/s" in made
    assert "made" in made


@pytest.fixture
def management() -> ManagementServer:
    return ManagementServer()


async def test_queues_are_made_by_the_management_interface(settings: Settings, management: ManagementServer) -> None:
    async with management.running() as admin:
        for state in (State.MADE, State.FOUND):
            findings = await managed_or_opened(admin, settings, make=True)
            assert [finding.state for finding in findings] == [state, state]
        commands, replies = await admin.get_queue("brook-commands"), await admin.get_queue("brook-replies")
    assert (commands.requires_session, commands.dead_lettering_on_message_expiration) == (True, True)
    assert (replies.requires_session, replies.requires_duplicate_detection) == (True, True)
    assert replies.default_message_time_to_live == timedelta(days=1), "what nobody reads does not fill it for good"
    assert management.puts == ["brook-commands", "brook-replies"]


async def test_a_topic_is_made_and_its_consumers_reminded(settings: Settings, management: ManagementServer) -> None:
    topic = with_changes(settings, reply_queue=None, reply_topic="replies")
    async with management.running() as admin:
        made = (await managed_or_opened(admin, topic, make=True))[1]
        assert (made.state, "add a subscription" in made.note) == (State.MADE, True)
        topic_made = await admin.get_topic("replies")
        assert topic_made.requires_duplicate_detection is True
        assert topic_made.default_message_time_to_live == timedelta(days=1)
        assert (await managed_or_opened(admin, topic, make=True))[1].state is State.FOUND


async def test_a_check_of_the_namespace_makes_nothing(settings: Settings, management: ManagementServer) -> None:
    async with management.running() as admin:
        findings = await managed_or_opened(admin, settings, make=False)
    assert [finding.state for finding in findings] == [State.MISSING, State.MISSING]
    assert management.puts == []


async def test_existing_queues_are_judged_and_never_replaced(settings: Settings, management: ManagementServer) -> None:
    management.has(QueueConfig(name="brook-commands"), QueueConfig(name="brook-replies", requires_session=True))
    async with management.running() as admin:
        commands, replies = await managed_or_opened(admin, settings, make=True)
        assert (commands.state, "has no sessions" in commands.note) == (State.WRONG, True)
        assert (replies.state, "detects no duplicates" in replies.note) == (State.ADVICE, True)
        assert "set its default time to live to a day" in replies.note
        management.has(QueueConfig(name="brook-commands", requires_session=True))
        commands, _ = await managed_or_opened(admin, settings, make=True)
        assert (commands.state, "commands that expire vanish" in commands.note) == (State.ADVICE, True)
    assert management.puts == []


async def test_a_queue_that_another_makes_first_is_judged_too(settings: Settings, management: ManagementServer) -> None:
    management.made_meanwhile = [QueueConfig(name="brook-commands")]
    async with management.running() as admin:
        commands, _ = await managed_or_opened(admin, settings, make=True)
    assert commands.state is State.WRONG


@pytest.mark.parametrize(("looks", "state"), [(2, State.FOUND), (1_000, State.MISSING)])
async def test_a_queue_that_another_is_making_at_this_moment_is_waited_for(
    settings: Settings, management: ManagementServer, monkeypatch: pytest.MonkeyPatch, looks: int, state: State
) -> None:
    monkeypatch.setattr(provisioning_servicebus, "_BEING_MADE_S", (0.0, 0.01, 0.01, 0.01))
    management.has(
        QueueConfig(
            name="brook-replies", requires_session=True, requires_duplicate_detection=True, default_message_ttl_s=60
        )
    )
    management.being_made = [
        QueueConfig(name="brook-commands", requires_session=True, dead_lettering_on_message_expiration=True)
    ]
    management.looks_until_made = looks
    async with management.running() as admin:
        commands, _ = await managed_or_opened(admin, settings, make=True)
    assert commands.state is state
    assert (commands.note == "") is (state is State.FOUND)
    assert management.puts == ["brook-commands"]


async def test_a_topic_where_the_queue_should_be_stops(settings: Settings, management: ManagementServer) -> None:
    management.has(TopicConfig(name="brook-commands"))
    async with management.running() as admin:
        commands, _ = await managed_or_opened(admin, settings, make=True)
    assert (commands.state, "something else" in commands.note) == (State.WRONG, True)


async def test_further_reply_addresses_may_be_queues_or_topics(
    settings: Settings, management: ManagementServer
) -> None:
    management.has(QueueConfig(name="queue"), TopicConfig(name="topic"))
    allowed = with_changes(settings, reply_entities_allowed=("queue", "topic", "nowhere"))
    async with management.running() as admin:
        findings = (await managed_or_opened(admin, allowed, make=True))[2:]
    assert [finding.state for finding in findings] == [State.FOUND, State.FOUND, State.MISSING]
    assert "reply_entities_allowed" in findings[2].note


@pytest.mark.parametrize("refusal", [401, 500])
async def test_without_management_the_entities_are_opened(
    settings: Settings, management: ManagementServer, refusal: int
) -> None:
    management.refusal = refusal
    async with management.running() as admin:
        findings = await managed_or_opened(admin, with_changes(settings, command_queue="absent"), make=True)
    why = "no right to manage" if refusal == 401 else "the management interface does not answer"
    assert [finding.state for finding in findings] == [State.MISSING, State.FOUND]
    assert why in findings[0].note
