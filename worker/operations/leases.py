"""How many leases are held, by the states of their blobs."""

from typing import Final

import anyio
import msgspec
from azure.core.exceptions import AzureError, HttpResponseError

from worker.clients import blob_service_client
from worker.errors import WorkerError
from worker.settings import Settings

_PAGE_BLOBS: Final = 1000
_TIMEOUT_S: Final = 30.0
_NOT_FOUND: Final = 404


class LeasesUnavailableError(WorkerError):
    """The blobs cannot be listed. The message says why and what to do."""


class LeaseCounts(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`held` of `looked_at` blobs are leased; `complete`: these are all. Each session that ever was has a blob."""

    held: int
    looked_at: int
    complete: bool


async def lease_counts(settings: Settings, *, blobs_max: int) -> LeaseCounts:
    """Look at up to `blobs_max` blobs of the lease container. Raises LeasesUnavailableError."""
    held = looked_at = 0
    try:
        with anyio.fail_after(_TIMEOUT_S):
            async with blob_service_client(settings) as blobs:
                container = blobs.get_container_client(settings.lease_container)
                async for blob in container.list_blobs(results_per_page=min(blobs_max, _PAGE_BLOBS)):
                    if looked_at == blobs_max:
                        return LeaseCounts(held=held, looked_at=looked_at, complete=False)
                    looked_at += 1
                    held += blob.lease.state == "leased"
    except HttpResponseError as error:
        if error.status_code == _NOT_FOUND:
            text = f"there is no container {settings.lease_container!r}; run `brook-worker provision`"
        else:
            text = f"Blob Storage answers {error.status_code}; check the credentials and the container's name"
        raise LeasesUnavailableError(text) from error
    except (AzureError, TimeoutError) as error:
        text = f"Blob Storage does not answer ({type(error).__name__}); check the account and the network"
        raise LeasesUnavailableError(text) from error
    return LeaseCounts(held=held, looked_at=looked_at, complete=True)
