"""Tokens of the identity that the worker acts as, where `azure_credential` is set.

A source of tokens belongs to one client and one event loop; it is opened before the client and closed after it.
"""

import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final, NoReturn, assert_never
from urllib.parse import urlsplit

import anyio
import structlog
from azure.core.credentials import AccessToken
from azure.core.credentials_async import AsyncTokenCredential
from azure.core.exceptions import AzureError, HttpResponseError

from worker.credentials import AzureCredential
from worker.errors import StartError
from worker.redaction import redact
from worker.settings import Settings

log = structlog.get_logger()

SERVICEBUS_SCOPE: Final = "https://servicebus.azure.net//.default"
"""With two slashes, as the Service Bus client asks for it: the resource's name ends with one."""

BLOB_SCOPE: Final = "https://storage.azure.com/.default"

_COSMOS_SCOPE: Final = "https://cosmos.azure.com/.default"
_COSMOS_SCOPE_OVERRIDE: Final = "AZURE_COSMOS_AAD_SCOPE_OVERRIDE"
_UNKNOWN_RESOURCE: Final = "AADSTS500011"
"""https://learn.microsoft.com/entra/identity-platform/reference-error-codes"""

_RENEW_BEFORE_S: Final = 600.0
"""A token that ends sooner is renewed; the one in hand serves until that succeeds."""

_RENEW_PAUSE_S: Final = 30.0
"""Between attempts to renew a token that is still good."""

_USABLE_S: Final = 30.0
"""A token that ends sooner is not used any more: the request may take as long to arrive."""

_TOKEN_TIMEOUT_S: Final = 30.0
_CLOSE_TIMEOUT_S: Final = 5.0
_CLI_TIMEOUT_S: Final = 20
_REASON_LENGTH_MAX: Final = 300

_REMEDIES: Final[Mapping[AzureCredential, str]] = {
    "managed": "run it where a managed identity is assigned, and name a user-assigned one in azure_client_id",
    "workload": "it needs AZURE_TENANT_ID, AZURE_CLIENT_ID (or azure_client_id) and AZURE_FEDERATED_TOKEN_FILE, which"
    " AKS sets for a pod with the label azure.workload.identity/use",
    "cli": "run `az login` as the user that runs this command",
    "default": "give it one of the ways that it looks for, or name one in azure_credential: managed, workload or cli",
}


class TokenError(AzureError):
    """There is no token. The message says which credential was asked, why there is none, and what to do."""


class UnknownResourceError(TokenError, HttpResponseError):
    """The tenant knows no such resource. By this error, the Cosmos DB client then asks for all accounts at once."""


class TokenSource(AsyncTokenCredential):
    """Tokens of one identity, kept until shortly before they end, each asked for once however many wait for it.

    A renewal that fails is logged and tried again; the token in hand serves as long as it is good. Without one,
    `get_token` raises TokenError. No request for a token takes longer than `timeout_s`.
    """

    def __init__(
        self,
        credential: AsyncTokenCredential,
        kind: AzureCredential,
        *,
        wall_s: Callable[[], float] = time.time,
        timeout_s: float = _TOKEN_TIMEOUT_S,
    ) -> None:
        """Take tokens from `credential`, which this source owns and closes."""
        self._credential = credential
        self._kind = kind
        self._wall_s = wall_s
        self._timeout_s = timeout_s
        self._held: dict[tuple[str, ...], AccessToken] = {}
        self._ask_again_s: dict[tuple[str, ...], float] = {}
        self._lock = anyio.Lock()

    async def get_token(
        self,
        *scopes: str,
        claims: str | None = None,
        tenant_id: str | None = None,
        enable_cae: bool = False,
        **options: Any,
    ) -> AccessToken:
        """The token in hand, or a new one: also where a service asks for further `claims`."""
        asked = {**options, "claims": claims, "tenant_id": tenant_id, "enable_cae": enable_cae}
        wanted = {name: value for name, value in asked.items() if value}
        async with self._lock:
            held = None if wanted else self._held.get(scopes)
            left_s = 0.0 if held is None else held.expires_on - self._wall_s()
            may_wait = left_s > _RENEW_BEFORE_S or self._wall_s() < self._ask_again_s.get(scopes, 0.0)
            if held is not None and left_s > _USABLE_S and may_wait:
                return held
            self._ask_again_s[scopes] = self._wall_s() + _RENEW_PAUSE_S
            try:
                token = await self._ask(scopes, wanted)
            except TokenError as error:
                if held is not None and left_s > _USABLE_S:
                    log.warning("identity.token-not-renewed", reason=str(error), left_s=round(left_s))
                    return held
                raise
            self._held[scopes] = token
            return token

    async def _ask(self, scopes: tuple[str, ...], options: Mapping[str, Any]) -> AccessToken:
        try:
            with anyio.fail_after(self._timeout_s):
                return await self._credential.get_token(*scopes, **options)
        except TimeoutError:
            _no_token(self._kind, f"no answer within {self._timeout_s:g} s")
        except (AzureError, ValueError, OSError) as error:
            _no_token(self._kind, str(error))

    async def close(self) -> None:
        """Close the credential, within a bounded time."""
        with anyio.move_on_after(_CLOSE_TIMEOUT_S, shield=True):
            await self._credential.close()

    async def __aexit__(self, *_: object) -> None:
        """As `close`."""
        await self.close()


