"""The three services as one: inside a test, as a process of its own, and through its control interface."""

import asyncio
import contextlib
import datetime as dt
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import pytest
from azure.core.exceptions import HttpResponseError
from azure.cosmos import PartitionKey
from azure.cosmos.aio import CosmosClient
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.aio.management import ServiceBusAdministrationClient
from azure.servicebus.exceptions import SessionLockLostError
from azure.storage.blob.aio import BlobServiceClient

from emulator.app import Emulator, EmulatorError, Ready
from emulator.clock import ManualClock
from emulator.config import ConfigError, QueueConfig, ServiceBusConfig
from emulator.faults import Answer, DropBefore, Rule
from emulator.handle import ControlError, EmulatorHandle, start_emulator_process
from emulator.journal import Change, SqliteJournal
from emulator.serving import Options, serve
from tests.support.servicebus_admin import PlainHttp
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio

CONFIG = ServiceBusConfig(queues=(QueueConfig(name="commands", requires_session=True),))
EXAMPLE = Path(__file__).parents[2] / "emulator" / "Config.json"


async def use_all(ready: Ready, *, session_id: str) -> None:
    """Put something into each service and read it back."""
    async with (
        ServiceBusClient.from_connection_string(ready.servicebus_connection_string) as bus,
        CosmosClient(ready.cosmos_endpoint, ready.cosmos_key) as cosmos,
        BlobServiceClient.from_connection_string(ready.blob_connection_string) as blobs,
    ):
        async with bus.get_queue_sender("commands") as sender:
            await sender.send_messages(ServiceBusMessage(b"hello", session_id=session_id))
        async with bus.get_queue_receiver("commands", session_id=session_id, max_wait_time=5) as receiver:
            [message] = await receiver.receive_messages(1, max_wait_time=5)
            assert b"".join(message.body) == b"hello"
            await receiver.complete_message(message)
        database = await cosmos.create_database_if_not_exists("db")
        items = await database.create_container_if_not_exists("items", PartitionKey("/pk"))
        await items.upsert_item({"id": "1", "pk": "a"})
        assert (await items.read_item("1", "a"))["pk"] == "a"
        container = await blobs.create_container(f"box-{session_id}")
        await container.upload_blob("b", b"content")


def bus_of(azure: Emulator) -> ServiceBusClient:
    return ServiceBusClient.from_connection_string(azure.servicebus_connection_string)


def blobs_of(azure: Emulator) -> BlobServiceClient:
    return BlobServiceClient.from_connection_string(azure.blob_connection_string)


@pytest.fixture
async def azure() -> AsyncIterator[Emulator]:
    async with Emulator(config=CONFIG) as emulator:
        yield emulator


@pytest.fixture
async def control(azure: Emulator) -> AsyncIterator[EmulatorHandle]:
    async with EmulatorHandle(azure.control_endpoint) as handle:
        yield handle


async def test_one_context_serves_the_three_sdks(azure: Emulator) -> None:
    await use_all(azure.ready(), session_id="s1")
    services = {service for service, _ in azure.faults.requests}
    assert services == {"servicebus", "cosmos", "blob"}


async def test_two_emulators_side_by_side_share_nothing(azure: Emulator) -> None:
    async with Emulator(config=CONFIG) as other:
        await use_all(azure.ready(), session_id="s1")
        await use_all(other.ready(), session_id="s1")


async def test_example_config_has_what_the_worker_needs() -> None:
    async with Emulator(config=EXAMPLE) as azure, EmulatorHandle(azure.control_endpoint) as handle:
        assert set(await handle.entities()) == {
            "brook-commands",
            "brook-replies",
            "brook-reply-events/Subscriptions/all",
        }
    queues = {queue.name: queue for queue in azure.config.queues}
    assert queues["brook-commands"].requires_session
    assert queues["brook-replies"].requires_duplicate_detection


async def test_without_a_config_there_are_no_entities() -> None:
    async with Emulator() as azure, EmulatorHandle(azure.control_endpoint) as handle:
        assert await handle.entities() == {}


async def test_after_the_context_nothing_listens_and_no_task_is_left() -> None:
    before = asyncio.all_tasks()
    async with Emulator(config=CONFIG) as azure:
        ready = azure.ready()
        await use_all(ready, session_id="s1")
    deadline_s = time.monotonic() + 5
    while left := asyncio.all_tasks() - before:
        assert time.monotonic() < deadline_s, f"left behind: {left}"
        await asyncio.sleep(0.01)
    for url in (ready.cosmos_endpoint, ready.control_endpoint):
        host, port = url.removeprefix("http://").rstrip("/").split(":")
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncio.open_connection(host, int(port))
    with pytest.raises(RuntimeError, match="does not run"):
        azure.ready()


