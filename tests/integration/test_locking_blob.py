"""What is special to leases on blobs: what the adapter makes, what it tells and what it gives back."""

import re
from collections.abc import AsyncIterator

import anyio
import pytest
from azure.storage.blob.aio import BlobServiceClient

from emulator.faults import Answer, Faults, Rule
from tests.support.leases import CONTAINER, DURATION_S, BlobBackend, embedded, options, settings
from tests.support.waiting import wait_until
from worker.clients import blob_service_client
from worker.locking.base import LeaseLostError, LeaseMisconfiguredError, LeaseTimeoutError, LeaseUnavailableError
from worker.locking.blob import BlobLease, BlobLeaseManager
from worker.locking.keeper import STOP_BEFORE_END_S, keep_renewed

pytestmark = pytest.mark.anyio

KEY = "orders|ä 1"


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
async def backend(faults: Faults) -> AsyncIterator[BlobBackend]:
    async with embedded(faults) as service:
        yield service


async def test_a_missing_blob_is_made_once_and_says_whose_it_is(backend: BlobBackend, faults: Faults) -> None:
    async with backend.worker() as worker:
        await (await worker.acquire(KEY)).release()
        await (await worker.acquire(KEY)).release()
    assert faults.requests["blob", "put-blob"] == 1
    async with backend.blob(KEY) as blob:
        assert (await blob.get_blob_properties()).metadata == {"leasekey": "orders%7C%C3%A4%201"}


async def test_workers_that_meet_at_a_missing_blob_agree_on_one_holder(backend: BlobBackend) -> None:
    held: list[int] = []
    refused: list[LeaseTimeoutError] = []

    async def contend(number: int) -> None:
        async with backend.worker(acquire_timeout_s=0) as worker:
            try:
                await worker.acquire(KEY)
            except LeaseTimeoutError as error:
                refused.append(error)
            else:
                held.append(number)

    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(contend, number)
    assert (len(held), len(refused)) == (1, 7)


async def test_a_blob_that_is_deleted_takes_the_lease_with_it(backend: BlobBackend) -> None:
    async with backend.worker() as worker:
        lease = await worker.acquire(KEY)
        await backend.break_lease(KEY)
        async with backend.blob(KEY) as blob:
            await blob.delete_blob()
        with pytest.raises(LeaseLostError, match="BlobNotFound"):
            await lease.renew()
        await lease.release()


async def test_a_missing_container_says_to_provision_and_is_not_asked_for_again(
    backend: BlobBackend, faults: Faults
) -> None:
    async with backend.worker(acquire_timeout_s=30) as worker:
        async with backend.service() as service:
            await service.delete_container(CONTAINER)
        with pytest.raises(LeaseMisconfiguredError, match="'brook-leases' is missing; run `brook-worker provision`"):
            await worker.acquire(KEY)
    assert faults.requests["blob", "acquire-lease"] == 1


async def test_a_refused_key_names_the_setting_and_never_shows_the_key(backend: BlobBackend) -> None:
    wrong = re.sub(r"AccountKey=[^;]+", "AccountKey=cGxhbnRlZC1zZWNyZXQ=", backend.connection_string)
    async with blob_service_client(settings(wrong)) as client:
        manager = BlobLeaseManager(client, CONTAINER, options(acquire_timeout_s=30))
        with pytest.raises(LeaseMisconfiguredError, match="check blob_connection_string") as caught:
            await manager.acquire(KEY)
    assert "cGxhbnRlZC1zZWNyZXQ" not in str(caught.value)


async def test_the_end_is_counted_from_before_the_request(backend: BlobBackend, faults: Faults) -> None:
    async with backend.worker() as worker:
        faults.add(Rule(service="blob", operation="acquire-lease", latency_s=0.3))
        faults.add(Rule(service="blob", operation="renew-lease", latency_s=0.3))
        lease = await worker.acquire(KEY)
        assert lease.expires_at_s - DURATION_S <= anyio.current_time() - 0.3
        await lease.renew()
        assert lease.expires_at_s - DURATION_S <= anyio.current_time() - 0.3


@pytest.mark.parametrize("status", [408, 429, 500, 503])
async def test_a_busy_service_is_asked_again(backend: BlobBackend, faults: Faults, status: int) -> None:
    rule = faults.add(Rule(service="blob", operation="acquire-lease", times=2, effect=Answer(status=status)))
    async with backend.worker(acquire_timeout_s=30) as worker:
        lease = await worker.acquire(KEY)
        assert faults.fired(rule) == 2
        faults.add(Rule(service="blob", operation="renew-lease", times=1, effect=Answer(status=status)))
        with pytest.raises(LeaseUnavailableError):
            await lease.renew()
        await lease.renew()


