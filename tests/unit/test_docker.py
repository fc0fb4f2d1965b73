"""The image and the compose file, as far as they can be judged without Docker."""

import datetime as dt
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from emulator.config import load_config
from tests.support.worker_settings import NOWHERE
from worker.checks.servicebus import LOCK_DURATION_MIN
from worker.configuration import PREFIX, load_settings, variable
from worker.probe import REQUEST_S
from worker.provisioning.servicebus import COMMAND_QUEUE, REPLY_QUEUE

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
CONFIG = ROOT / "emulator" / "Config.json"
OURS = ("emulators-up", "worker", "cli")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    made = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    assert isinstance(made, dict)
    return made


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, Any]:
    made = compose["services"]
    assert isinstance(made, dict)
    return made


def volumes(service: dict[str, Any]) -> dict[str, str]:
    """The places in the container by what is mounted there."""
    pairs = [mount.split(":") for mount in service.get("volumes", [])]
    return {source: target for source, target, *_ in pairs}


# --- the compose file ---


def test_every_key_of_a_service_is_one_that_compose_knows(services: dict[str, Any]) -> None:
    known = {
        *("image", "build", "command", "entrypoint", "environment", "depends_on", "healthcheck", "volumes", "ports"),
        *("networks", "network_mode", "profiles", "restart", "stop_grace_period", "read_only", "cap_drop"),
        *("security_opt", "mem_limit", "tmpfs"),
    }
    assert {name: set(service) - known for name, service in services.items() if set(service) - known} == {}


def test_what_a_service_waits_for_is_there_and_can_tell(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            assert other in services, f"{name} waits for {other}"
            match how["condition"]:
                case "service_healthy":
                    assert "healthcheck" in services[other], f"{name} waits for the health of {other}"
                case "service_completed_successfully":
                    assert "restart" not in services[other], f"{name} waits for the end of {other}, which starts again"
                case "service_started":
                    pass
                case condition:
                    pytest.fail(f"{name}: {condition} is no condition")


def test_ports_are_published_on_this_machine_only_and_once(services: dict[str, Any]) -> None:
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published
    assert [port for port in published if not re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port)] == []
    assert len(set(published)) == len(published)


def test_each_image_has_a_version_but_those_that_come_in_one_only(services: dict[str, Any]) -> None:
    tags = {name: service["image"].partition(":")[2] for name, service in services.items() if name not in OURS}
    assert {name for name, tag in tags.items() if tag in ("", "latest")} == {"cosmos"}, (
        "its legacy emulator is `latest`"
    )
    assert "vnext" not in tags["cosmos"], "it commits parts of batches"


def test_mounted_files_are_there_and_cannot_be_written(compose: dict[str, Any], services: dict[str, Any]) -> None:
    for name, service in services.items():
        for mount in service.get("volumes", []):
            source, _, rest = mount.partition(":")
            if source.startswith("."):
                assert (ROOT / source).exists(), f"{name} mounts {source}"
                assert rest.endswith(":ro"), f"{name} could write to {source}"
            else:
                assert source in compose["volumes"]


def test_the_licence_terms_are_the_users_to_accept(services: dict[str, Any]) -> None:
    for name in ("mssql", "servicebus"):
        assert services[name]["environment"]["ACCEPT_EULA"].startswith("${ACCEPT_EULA:?"), name


