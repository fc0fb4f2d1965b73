"""The blob container of the leases."""

from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError

from worker.clients import blob_service_client
from worker.provisioning.findings import Finding, State, asked
from worker.settings import Settings

_BEING_DELETED = "ContainerBeingDeleted"


async def provision_leases(settings: Settings, *, make: bool) -> list[Finding]:
    """Make the container if it is missing and `make`, and tell what was found."""
    resource = f"Blob container {settings.lease_container}"

    async def ask() -> list[Finding]:
        async with blob_service_client(settings) as client:
            container = client.get_container_client(settings.lease_container)
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
                    note = "is being deleted; wait for half a minute and try again, or name another in lease_container"
                    return [Finding(resource, State.WRONG, note)]
                return [Finding(resource, State.FOUND)]  # another worker made it first
            return [Finding(resource, State.MADE)]

    return await asked(resource, "blob_connection_string", ask)
