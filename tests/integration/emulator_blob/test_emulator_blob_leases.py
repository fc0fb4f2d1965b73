"""Leases of blobs, case by case, on the embedded service and on Azurite.

What needs time to pass is shown on the embedded service's own clock in tests/unit/test_emulator_blob_lease.py, and
once on both against the real clock, in the slow tests here.
"""

import asyncio
import time
import uuid
from typing import Any

import pytest
from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError
from azure.storage.blob.aio import BlobClient, BlobLeaseClient, ContainerClient

from tests.support.blob import Backend, block_id, refused

pytestmark = pytest.mark.anyio

A = "11111111-1111-1111-1111-111111111111"
B = "22222222-2222-2222-2222-222222222222"


def lease_of(client: BlobClient | ContainerClient, lease_id: str = A) -> BlobLeaseClient:
    return BlobLeaseClient(client, lease_id)


async def state(client: BlobClient | ContainerClient) -> tuple[str, str]:
    if isinstance(client, BlobClient):
        lease = (await client.get_blob_properties()).lease
    else:
        lease = (await client.get_container_properties()).lease
    return lease.state, lease.status


@pytest.fixture(params=["blob", "container"])
def leasable(request: pytest.FixtureRequest, blob: BlobClient, container: ContainerClient) -> Any:
    """A blob and a container: their leases have the same rules."""
    return blob if request.param == "blob" else container


@pytest.mark.parametrize("duration_s", [15, 60, -1])
async def test_acquire_leases(leasable: Any, duration_s: int) -> None:
    lease = await leasable.acquire_lease(duration_s)
    assert str(uuid.UUID(lease.id)) == lease.id
    assert await state(leasable) == ("leased", "locked")


async def test_duration_is_shown(blob: BlobClient) -> None:
    await blob.acquire_lease(-1, lease_id=A)
    assert (await blob.get_blob_properties()).lease.duration == "infinite"
    await blob.acquire_lease(15, lease_id=A)
    assert (await blob.get_blob_properties()).lease.duration == "fixed"


@pytest.mark.parametrize("duration_s", [0, 5, 14, 61, -2])
async def test_duration_out_of_range_is_400(leasable: Any, duration_s: int) -> None:
    await refused(leasable.acquire_lease(duration_s), 400, "InvalidHeaderValue")
    assert await state(leasable) == ("available", "unlocked")


async def test_missing_blob_cannot_be_leased(container: ContainerClient) -> None:
    await refused(container.get_blob_client("nothing").acquire_lease(15), 404, "BlobNotFound")


async def test_missing_container_cannot_be_leased(backend: Backend) -> None:
    missing = backend.service.get_container_client("nowhere")
    await refused(missing.acquire_lease(15), 404, "ContainerNotFound")
    await refused(missing.get_blob_client("b").acquire_lease(15), 404, "ContainerNotFound")


async def test_held_lease_is_refused_to_another(leasable: Any) -> None:
    await leasable.acquire_lease(15, lease_id=A)
    await refused(leasable.acquire_lease(15), 409, "LeaseAlreadyPresent")
    await refused(leasable.acquire_lease(15, lease_id=B), 409, "LeaseAlreadyPresent")


async def test_same_proposed_id_acquires_again(leasable: Any) -> None:
    await leasable.acquire_lease(15, lease_id=A)
    again = await leasable.acquire_lease(60, lease_id=A)
    assert again.id == A
    assert await state(leasable) == ("leased", "locked")


async def test_acquire_and_renew_leave_the_etag(blob: BlobClient) -> None:
    before = (await blob.get_blob_properties()).etag
    lease = await blob.acquire_lease(15)
    await lease.renew()
    assert lease.etag == before
    assert (await blob.get_blob_properties()).etag == before


async def test_renew_by_the_holder_only(leasable: Any) -> None:
    await leasable.acquire_lease(15, lease_id=A)
    await lease_of(leasable, A).renew()
    await refused(lease_of(leasable, B).renew(), 409, "LeaseIdMismatchWithLeaseOperation")


async def test_nobody_holds_what_was_never_acquired(leasable: Any) -> None:
    mismatch = "LeaseIdMismatchWithLeaseOperation"
    absent = "LeaseNotPresentWithLeaseOperation"
    await refused(lease_of(leasable).renew(), 409, mismatch)
    await refused(lease_of(leasable).release(), 409, mismatch)
    await refused(lease_of(leasable).change(B), 409, absent)
    await refused(lease_of(leasable).break_lease(), 409, absent)