async def test_port_in_use_is_one_clear_error_and_leaves_nothing_open() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        emulator = Emulator(config=CONFIG, blob_port=port)
        with pytest.raises(EmulatorError, match=rf"127.0.0.1:{port} .* give another --blob-port"):
            await emulator.__aenter__()
    assert emulator.servicebus.connection_count == 0
    async with Emulator(config=CONFIG, servicebus_port=emulator.servicebus.port):
        pass


async def test_data_folder_is_for_one_emulator_at_a_time(tmp_path: Path) -> None:
    async with Emulator(config=CONFIG, data_dir=tmp_path):
        with pytest.raises(EmulatorError, match="another emulator is using this data folder"):
            await Emulator(config=CONFIG, data_dir=tmp_path).__aenter__()


async def test_data_folder_that_cannot_be_read_is_one_clear_error(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage"
    garbage.mkdir()
    (garbage / "blob.sqlite").write_bytes(b"garbage " * 1000)
    with pytest.raises(EmulatorError, match=r"blob.sqlite: .*damaged.*choose another --data folder"):
        await Emulator(config=CONFIG, data_dir=garbage).__aenter__()
    foreign = tmp_path / "foreign"
    journal = SqliteJournal(foreign / "blob.sqlite")
    journal.commit([Change("containers", "box", b'{"of": "another version"}')])
    journal.close()
    with pytest.raises(EmulatorError, match="another version of the emulator"):
        await Emulator(config=CONFIG, data_dir=foreign).__aenter__()


async def test_state_is_there_again_on_the_same_data_folder(tmp_path: Path) -> None:
    async with Emulator(config=CONFIG, data_dir=tmp_path) as azure:
        async with bus_of(azure) as bus, bus.get_queue_sender("commands") as sender:
            await sender.send_messages(ServiceBusMessage(b"kept", session_id="s"))
        async with CosmosClient(azure.cosmos_endpoint, azure.cosmos_key) as cosmos:
            database = await cosmos.create_database("db")
            await (await database.create_container("items", PartitionKey("/pk"))).create_item({"id": "1", "pk": "a"})
        async with blobs_of(azure) as blobs:
            blob = await (await blobs.create_container("box")).upload_blob("b", b"kept")
            await blob.acquire_lease(-1)
    async with Emulator(config=CONFIG, data_dir=tmp_path) as azure:
        async with bus_of(azure) as bus, bus.get_queue_receiver("commands", session_id="s") as receiver:
            assert [str(message) for message in await receiver.receive_messages(1, max_wait_time=5)] == ["kept"]
        async with CosmosClient(azure.cosmos_endpoint, azure.cosmos_key) as cosmos:
            items = cosmos.get_database_client("db").get_container_client("items")
            assert (await items.read_item("1", "a"))["id"] == "1"
        async with blobs_of(azure) as blobs:
            blob = blobs.get_blob_client("box", "b")
            assert await (await blob.download_blob()).readall() == b"kept"
            assert (await blob.get_blob_properties()).lease.state == "leased"


async def test_session_state_deferred_and_scheduled_messages_are_there_after_a_kill(tmp_path: Path) -> None:
    config, data = tmp_path / "Config.json", tmp_path / "data"
    config.write_text(
        '{"UserConfig": {"Namespaces": [{"Name": "n", "Queues": [{"Name": "commands",'
        ' "Properties": {"RequiresSession": true}}]}]}}'
    )
    async with start_emulator_process(config=config, data_dir=data) as process:
        bus = ServiceBusClient.from_connection_string(process.ready.servicebus_connection_string)
        async with bus, bus.get_queue_sender("commands") as sender:
            later = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
            await sender.schedule_messages(ServiceBusMessage(b"scheduled", session_id="s"), later)
            await sender.send_messages(ServiceBusMessage(b"deferred", session_id="s"))
            async with bus.get_queue_receiver("commands", session_id="s", max_wait_time=5) as receiver:
                await receiver.session.set_state(b"state")
                [message] = await receiver.receive_messages(1)
                deferred = message.sequence_number
                await receiver.defer_message(message)
        await process.kill()
    async with start_emulator_process(config=config, data_dir=data) as process:
        counts = (await process.control.entities())["commands"]
        assert (counts.active, counts.deferred, counts.scheduled) == (0, 1, 1)
        await process.control.jump(3601)
        bus = ServiceBusClient.from_connection_string(process.ready.servicebus_connection_string)
        async with bus, bus.get_queue_receiver("commands", session_id="s", max_wait_time=5) as receiver:
            assert await receiver.session.get_state() == b"state"
            assert [str(each) for each in await receiver.receive_messages(1)] == ["scheduled"]
            assert [str(each) for each in await receiver.receive_deferred_messages(deferred)] == ["deferred"]


# The control interface


async def test_rules_are_installed_seen_and_taken_away(azure: Emulator, control: EmulatorHandle) -> None:
    rule = Rule(service="blob", operation="create-container", effect=Answer(status=503), times=1)
    rule_id = await control.add_rule(rule)
    assert await control.rules() == {rule_id: rule}
    async with BlobServiceClient.from_connection_string(azure.blob_connection_string, retry_total=0) as blobs:
        with pytest.raises(HttpResponseError) as raised:
            await blobs.create_container("box")
        assert raised.value.status_code == 503
        assert await control.fired(rule_id) == 1
        await blobs.create_container("box")
    await control.remove_rule(rule_id)
    assert await control.rules() == {}
    await control.add_rule(Rule(effect=DropBefore()))
    await control.add_rule(Rule(latency_s=1.0))
    await control.clear_rules()
    assert azure.faults.rules() == {}


async def test_clock_jump_ends_a_session_s_lock_and_an_item_s_time(azure: Emulator, control: EmulatorHandle) -> None:
    async with (
        bus_of(azure) as bus,
        bus.get_queue_receiver("commands", session_id="s", max_wait_time=5) as receiver,
        CosmosClient(azure.cosmos_endpoint, azure.cosmos_key) as cosmos,
    ):
        database = await cosmos.create_database("db")
        items = await database.create_container("items", PartitionKey("/pk"), default_ttl=-1)
        await items.create_item({"id": "1", "pk": "a", "ttl": 50})
        await receiver.session.renew_lock()
        await control.jump(61)
        with pytest.raises(SessionLockLostError):
            await receiver.session.get_state()
        with pytest.raises(HttpResponseError) as raised:
            await items.read_item("1", "a")
        assert raised.value.status_code == 404


async def test_requests_of_every_service_are_counted(azure: Emulator, control: EmulatorHandle) -> None:
    await use_all(azure.ready(), session_id="s1")
    counts = await control.requests()
    for counted in (
        ("servicebus", "send"),
        ("servicebus", "accept-session"),
        ("servicebus", "settle"),
        ("cosmos", "upsert-item"),
        ("cosmos", "read-item"),
        ("blob", "put-blob"),
    ):
        assert counts[counted] == 1, counts


async def test_requests_are_counted_and_reset(azure: Emulator, control: EmulatorHandle) -> None:
    async with blobs_of(azure) as blobs:
        await blobs.create_container("box")
        await blobs.get_container_client("box").upload_blob("b", b"")
    counts = await control.requests()
    assert counts == {("blob", "create-container"): 1, ("blob", "put-blob"): 1}
    await control.reset_requests()
    assert await control.requests() == {}


async def test_clock_jump_ends_a_lease(azure: Emulator, control: EmulatorHandle) -> None:
    async with blobs_of(azure) as blobs:
        blob = await (await blobs.create_container("box")).upload_blob("b", b"")
        await blob.acquire_lease(60)
        before_s = await control.now_s()
        assert await control.jump(61) >= before_s + 61
        assert (await blob.get_blob_properties()).lease.state == "expired"


async def test_lease_is_broken_behind_the_back_of_its_holder(azure: Emulator, control: EmulatorHandle) -> None:
    async with blobs_of(azure) as blobs:
        blob = await (await blobs.create_container("box")).upload_blob("b", b"")
        lease = await blob.acquire_lease(60)
        await control.break_lease("box", "b")
        with pytest.raises(HttpResponseError) as raised:
            await lease.renew()
        assert raised.value.error_code == "LeaseIsBrokenAndCannotBeRenewed"
        with pytest.raises(ControlError, match="BlobNotFound"):
            await control.break_lease("box", "nothing")
        await blob.acquire_lease(15)


async def test_entities_are_made_and_deleted_while_it_runs(azure: Emulator, control: EmulatorHandle) -> None:
    address = azure.servicebus_admin_endpoint.removeprefix("http://")
    credentials = azure.servicebus_connection_string.partition(";")[2]
    async with ServiceBusAdministrationClient.from_connection_string(
        f"Endpoint=sb://{address};{credentials}", transport=PlainHttp()
    ) as admin:
        await admin.create_queue("made")
        async with bus_of(azure) as bus, bus.get_queue_sender("made") as sender:
            await sender.send_messages(ServiceBusMessage(b"1"))
        assert (await control.entities())["made"].active == 1
        await admin.delete_queue("made")
        await admin.delete_queue("commands")
        assert await control.entities() == {}


async def test_session_lock_is_taken_from_its_holder(azure: Emulator, control: EmulatorHandle) -> None:
    async with bus_of(azure) as bus:
        async with bus.get_queue_sender("commands") as sender:
            await sender.send_messages(ServiceBusMessage(b"1", session_id="s"))
        receiver = bus.get_queue_receiver("commands", session_id="s", max_wait_time=5)
        [message] = await receiver.receive_messages(1)
        await control.take_session_lock("commands", "s")
        with pytest.raises(SessionLockLostError):
            await receiver.complete_message(message)
        await receiver.close()
        with pytest.raises(ControlError, match="Nobody holds session 's'"):
            await control.take_session_lock("commands", "s")
        async with bus.get_queue_receiver("commands", session_id="s", max_wait_time=5) as again:
            [message] = await again.receive_messages(1)
            await again.complete_message(message)


async def test_entities_tell_their_counts(azure: Emulator, control: EmulatorHandle) -> None:
    async with bus_of(azure) as bus, bus.get_queue_sender("commands") as sender:
        await sender.send_messages([ServiceBusMessage(b"1", session_id="s") for _ in range(3)])
    counts = (await control.entities())["commands"]
    assert (counts.active, counts.dead_lettered) == (3, 0)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "sentence"),
    [
        ("POST", "/faults", b'{"sevice": "blob"}', 400, "unknown field `sevice`; the fields are service,"),
        (
            "POST",
            "/faults",
            b'{"service": "queue"}',
            400,
            "there is no service 'queue'; use one of *, servicebus, cosmos, blob",
        ),
        ("POST", "/faults", b'{"service": "blob", "operation": "aquire-lease"}', 400, "did you mean acquire-lease?"),
        ("POST", "/faults", b'{"service": "cosmos", "operation": "bach"}', 400, "did you mean batch?"),
        ("POST", "/faults", b'{"service": "cosmos", "operation": "send"}', 400, "use one of *, read-account, "),
        ("POST", "/faults", b'{"service": "servicebus", "operation": "recieve"}', 400, "did you mean receive?"),
        ("POST", "/faults", b'{"service": "servicebus", "operation": "put-blob"}', 400, "no operation 'put-blob'"),
        ("POST", "/faults", b'{"operation": "quarry"}', 400, "there is no operation 'quarry'; did you mean query?"),
        ("POST", "/faults", b'{"probability": 2}', 400, "probability must lie between 0 and 1"),
        ("POST", "/faults", b'{"effect": {"type": "explode"}}', 400, "explode"),
        ("POST", "/faults", b'{"effect": {"type": "read-behind"}}', 400, "for the service cosmos and its operations"),
        (
            "POST",
            "/faults",
            b'{"service": "cosmos", "operation": "batch", "effect": {"type": "read-behind"}}',
            400,
            "query, read-feed, read-item or *",
        ),
        (
            "POST",
            "/faults",
            b'{"service": "cosmos", "effect": {"type": "read-behind", "transactions": 0}}',
            400,
            "transactions must be at least 1",
        ),
        ("POST", "/faults", b"not json", 400, "the body is not JSON"),
        ("POST", "/clock/jump", b'{"seconds": "far"}', 400, "$.seconds"),
        ("POST", "/clock/jump", b'{"seconds": 1e300}', 400, "stay within"),
        ("POST", "/clock/jump", b"", 400, "the body is not JSON"),
        ("GET", "/faults/7", b"", 404, "there is no rule 7"),
        ("DELETE", "/faults/x", b"", 400, "is not the id of a rule"),
        ("GET", "/nowhere", b"", 404, "docs/emulator.md"),
        ("PUT", "/faults", b"", 405, "docs/emulator.md"),
        ("POST", "/faults", b"x" * 100_000, 413, "docs/emulator.md"),
    ],
)
async def test_refusals_of_the_control_interface_say_what_to_change(
    azure: Emulator, *, method: str, path: str, body: bytes, status: int, sentence: str
) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, azure.control_endpoint + path, data=body or None) as response,
    ):
        answer = json.loads(await response.read())
        assert response.status == status
        assert sentence in answer["error"]


