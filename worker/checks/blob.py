"""The lease container, and whether leases can be taken in it."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError

from worker.checks.rows import CHECK_TIMEOUT_S, Check, Outcome, bounded, failed, not_checked, of_date
from worker.clients import CLOSE_TIMEOUT_S, blob_service_client
from worker.credentials import blob_entry
from worker.errors import WorkerError
from worker.provisioning.concurrently import concurrently
from worker.settings import Settings

if TYPE_CHECKING:  # a third of a second to import, which the other commands need not wait for
    from azure.storage.blob.aio import BlobServiceClient

PROBE: Final = "brook-worker-check"
"""An empty blob that stays. No session's blob is named like it: those begin with `key-` or `sha256-`."""

_LEASE_S: Final = 15
_CONFLICT: Final = 409
_RESTS_ON_IT: Final = "no connection, see above"
CLAIMS: Final = "claims"
_NAMES: Final = ("lease container", "take leases", "clock")


async def check_blob(settings: Settings, wall_s: Callable[[], float]) -> dict[str, Outcome]:
    """The outcomes by check, in the order of the table."""
    try:
        with anyio.fail_after(2 * CHECK_TIMEOUT_S):
            async with blob_service_client(settings) as client:
                return await _opened(client, settings, wall_s)
    except WorkerError as error:
        first = failed("; ".join(str(error).splitlines()))
    except TimeoutError:
        first = failed(f"no answer within {2 * CHECK_TIMEOUT_S:g} s; check {blob_entry(settings)} and the network")
    return {_NAMES[0]: first} | dict.fromkeys(_NAMES[1:], not_checked(_RESTS_ON_IT))


async def _opened(client: "BlobServiceClient", settings: Settings, wall_s: Callable[[], float]) -> dict[str, Outcome]:
    dates: list[str] = []

    async def container() -> Outcome:
        try:
            await client.get_container_client(settings.lease_container).get_container_properties(
                raw_response_hook=partial(_note_date, dates)
            )
        except ResourceNotFoundError:
            return failed(f"container {settings.lease_container!r} is missing; run `brook-worker provision`")
        return Outcome(note=settings.lease_container)

    async def clock() -> Outcome:
        if not dates:
            return not_checked("no answer that says the service's time")
        return of_date(dates[-1], wall_s())

    checks: dict[str, Check] = {_NAMES[0]: container, _NAMES[1]: partial(_may_lease, client, settings)}
    if settings.claim_container is not None:
        checks[CLAIMS] = partial(
            _may_read_claims, client, settings.claim_container, deletes=settings.claim_options().deletes
        )
    entry = blob_entry(settings)
    found = await concurrently(partial(bounded, check, entry) for check in checks.values())
    return {**dict(zip(checks, found, strict=True)), _NAMES[2]: await bounded(clock, entry)}


def _note_date(dates: list[str], response: Any) -> None:
    """Take down what the service says its time is: its answer's header, also on a refusal."""
    if date := response.http_response.headers.get("Date"):
        dates.append(date)


async def _may_read_claims(client: "BlobServiceClient", container: str, *, deletes: bool) -> Outcome:
    """Read a claim that is not there, and delete it if claims are to be: a missing right is told before that."""
    blob = client.get_blob_client(container, PROBE)
    for attempt in (blob.download_blob, *((blob.delete_blob,) if deletes else ())):
        try:
            await attempt()
        except ResourceNotFoundError as error:
            if getattr(error, "error_code", None) == "ContainerNotFound":
                return failed(f"container {container!r} is missing; run `brook-worker provision`")
    return Outcome(note=f"{container}: may read{' and delete' if deletes else ''}")


async def _may_lease(client: "BlobServiceClient", settings: Settings) -> Outcome:
    """Make the probe if it is missing, take its lease, renew it and give it back."""
    from azure.storage.blob.aio import BlobLeaseClient  # noqa: PLC0415 - as above

    blob = client.get_blob_client(settings.lease_container, PROBE)
    try:
        await blob.upload_blob(b"", overwrite=False)
    except ResourceNotFoundError:
        return not_checked("the container is missing, see above")
    except ResourceExistsError:
        pass  # from an earlier check
    except HttpResponseError as error:
        if getattr(error, "error_code", None) != "LeaseIdMissing":  # another check holds it: then it is there
            raise
    lease = BlobLeaseClient(blob)
    try:
        await lease.acquire(lease_duration=_LEASE_S)
    except HttpResponseError as error:
        if error.status_code == _CONFLICT:
            return Outcome(note="another check holds the probe's lease at this moment")
        raise
    try:
        await lease.renew()
    finally:
        with anyio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
            await lease.release()
    return Outcome(note="taken, renewed and released")