async def test_release_frees_at_once_and_by_the_holder_only(leasable: Any) -> None:
    await leasable.acquire_lease(15, lease_id=A)
    await refused(lease_of(leasable, B).release(), 409, "LeaseIdMismatchWithLeaseOperation")
    await lease_of(leasable, A).release()
    assert await state(leasable) == ("available", "unlocked")
    await leasable.acquire_lease(15, lease_id=B)


async def test_change_hands_the_lease_on(leasable: Any) -> None:
    await leasable.acquire_lease(15, lease_id=A)
    lease = lease_of(leasable, A)
    await lease.change(B)
    assert lease.id == B
    await refused(lease_of(leasable, A).renew(), 409, "LeaseIdMismatchWithLeaseOperation")
    await lease_of(leasable, B).renew()


async def test_change_can_be_repeated(leasable: Any) -> None:
    await leasable.acquire_lease(15, lease_id=A)
    await lease_of(leasable, A).change(B)
    await lease_of(leasable, A).change(B)
    await lease_of(leasable, B).renew()


async def test_change_by_a_stranger_is_refused(leasable: Any) -> None:
    await leasable.acquire_lease(15, lease_id=A)
    stranger = lease_of(leasable, B)
    await refused(stranger.change(str(uuid.uuid4())), 409, "LeaseIdMismatchWithLeaseOperation")


async def test_break_at_once_frees_it_for_another(leasable: Any) -> None:
    await leasable.acquire_lease(15, lease_id=A)
    assert await lease_of(leasable).break_lease(0) == 0
    assert await state(leasable) == ("broken", "unlocked")
    await refused(lease_of(leasable, A).renew(), 409, "LeaseIsBrokenAndCannotBeRenewed")
    await refused(lease_of(leasable, B).renew(), 409, "LeaseIdMismatchWithLeaseOperation")
    await refused(lease_of(leasable, A).change(B), 409, "LeaseNotPresentWithLeaseOperation")
    await leasable.acquire_lease(15, lease_id=B)
    assert await state(leasable) == ("leased", "locked")


async def test_broken_lease_can_be_taken_again_by_its_holder_and_released(leasable: Any) -> None:
    await leasable.acquire_lease(15, lease_id=A)
    await lease_of(leasable).break_lease(0)
    await leasable.acquire_lease(15, lease_id=A)
    await lease_of(leasable).break_lease(0)
    await lease_of(leasable, A).release()
    assert await state(leasable) == ("available", "unlocked")


async def test_break_with_a_period_keeps_it_locked_meanwhile(leasable: Any) -> None:
    await leasable.acquire_lease(60, lease_id=A)
    assert 8 <= await lease_of(leasable).break_lease(10) <= 10
    assert await state(leasable) == ("breaking", "locked")
    await refused(leasable.acquire_lease(15, lease_id=A), 409, "LeaseIsBreakingAndCannotBeAcquired")
    await refused(leasable.acquire_lease(15, lease_id=B), 409, "LeaseAlreadyPresent")
    await refused(lease_of(leasable, A).renew(), 409, "LeaseIsBrokenAndCannotBeRenewed")
    await refused(lease_of(leasable, A).change(B), 409, "LeaseIsBreakingAndCannotBeChanged")
    assert await lease_of(leasable).break_lease(60) <= 10
    assert await lease_of(leasable).break_lease(3) <= 3
    await lease_of(leasable, A).release()
    assert await state(leasable) == ("available", "unlocked")


async def test_break_without_a_period_lasts_as_long_as_the_lease_would(leasable: Any) -> None:
    await leasable.acquire_lease(20, lease_id=A)
    assert 15 <= await lease_of(leasable).break_lease() <= 20
    assert await state(leasable) == ("breaking", "locked")


async def test_break_never_prolongs_a_lease(leasable: Any) -> None:
    await leasable.acquire_lease(15, lease_id=A)
    assert await lease_of(leasable).break_lease(60) <= 15


async def test_infinite_lease_breaks_at_once_without_a_period(leasable: Any) -> None:
    await leasable.acquire_lease(-1, lease_id=A)
    assert await lease_of(leasable).break_lease() == 0
    assert await state(leasable) == ("broken", "unlocked")


