"""The Kubernetes manifests: they fit each other, the worker's settings and what its endpoint answers."""

import math
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
import yaml

from tests.support.promql import exposed, problems
from worker.configuration import load_settings
from worker.sessions.group import TOGETHER_BYTES_MAX
from worker.sessions.pipeline import UNSETTLED_GROUPS_MAX
from worker.settings import Settings
from worker.telemetry.scaling import WINDOW_S, ScalingSignal

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"

Json = dict[str, Any]


def documents(name: str) -> list[Json]:
    return list(yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8")))


KUSTOMIZATION: Json = documents("kustomization.yaml")[0]
MANIFESTS: list[Json] = [document for name in KUSTOMIZATION["resources"] for document in documents(name)]


def only(kind: str) -> Json:
    (found,) = [manifest for manifest in MANIFESTS if manifest["kind"] == kind]
    return found


@pytest.fixture(scope="module")
def settings() -> Settings:
    lines = (FOLDER / "worker.env").read_text(encoding="utf-8").splitlines()
    given = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return load_settings(environ=given)


@pytest.fixture(scope="module")
def pod() -> Json:
    spec: Json = only("Deployment")["spec"]["template"]["spec"]
    return spec


@pytest.fixture(scope="module")
def container(pod: Json) -> Json:
    (found,) = pod["containers"]
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def triggers() -> dict[str, Json]:
    return {trigger["type"]: trigger for trigger in only("ScaledObject")["spec"]["triggers"]}


# --- all of them ---


def test_every_file_is_taken_up_and_every_manifest_says_what_it_is() -> None:
    assert {path.name for path in FOLDER.glob("*.yaml")} == {*KUSTOMIZATION["resources"], "kustomization.yaml"}
    for manifest in MANIFESTS:
        assert {"apiVersion", "kind", "metadata"} <= set(manifest)
        assert "namespace" not in manifest["metadata"], "an overlay sets it for all"
    assert only("Namespace")["metadata"]["name"] == KUSTOMIZATION["namespace"]


def test_no_key_is_in_them(settings: Settings) -> None:
    assert not [manifest["kind"] for manifest in MANIFESTS if manifest["kind"] == "Secret"]
    assert settings.secrets() == ()
    assert settings.azure_credential == "workload"


needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not on the PATH")


def built(folder: Path) -> dict[str, Json]:
    """What kustomize makes of a folder, by kind."""
    command = ["kubectl", "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return {manifest["kind"]: manifest for manifest in yaml.safe_load_all(done.stdout)}


@needs_kubectl
def test_kustomize_builds_them() -> None:
    made = built(FOLDER)
    assert set(made) == {manifest["kind"] for manifest in MANIFESTS} | {"ConfigMap"}
    deployment, service = made["Deployment"]["spec"], made["Service"]["spec"]
    assert deployment["selector"]["matchLabels"].items() <= deployment["template"]["metadata"]["labels"].items()
    assert service["selector"].items() <= deployment["template"]["metadata"]["labels"].items()
    (worker,) = deployment["template"]["spec"]["containers"]
    assert worker["envFrom"] == [{"configMapRef": {"name": made["ConfigMap"]["metadata"]["name"]}}]
    assert worker["image"].endswith("/brook-worker:0.1.0")


@needs_kubectl
def test_the_overlay_of_the_page_changes_what_it_says(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    written = re.search(r"<<'YAML'\n(.*?)\nYAML\n", page, re.DOTALL)
    assert written is not None
    shutil.copytree(FOLDER, tmp_path / "deploy" / "kubernetes")
    (tmp_path / "overlay").mkdir()
    (tmp_path / "overlay" / "kustomization.yaml").write_text(written[1], encoding="utf-8")
    made = built(tmp_path / "overlay")
    settings = load_settings(environ=made["ConfigMap"]["data"])
    assert settings.servicebus_namespace == "yours.servicebus.windows.net"
    assert settings.http_port == 9464, "what the base says and the overlay does not stays"
    (worker,) = made["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert worker["image"] == "yours.azurecr.io/brook-worker:0.1.0"
    account = made["ServiceAccount"]["metadata"]["annotations"]["azure.workload.identity/client-id"]
    assert not account.startswith("00000000")
    assert made["ScaledObject"]["spec"]["triggers"][1]["metadata"]["namespace"] == "yours"


# --- the worker ---


def test_kubernetes_waits_longer_than_the_worker_drains(pod: Json, settings: Settings) -> None:
    assert pod["terminationGracePeriodSeconds"] >= settings.drain_grace_s + 10


def test_the_pod_may_do_nothing_that_it_need_not(pod: Json, container: Json) -> None:
    assert pod["securityContext"]["runAsNonRoot"] is True
    user = pod["securityContext"]["runAsUser"]
    assert f"USER {user}:{pod['securityContext']['runAsGroup']}" in (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert only("Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_probes_ask_where_the_worker_answers(container: Json, settings: Settings) -> None:
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": settings.http_port}
    assert settings.http_host == "0.0.0.0", "Kubernetes asks from outside the container"
    asked = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert all(one["port"] == "http" for one in asked.values())
    assert {name: one["path"] for name, one in asked.items()} == {
        "startup": "/healthz",
        "liveness": "/healthz",
        "readiness": "/readyz",
    }


def test_a_worker_has_a_core_of_its_own_and_is_not_held_up(container: Json) -> None:
    resources = container["resources"]
    assert resources["requests"]["cpu"] == "1"
    assert "cpu" not in resources["limits"]
    assert "memory" in resources["limits"]


def test_the_memory_is_enough_for_sessions_that_are_full_of_large_commands(container: Json, settings: Settings) -> None:
    """As docs/scaling.md counts it: seven groups of each session, and as much again for what is made of them.

    And where senders mean harm: what is decided together, and one more command that takes seventy times its message.
    """
    sessions = settings.max_concurrent_sessions
    full = 100e6 + 2 * sessions * UNSETTLED_GROUPS_MAX * settings.group_bytes_max
    hostile = sessions * (TOGETHER_BYTES_MAX + 70 * 256 * 1024)
    assert container["resources"]["limits"]["memory"] == "2Gi"
    assert 2**30 < full + hostile <= 2**31


def test_claims_have_room_for_as_many_as_are_in_hand_at_once(pod: Json, container: Json, settings: Settings) -> None:
    (mount,), (volume,) = container["volumeMounts"], pod["volumes"]
    assert (mount["mountPath"], mount["name"]) == ("/tmp", volume["name"])
    assert volume["emptyDir"] == {"sizeLimit": "512Mi"}
    assert settings.claims_concurrency_max * settings.claim_bytes_max <= 512 * 2**20


def test_the_worker_acts_as_the_identity_of_its_service_account(pod: Json) -> None:
    account = only("ServiceAccount")["metadata"]
    assert pod["serviceAccountName"] == account["name"]
    assert "azure.workload.identity/client-id" in account["annotations"]
    labels = only("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert labels["azure.workload.identity/use"] == "true"


def test_azure_joins_its_identity_to_this_very_service_account() -> None:
    bicep = (ROOT / "deploy" / "bicep" / "main.bicep").read_text(encoding="utf-8")
    subject = f"system:serviceaccount:{KUSTOMIZATION['namespace']}:{only('ServiceAccount')['metadata']['name']}"
    assert f"param serviceAccount string = '{subject}'" in bicep
    assert subject in (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")


def test_the_service_shows_each_worker_and_those_that_pause(settings: Settings) -> None:
    service = only("Service")["spec"]
    assert service["clusterIP"] == "None"
    assert service["publishNotReadyAddresses"] is True
    (port,) = service["ports"]
    assert (port["port"], port["targetPort"]) == (settings.http_port, "http")
    scraped = only("Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert scraped["prometheus.io/port"] == str(settings.http_port)


def test_a_drained_node_takes_one_worker_at_a_time() -> None:
    budget = only("PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


# --- KEDA ---


def test_keda_scales_the_deployment_and_nothing_else_does() -> None:
    deployment, scaled = only("Deployment"), only("ScaledObject")["spec"]
    assert scaled["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]
    assert scaled["minReplicaCount"] == 0
    assert "fallback" not in scaled, "with no worker there is nobody to ask, which is no failure"
    assert set(scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]) == {"scaleUp", "scaleDown"}


def test_keda_asks_each_worker_by_a_name_that_it_can_take_apart(triggers: dict[str, Json], settings: Settings) -> None:
    """It reads service and namespace out of host and port: the namespace must not stand right before the port."""
    metadata = triggers["metrics-api"]["metadata"]
    url = urlsplit(metadata["url"])
    service, namespace, *rest = url.netloc.split(".")
    assert service == only("Service")["metadata"]["name"]
    assert namespace == KUSTOMIZATION["namespace"]
    assert rest
    assert (url.port, url.path) == (settings.http_port, "/scaling")
    assert metadata["aggregateFromKubeServiceEndpoints"] == "true"
    assert metadata["aggregationType"] == "sum"


def test_keda_finds_its_number_in_the_answer(triggers: dict[str, Json]) -> None:
    answer = msgspec.json.decode(msgspec.json.encode(ScalingSignal(16).read()))
    value = answer[triggers["metrics-api"]["metadata"]["valueLocation"]]
    assert isinstance(value, int | float)
    assert triggers["metrics-api"]["metadata"]["format"] == "json"


def test_the_target_leaves_slots_for_what_comes_until_the_next_worker_is_there(
    triggers: dict[str, Json], settings: Settings
) -> None:
    target = float(triggers["metrics-api"]["metadata"]["targetValue"])
    assert target == settings.max_concurrent_sessions * 3 / 4


def test_the_queues_length_starts_the_first_worker_and_never_the_second(
    triggers: dict[str, Json], settings: Settings
) -> None:
    trigger = triggers["azure-servicebus"]
    assert trigger["metadata"]["queueName"] == settings.command_queue
    assert f"{trigger['metadata']['namespace']}.servicebus.windows.net" == settings.servicebus_namespace
    assert int(trigger["metadata"]["messageCount"]) >= 1_000_000
    assert trigger["metadata"]["activationMessageCount"] == "0"
    assert trigger["authenticationRef"]["name"] == only("TriggerAuthentication")["metadata"]["name"]


def test_the_trigger_for_an_older_keda_asks_for_the_same_number(triggers: dict[str, Json]) -> None:
    page = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    written = re.search(r"```yaml\n(- type: prometheus.*?)```", page, re.DOTALL)
    assert written is not None
    (trigger,) = yaml.safe_load(written[1])
    assert list(problems(trigger["metadata"]["query"], exposed())) == []
    assert trigger["metadata"]["threshold"] == triggers["metrics-api"]["metadata"]["targetValue"]
    assert trigger["metricType"] == triggers["metrics-api"]["metricType"]


# --- what comes of it: the autoscaler's arithmetic on the worker's own signal ---


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def replicas(signals: list[ScalingSignal], triggers: dict[str, Json], messages: int) -> int:
    """How many workers the autoscaler wants: the most that any trigger asks for, each by its average value."""
    wanted = sum(signal.read().wanted for signal in signals)
    by_slots = math.ceil(wanted / float(triggers["metrics-api"]["metadata"]["targetValue"]))
    by_messages = math.ceil(messages / int(triggers["azure-servicebus"]["metadata"]["messageCount"]))
    return max(by_slots, by_messages)


def test_one_hot_session_gets_one_worker_however_much_waits_in_it(triggers: dict[str, Json]) -> None:
    clock = Clock()
    signal = ScalingSignal(16, clock=clock)
    signal.accepted("hot")
    for _ in range(12):
        clock.now_s += WINDOW_S / 12
        signal.accept_timed_out()
    assert replicas([signal], triggers, messages=800_000) == 1


def test_many_sessions_that_wait_get_more_workers(triggers: dict[str, Json]) -> None:
    clock = Clock()
    signal = ScalingSignal(16, clock=clock)
    for slot in range(16):
        signal.accepted(f"s{slot}")
    for turn in range(60):
        clock.now_s += WINDOW_S / 60
        signal.given_back(f"s{turn}")
        signal.accepted(f"s{turn + 16}")
    assert replicas([signal], triggers, messages=5_000) == 3


def test_workers_with_nothing_to_do_are_wanted_no_more(triggers: dict[str, Json]) -> None:
    clock = Clock()
    signals = [ScalingSignal(16, clock=clock) for _ in range(3)]
    clock.now_s += WINDOW_S
    assert replicas(signals, triggers, messages=0) == 0


def test_the_manifests_say_which_settings_they_repeat(settings: Settings) -> None:
    """Whoever changes one has to change the other: the comment beside it says so."""
    text = (FOLDER / "scaledobject.yaml").read_text(encoding="utf-8")
    assert re.search(r"# .*max_concurrent_sessions.*\n(?: +#.*\n)* +targetValue:", text)
    assert "drain_grace_s" in (FOLDER / "deployment.yaml").read_text(encoding="utf-8")
