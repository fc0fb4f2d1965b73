"""The Cosmos DB account, the container, and what may be done in it."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import anyio
from azure.core.exceptions import ResourceNotFoundError
from azure.cosmos.aio import ContainerProxy, CosmosClient
from azure.cosmos.exceptions import CosmosBatchOperationError

from worker.checks.rows import CHECK_TIMEOUT_S, Check, Outcome, bounded, failed, not_checked, of_date, of_findings
from worker.clients import cosmos_client
from worker.credentials import cosmos_entry
from worker.errors import WorkerError
from worker.provisioning.concurrently import concurrently
from worker.provisioning.cosmos import account_finding, container_findings
from worker.settings import Settings

PROBE: Final = "brook-worker-check"
"""The partition that is looked at: no brook key, which has a `|`, is ever the same."""

_NOT_FOUND: Final = 404
_RESTS_ON_IT: Final = "no connection, see above"
_NO_CONTAINER: Final = "the container is missing, see above"


async def check_cosmos(settings: Settings, wall_s: Callable[[], float]) -> dict[str, Outcome]:
    """The outcomes by check, in the order of the table."""
    names = ("connection", "write region", "container", "read items", "write items", "clock")
    try:
        with anyio.fail_after(2 * CHECK_TIMEOUT_S):
            async with cosmos_client(settings) as client:
                return {names[0]: Outcome(), **await _opened(client, settings, wall_s)}
    except WorkerError as error:
        first = failed("; ".join(str(error).splitlines()))
    except TimeoutError:
        first = failed(f"no answer within {2 * CHECK_TIMEOUT_S:g} s; check {cosmos_entry(settings)} and the network")
    return {names[0]: first} | dict.fromkeys(names[1:], not_checked(_RESTS_ON_IT))


async def _opened(client: CosmosClient, settings: Settings, wall_s: Callable[[], float]) -> dict[str, Outcome]:
    database = client.get_database_client(settings.cosmos_database)
    container = database.get_container_client(settings.cosmos_container)
    dates: list[str] = []

    async def region() -> Outcome:
        return of_findings([await account_finding(client, settings)])

    async def properties() -> Outcome:
        return of_findings(await container_findings(database, settings, make=False))

    checks: dict[str, Check] = {
        "write region": region,
        "container": properties,
        "read items": partial(_may_read, container, dates),
        "write items": partial(_may_write, container),
    }
    entry = cosmos_entry(settings)
    found = await concurrently(partial(bounded, check, entry) for check in checks.values())
    clock = of_date(dates[-1], wall_s()) if dates else not_checked("no answer that says the service's time")
    return {**dict(zip(checks, found, strict=True)), "clock": clock}


async def _may_read(container: ContainerProxy, dates: list[str]) -> Outcome:
    """Query the probe's partition, which is empty, as a brook is read. Takes the service's Date down."""

    def note(headers: Mapping[str, Any], _: object) -> None:
        if date := next((str(value) for name, value in headers.items() if name.lower() == "date"), None):
            dates.append(date)

    found = container.query_items("SELECT c.id FROM c WHERE c.type = 'head'", partition_key=PROBE, response_hook=note)
    try:
        async for _ in found:
            pass
    except ResourceNotFoundError:
        return not_checked(_NO_CONTAINER)
    return Outcome()


async def _may_write(container: ContainerProxy) -> Outcome:
    """Send a batch that never takes effect: it replaces what is not there, so that nothing of it is carried out."""
    item = {"id": PROBE, "brookPartitionKey": PROBE, "type": PROBE}
    missing = {**item, "id": f"{PROBE}-missing"}
    operations: list[tuple[str, tuple[Any, ...]] | tuple[str, tuple[Any, ...], dict[str, Any]]] = [
        ("create", (item,)),
        ("replace", (missing["id"], missing), {"if_match_etag": '"never"'}),
        ("delete", (missing["id"],), {"if_match_etag": '"never"'}),
    ]
    try:
        await container.execute_item_batch(operations, PROBE, retry_connect=0, retry_read=0)
    except CosmosBatchOperationError as error:
        if error.status_code == _NOT_FOUND and error.error_index == 1:
            return Outcome(note="a batch that cannot take effect was refused for that reason only")
        raise
    except ResourceNotFoundError:
        return not_checked(_NO_CONTAINER)
    return failed(f"a batch that cannot take effect did; delete the items of partition {PROBE!r} and tell the authors")
