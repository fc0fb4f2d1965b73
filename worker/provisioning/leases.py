"""The blob containers: of the leases, and of the claims."""

from typing import TYPE_CHECKING

import structlog
from azure.core.exceptions import AzureError, ResourceExistsError, ResourceNotFoundError

from worker.clients import blob_service_client
from worker.credentials import blob_entry
from worker.provisioning.findings import Finding, ProvisioningError, State, asked
from worker.settings import Settings

if TYPE_CHECKING:  # a third of a second to import, which the other commands need not wait for
    from azure.storage.blob.aio import BlobServiceClient

log = structlog.get_logger()

_BEING_DELETED = "ContainerBeingDeleted"


async def provision_leases(settings: Settings, *, make: bool) -> list[Finding]:
    """Make the container if it is missing and `make`, and tell what was found."""
    return await _container(settings, settings.lease_container, "lease_container", make=make)


async def check_leases(client: "BlobServiceClient", settings: Settings) -> None:
    """Look for the container at the start of a worker. Raises ProvisioningError when it is missing; makes nothing.

    Whatever else is wrong is left to the leases: credentials may be for blobs alone, and an outage passes.
    """
    try:
        await client.get_container_client(settings.lease_container).get_container_properties()
    except ResourceNotFoundError:
        missing = Finding(f"Blob container {settings.lease_container}", State.MISSING, "run `brook-worker provision`")
        raise ProvisioningError([missing]) from None
    except (AzureError, OSError) as error:
        log.warning("leases.not-checked", error=type(error).__name__)


async def provision_claims(settings: Settings, *, make: bool) -> list[Finding]:
    """The same for the claims, where they are taken."""
    if settings.claim_container is None:
        return []
    return await _container(settings, settings.claim_container, "claim_container", make=make)


async def _container(settings: Settings, name: str, setting: str, *, make: bool) -> list[Finding]:
    resource = f"Blob container {name}"

    async def ask() -> list[Finding]:
        async with blob_service_client(settings) as client:
            container = client.get_container_client(name)
            try:
                await container.get_container_properties()
            except ResourceNotFoundError:
                if not make:
                    return [Finding(resource, State.MISSING, "run `brook-worker provision`")]
            else:
                return [Finding(resource, State.FOUND)]
            try:
                await container.create_container()
            except ResourceExistsError as error:
                if getattr(error, "error_code", None) == _BEING_DELETED:
                    note = f"is being deleted; wait for half a minute and try again, or name another in {setting}"
                    return [Finding(resource, State.WRONG, note)]
                return [Finding(resource, State.FOUND)]  # another worker made it first
            return [Finding(resource, State.MADE)]

    return await asked(resource, blob_entry(settings), ask)
