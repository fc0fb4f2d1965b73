"""Which stack the tests choose, how its containers are made, and what is told where one cannot be had."""

import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import yaml
from testcontainers.core.network import Network

from emulator.config import parse_config
from tests.support import azurite
from tests.support.docker_engine import PULL_ERROR, engine_without_images
from tests.support.places import Connections
from tests.support.stacks import choose, containers, entities
from tests.support.stacks.azure import connections_from
from tests.support.stacks.choose import AZURE_VARIABLES, STACKS, StackError
from tests.support.stacks.known import NEEDS, REMARKS, reason_to_skip

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "testing.md").read_text()
STACK_TESTS = ROOT / "tests" / "integration" / "stack"
OFFLINE = {"version": "1.44"}
"""Makes the client of an engine ask nothing when it is made."""


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "TC_HOST", "TESTCONTAINERS_HOST_OVERRIDE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(choose, "_SOCKET", tmp_path / "docker.sock")


@pytest.fixture
def no_accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in AZURE_VARIABLES.values():
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def empty_engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with engine_without_images() as host:
        monkeypatch.setenv("DOCKER_HOST", host)
        yield host


def test_without_an_engine_the_tests_run_on_the_embedded_services(no_engine: None) -> None:
    chosen = choose.choose(None)
    assert chosen.name == "embedded"
    assert "no Docker engine" in chosen.why


def test_with_an_engine_that_answers_they_run_on_containers(no_engine: None, empty_engine: str) -> None:
    assert choose.choose(None).name == "docker"
    assert choose.why_not("docker") is None


def test_the_embedded_stack_needs_no_look_at_an_engine(empty_engine: str) -> None:
    assert choose.choose("embedded").name == "embedded"


def test_a_docker_stack_that_was_asked_for_is_an_error_without_an_engine(no_engine: None) -> None:
    with pytest.raises(StackError, match="start a Docker engine, or choose another stack"):
        choose.choose("docker")