async def test_infinite_lease_breaks_after_its_period(leasable: Any) -> None:
    await leasable.acquire_lease(-1, lease_id=A)
    assert 58 <= await lease_of(leasable).break_lease(60) <= 60
    assert await state(leasable) == ("breaking", "locked")


@pytest.mark.parametrize("period_s", [-1, 61])
async def test_break_period_out_of_range_is_400(blob: BlobClient, backend: Backend, period_s: int) -> None:
    if not backend.embedded:
        pytest.skip("Azurite looks at the period of a fixed lease only, and not at a negative one")
    await blob.acquire_lease(-1, lease_id=A)
    await refused(lease_of(blob).break_lease(period_s), 400, "InvalidHeaderValue")
    assert await state(blob) == ("leased", "locked")


async def test_break_of_a_broken_lease_stays_broken(leasable: Any) -> None:
    await leasable.acquire_lease(15, lease_id=A)
    await lease_of(leasable).break_lease(0)
    assert await lease_of(leasable).break_lease(30) == 0
    assert await state(leasable) == ("broken", "unlocked")


def writes(blob: BlobClient, **guard: Any) -> list[Any]:
    """Every way to write to a blob, the last of which deletes it."""
    return [
        lambda: blob.set_blob_metadata({"a": "b"}, **guard),
        lambda: blob.set_http_headers(**guard),
        lambda: blob.upload_blob(b"x", overwrite=True, **guard),
        lambda: blob.stage_block(block_id(1), b"x", **guard),
        lambda: blob.commit_block_list([], **guard),
        lambda: blob.delete_blob(**guard),
    ]


async def test_every_write_to_a_leased_blob_has_to_name_the_lease(blob: BlobClient) -> None:
    await blob.acquire_lease(15, lease_id=A)
    for write in writes(blob):
        await refused(write(), 412, "LeaseIdMissing")
    for write in writes(blob, lease=B):
        await refused(write(), 412, "LeaseIdMismatchWithBlobOperation")
    assert await (await blob.download_blob()).readall() == b"content"
    for write in writes(blob, lease=A):
        await write()
    assert not await blob.exists()


async def test_lease_outlives_the_writes_of_its_holder(blob: BlobClient) -> None:
    await blob.acquire_lease(15, lease_id=A)
    await blob.upload_blob(b"x", overwrite=True, lease=A)
    assert await state(blob) == ("leased", "locked")
    await lease_of(blob, A).renew()


async def test_reads_need_no_lease_but_refuse_a_wrong_one(blob: BlobClient) -> None:
    await blob.acquire_lease(15, lease_id=A)
    assert await (await blob.download_blob()).readall() == b"content"
    assert await (await blob.download_blob(lease=A)).readall() == b"content"
    await refused(blob.download_blob(lease=B), 412, "LeaseIdMismatchWithBlobOperation")
    await refused(blob.get_blob_properties(lease=B), 412, "LeaseIdMismatchWithBlobOperation")


async def test_naming_a_lease_where_there_is_none_is_412(blob: BlobClient) -> None:
    await refused(blob.download_blob(lease=A), 412, "LeaseNotPresentWithBlobOperation")
    await refused(blob.set_blob_metadata({}, lease=A), 412, "LeaseNotPresentWithBlobOperation")


async def test_naming_a_broken_lease_is_412(blob: BlobClient, backend: Backend) -> None:
    await blob.acquire_lease(15, lease_id=A)
    await lease_of(blob).break_lease(0)
    code = "LeaseLost" if backend.embedded else "LeaseNotPresentWithBlobOperation"
    await refused(blob.set_blob_metadata({}, lease=A), 412, code)
    await refused(blob.download_blob(lease=A), 412, code)


async def test_write_after_a_break_makes_the_blob_available(blob: BlobClient) -> None:
    await blob.acquire_lease(15, lease_id=A)
    await lease_of(blob).break_lease(0)
    await blob.set_blob_metadata({"written": "since"})
    assert await state(blob) == ("available", "unlocked")
    await refused(lease_of(blob, A).renew(), 409, "LeaseIdMismatchWithLeaseOperation")


async def test_writes_are_let_through_by_a_breaking_lease(blob: BlobClient) -> None:
    await blob.acquire_lease(60, lease_id=A)
    await lease_of(blob).break_lease(30)
    await refused(blob.set_blob_metadata({}), 412, "LeaseIdMissing")
    await blob.set_blob_metadata({"still": "mine"}, lease=A)


