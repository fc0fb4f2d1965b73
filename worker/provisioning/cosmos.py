"""The Cosmos DB database and container of the brooks: made where they are missing, judged where they exist."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.cosmos import PartitionKey
from azure.cosmos.aio import CosmosClient, DatabaseProxy

from worker.clients import cosmos_client
from worker.credentials import cosmos_entry
from worker.provisioning.findings import Finding, ProvisioningError, State, asked
from worker.settings import Settings

PARTITION_KEY_PATH: Final = "/brookPartitionKey"
INDEXED_PATHS: Final = ("/position/?", "/type/?", "/commandId/?")
"""What queries filter and order by; the service indexes `id` by itself."""

_TTL_BY_ITEM: Final = -1
_INDEXING: Final[dict[str, Any]] = {
    "indexingMode": "consistent",
    "automatic": True,
    "includedPaths": [{"path": path} for path in INDEXED_PATHS],
    "excludedPaths": [{"path": "/*"}],
}
_THROUGHPUT: Final = "with the account's default throughput, 400 RU/s unless it is serverless: set what you need"
_RUN: Final = "run `brook-worker provision`"
_FORBIDDEN: Final = 403
_PARTITION_KEY_VERSION: Final = 2
_TOO_WEAK: Final = ("Eventual", "ConsistentPrefix")


async def provision_cosmos(settings: Settings, *, make: bool) -> list[Finding]:
    """Make what is missing if `make`, and tell what was found. Nothing that exists is changed."""

    async def ask() -> list[Finding]:
        async with cosmos_client(settings) as client:
            return [
                await account_finding(client, settings),
                *await _database(client, settings, make=make),
                *await container_findings(client.get_database_client(settings.cosmos_database), settings, make=make),
            ]

    return await asked("Cosmos DB", cosmos_entry(settings), ask)


async def check_store(client: CosmosClient, settings: Settings) -> None:
    """Look at the account and the container at the start of a worker. Raises ProvisioningError; makes nothing."""

    async def ask() -> list[Finding]:
        database = client.get_database_client(settings.cosmos_database)
        return [await account_finding(client, settings), *await container_findings(database, settings, make=False)]

    findings = await asked("Cosmos DB", cosmos_entry(settings), ask)
    if any(finding.stops for finding in findings):
        raise ProvisioningError(findings)


async def account_finding(client: CosmosClient, settings: Settings) -> Finding:
    """The account must have a single write region, or ETags do not fence; and no read may go back behind the last one.

    By weaker levels than session a command may not be found that the head read before it has told of, and would take
    effect twice.
    """
    resource = f"Cosmos DB account {settings.cosmos_endpoint}"
    account = await client._get_database_account()  # noqa: SLF001 - the client has no public way to read it
    several = len(account.WritableLocations) > 1 or bool(account._EnableMultipleWritableLocations)  # noqa: SLF001
    if several:
        note = "writes go to several regions, where ETags do not fence; turn multi-region writes off"
        return Finding(resource, State.WRONG, note)
    level = (account.ConsistencyPolicy or {}).get("defaultConsistencyLevel")
    if level in _TOO_WEAK:
        note = f"its default consistency is {level}, by which reads may go back in time; make it session or stronger"
        return Finding(resource, State.WRONG, note)
    return Finding(resource, State.FOUND, "single write region")


async def _database(client: CosmosClient, settings: Settings, *, make: bool) -> list[Finding]:
    name = settings.cosmos_database
    resource = f"Cosmos DB database {name}"
    try:
        await client.get_database_client(name).read()
    except ResourceNotFoundError:
        if not make or settings.cosmos_key is None:
            return [Finding(resource, State.MISSING, _remedy(settings))]
    except HttpResponseError as error:
        # A role for the container alone does not show the database; the container itself is looked at next.
        if settings.cosmos_key is None and error.status_code == _FORBIDDEN:
            return []
        raise
    else:
        return [Finding(resource, State.FOUND)]
    try:
        await client.create_database(name)
    except ResourceExistsError:  # another worker made it first
        return [Finding(resource, State.FOUND)]
    return [Finding(resource, State.MADE)]


async def container_findings(database: DatabaseProxy, settings: Settings, *, make: bool) -> list[Finding]:
    """How the container is, or that it is missing; made if `make` and if it may be made with these credentials."""
    name = settings.cosmos_container
    resource = f"Cosmos DB container {database.id}/{name}"
    state = State.FOUND
    container = database.get_container_client(name)
    try:
        properties = await container.read()
    except ResourceNotFoundError:
        if not make or settings.cosmos_key is None:
            return [Finding(resource, State.MISSING, _remedy(settings))]
        state = await _make_container(database, name)
        properties = await container.read()
    problems = [Finding(resource, problem, note) for problem, note in container_problems(properties)]
    return problems or [Finding(resource, state, _THROUGHPUT if state is State.MADE else "")]


def _remedy(settings: Settings) -> str:
    """How to make what is missing. The service lets no identity make databases and containers by its data plane."""
    return _RUN if settings.cosmos_key is not None else "deploy it (deploy/bicep): no identity may make it from here"


def container_properties(name: str) -> dict[str, Any]:
    """A container as the worker needs it, in the words of the REST interface."""
    return {
        "id": name,
        "partitionKey": {"paths": [PARTITION_KEY_PATH], "kind": "Hash", "version": _PARTITION_KEY_VERSION},
        "indexingPolicy": _INDEXING,
        "defaultTtl": _TTL_BY_ITEM,
    }


async def _make_container(database: DatabaseProxy, name: str) -> State:
    try:
        wanted = container_properties(name)
        await database.create_container(
            name,
            PartitionKey(PARTITION_KEY_PATH, version=_PARTITION_KEY_VERSION),
            indexing_policy=wanted["indexingPolicy"],
            default_ttl=wanted["defaultTtl"],
        )
    except ResourceExistsError:  # another worker made it first
        return State.FOUND
    return State.MADE


def container_problems(properties: Mapping[str, Any]) -> Iterator[tuple[State, str]]:
    """What a container is not as the worker needs it. A wrong key path cannot be mended: it is fixed for ever."""
    paths = properties.get("partitionKey", {}).get("paths", [])
    if paths != [PARTITION_KEY_PATH]:
        remedy = "name another container in cosmos_container (nothing was changed or deleted)"
        yield State.WRONG, f"its partition key is {', '.join(paths) or 'none'}, not {PARTITION_KEY_PATH}; {remedy}"
        return
    if properties["partitionKey"].get("version", 1) != _PARTITION_KEY_VERSION:
        told = "its partition key is of version 1, which takes 101 bytes; brook keys may have 1,024"
        yield State.WRONG, f"{told}; name another container in cosmos_container (nothing was changed or deleted)"
    policy = properties.get("indexingPolicy", {})
    included = _paths(policy, "includedPaths")
    excluded = _paths(policy, "excludedPaths")
    unindexed = [path for path in INDEXED_PATHS if path not in included and ("/*" not in included or path in excluded)]
    if policy.get("indexingMode") == "none" or unindexed:
        what = ", ".join(unindexed or INDEXED_PATHS)
        yield State.WRONG, f"does not index {what}, which reads need; add to the included paths of its indexing policy"
    elif policy.get("indexingMode") == "lazy":
        yield State.WRONG, "indexes late (lazy): what was written is not found at once; make its indexing consistent"
    elif "/*" in included:
        yield State.ADVICE, f"indexes everything, which makes writes dearer; exclude /* and include {_listed()}"
    ttl_s = properties.get("defaultTtl")
    if ttl_s is not None and ttl_s > 0:
        yield State.WRONG, f"it deletes documents after {ttl_s:,} s, events and heads too; set its time to live to -1"
    if ttl_s is None:
        yield State.ADVICE, "time to live is off; set its default to -1 (on, no default) to let documents expire"


def _paths(policy: Mapping[str, Any], kind: str) -> set[str]:
    return {entry.get("path", "") for entry in policy.get(kind, [])}


def _listed() -> str:
    return ", ".join(INDEXED_PATHS)
