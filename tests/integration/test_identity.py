"""The worker and its commands as processes that act as an identity: tokens everywhere, not a key anywhere."""

import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, Self

import anyio
import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError
from azure.cosmos.aio import CosmosClient
from azure.servicebus.aio import ServiceBusClient
from azure.storage.blob.aio import BlobServiceClient

from brook_client.client import BrookClient
from brook_client.connect import with_credential
from emulator.config import QueueConfig, ServiceBusConfig
from emulator.cosmos.throughput import Throughput
from schemas.keys import BrookKey
from tests.support.brooks import command as brook_command
from tests.support.identity import IDENTITY_SECRET, SecureSite, secure_site
from tests.support.site import QUICK
from tests.support.worker_process import ROOT, worker_process
from worker.configuration import PREFIX, variable
from worker.identity import TokenSource
from worker.locking.base import LeaseMisconfiguredError, LeaseUnavailableError
from worker.locking.blob import BlobLeaseManager
from worker.locking.options import LeaseOptions
from worker.provisioning.cosmos import container_properties
from worker.sessions.base import BrokerUnavailableError
from worker.sessions.servicebus import ServiceBusSessionSource
from worker.storage.base import StoreUnavailableError
from worker.storage.cosmos import CosmosBrookStore
from worker.storage.retries import RetryOptions

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ENTITIES: Final = ServiceBusConfig(
    queues=(
        QueueConfig(name="brook-commands", requires_session=True),
        QueueConfig(name="brook-replies", requires_session=True),
    )
)
COMMAND: Final = {
    "commandId": "as-an-identity",
    "brook": {"name": "orders", "entityId": "1"},
    "expected": "empty",
    "events": [{"eventId": "1", "eventType": "Opened", "data": "e30="}],
}


class Credential:
    """A token credential as a producer may have it, of the tenant that the services trust."""

    def __init__(self, site: SecureSite) -> None:
        self._site = site
        self.failure: Exception | None = None
        self.closed = 0

    async def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        if self.failure is not None:
            raise self.failure
        (scope,) = scopes
        now_s = time.time()
        token = self._site.identity.authority.issue(scope.removesuffix("/.default"), now_s=now_s)
        return AccessToken(token, int(now_s) + 3_600)

    async def close(self) -> None:
        self.closed += 1

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


@pytest.fixture(scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SecureSite]:
    async with secure_site(tmp_path_factory.mktemp("identity"), ENTITIES) as it:
        account = it.azure.cosmos.engine.account
        account.create_database({"id": "brooks"}, Throughput())
        account.create_container("brooks", container_properties("events"), Throughput())
        yield it


