"""Leases on blobs: one empty blob for each lease key, in one container.

The client must come from `worker.clients.blob_service_client`: short timeouts and no retries of its own, because
whoever holds a lease knows best whether there is time to ask again.
"""

import contextlib
import uuid
from collections.abc import Awaitable
from typing import Final
from urllib.parse import quote

import aiohttp
import anyio
import structlog
from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError
from azure.storage.blob import StorageErrorCode
from azure.storage.blob.aio import BlobClient, BlobLeaseClient, BlobServiceClient
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, stop_after_delay, wait_random_exponential

from worker.guess import Guess
from worker.locking.acquire import acquire_patiently, may_pass, note_retry
from worker.locking.base import LeaseLostError, LeaseMisconfiguredError, LeaseTimeoutError, LeaseUnavailableError
from worker.locking.names import blob_name
from worker.locking.options import REQUEST_TIMEOUT_S, LeaseOptions
from worker.telemetry.transport import outcome_of

log = structlog.get_logger()

_HELD: Final = frozenset({"LeaseAlreadyPresent", "LeaseIsBreakingAndCannotBeAcquired"})
_MISSING: Final = "BlobNotFound"
_LOST: Final = frozenset(
    {
        "LeaseIdMismatchWithLeaseOperation",
        "LeaseIsBrokenAndCannotBeRenewed",
        "LeaseNotPresentWithLeaseOperation",
        "LeaseLost",
        _MISSING,
    }
)
_EXISTS: Final = frozenset({"BlobAlreadyExists", "LeaseIdMissing"})
_FORBIDDEN: Final = (401, 403)
_ENTRY: Final = "blob_connection_string, or the roles of the identity"
_RELEASE_ATTEMPTS: Final = 3


class BlobLeaseManager:
    """Hands out leases on the blobs of `container`; a blob that is missing is made on the way.

    New brooks come in rows: then the next blob is made before it was found missing, which saves a request.
    """

    def __init__(self, service: BlobServiceClient, container: str, options: LeaseOptions) -> None:
        self._service = service
        self._container = container
        self._options = options
        self._new_blobs = Guess()

    async def acquire(self, key: str) -> "BlobLease":
        """Take the lease, waiting up to `acquire_timeout_s` and for the answer to the last request.

        Raises LeaseTimeoutError, LeaseUnavailableError, or LeaseMisconfiguredError when the container is missing or
        the service refuses the credentials.
        """
        blob = self._service.get_blob_client(self._container, blob_name(key))
        lease = BlobLease(key, blob, self._options.duration_s, make_first=bool(self._new_blobs))
        try:
            taken = await acquire_patiently(key, lease.try_take, self._options)
        except (LeaseTimeoutError, LeaseMisconfiguredError):
            raise
        except BaseException:  # cancellation too: an attempt that was not answered may have taken the lease
            with anyio.move_on_after(REQUEST_TIMEOUT_S, shield=True), contextlib.suppress(LeaseUnavailableError):
                await lease.release()
            raise
        self._new_blobs.note(was_so=lease.is_new)
        return taken