async def test_a_failed_release_is_tried_again(backend: BlobBackend, faults: Faults) -> None:
    rule = faults.add(Rule(service="blob", operation="release-lease", times=2, effect=Answer(status=503)))
    async with backend.worker(acquire_timeout_s=0) as worker:
        await (await worker.acquire(KEY)).release()
        assert faults.fired(rule) == 2
        await worker.acquire(KEY)


async def test_the_client_sends_each_request_once(backend: BlobBackend, faults: Faults) -> None:
    """Retries of the SDK would outlive the lease: only the callers above may ask again."""
    async with backend.worker(acquire_timeout_s=0) as worker:
        lease = await worker.acquire(KEY)
        faults.add(Rule(service="blob", operation="renew-lease", effect=Answer(status=503)))
        with pytest.raises(LeaseUnavailableError):
            await lease.renew()
    assert faults.requests["blob", "renew-lease"] == 1


async def test_a_cancelled_acquire_gives_back_what_it_had_taken(backend: BlobBackend, faults: Faults) -> None:
    async with backend.worker(acquire_timeout_s=0) as worker:
        await (await worker.acquire(KEY)).release()
        released = faults.requests["blob", "release-lease"]
        backend.hold_answers()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.acquire, KEY)
            await wait_until(backend.holds_answer, "the lease is taken, its answer under way")
            backend.hold_answers(False)
            tasks.cancel_scope.cancel()
        assert faults.requests["blob", "release-lease"] == released + 1
        await worker.acquire(KEY)


async def test_a_silent_service_is_given_up_well_before_a_lease_ends(backend: BlobBackend) -> None:
    async with backend.worker(acquire_timeout_s=0) as worker:
        lease = await worker.acquire(KEY)
        backend.hold_answers()
        started_s = anyio.current_time()
        with pytest.raises(LeaseUnavailableError):
            await lease.renew()
        assert anyio.current_time() - started_s < DURATION_S / 2
        backend.hold_answers(False)


async def test_a_keeper_cuts_a_silent_renewal_short_and_the_client_goes_on(backend: BlobBackend) -> None:
    async with backend.worker() as worker:
        lease = await worker.acquire(KEY)
        backend.hold_answers()
        assert isinstance(lease, BlobLease)
        lease._expires_at_s = anyio.current_time() + STOP_BEFORE_END_S + 0.3  # as if it were an old one
        with pytest.raises(LeaseLostError, match="not renewed in time"):
            await keep_renewed(lease, renew_after_s=0.01)
        assert anyio.current_time() < lease.expires_at_s
        backend.hold_answers(False)
        await lease.release()
        await worker.acquire(KEY)


async def test_nothing_of_the_sdk_leaves_the_adapter_whatever_the_service_answers(
    backend: BlobBackend, faults: Faults
) -> None:
    async with backend.worker(acquire_timeout_s=0) as worker:
        for status in (400, 404, 409, 412, 418):
            rule = faults.add(Rule(service="blob", operation="acquire-lease", effect=Answer(status=status)))
            with pytest.raises(LeaseUnavailableError, match=f"{status}|service answers"):
                await worker.acquire(KEY)
            faults.remove(rule)


async def test_the_client_reaches_the_service_by_connection_string_alone(backend: BlobBackend) -> None:
    async with blob_service_client(settings(backend.connection_string)) as client:
        assert isinstance(client, BlobServiceClient)
        assert [container.name async for container in client.list_containers()] == [CONTAINER]


async def test_where_two_blobs_were_missing_the_next_is_made_before_it_is_asked_for(
    backend: BlobBackend, faults: Faults
) -> None:
    async with backend.worker() as worker:
        for key in ("new|1", "new|2", "new|3"):
            await (await worker.acquire(key)).release()
        assert faults.requests["blob", "acquire-lease"] == 5, "found missing twice"
        assert faults.requests["blob", "put-blob"] == 3
        for _ in range(2):
            await (await worker.acquire("new|1")).release()
        assert faults.requests["blob", "put-blob"] == 4, "one needless try, then none"
        assert faults.requests["blob", "acquire-lease"] == 7