async def command(site: SecureSite, *arguments: str, **changes: str) -> tuple[int, str, str]:
    """Run one subcommand; its exit code, stdout and stderr, in which no token stands."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    environment |= {variable(name): value for name, value in (site.settings() | changes).items()}
    environment |= site.environment() | {"PYTHONPATH": str(ROOT)}
    with anyio.fail_after(60):
        done = await anyio.run_process(
            [sys.executable, "-m", "worker.cli", *arguments],
            env=environment,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    out, err = done.stdout.decode(), done.stderr.decode()
    assert not [secret for secret in (*site.identity.issued, IDENTITY_SECRET) if secret in out + err]
    assert "Unclosed" not in err, "credentials and their connections are closed"
    return done.returncode, out, err


async def test_a_worker_and_the_commands_do_all_their_work_as_an_identity(site: SecureSite, tmp_path: Path) -> None:
    made = await command(site, "provision", log_level="debug")
    assert made[0] == 0, made
    checked = await command(site, "check", "--json")
    assert checked[0] == 0, checked
    assert "identity (managed)" in checked[1]
    lines = tmp_path / "commands.ndjson"
    lines.write_text(json.dumps(COMMAND))
    settings = site.settings() | QUICK | {"auto_provision": "false"}
    environment = site.environment()
    async with worker_process(settings, tmp_path / "worker.log", environment) as worker:
        await worker.started()
        code, out, err = await command(site, "send", "--await", str(lines))
        assert (code, json.loads(out)["outcome"]) == (0, "appended"), err
        text = worker.text()
    code, out, err = await command(site, "read", "orders|1", "--format", "ndjson")
    assert (code, json.loads(out)["eventId"]) == (0, "1"), err
    assert not [token for token in site.identity.issued if token in text]
    resources = {resource.rstrip("/") for resource, _ in site.identity.asked}
    assert resources == {"https://servicebus.azure.net", "https://127.0.0.1", "https://storage.azure.com"}


async def test_the_client_id_reaches_the_place_that_gives_out_tokens(site: SecureSite) -> None:
    client_id = "0f8fad5b-d9cb-469f-a165-70867728950e"
    code, _, err = await command(site, "provision", "--check", azure_client_id=client_id)
    assert code == 0, err
    assert {asked for _, asked in site.identity.asked if asked} == {client_id}


async def test_an_outage_of_the_place_that_gives_out_tokens_is_an_outage_to_every_adapter(site: SecureSite) -> None:
    """So that a worker pauses and goes on by itself: nothing is misconfigured, and no command is turned away."""
    failing = Credential(site)
    failing.failure = ClientAuthenticationError("the token service is down")
    key = BrookKey("orders", "4")
    async with (
        TokenSource(failing, "managed") as source,
        ServiceBusClient(site.settings()["servicebus_namespace"], source, use_tls=False, retry_total=0) as broker,
        BlobServiceClient(site.azure.blob.endpoint, source, retry_total=0) as blobs,
    ):
        with pytest.raises(BrokerUnavailableError) as accept:
            await ServiceBusSessionSource(broker, "brook-commands", accept_wait_s=1).accept()
        with pytest.raises(LeaseUnavailableError) as lease:
            await BlobLeaseManager(blobs, "brook-leases", LeaseOptions(acquire_timeout_s=0)).acquire("orders|4")
        assert not isinstance(lease.value, LeaseMisconfiguredError)
        cosmos = CosmosClient(site.azure.cosmos_endpoint, source)
        container = cosmos.get_database_client("brooks").get_container_client("events")
        with pytest.raises(StoreUnavailableError) as load:
            await CosmosBrookStore(container, RetryOptions(attempts_max=1)).load(key)
        await cosmos.close()
    for caught in (accept, lease, load):
        assert "azure_credential = managed gives no token" in str(caught.value.__cause__), "for this reason alone"


async def test_an_account_that_the_tenant_does_not_know_is_asked_for_among_all_accounts(site: SecureSite) -> None:
    site.identity.unknown_resource = "https://127.0.0.1"
    try:
        code, _, err = await command(site, "read", "orders|none")
    finally:
        site.identity.unknown_resource = None
    assert code == 0, err
    assert ("https://cosmos.azure.com", "") in site.identity.asked


async def test_a_producer_of_its_own_sends_as_an_identity(site: SecureSite) -> None:
    """The client's own way to connect, with a credential of its caller's."""
    credential = Credential(site)
    namespace = site.settings()["servicebus_namespace"]
    async with BrookClient(with_credential(namespace, credential)) as client:
        await client.send(brook_command(command_id="own", key=BrookKey("orders", "2")))
    counts = site.azure.servicebus.engine.counts("brook-commands")
    assert counts.active == 1
    assert credential.closed == 0, "it is its caller's to close"


async def test_without_a_token_a_command_ends_with_one_line_that_says_what_to_do(site: SecureSite) -> None:
    site.identity.refusal = 403
    try:
        code, _, err = await command(site, "read", "orders|1")
    finally:
        site.identity.refusal = None
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 1
    assert "azure_credential = managed gives no token" in line
    assert "run it where a managed identity is assigned" in line
    assert "Traceback" not in err


async def test_a_token_of_another_tenant_is_refused_by_each_service_with_what_to_check(site: SecureSite) -> None:
    from emulator.identity import TokenAuthority  # noqa: PLC0415 - the stranger of this test only

    right = site.identity.authority
    site.identity.authority = TokenAuthority()
    try:
        code, _, err = await command(site, "provision", "--check")
    finally:
        site.identity.authority = right
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 1
    assert len(lines) == 3, err
    assert "Cosmos DB" in lines[0]
    assert "refuses the identity; give it a data-plane role" in lines[0]
    assert "check blob_account_url and the roles of the identity" in lines[1]
    assert "check servicebus_namespace and the roles of the identity" in lines[2]


async def test_provisioning_as_an_identity_says_what_it_cannot_make(site: SecureSite) -> None:
    code, out, err = await command(site, "provision", cosmos_database="absent")
    assert code == 1
    assert "deploy it (deploy/bicep): no identity may make it from here" in err
    assert "absent" in out