@contextlib.asynccontextmanager
async def token_source(settings: Settings, *scopes: str) -> AsyncIterator[TokenSource]:
    """Open the identity that the settings name. Raises StartError when it gets a token for none of `scopes`.

    The first is asked for; the next where the tenant does not know the one before.
    """
    kind = settings.azure_credential
    assert kind is not None, "the settings were checked: a service without a secret has a credential"
    try:
        source = TokenSource(_credential(kind, settings.azure_client_id), kind)
    except TokenError as error:
        raise StartError(str(error)) from None
    async with source:
        try:
            await _first_token(source, scopes)
        except TokenError as error:
            raise StartError(str(error)) from None  # what the library chains may quote what was sent
        yield source


async def _first_token(source: TokenSource, scopes: Sequence[str]) -> None:
    *others, last = scopes
    for scope in others:
        try:
            await source.get_token(scope)
        except UnknownResourceError:
            continue
        return
    await source.get_token(last)


def cosmos_scopes(endpoint: str) -> tuple[str, ...]:
    """What the Cosmos DB client asks tokens for: the account, or all of them; another where its variable says so."""
    if override := os.environ.get(_COSMOS_SCOPE_OVERRIDE):
        return (override,)
    return (f"https://{urlsplit(endpoint).hostname}/.default", _COSMOS_SCOPE)


def _credential(kind: AzureCredential, client_id: str | None) -> AsyncTokenCredential:
    """The library's credential. Imported here: it takes half a second, which those with keys need not wait for."""
    from azure.identity import aio  # noqa: PLC0415 - see above

    named: dict[str, Any] = {} if client_id is None else {"client_id": client_id}
    try:
        match kind:
            case "managed":
                return aio.ManagedIdentityCredential(**named)
            case "workload":
                return aio.WorkloadIdentityCredential(**named)
            case "cli":
                return aio.AzureCliCredential(process_timeout=_CLI_TIMEOUT_S)
            case "default":
                return aio.DefaultAzureCredential(
                    managed_identity_client_id=client_id, workload_identity_client_id=client_id
                )
            case _:
                assert_never(kind)
    except ValueError as error:
        _no_token(kind, str(error))


def _no_token(kind: AzureCredential, reason: str) -> NoReturn:
    first = next(iter(redact(reason).strip().splitlines()), "") or "no reason given"
    told = f"azure_credential = {kind} gives no token ({first[:_REASON_LENGTH_MAX].rstrip('.')})"
    if _UNKNOWN_RESOURCE in reason:
        code = "" if _UNKNOWN_RESOURCE in told else f" {_UNKNOWN_RESOURCE}:"
        raise UnknownResourceError(f"{told};{code} the tenant does not know the service; check its address") from None
    raise TokenError(f"{told}; {_REMEDIES[kind]}") from None