def test_our_containers_are_closed(services: dict[str, Any]) -> None:
    for name in OURS:
        service = services[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
        assert "volumes" not in service


def test_the_workers_settings_are_settings(services: dict[str, Any]) -> None:
    """As `brook-worker run` reads them: a name or a value that it does not know fails here."""
    given = services["worker"]["environment"]
    assert all(name.startswith(PREFIX) and isinstance(value, str) for name, value in given.items())
    settings = load_settings(environ=given)
    assert settings.auto_provision
    # The client takes a certificate that the emulator signed itself from localhost only.
    assert settings.cosmos_endpoint == "https://localhost:8081/"
    assert services["worker"]["network_mode"] == "service:cosmos"
    assert services["cli"]["environment"] == given


def test_claims_have_room_for_as_many_as_are_in_hand_at_once(services: dict[str, Any]) -> None:
    settings = load_settings(environ=services["worker"]["environment"])
    (mount,) = services["worker"]["tmpfs"]
    size = re.fullmatch(r"/tmp:size=(\d+)m,mode=1777", mount)
    assert size is not None
    assert settings.claim_container is not None
    assert int(size[1]) * 2**20 >= settings.claims_concurrency_max * settings.claim_bytes_max


def test_compose_waits_longer_than_the_worker_drains(services: dict[str, Any]) -> None:
    grace_s = load_settings(environ=services["worker"]["environment"]).drain_grace_s
    waits_s = float(services["worker"]["stop_grace_period"].removesuffix("s"))
    assert waits_s >= grace_s + 5


# --- the entities of the Service Bus emulator ---


def test_the_mounted_entities_are_those_of_the_embedded_service_bus(services: dict[str, Any]) -> None:
    mounted = volumes(services["servicebus"])
    assert mounted == {"./emulator/Config.json": "/ServiceBus_Emulator/ConfigFiles/Config.json"}
    config = load_config(ROOT / "emulator" / "Config.json")
    settings = load_settings(environ=services["worker"]["environment"])
    by_name = {queue.name: queue for queue in config.queues}
    assert by_name[settings.command_queue].requires_session
    assert settings.reply_queue is not None
    assert by_name[settings.reply_queue].requires_session


def test_the_entities_differ_from_those_that_provisioning_makes_in_what_the_emulator_does_not_take_only() -> None:
    queues = {queue.name: queue for queue in load_config(CONFIG).queues}
    for name, made in ((NOWHERE.command_queue, COMMAND_QUEUE), (NOWHERE.reply_queue, REPLY_QUEUE)):
        queue = queues[str(name)]
        for ours, theirs in (
            ("requires_session", "requires_session"),
            ("requires_duplicate_detection", "requires_duplicate_detection"),
            ("dead_lettering_on_message_expiration", "dead_lettering_on_message_expiration"),
            ("max_delivery_count", "max_delivery_count"),
        ):
            assert getattr(queue, theirs) == made.get(ours, False), f"{name}: {ours}"
        assert queue.default_message_ttl_s == 3600, "it keeps nothing for longer"
        assert queue.lock_duration_s == LOCK_DURATION_MIN.total_seconds(), "what a killed worker held is free soon"
        if queue.requires_duplicate_detection:
            assert queue.duplicate_detection_window_s == 300, "it detects them for no longer"


def test_the_official_emulator_takes_the_entities() -> None:
    """Its own limits, by its schema. It ends with "Out of memory" on a file that keeps to them not."""
    namespace = json.loads(CONFIG.read_bytes())["UserConfig"]["Namespaces"][0]
    topics = namespace["Topics"]
    subscriptions = [subscription for topic in topics for subscription in topic["Subscriptions"]]
    assert namespace["Name"] == "sbemulatorns"
    assert len(namespace["Queues"]) + len(topics) <= 50
    assert all(1 <= len(topic["Subscriptions"]) <= 50 for topic in topics)
    for entity in (*namespace["Queues"], *topics, *subscriptions):
        properties, name = entity["Properties"], entity["Name"]
        assert minutes(properties["DefaultMessageTimeToLive"]) == pytest.approx(60), name  # 5 minutes to an hour
        if "DuplicateDetectionHistoryTimeWindow" in properties:
            assert 5 / 60 <= minutes(properties["DuplicateDetectionHistoryTimeWindow"]) <= 5, name
        if "MaxDeliveryCount" in properties:
            assert 1 <= properties["MaxDeliveryCount"] <= 10, name
    for queue in namespace["Queues"]:
        assert 5 / 60 <= minutes(queue["Properties"]["LockDuration"]) <= 5, queue["Name"]
    for subscription in subscriptions:
        assert 1 <= minutes(subscription["Properties"]["LockDuration"]) <= 5, subscription["Name"]


def minutes(duration: str) -> float:
    return msgspec.convert(duration, dt.timedelta).total_seconds() / 60


# --- the image ---


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, lines joined, comments gone."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())]


def image_settings(instructions: list[tuple[str, str]]) -> dict[str, str]:
    """The worker's settings that the image sets, by name."""
    pairs = [pair.partition("=") for word, rest in instructions if word == "ENV" for pair in rest.split()]
    return {name.removeprefix(PREFIX).lower(): value for name, _, value in pairs if name.startswith(PREFIX)}


def test_the_image_tells_its_health_where_prometheus_looks_and_compose_publishes(
    instructions: list[tuple[str, str]], services: dict[str, Any]
) -> None:
    settings = image_settings(instructions)
    given = services["worker"]["environment"] | {variable(name): value for name, value in settings.items()}
    port = load_settings(environ=given).http_port
    assert settings["http_host"] == "0.0.0.0", "from another container it is not 127.0.0.1"
    assert ("EXPOSE", str(port)) in instructions
    (check,) = [rest for word, rest in instructions if word == "HEALTHCHECK"]
    assert 'CMD exec python -m worker.probe "http://127.0.0.1:${BROOK_WORKER_HTTP_PORT}/healthz"' in check
    limit_s = re.search(r"--timeout=(\d+)s", check)
    assert limit_s is not None
    assert float(limit_s[1]) > REQUEST_S
    assert f"127.0.0.1:{port}:{port}" in services["cosmos"]["ports"], "the worker is in that network"
    assert services["cosmos"]["networks"]["default"]["aliases"] == ["worker"]
    prometheus = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    (job,) = prometheus["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"worker:{port}"]}]
    assert job["job_name"] == "brook-worker", "the alert rules ask for it"


def test_the_image_runs_as_nobody_special(instructions: list[tuple[str, str]]) -> None:
    last = max(index for index, (word, _) in enumerate(instructions) if word == "FROM")
    runtime = instructions[last:]
    assert ("USER", "10001:10001") in runtime, "Kubernetes sees only by number that it is not root"
    assert ("STOPSIGNAL", "SIGTERM") in runtime
    assert ("ENTRYPOINT", '["brook-worker"]') in runtime, "as a list: a shell would keep SIGTERM for itself"
    after = runtime[runtime.index(("USER", "10001:10001")) :]
    assert not [word for word, _ in after if word in ("RUN", "COPY", "ADD")]


def test_nothing_secret_goes_into_a_layer(instructions: list[tuple[str, str]]) -> None:
    """What the image sets itself is where it listens, no more: all else comes when it runs."""
    assert set(image_settings(instructions)) == {"http_host", "http_port"}
    assert not [rest for word, rest in instructions if word == "ARG" and PREFIX in rest]
    assert not [rest for word, rest in instructions if word == "ADD"]
    assert not [rest for word, rest in instructions if word == "COPY" and re.search(r"(^|\s)\.\s", rest)]


def test_what_the_image_copies_is_let_in_and_there(instructions: list[tuple[str, str]]) -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in ignored if line and not line.startswith("#")]
    assert patterns[0] == "*"
    let_in = {pattern.removeprefix("!") for pattern in patterns if pattern.startswith("!")}
    copied = [
        source
        for word, rest in instructions
        if word == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    ]
    assert set(copied) == let_in
    assert all((ROOT / source).exists() for source in copied)
