"""The three services and the control interface as one, in this process; `emulator.serving` makes a process of it.

```python
async with Emulator(config=ServiceBusConfig(queues=(QueueConfig(name="commands"),))) as azure:
    client = ServiceBusClient.from_connection_string(azure.servicebus_connection_string)
```
"""

import contextlib
import ssl
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

import msgspec

from emulator.blob import DEVELOPMENT_KEY, BlobServer
from emulator.clock import Clock, SystemClock
from emulator.config import ServiceBusConfig, load_config
from emulator.control import ControlServer
from emulator.cosmos import CosmosServer
from emulator.faults import Faults
from emulator.identity import TokenAuthority
from emulator.journal import Journal, MemoryJournal, SqliteJournal
from emulator.servicebus import AdminServer, ServiceBusServer

COSMOS_KEY: Final = "C2y6yDjf5/R+ob0N8A7Cgv30VRDJIWEHLM+4QDU5DE2nQ9nDuVTqobD4b8mGGyPMbIZnqyMsEcaGQy67XIw/Jw=="
"""The key that the official Cosmos DB emulator has, so that existing settings go on working. Not a secret:
https://learn.microsoft.com/azure/cosmos-db/emulator#authentication."""
SERVICEBUS_KEY_NAME: Final = "RootManageSharedAccessKey"
SERVICEBUS_KEY: Final = "SAS_KEY_VALUE"
"""What the official Service Bus emulator documents:
https://learn.microsoft.com/azure/service-bus-messaging/test-locally-with-service-bus-emulator."""


class EmulatorError(Exception):
    """The emulator cannot start: one sentence that says what to change."""


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """Where the services listen: what the ready file holds."""

    servicebus_connection_string: str
    servicebus_admin_endpoint: str
    cosmos_endpoint: str
    cosmos_key: str
    blob_connection_string: str
    control_endpoint: str


class _Server(Protocol):
    async def start(self, port: int = 0) -> int: ...

    async def stop(self) -> None: ...


class Emulator:
    """Service Bus, Cosmos DB and Blob Storage in this process; enter it to start, leave it to stop.

    Guarantee: inside the context all five ports listen on 127.0.0.1; after it none does and no task is left. With
    `data_dir` everything acknowledged is there again when an emulator is started on the same folder, after a
    `kill -9` too; without it, state lives as long as the context.
    """

    def __init__(
        self,
        *,
        config: ServiceBusConfig | Path | str | None = None,
        data_dir: Path | None = None,
        servicebus_port: int = 0,
        cosmos_port: int = 0,
        blob_port: int = 0,
        control_port: int = 0,
        admin_port: int = 0,
        seed: int = 0,
        clock: Clock | None = None,
        authority: TokenAuthority | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """With `authority`, tokens that it issues are taken beside the keys; with `tls`, HTTP services speak https."""
        self._authority = authority
        self._tls = tls
        self.clock: Clock = clock or SystemClock()
        self.faults = Faults(seed)
        self.config = _read_config(config)
        self._data_dir = data_dir
        self._ports = {
            "servicebus": servicebus_port,
            "cosmos": cosmos_port,
            "blob": blob_port,
            "control": control_port,
            "admin": admin_port,
        }
        self._stack = contextlib.AsyncExitStack()
        self._ready: Ready | None = None
        self.servicebus: ServiceBusServer
        self.cosmos: CosmosServer
        self.blob: BlobServer

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ready = None
        await self._stack.aclose()

    async def _start(self) -> None:
        try:
            self._load()
        except msgspec.MsgspecError as error:
            raise EmulatorError(
                f"cannot read what is in the data folder {self._data_dir}: {error}; another version of the emulator"
                " wrote it: choose another --data folder"
            ) from error
        control = ControlServer(faults=self.faults, clock=self.clock, servicebus=self.servicebus, blob=self.blob)
        admin = AdminServer(self.servicebus)
        await self._listen("servicebus", self.servicebus)
        await self._listen("cosmos", self.cosmos)
        await self._listen("blob", self.blob)
        await self._listen("admin", admin)
        control_port = await self._listen("control", control)
        self._ready = Ready(
            servicebus_connection_string=self.servicebus.connection_string,
            servicebus_admin_endpoint=admin.endpoint,
            cosmos_endpoint=self.cosmos.endpoint,
            cosmos_key=COSMOS_KEY,
            blob_connection_string=self.blob.connection_string,
            control_endpoint=f"http://127.0.0.1:{control_port}",
        )

    def _load(self) -> None:
        """Make the servers: each reads its journal."""
        clock, faults = self.clock, self.faults
        self.servicebus = ServiceBusServer(
            config=self.config,
            clock=clock,
            journal=self._journal("servicebus"),
            faults=faults,
            key_name=SERVICEBUS_KEY_NAME,
            key=SERVICEBUS_KEY,
            authority=self._authority,
        )
        self.cosmos = CosmosServer(
            account_key=COSMOS_KEY,
            clock=clock,
            journal=self._journal("cosmos"),
            faults=faults,
            authority=self._authority,
            tls=self._tls,
        )
        self.blob = BlobServer(
            account_key=DEVELOPMENT_KEY,
            clock=clock,
            journal=self._journal("blob"),
            faults=faults,
            authority=self._authority,
            tls=self._tls,
        )

    def _journal(self, service: str) -> Journal:
        if self._data_dir is None:
            return MemoryJournal()
        try:
            journal = SqliteJournal(self._data_dir / f"{service}.sqlite")
        except (RuntimeError, OSError) as error:
            raise EmulatorError(f"cannot use the data folder {self._data_dir}: {error}") from error
        self._stack.callback(journal.close)
        return journal

    async def _listen(self, name: str, server: _Server) -> int:
        port = self._ports[name]
        try:
            listening = await server.start(port)
        except OSError as error:
            raise EmulatorError(
                f"cannot listen on 127.0.0.1:{port} ({error.strerror or error}); give another --{name}-port,"
                " or 0 for any free one"
            ) from error
        self._stack.push_async_callback(server.stop)
        return listening

    def ready(self) -> Ready:
        """Where the services listen."""
        if self._ready is None:
            raise RuntimeError("the emulator does not run: use `async with Emulator(...)`")
        return self._ready

    @property
    def servicebus_connection_string(self) -> str:
        """For ServiceBusClient.from_connection_string."""
        return self.ready().servicebus_connection_string

    @property
    def servicebus_admin_endpoint(self) -> str:
        """The URL of the Service Bus administration interface."""
        return self.ready().servicebus_admin_endpoint

    @property
    def cosmos_endpoint(self) -> str:
        """The URL for CosmosClient."""
        return self.ready().cosmos_endpoint

    @property
    def cosmos_key(self) -> str:
        """The credential for CosmosClient."""
        return self.ready().cosmos_key

    @property
    def blob_connection_string(self) -> str:
        """For BlobServiceClient.from_connection_string."""
        return self.ready().blob_connection_string

    @property
    def control_endpoint(self) -> str:
        """The URL of the control interface."""
        return self.ready().control_endpoint


def _read_config(config: ServiceBusConfig | Path | str | None) -> ServiceBusConfig:
    """The entities: as they are, from a file, or none."""
    if isinstance(config, ServiceBusConfig):
        return config
    return load_config(Path(config)) if config else ServiceBusConfig()