def test_an_engine_that_is_gone_or_never_answers_is_found_out_in_less_than_a_second(
    no_engine: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        for listening in (False, True):
            if listening:
                silent.listen(8)
            monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{silent.getsockname()[1]}")
            choose.engine_problem()  # the first look imports the client
            started_s = time.perf_counter()
            problem = choose.engine_problem()
            assert time.perf_counter() - started_s < 1
            assert problem is not None
            assert "no Docker engine answers" in problem


def test_a_docker_host_that_cannot_be_read_is_no_engine(no_engine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "carrier-pigeon://here")
    assert "no Docker engine answers" in (choose.engine_problem() or "")


def test_an_azure_stack_names_every_variable_that_is_not_set(
    no_accounts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROOK_TEST_COSMOS_KEY", "key")
    with pytest.raises(StackError) as raised:
        choose.choose("azure")
    named = set(re.findall(r"BROOK_TEST_\w+", str(raised.value)))
    assert named == set(AZURE_VARIABLES.values()) - {"BROOK_TEST_COSMOS_KEY"}
    for name in named:
        monkeypatch.setenv(name, name.lower())
    assert choose.choose("azure").name == "azure"
    assert connections_from().cosmos_endpoint == "brook_test_cosmos_endpoint"


def test_an_engine_that_answers_but_cannot_pull_is_told_of_with_the_image_and_what_to_do(
    no_engine: None, empty_engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("testcontainers.core.config.testcontainers_config.ryuk_disabled", True)
    with pytest.raises(StackError) as raised, containers.running_containers():
        pytest.fail("nothing can have been started")
    told = str(raised.value)
    assert containers.IMAGES["mssql"] in told
    assert PULL_ERROR in told
    assert "use --stack embedded" in told


def test_cosmos_is_the_legacy_image_on_its_port_and_tells_clients_to_come_here() -> None:
    container = containers.cosmos_container(OFFLINE)
    container._configure()
    assert container.image == containers.IMAGES["cosmos"]
    assert container.ports == {"8081": 8081}
    assert container.env["AZURE_COSMOS_EMULATOR_IP_ADDRESS_OVERRIDE"] == "127.0.0.1"
    assert container.env["AZURE_COSMOS_EMULATOR_PARTITION_COUNT"] == "4"
    assert container.env["AZURE_COSMOS_EMULATOR_ENABLE_DATA_PERSISTENCE"] == "False"


def test_a_vnext_image_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "BROOK_TEST_IMAGE_COSMOS", "mcr.microsoft.com/cosmosdb/linux/azure-cosmos-emulator:vnext-preview"
    )
    with pytest.raises(StackError, match="take the legacy image"):
        containers.cosmos_container(OFFLINE)


def test_the_images_are_those_of_the_compose_file_and_azurite_the_one_that_its_tests_know() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    assert {name: compose[name]["image"] for name in containers.IMAGES} == containers.IMAGES
    assert containers.IMAGES["azurite"].endswith(f":{azurite.VERSION}")


def test_azurite_serves_blobs_to_a_newer_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROOK_TEST_IMAGE_AZURITE", "somewhere/azurite:1")
    container = containers.azurite_container(OFFLINE)
    assert container.image == "somewhere/azurite:1"
    assert "10000" in container.ports
    assert "--skipApiVersionCheck" in str(container._command)
    assert "--blobHost 0.0.0.0" in str(container._command)


def test_service_bus_finds_its_database_on_the_network_and_gets_the_entities() -> None:
    network = Network(docker_client_kw=OFFLINE)
    database = containers.sql_container(network, "Secret-1", OFFLINE)
    database._configure()
    broker = containers.servicebus_container(network, "Secret-1", OFFLINE)
    assert broker._network is database._network is network
    assert database._network_aliases == [broker.env["SQL_SERVER"]]
    assert broker.env["MSSQL_SA_PASSWORD"] == database.env["MSSQL_SA_PASSWORD"] == database.env["SA_PASSWORD"]
    assert (broker.env["ACCEPT_EULA"], database.env["ACCEPT_EULA"]) == ("Y", "Y")
    assert set(broker.ports) == {"5672", "5300"}
    assert broker._transferable_specs == [
        (entities.config_file(), "/ServiceBus_Emulator/ConfigFiles/Config.json", 0o644)
    ]
    assert (vars(broker._wait_strategy)["_port"], vars(broker._wait_strategy)["_path"]) == (5300, "/health")


def test_the_entities_are_within_what_the_official_emulator_takes() -> None:
    config = parse_config(entities.config_file())
    assert len(config.queues) + len(config.topics) <= 50
    for queue in config.queues:
        assert queue.requires_session
        assert queue.lock_duration_s <= 300
        assert queue.duplicate_detection_window_s <= 300
        assert queue.default_message_ttl_s is not None
        assert queue.default_message_ttl_s <= 3600
    assert [queue.name for queue in config.queues if queue.requires_duplicate_detection] == [entities.DETECTING_QUEUE]


def test_the_connection_string_is_read_as_an_emulators() -> None:
    text = containers.servicebus_connection_string("localhost", 32_768)
    connections = Connections(
        servicebus_connection_string=text, cosmos_endpoint="", cosmos_key="", blob_connection_string=""
    )
    assert "Endpoint=sb://localhost:32768;" in msgspec.structs.asdict(connections)["servicebus_connection_string"]
    assert text.endswith("UseDevelopmentEmulator=true;")


def test_every_need_of_a_test_is_known_and_every_known_one_is_needed() -> None:
    needed = {
        need for file in STACK_TESTS.glob("test_*.py") for need in re.findall(r'needs\("(.*?)"\)', file.read_text())
    }
    assert needed == set(NEEDS)
    assert reason_to_skip("faults", "embedded") is None
    assert reason_to_skip("faults", "docker") is not None


def test_the_page_says_of_each_stack_what_it_cannot_do() -> None:
    for need, reasons in NEEDS.items():
        for stack, reason in reasons.items():
            assert f"| `{need}` | {stack} | {reason} |" in PAGE
    for stack in STACKS:
        for remark in REMARKS[stack]:
            assert f"- {remark}" in PAGE
