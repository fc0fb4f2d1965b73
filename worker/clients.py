"""The Azure clients, each set up the one way that this worker needs, opened and closed in order.

Every client is bounded: it gives up on a request that is not answered, and closing it takes a bounded time even
while the program is being cancelled. Each is for one event loop and must be used inside its `async with`.
"""

import contextlib
import functools
import ssl
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import aiohttp
import anyio
from azure.core.exceptions import AzureError, HttpResponseError
from azure.core.pipeline.transport import AioHttpTransport
from azure.core.settings import settings as azure_settings
from azure.cosmos.aio import ContainerProxy, CosmosClient
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.aio.management import ServiceBusAdministrationClient

from worker.credentials import is_servicebus_emulator
from worker.errors import SettingsError, StartError
from worker.identity import BLOB_SCOPE, SERVICEBUS_SCOPE, TokenError, TokenSource, cosmos_scopes, token_source
from worker.locking.options import REQUEST_TIMEOUT_S
from worker.settings import Settings
from worker.storage.retries import RetryOptions
from worker.telemetry.transport import ObservedTransport

if TYPE_CHECKING:  # a third of a second, which most commands need not wait for
    from azure.storage.blob.aio import BlobServiceClient

CLOSE_TIMEOUT_S: Final = 5.0
"""How long closing one client may hold up the end of the program."""

_CONNECTIONS_MIN: Final = 100
_OPEN_ATTEMPTS: Final = 2
_REFUSED: Final = (401, 403)
_ADMIN_RETRIES: Final = 2
_ADMIN_BACKOFF_S: Final = 0.5
_ADMIN_READ_TIMEOUT_S: Final = 15.0
"""Making a queue takes the service longer than an ordinary request."""


@contextlib.asynccontextmanager
async def cosmos_client(settings: Settings) -> AsyncIterator[CosmosClient]:
    """Open the Cosmos DB account. Raises StartError when it does not answer or refuses the credentials.

    Reads keep the SDK's retries after a lost connection. Writes must pass `retry_connect=0, retry_read=0`: the SDK
    would otherwise send a batch again that the service has applied already. What is throttled comes back at once:
    the SDK would wait for up to half a minute, which whoever sent it can neither cut short nor count.
    """
    endpoint = settings.cosmos_endpoint
    async with _cosmos_credential(settings) as credential, _http_session(settings) as session:
        client = CosmosClient(
            endpoint,
            credential,
            transport=_transport("cosmos", session, settings.cosmos_timeout_s),
            connection_timeout=settings.cosmos_timeout_s,
            read_timeout=settings.cosmos_timeout_s,
            retry_throttle_total=-1,  # none: azure-cosmos 4.17 takes 0 for "not given"
            # The size of a batch is budgeted on the encoded documents: the SDK must send those very bytes, not
            # `\uXXXX` for every character outside ASCII.
            enable_compact_utf8_item_writes=True,
            # An emulator may advertise an https endpoint while it speaks http.
            enable_endpoint_discovery=urlsplit(endpoint).scheme == "https",
        )
        async with _closing(client.close):
            await _open_cosmos(client, settings)
            yield client


def brooks_container(client: CosmosClient, settings: Settings) -> ContainerProxy:
    """The container of the brooks. Nothing is sent."""
    return client.get_database_client(settings.cosmos_database).get_container_client(settings.cosmos_container)


def store_retries(settings: Settings) -> RetryOptions:
    """How often and for how long a request to that container is tried."""
    return RetryOptions(attempts_max=settings.store_attempts_max, time_max_s=settings.store_time_max_s)


