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
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import anyio
from azure.core.exceptions import AzureError, HttpResponseError
from azure.core.pipeline.transport import AioHttpTransport
from azure.cosmos.aio import CosmosClient
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.aio.management import ServiceBusAdministrationClient
from azure.storage.blob.aio import BlobServiceClient

from worker.errors import SettingsError, StartError
from worker.locking.options import REQUEST_TIMEOUT_S
from worker.settings import Settings

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
    """Open the Cosmos DB account. Raises StartError when it does not answer or refuses the key.

    Reads keep the SDK's retries after a lost connection. Writes must pass `retry_connect=0, retry_read=0`: the SDK
    would otherwise send a batch again that the service has applied already. What is throttled comes back at once:
    the SDK would wait for up to half a minute, which whoever sent it can neither cut short nor count.
    """
    endpoint = settings.cosmos_endpoint
    async with _http_session(settings) as session:
        client = CosmosClient(
            endpoint,
            settings.cosmos_key.reveal(),
            transport=_transport(session, settings.cosmos_timeout_s),
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


@contextlib.asynccontextmanager
async def blob_service_client(settings: Settings) -> AsyncIterator[BlobServiceClient]:
    """Make the client for leases: no retries of its own, and no request outlives its lease.

    The SDK's default retry once made a renewal take longer than the lease lasted. Here whoever calls decides
    whether there is time for another try. Nothing is sent yet.
    """
    async with _http_session(settings) as session:
        with _setting("blob_connection_string"):
            client = BlobServiceClient.from_connection_string(
                settings.blob_connection_string.reveal(),
                transport=_transport(session, REQUEST_TIMEOUT_S / 2),
                retry_total=0,
            )
        async with _closing(client.close):
            yield client


@contextlib.asynccontextmanager
async def servicebus_client(settings: Settings, *, retry_total: int = 0) -> AsyncIterator[ServiceBusClient]:
    """Make the Service Bus client. Nothing is sent yet.

    Without retries of its own, as accepting the next session needs it: with them, a wait of one second for a
    session took nineteen. Give `retry_total` for senders.
    """
    with _setting("servicebus_connection_string"):
        client = ServiceBusClient.from_connection_string(
            settings.servicebus_connection_string.reveal(), retry_total=retry_total, ssl_context=_tls()
        )
    async with _closing(client.close):
        yield client


@contextlib.asynccontextmanager
async def servicebus_admin_client(settings: Settings) -> AsyncIterator[ServiceBusAdministrationClient]:
    """Make the client for the namespace's management interface. Nothing is sent yet. It speaks https only."""
    with _setting("servicebus_connection_string"):
        client = ServiceBusAdministrationClient.from_connection_string(
            settings.servicebus_connection_string.reveal(),
            retry_total=_ADMIN_RETRIES,
            retry_backoff_factor=_ADMIN_BACKOFF_S,
            connection_timeout=REQUEST_TIMEOUT_S,
            read_timeout=_ADMIN_READ_TIMEOUT_S,
        )
    async with _closing(partial(client.__aexit__, None, None, None)):
        yield client


def is_servicebus_emulator(settings: Settings) -> bool:
    """Tell whether the namespace is an emulator, which speaks AMQP without TLS."""
    return "UseDevelopmentEmulator=true" in settings.servicebus_connection_string.reveal()


@functools.cache
def _tls() -> ssl.SSLContext:
    """One TLS context for all connections.

    Left to itself, the Service Bus client reads the system's certificates for each connection, on the event loop: 30 ms
    of processor time, even where TLS is off.
    """
    return ssl.create_default_context()


async def _open_cosmos(client: CosmosClient, settings: Settings) -> None:
    """Read the account: it sets the consistency that every later request is sent with."""
    endpoint = settings.cosmos_endpoint
    try:
        # A key that is not base64 fails when the first request is signed.
        with anyio.fail_after(settings.cosmos_timeout_s * _OPEN_ATTEMPTS), _setting("cosmos_key"):
            await client.__aenter__()
    except HttpResponseError as error:
        if error.status_code in _REFUSED:
            raise StartError(f"Cosmos DB at {endpoint} refuses the key; check cosmos_key") from error
        raise StartError(f"Cosmos DB at {endpoint} answers {error.status_code}; check cosmos_endpoint") from error
    except (AzureError, TimeoutError) as error:
        raise StartError(f"Cosmos DB at {endpoint} does not answer; check cosmos_endpoint and the network") from error


@contextlib.asynccontextmanager
async def _http_session(settings: Settings) -> AsyncIterator[aiohttp.ClientSession]:
    """A connection pool that is never the bottleneck: two connections for each session that is worked on."""
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


def _transport(session: aiohttp.ClientSession, timeout_s: float) -> AioHttpTransport:
    """Send through `session`; connecting and each wait for bytes end after `timeout_s`.

    The timeouts are the transport's own: those that a client is given reach only a transport that it makes itself.
    """
    return AioHttpTransport(session=session, session_owner=False, connection_timeout=timeout_s, read_timeout=timeout_s)


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
