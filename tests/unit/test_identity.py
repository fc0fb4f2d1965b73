"""The source of tokens: asks as seldom as it can, outlives an outage as long as its token does, and says what to do."""

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import anyio
import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError

from tests.support.worker_settings import NOWHERE
from worker.errors import StartError
from worker.identity import SERVICEBUS_SCOPE, TokenError, TokenSource, cosmos_scopes, token_source
from worker.settings import Settings

pytestmark = pytest.mark.anyio

NOW_S = 1_700_000_000
SCOPE = "https://storage.azure.com/.default"


class Credential:
    """Gives out numbered tokens; fails with `failure` while that is set."""

    def __init__(self, wall_s: Callable[[], float], lifetime_s: int = 3_600) -> None:
        self.asked: list[tuple[tuple[str, ...], dict[str, Any]]] = []
        self.failure: Exception | None = None
        self.is_silent = False
        self.closed = 0
        self._wall_s = wall_s
        self._lifetime_s = lifetime_s

    async def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        self.asked.append((scopes, options))
        await anyio.lowlevel.checkpoint()
        if self.is_silent:
            await anyio.sleep_forever()
        if self.failure is not None:
            raise self.failure
        return AccessToken(f"token-{len(self.asked)}", int(self._wall_s()) + self._lifetime_s)

    async def close(self) -> None:
        self.closed += 1

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.close()

    async def __aenter__(self) -> Self:
        return self


class Bench:
    def __init__(self, timeout_s: float = 5.0) -> None:
        self.now_s = float(NOW_S)
        self.credential = Credential(lambda: self.now_s)
        self.source = TokenSource(self.credential, "managed", wall_s=lambda: self.now_s, timeout_s=timeout_s)

    async def token(self, *scopes: str, **options: Any) -> str:
        return (await self.source.get_token(*(scopes or (SCOPE,)), **options)).token


async def test_a_token_is_asked_for_once_however_many_wait_for_it() -> None:
    bench = Bench()
    found: list[str] = []

    async def one() -> None:
        found.append(await bench.token())

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(one)
    assert found == ["token-1"] * 10
    assert bench.credential.asked == [((SCOPE,), {})]


async def test_each_scope_has_its_token_and_further_claims_are_always_asked_for() -> None:
    bench = Bench()
    assert await bench.token() == "token-1"
    assert await bench.token(SERVICEBUS_SCOPE) == "token-2"
    assert await bench.token(claims="more", enable_cae=True) == "token-3"
    assert bench.credential.asked[2] == ((SCOPE,), {"claims": "more", "enable_cae": True})
    assert await bench.token() == "token-3"


async def test_a_token_is_renewed_well_before_it_ends() -> None:
    bench = Bench()
    await bench.token()
    bench.now_s += 2_999
    assert await bench.token() == "token-1"
    bench.now_s += 2
    assert await bench.token() == "token-2"


async def test_while_a_renewal_fails_the_token_in_hand_serves_as_long_as_it_is_good() -> None:
    bench = Bench()
    await bench.token()
    bench.credential.failure = ClientAuthenticationError("the token service is down")
    bench.now_s += 3_100
    assert [await bench.token() for _ in range(5)] == ["token-1"] * 5
    assert len(bench.credential.asked) == 2, "asked again after a pause only"
    bench.now_s += 31
    assert await bench.token() == "token-1"
    assert len(bench.credential.asked) == 3
    bench.now_s += 440
    with pytest.raises(TokenError, match="the token service is down"):
        await bench.token()
    bench.credential.failure = None
    assert await bench.token() == "token-5"


async def test_a_token_service_that_does_not_answer_is_given_up_in_time() -> None:
    bench = Bench(timeout_s=0.05)
    bench.credential.is_silent = True
    with pytest.raises(TokenError, match=r"azure_credential = managed gives no token \(no answer within 0.05 s\)"):
        await bench.token()


async def test_what_the_library_says_is_shortened_to_a_line_without_secrets() -> None:
    bench = Bench()
    bench.credential.failure = ClientAuthenticationError("bad: client_secret=planted\nmore lines")
    with pytest.raises(TokenError) as caught:
        await bench.token()
    assert str(caught.value) == (
        "azure_credential = managed gives no token (bad: client_secret=***); run it where a managed identity is"
        " assigned, and name a user-assigned one in azure_client_id"
    )


async def test_closing_the_source_closes_the_credential_once() -> None:
    bench = Bench()
    async with bench.source:
        await bench.token()
    assert bench.credential.closed == 1


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("workload", "it needs AZURE_TENANT_ID, AZURE_CLIENT_ID"),
        ("cli", "run `az login` as the user that runs this command"),
    ],
)
async def test_a_credential_that_is_not_set_up_ends_the_start_and_says_what_to_do(
    kind: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_FEDERATED_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "/nonexistent")
    settings = Settings(
        azure_credential=kind,  # type: ignore[arg-type]
        servicebus_namespace="ns.servicebus.windows.net",
        cosmos_endpoint="https://a.documents.azure.com",
        blob_account_url="https://a.blob.core.windows.net",
        log_level=NOWHERE.log_level,
    )
    with pytest.raises(StartError, match=told) as caught:
        async with token_source(settings, SCOPE):
            raise AssertionError("there is no token")
    assert f"azure_credential = {kind} gives no token" in str(caught.value)


async def test_an_unknown_resource_is_told_in_the_way_that_the_cosmos_db_client_looks_for() -> None:
    bench = Bench()
    bench.credential.failure = ClientAuthenticationError("failed\nAADSTS500011: The resource principal was not found")
    with pytest.raises(HttpResponseError, match="AADSTS500011") as caught:
        await bench.token()
    assert isinstance(caught.value, TokenError)


def test_cosmos_db_is_asked_for_as_its_client_does(monkeypatch: pytest.MonkeyPatch) -> None:
    from azure.cosmos._base import create_scope_from_url  # noqa: PLC0415 - the client's own rules, to compare with
    from azure.cosmos._constants import _Constants  # noqa: PLC0415

    monkeypatch.delenv(_Constants.AAD_SCOPE_OVERRIDE, raising=False)
    for endpoint in ("https://a.documents.azure.com:443/", "https://a.documents.azure.com"):
        assert cosmos_scopes(endpoint) == (create_scope_from_url(endpoint), _Constants.AAD_DEFAULT_SCOPE)
    monkeypatch.setenv(_Constants.AAD_SCOPE_OVERRIDE, "https://x/.default")
    assert cosmos_scopes("https://a.documents.azure.com") == ("https://x/.default",)