@contextlib.asynccontextmanager
async def blob_service_client(settings: Settings) -> AsyncIterator["BlobServiceClient"]:
    """Make the client for leases: no retries of its own, and no request outlives its lease.

    The SDK's default retry once made a renewal take longer than the lease lasted. Here whoever calls decides
    whether there is time for another try. Nothing is sent yet.
    """
    from azure.storage.blob.aio import BlobServiceClient  # noqa: PLC0415 - as above

    async with contextlib.AsyncExitStack() as stack:
        url, secret = settings.blob_account_url, settings.blob_connection_string
        source = None if url is None else await stack.enter_async_context(token_source(settings, BLOB_SCOPE))
        session = await stack.enter_async_context(_http_session(settings))
        transport = _transport("blob", session, REQUEST_TIMEOUT_S / 2)
        if url is not None:
            client = BlobServiceClient(url, source, transport=transport, retry_total=0)
        else:
            assert secret is not None, "the settings were checked: one of the two is set"
            with _setting("blob_connection_string"):
                client = BlobServiceClient.from_connection_string(secret.reveal(), transport=transport, retry_total=0)
        await stack.enter_async_context(_closing(client.close))
        yield client


@contextlib.asynccontextmanager
async def servicebus_client(settings: Settings, *, retry_total: int = 0) -> AsyncIterator[ServiceBusClient]:
    """Make the Service Bus client. Nothing is sent yet.

    Without retries of its own, as accepting the next session needs it: with them, a wait of one second for a
    session took nineteen. Give `retry_total` for senders.
    """
    async with servicebus_connector(settings) as connect, contextlib.AsyncExitStack() as stack:
        client = connect(retry_total)
        await stack.enter_async_context(_closing(client.close))
        yield client


@contextlib.asynccontextmanager
async def servicebus_connector(settings: Settings) -> AsyncIterator[Callable[[int], ServiceBusClient]]:
    """The way to Service Bus that the settings name: makes clients that retry an operation so many times by themselves.

    They are the caller's to close. Raises StartError when the identity gets no token.
    """
    secret, namespace = settings.servicebus_connection_string, settings.servicebus_namespace
    async with contextlib.AsyncExitStack() as stack:
        source = (
            None if namespace is None else await stack.enter_async_context(token_source(settings, SERVICEBUS_SCOPE))
        )

        def connect(retry_total: int) -> ServiceBusClient:
            if namespace is not None and source is not None:
                secure = not is_servicebus_emulator(settings)
                return ServiceBusClient(namespace, source, retry_total=retry_total, ssl_context=_tls(), use_tls=secure)
            assert secret is not None, "the settings were checked: one of the two is set"
            with _setting("servicebus_connection_string"):
                return ServiceBusClient.from_connection_string(
                    secret.reveal(), retry_total=retry_total, ssl_context=_tls()
                )

        yield connect


@contextlib.asynccontextmanager
async def servicebus_admin_client(settings: Settings) -> AsyncIterator[ServiceBusAdministrationClient]:
    """Make the client for the namespace's management interface. Nothing is sent yet.

    It speaks https only, but for an emulator whose `servicebus_admin_endpoint` is set.
    """
    options: dict[str, Any] = {
        "retry_total": _ADMIN_RETRIES,
        "retry_backoff_factor": _ADMIN_BACKOFF_S,
        "connection_timeout": REQUEST_TIMEOUT_S,
        "read_timeout": _ADMIN_READ_TIMEOUT_S,
    }
    address = None
    if settings.servicebus_admin_endpoint is not None:
        address = urlsplit(settings.servicebus_admin_endpoint).netloc
        options["transport"] = _PlainHttp(connection_timeout=REQUEST_TIMEOUT_S, read_timeout=_ADMIN_READ_TIMEOUT_S)
    async with contextlib.AsyncExitStack() as stack:
        if settings.servicebus_namespace is not None:
            source = await stack.enter_async_context(token_source(settings, SERVICEBUS_SCOPE))
            client = ServiceBusAdministrationClient(address or settings.servicebus_namespace, source, **options)
        else:
            assert settings.servicebus_connection_string is not None, "the settings were checked: one of the two is set"
            with _setting("servicebus_connection_string"):
                client = ServiceBusAdministrationClient.from_connection_string(
                    _at(settings.servicebus_connection_string.reveal(), address), **options
                )
        await stack.enter_async_context(_closing(partial(client.__aexit__, None, None, None)))
        yield client


class _PlainHttp(AioHttpTransport):  # type: ignore[misc]  # imported lazily by azure-core, so untyped
    """The management client knows https alone; an emulator has no certificate."""

    async def send(self, request: Any, **config: Any) -> Any:
        """Send what was meant for https without TLS."""
        request.url = request.url.replace("https://", "http://", 1)
        return await super().send(request, **config)


