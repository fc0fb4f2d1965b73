"""The official emulators as containers: images, ports and environment, and how they are started and found.

Running them accepts their licences (`ACCEPT_EULA=Y`), as their own documentation has it.
"""

import contextlib
import os
import secrets
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

# It comes without types.
import docker.errors  # type: ignore[import-untyped]
from azure.core.exceptions import AzureError
from testcontainers.community.azurite import AzuriteContainer
from testcontainers.community.mssql import SqlServerContainer
from testcontainers.core.container import DockerContainer
from testcontainers.core.exceptions import ContainerConnectException, ContainerStartException
from testcontainers.core.network import Network
from testcontainers.core.wait_strategies import HttpWaitStrategy

from emulator.app import SERVICEBUS_KEY, SERVICEBUS_KEY_NAME
from tests.support.places import Connections
from tests.support.stacks import entities
from tests.support.stacks.choose import StackError

with warnings.catch_warnings():
    # The module uses a decorator that testcontainers itself has deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    from testcontainers.community.cosmosdb import CosmosDBNoSQLEndpointContainer

ContainerT = TypeVar("ContainerT", bound=DockerContainer)

IMAGES: Final = {
    "servicebus": "mcr.microsoft.com/azure-messaging/servicebus-emulator:2.0.1",
    "mssql": "mcr.microsoft.com/mssql/server:2022-latest",
    "cosmos": "mcr.microsoft.com/cosmosdb/linux/azure-cosmos-emulator:latest",
    "azurite": "mcr.microsoft.com/azure-storage/azurite:3.35.0",
}
IMAGE_VARIABLE: Final = "BROOK_TEST_IMAGE_{}"
"""Another image: BROOK_TEST_IMAGE_COSMOS and the like."""

AMQP_PORT: Final = 5672
HEALTH_PORT: Final = 5300
BLOB_PORT: Final = 10_000
COSMOS_PORT: Final = 8081
CONFIG_PATH: Final = "/ServiceBus_Emulator/ConfigFiles/Config.json"
SQL_ALIAS: Final = "mssql"

_SERVICEBUS_START_S: Final = 300
_COSMOS_START_S: Final = 420
_COSMOS_PARTITIONS: Final = 4
"""One for each container that the tests make; more make its start slower."""

_FAILURES: Final = (
    docker.errors.DockerException,
    ContainerStartException,
    ContainerConnectException,
    AzureError,
    TimeoutError,
    OSError,
    RuntimeError,
)


def image(service: str) -> str:
    """The image of a service. Raises StackError for one that the protocol must not be judged by."""
    name = os.environ.get(IMAGE_VARIABLE.format(service.upper())) or IMAGES[service]
    if service == "cosmos" and "vnext" in name:
        raise StackError(
            f"--stack docker: {name} ignores If-Match inside a batch and commits parts of one; take the legacy image,"
            f" {IMAGES['cosmos']}"
        )
    return name


class CosmosContainer(CosmosDBNoSQLEndpointContainer):
    """The legacy emulator, which tells its clients to come to this machine, and has time to start."""

    def _configure(self) -> None:
        super()._configure()
        # By default it tells an address that the client does not trust its certificate on.
        self.with_env("AZURE_COSMOS_EMULATOR_IP_ADDRESS_OVERRIDE", "127.0.0.1")

    def _wait_until_ready(self) -> "CosmosContainer":
        ready = HttpWaitStrategy(COSMOS_PORT, "/_explorer/emulator.pem").using_tls(insecure=True)
        ready.with_startup_timeout(_COSMOS_START_S).wait_until_ready(self)
        self._wait_for_query_success()
        return self


def cosmos_container(client: dict[str, Any] | None = None) -> CosmosContainer:
    """Cosmos DB on port 8081 of this machine."""
    return CosmosContainer(
        image=image("cosmos"), partition_count=_COSMOS_PARTITIONS, bind_ports=True, docker_client_kw=client
    )