class BlobLease:
    """A lease on one blob. `BlobLeaseManager.acquire` gives out none that was not taken.

    One id for its whole life: asking again with it takes over what an unanswered attempt took. Never the id of
    another lease: two holders in one process must not pass for one.
    """

    def __init__(self, key: str, blob: BlobClient, duration_s: int, *, make_first: bool = False) -> None:
        """Make a lease that is not taken yet; `make_first` says that the blob is probably missing."""
        self._make_first = make_first
        self._is_new = False
        self._key = key
        self._blob = blob
        self._duration_s = duration_s
        self._id = str(uuid.uuid4())
        self._given_up = False
        self._released = False
        self._expires_at_s = float("-inf")

    @property
    def key(self) -> str:
        """What is leased."""
        return self._key

    @property
    def expires_at_s(self) -> float:
        """`anyio.current_time()` at which it lapses unless renewed, counted from before the last request."""
        return self._expires_at_s

    @property
    def is_new(self) -> bool:
        """Whether its blob was missing."""
        return self._is_new

    async def try_take(self) -> "BlobLease | None":
        """Ask for it once, for the manager: None while another holds it."""
        if self._make_first:
            self._make_first = False
            await self._make_blob()
        if (code := await self._take()) == _MISSING:
            await self._make_blob()
            code = await self._take()
        if code in _HELD:
            return None
        if code is not None:
            raise LeaseUnavailableError(self._key, f"lease {self._key!r}: the service answers {code}")
        return self

    async def renew(self) -> None:
        """Extend it. Raises LeaseLostError or LeaseUnavailableError."""
        if self._given_up:
            raise LeaseLostError(self._key, f"lease {self._key!r} was released")
        asked_at_s = anyio.current_time()
        if code := await self._answer(self._client().renew(), _LOST):
            raise LeaseLostError(self._key, f"lease {self._key!r} is lost: {code}")
        self._expires_at_s = asked_at_s + self._duration_s

    async def release(self) -> None:
        """Give it up. Tries a few times, within seconds, then raises LeaseUnavailableError."""
        self._given_up = True
        if self._released:
            return
        async for attempt in AsyncRetrying(
            sleep=anyio.sleep,
            retry=retry_if_exception(may_pass),
            wait=wait_random_exponential(multiplier=0.1, max=1),
            stop=stop_after_attempt(_RELEASE_ATTEMPTS) | stop_after_delay(REQUEST_TIMEOUT_S),
            before_sleep=note_retry,
            reraise=True,
        ):
            with attempt:
                await self._answer(self._client().release(), _LOST)
        self._released = True

    async def _take(self) -> str | None:
        """Ask for the lease; the service's reason when it refuses, None when it is ours."""
        asked_at_s = anyio.current_time()
        code = await self._answer(self._client().acquire(lease_duration=self._duration_s), _HELD | {_MISSING})
        if code is None:
            self._expires_at_s = asked_at_s + self._duration_s
        return code

    async def _make_blob(self) -> None:
        # The key in the metadata tells a person whose lease a hashed name is.
        metadata = {"leasekey": quote(self._key, errors="surrogatepass")}
        if await self._answer(self._blob.upload_blob(b"", overwrite=False, metadata=metadata), _EXISTS) is None:
            self._is_new = True
            log.info("lease.blob-created", key=self._key, container=self._blob.container_name)

    def _client(self) -> BlobLeaseClient:
        """A new one for each request: the SDK's forgets its id when it releases."""
        return BlobLeaseClient(self._blob, self._id)

    async def _answer(self, request: Awaitable[object], expected: frozenset[str]) -> str | None:
        """Send a request: None when it was done, the error code when it was refused with one of `expected`."""
        try:
            await request
        except HttpResponseError as error:
            code = _code(error)
            if code in expected:
                return code
            raise self._translated(code, error) from error
        except (AzureError, aiohttp.ClientError, OSError) as error:
            raise LeaseUnavailableError(
                self._key, f"lease {self._key!r}: no answer from the service", outcome_of(error)
            ) from error
        return None

    def _translated(self, code: str, error: HttpResponseError) -> LeaseUnavailableError:
        what = f"lease {self._key!r}: "
        if code == "ContainerNotFound":
            container = self._blob.container_name
            return LeaseMisconfiguredError(
                self._key, f"{what}container {container!r} is missing; run `brook-worker provision`"
            )
        if error.status_code in _FORBIDDEN or isinstance(error, ClientAuthenticationError):
            return LeaseMisconfiguredError(
                self._key, f"{what}the service refuses the credentials ({code}); check {_ENTRY}"
            )
        return LeaseUnavailableError(
            self._key, f"{what}the service answers {code}", outcome_of(error.status_code or 500)
        )


def _code(error: HttpResponseError) -> str:
    """The service's error code, else the status. The SDK gives the code as text or as a member of its enum."""
    code = getattr(error, "error_code", None) or error.status_code
    return str(code.value if isinstance(code, StorageErrorCode) else code)
