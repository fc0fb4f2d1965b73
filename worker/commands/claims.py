"""How the command line sends what no message holds."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from brook_client.claims import ClaimUploads
from worker.clients import blob_service_client
from worker.settings import Settings


@asynccontextmanager
async def claim_uploads(settings: Settings) -> AsyncIterator[ClaimUploads | None]:
    """Uploads into `claim_container`; None where none is set. Nothing is connected before the first upload."""
    if settings.claim_container is None:
        yield None
        return
    async with blob_service_client(settings) as blobs:
        yield ClaimUploads(blobs.get_container_client(settings.claim_container))