# The process


async def test_process_serves_and_ends_on_sigterm(tmp_path: Path) -> None:
    config = tmp_path / "Config.json"
    config.write_text(
        '{"UserConfig": {"Namespaces": [{"Name": "n", "Queues": [{"Name": "commands",'
        ' "Properties": {"RequiresSession": true}}]}]}}'
    )
    async with start_emulator_process(config=config) as process:
        assert await process.control.is_healthy()
        await use_all(process.ready, session_id="s1")
        assert await process.terminate() == 0
    assert "Traceback" not in process.stderr_text


@pytest.mark.slow
async def test_process_ends_in_time_with_clients_that_do_nothing(tmp_path: Path) -> None:
    """Silent connections on every port, and an upload that stopped halfway, hold the end up for seconds, no more."""
    async with start_emulator_process(data_dir=tmp_path) as process:
        ready = process.ready
        ports = [int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", " ".join(msgspec.structs.astuple(ready)))]
        assert len(ports) == 5
        writers = [(await asyncio.open_connection("127.0.0.1", port))[1] for port in ports]
        writers += [(await asyncio.open_connection("127.0.0.1", port))[1] for port in ports]
        for writer in writers[5:]:
            writer.write(b"PUT /devstoreaccount1/box/b HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf")
        async with asyncio.timeout(15):
            assert await process.terminate() == 0
        for writer in writers:
            writer.close()


STARTER = """
import asyncio
from emulator.handle import start_emulator_process

async def main():
    async with start_emulator_process() as process:
        print(process.ready.control_endpoint, flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_process_ends_with_the_one_that_started_it_and_leaves_no_file(tmp_path: Path) -> None:
    starter = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        STARTER,
        stdout=asyncio.subprocess.PIPE,
        cwd=EXAMPLE.parents[1],
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert starter.stdout is not None
    async with asyncio.timeout(30):
        control = EmulatorHandle((await starter.stdout.readline()).decode().strip())
        async with control:
            assert await control.is_healthy()
            starter.kill()
            await starter.wait()

            async def is_gone() -> bool:
                with contextlib.suppress(aiohttp.ClientConnectionError):
                    return not await control.is_healthy()
                return True

            await wait_until(is_gone, "the emulator has ended", timeout_s=20)
    assert await asyncio.to_thread(os.listdir, tmp_path) == []


async def test_process_announces_one_json_line_and_writes_the_ready_file(tmp_path: Path) -> None:
    ready_file = tmp_path / "folder" / "ready.json"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "emulator",
        "--ready-file",
        str(ready_file),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        cwd=EXAMPLE.parents[1],
    )
    assert process.stdout is not None
    async with asyncio.timeout(30):
        line = await process.stdout.readline()
        assert json.loads(line) == json.loads(ready_file.read_bytes())
        assert [each.name for each in ready_file.parent.iterdir()] == ["ready.json"]
        process.send_signal(signal.SIGINT)
        assert await process.stdout.read() == b""
        assert await process.wait() == 0
    assert set(json.loads(line)) == {
        "servicebus_connection_string",
        "servicebus_admin_endpoint",
        "cosmos_endpoint",
        "cosmos_key",
        "blob_connection_string",
        "control_endpoint",
    }


async def test_process_that_cannot_start_says_why_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"ended with code 2: emulator: .*nothing.json: No such file"):
        async with start_emulator_process(config=tmp_path / "nothing.json"):
            pass
    bad = tmp_path / "bad.json"
    bad.write_text('{"UserConfig": {"Namespaces": [{"Name": "n", "Quues": []}]}}')
    with pytest.raises(RuntimeError, match=r"ended with code 2: emulator: .*Quues"):
        async with start_emulator_process(config=bad):
            pass
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            RuntimeError, match=rf"(?s)ended with code 2: .*emulator: cannot listen on 127.0.0.1:{port} .*--cosmos-port"
        ):
            async with start_emulator_process(cosmos_port=port):
                pass


async def test_ready_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    announced: list[str] = []
    with pytest.raises(EmulatorError, match="give another --ready-file"):
        await serve(Options(ready_file=tmp_path / "file" / "ready.json"), announce=announced.append)
    assert announced == []


async def test_config_that_is_wrong_is_refused_before_anything_listens(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="that can be read"):
        Emulator(config=tmp_path / "missing.json")


async def test_clock_can_be_the_caller_s() -> None:
    clock = ManualClock()
    async with Emulator(clock=clock) as azure, blobs_of(azure) as blobs:
        blob = await (await blobs.create_container("box")).upload_blob("b", b"")
        await blob.acquire_lease(15)
        clock.jump_s(14.9)
        assert (await blob.get_blob_properties()).lease.state == "leased"
        clock.jump_s(0.1)
        assert (await blob.get_blob_properties()).lease.state == "expired"