def azurite_container(client: dict[str, Any] | None = None) -> AzuriteContainer:
    """Blob Storage alone, on any port."""
    command = "azurite-blob --blobHost 0.0.0.0 --skipApiVersionCheck --disableTelemetry --silent"
    return AzuriteContainer(image=image("azurite"), docker_client_kw=client, command=command)


def sql_container(network: Network, password: str, client: dict[str, Any] | None = None) -> SqlServerContainer:
    """The database that the Service Bus emulator needs, seen by it alone."""
    container = SqlServerContainer(image=image("mssql"), password=password, docker_client_kw=client)
    container.with_network(network).with_network_aliases(SQL_ALIAS)
    return container.with_env("MSSQL_SA_PASSWORD", password)


def servicebus_container(network: Network, password: str, client: dict[str, Any] | None = None) -> DockerContainer:
    """Service Bus with the entities of the tests. It is ready when `/health` says so."""
    healthy = HttpWaitStrategy(HEALTH_PORT, "/health").with_startup_timeout(_SERVICEBUS_START_S)
    return (
        DockerContainer(image("servicebus"), docker_client_kw=client)
        .with_network(network)
        .with_exposed_ports(AMQP_PORT, HEALTH_PORT)
        .with_envs(ACCEPT_EULA="Y", SQL_SERVER=SQL_ALIAS, MSSQL_SA_PASSWORD=password)
        # Copied, not mounted: the engine may not see this machine's files.
        .with_copy_into_container(entities.config_file(), CONFIG_PATH, 0o644)
        .waiting_for(healthy)
    )


def servicebus_connection_string(host: str, port: int) -> str:
    """As the official emulator documents it; the client speaks AMQP without TLS to it."""
    return (
        f"Endpoint=sb://{host}:{port};SharedAccessKeyName={SERVICEBUS_KEY_NAME};SharedAccessKey={SERVICEBUS_KEY};"
        "UseDevelopmentEmulator=true;"
    )


@contextlib.contextmanager
def running_containers() -> Iterator[Connections]:
    """All four until the context ends; then they are gone, with their network.

    Raises StackError when the engine answers but cannot pull or start one.
    """
    password = f"Brook-{secrets.token_hex(8)}"
    with contextlib.ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # testcontainers' own, while it waits
        network = _made_network(stack)
        started(stack, image("mssql"), lambda: sql_container(network, password))
        cosmos = started(stack, image("cosmos"), cosmos_container)
        azurite = started(stack, image("azurite"), azurite_container)
        servicebus = started(stack, image("servicebus"), lambda: servicebus_container(network, password))
        yield Connections(
            servicebus_connection_string=servicebus_connection_string(
                servicebus.get_container_host_ip(), servicebus.get_exposed_port(AMQP_PORT)
            ),
            cosmos_endpoint=f"https://localhost:{COSMOS_PORT}/",
            cosmos_key=cosmos.key,
            blob_connection_string=azurite.get_connection_string(),
        )


def started(stack: contextlib.ExitStack, name: str, make: Callable[[], ContainerT]) -> ContainerT:
    """Start a container for as long as `stack` is open. Raises StackError, which says what to do."""
    try:
        container = make()
        stack.enter_context(container)
    except _FAILURES as error:
        raise StackError(_cannot_start(name, error)) from error
    return container


def _made_network(stack: contextlib.ExitStack) -> Network:
    try:
        return stack.enter_context(Network())
    except _FAILURES as error:
        raise StackError(f"--stack docker: the engine answers, but makes no network: {_line(error)}") from error


def _cannot_start(name: str, error: BaseException) -> str:
    return (
        f"--stack docker: the engine answers, but cannot pull or start {name}: {_line(error)}; try"
        f" `docker pull {name}`, name another with {IMAGE_VARIABLE.format('...')}, or use --stack embedded"
    )


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__
