"""Claims in a container of Blob Storage.

The client must come from `worker.clients.blob_service_client`, and not be that of the leases: whose connections a
download may use up.
"""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import aiohttp
import anyio
from azure.core import MatchConditions
from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError
from azure.storage.blob import BlobProperties
from azure.storage.blob.aio import BlobClient, BlobServiceClient
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from schemas.claims import is_blob_name
from worker.claims.base import PIECE_BYTES_MAX, ClaimGoneError, ClaimsMisconfiguredError, ClaimsUnavailableError

_T = TypeVar("_T")

_ATTEMPTS_MAX: Final = 4
_BACKOFF_FIRST_S: Final = 0.1
_BACKOFF_MAX_S: Final = 2.0
_NOT_FOUND: Final = 404
_PRECONDITION_FAILED: Final = 412
_FORBIDDEN: Final = (401, 403)
_TRANSIENT: Final = frozenset({408, 429})
_SERVER_ERROR_MIN: Final = 500
_NO_BLOB: Final = "BlobNotFound"
"""Any other 404 is that of a wrong endpoint or of something on the way to it: no word on a blob."""

_NO_CONTAINER: Final = frozenset({"ContainerNotFound", "ContainerBeingDeleted", "ContainerDisabled"})


class _TransientError(ClaimsUnavailableError):
    """One try failed in a way that another may cure."""


class BlobClaimStore:
    """The blobs of `container`."""

    def __init__(self, service: BlobServiceClient, container: str) -> None:
        self._service = service
        self._container = container

    async def find(self, name: str) -> "BlobClaimContent | None":
        """The blob of that name; None when there is none."""
        blob = self._blob(name)
        try:
            properties: BlobProperties = await self.ask(blob.get_blob_properties)
        except ClaimGoneError:
            return None
        return BlobClaimContent(self, blob, str(properties.etag), properties.size)

    async def delete(self, name: str, etag: str) -> bool:
        """Delete the blob if it still is in that state."""
        blob = self._blob(name)

        async def delete() -> None:
            await blob.delete_blob(etag=etag, match_condition=MatchConditions.IfNotModified)

        try:
            await self.ask(delete)
        except ClaimGoneError:
            return False
        return True

    async def ask(self, request: Callable[[], Awaitable[_T]]) -> _T:
        """Send a request, a few times while that may help.

        Raises ClaimGoneError when the blob is not there, or not in the state asked for; ClaimsUnavailableError.
        """
        async for attempt in AsyncRetrying(
            sleep=anyio.sleep,
            retry=retry_if_exception_type(_TransientError),
            wait=wait_random_exponential(multiplier=_BACKOFF_FIRST_S, max=_BACKOFF_MAX_S),
            stop=stop_after_attempt(_ATTEMPTS_MAX),
            reraise=True,
        ):
            with attempt:
                try:
                    return await request()
                except HttpResponseError as error:
                    raise self._translated(error) from error
                except (AzureError, aiohttp.ClientError, OSError) as error:
                    raise _TransientError(f"claims in {self._container!r}: no answer from Blob Storage") from error
        raise AssertionError("the last attempt returns or raises")

    def _blob(self, name: str) -> BlobClient:
        assert is_blob_name(name), "a claim's form is checked before its blob is asked for"
        return self._service.get_blob_client(self._container, name)

    def _translated(self, error: HttpResponseError) -> ClaimGoneError | ClaimsUnavailableError:
        what = f"claims in {self._container!r}: "
        code = getattr(error.error_code, "value", error.error_code) if hasattr(error, "error_code") else None
        status = error.status_code or _SERVER_ERROR_MIN
        if code in _NO_CONTAINER:
            return ClaimsMisconfiguredError(f"{what}the container is missing; run `brook-worker provision`")
        if status == _PRECONDITION_FAILED or (status == _NOT_FOUND and code == _NO_BLOB):
            return ClaimGoneError(what + str(code))
        if status in _FORBIDDEN or isinstance(error, ClientAuthenticationError):
            reason = f"Blob Storage refuses the credentials ({code}); check them and their rights to read and delete"
            return ClaimsMisconfiguredError(what + reason)
        if status in _TRANSIENT or status >= _SERVER_ERROR_MIN:
            return _TransientError(f"{what}Blob Storage answers {status} {code}")
        return ClaimsMisconfiguredError(f"{what}Blob Storage answers {status} {code}, which trying again does not cure")


class BlobClaimContent:
    """One blob as it was found."""

    def __init__(self, store: BlobClaimStore, blob: BlobClient, etag: str, size_bytes: int) -> None:
        self._store = store
        self._blob = blob
        self.etag = etag
        self.size_bytes = size_bytes

    async def read(self, start: int) -> bytes:
        """What stands from byte `start` on, by one request that only this state of the blob answers."""
        length = min(PIECE_BYTES_MAX, self.size_bytes - start)
        if length <= 0:  # the service refuses a range behind the end
            return b""

        async def read() -> bytes:
            download = await self._blob.download_blob(
                start,
                length,
                etag=self.etag,
                match_condition=MatchConditions.IfNotModified,
                max_concurrency=1,
                # The library would unpack what a sender marked as compressed: a thousandfold, and all of it in memory.
                decompress=False,
            )
            return await download.readall()

        return await self._store.ask(read)