def _at(connection_string: str, address: str | None) -> str:
    """The connection string with another address in it."""
    if address is None:
        return connection_string
    others = (part for part in connection_string.split(";") if not part.strip().startswith("Endpoint="))
    return ";".join((f"Endpoint=sb://{address}", *others))


@functools.cache
def _tls() -> ssl.SSLContext:
    """One TLS context for all connections.

    Left to itself, the Service Bus client reads the system's certificates for each connection, on the event loop: 30 ms
    of processor time, even where TLS is off.
    """
    return ssl.create_default_context()


@contextlib.asynccontextmanager
async def _cosmos_credential(settings: Settings) -> AsyncIterator[str | TokenSource]:
    """The account's key, or the identity."""
    if settings.cosmos_key is not None:
        yield settings.cosmos_key.reveal()
        return
    async with token_source(settings, *cosmos_scopes(settings.cosmos_endpoint)) as source:
        yield source


async def _open_cosmos(client: CosmosClient, settings: Settings) -> None:
    """Read the account: it sets the consistency that every later request is sent with."""
    endpoint = settings.cosmos_endpoint
    try:
        with anyio.fail_after(settings.cosmos_timeout_s * _OPEN_ATTEMPTS):
            await client.__aenter__()
    except TokenError as error:
        raise StartError(str(error)) from error
    except HttpResponseError as error:
        if error.status_code in _REFUSED and settings.cosmos_key is None:
            remedy = "give it a data-plane role of that account (docs/deploy.md)"
            raise StartError(f"Cosmos DB at {endpoint} refuses the identity; {remedy}") from error
        if error.status_code in _REFUSED:
            raise StartError(f"Cosmos DB at {endpoint} refuses the key; check cosmos_key") from error
        raise StartError(f"Cosmos DB at {endpoint} answers {error.status_code}; check cosmos_endpoint") from error
    except (AzureError, TimeoutError) as error:
        raise StartError(f"Cosmos DB at {endpoint} does not answer; check cosmos_endpoint and the network") from error


@functools.cache
def _read_azure_settings_once() -> None:
    """Have azure-core remember whether AZURE_SDK_TRACING_ENABLED is set.

    It reads the environment several times a request otherwise, which takes three hundredths of the worker's time.
    """
    azure_settings.tracing_enabled = azure_settings.tracing_enabled()


@contextlib.asynccontextmanager
async def _http_session(settings: Settings) -> AsyncIterator[aiohttp.ClientSession]:
    """A connection pool that is never the bottleneck: two connections for each session that is worked on."""
    _read_azure_settings_once()
    limit = max(_CONNECTIONS_MIN, 2 * settings.max_concurrent_sessions)
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=limit),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,  # the SDK decodes bodies itself
        trust_env=_has_proxy(),
    )
    async with _closing(session.close):
        yield session


def _has_proxy() -> bool:
    """Whether the environment names a proxy.

    Only then aiohttp is to look there: it does so at every request, and reads netrc in a thread each time, which takes
    half a millisecond of processor time.
    """
    return bool(urllib.request.getproxies())


def _transport(service: str, session: aiohttp.ClientSession, timeout_s: float) -> AioHttpTransport:
    """Send through `session`; connecting and each wait for bytes end after `timeout_s`.

    The timeouts are the transport's own: those that a client is given reach only a transport that it makes itself.
    """
    return ObservedTransport(
        service, session=session, session_owner=False, connection_timeout=timeout_s, read_timeout=timeout_s
    )


@contextlib.asynccontextmanager
async def _closing(close: Callable[[], Awaitable[Any]]) -> AsyncIterator[None]:
    """Close at the end, shielded from cancellation, for a bounded time."""
    try:
        yield
    finally:
        with anyio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
            await close()


@contextlib.contextmanager
def _setting(name: str) -> Iterator[None]:
    """Name the setting when the SDK cannot read it. The SDK's own text may quote it and is not shown."""
    try:
        yield
    except ValueError:
        raise SettingsError([f"{name}: the Azure SDK cannot read it; copy it anew from the portal"]) from None