async def test_leased_blob_and_if_none_match_star(blob: BlobClient, backend: Backend) -> None:
    """Azure looks at the lease first, so whoever creates lock blobs has to expect both answers."""
    await blob.acquire_lease(15)
    if backend.embedded:
        await refused(blob.upload_blob(b"", overwrite=False), 412, "LeaseIdMissing")
    else:
        await refused(blob.upload_blob(b"", overwrite=False), 409, "BlobAlreadyExists")


async def test_condition_of_a_lease_operation_is_checked(blob: BlobClient) -> None:
    stale = (await blob.get_blob_properties()).etag
    await blob.set_blob_metadata({"moved": "on"})
    guard: dict[str, Any] = {"etag": stale, "match_condition": MatchConditions.IfNotModified}
    await refused(blob.acquire_lease(15, **guard), 412, "ConditionNotMet")
    lease = await blob.acquire_lease(15)
    await refused(lease.renew(**guard), 412, "ConditionNotMet")
    await refused(lease.release(**guard), 412, "ConditionNotMet")


async def test_container_lease_guards_its_deletion_and_nothing_else(container: ContainerClient) -> None:
    await container.acquire_lease(15, lease_id=A)
    await container.upload_blob("b", b"")
    await container.set_container_metadata({"a": "b"})
    await refused(container.delete_container(), 412, "LeaseIdMissing")
    await refused(container.delete_container(lease=B), 412, "LeaseIdMismatchWithContainerOperation")
    await container.delete_container(lease=A)


@pytest.mark.parametrize("lease_id", ["not-a-guid", "1", "1111-1111"])
async def test_lease_id_that_is_no_guid_is_400(blob: BlobClient, backend: Backend, lease_id: str) -> None:
    if not backend.embedded:
        pytest.skip("Azurite takes any text; the documentation says 400")
    await refused(blob.acquire_lease(15, lease_id=lease_id), 400, "InvalidHeaderValue")


async def test_ids_are_compared_as_guids(blob: BlobClient, backend: Backend) -> None:
    if not backend.embedded:
        pytest.skip("Azurite compares the text in lease operations")
    await blob.acquire_lease(15, lease_id="abcdefab-1111-1111-1111-111111111111")
    await lease_of(blob, "{ABCDEFAB-1111-1111-1111-111111111111}").renew()
    await lease_of(blob, "ABCDEFAB111111111111111111111111").renew()


async def test_of_many_who_acquire_at_once_one_succeeds(blob: BlobClient) -> None:
    outcomes = await asyncio.gather(*(blob.acquire_lease(15) for _ in range(20)), return_exceptions=True)
    refusals = [outcome for outcome in outcomes if isinstance(outcome, HttpResponseError)]
    assert len(refusals) == 19
    assert {refusal.error_code for refusal in refusals} == {"LeaseAlreadyPresent"}


@pytest.mark.slow
async def test_expiry_against_the_real_clock(blob: BlobClient, backend: Backend) -> None:
    """After 15 s: free for others, writable without an id, and renewable as long as neither happened."""
    container = backend.service.get_container_client(blob.container_name)
    names = ["renewed", "taken", "written", "broken"]
    clients = {name: await container.upload_blob(name, b"") for name in names}
    started_s = time.monotonic()
    for client in clients.values():
        await client.acquire_lease(15, lease_id=A)
    while await state(clients["broken"]) == ("leased", "locked"):
        assert time.monotonic() < started_s + 30, "a lease of 15 s did not end"
        await asyncio.sleep(0.5)
    assert time.monotonic() - started_s >= 14.5
    assert {name: await state(client) for name, client in clients.items()} == dict.fromkeys(
        names, ("expired", "unlocked")
    )
    await lease_of(clients["renewed"], A).renew()
    assert await state(clients["renewed"]) == ("leased", "locked")
    await clients["taken"].acquire_lease(15, lease_id=B)
    await refused(lease_of(clients["taken"], A).renew(), 409, "LeaseIdMismatchWithLeaseOperation")
    await clients["written"].set_blob_metadata({"a": "b"})
    assert await state(clients["written"]) == ("available", "unlocked")
    await refused(lease_of(clients["written"], A).renew(), 409, "LeaseIdMismatchWithLeaseOperation")
    assert await lease_of(clients["broken"]).break_lease() == 0
    assert await state(clients["broken"]) == ("broken", "unlocked")
