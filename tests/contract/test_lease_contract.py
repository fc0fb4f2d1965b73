"""What every lease service must do, in memory, on the embedded Blob service and on Azurite."""

import itertools
from collections.abc import AsyncIterator
from functools import partial

import anyio
import pytest

from tests.support.leases import DURATION_S, Backend, MemoryBackend, embedded, proxied
from tests.support.waiting import wait_until
from worker.locking.base import Lease, LeaseLostError, LeaseTimeoutError, LeaseUnavailableError
from worker.locking.keeper import keep_renewed

pytestmark = pytest.mark.anyio

_numbers = itertools.count()


@pytest.fixture(params=["memory", "embedded", "azurite"])
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    match request.param:
        case "memory":
            yield MemoryBackend()
        case "embedded":
            async with embedded() as service:
                yield service
        case _:
            async with proxied(request.getfixturevalue("azurite_connection_string"), clock=None) as service:
                yield service


@pytest.fixture
def key() -> str:
    return f"orders|{next(_numbers)} ä/€"


async def assert_held(backend: Backend, key: str) -> None:
    async with backend.worker(acquire_timeout_s=0) as other:
        with pytest.raises(LeaseTimeoutError):
            await other.acquire(key)


async def assert_free(backend: Backend, key: str) -> None:
    async with backend.worker(acquire_timeout_s=0) as other:
        await (await other.acquire(key)).release()


async def test_only_one_worker_holds_a_key(backend: Backend, key: str) -> None:
    async with backend.worker() as worker:
        lease = await worker.acquire(key)
        assert lease.key == key
        await assert_held(backend, key)
        await assert_free(backend, f"{key} of another brook")


async def test_a_second_acquire_in_one_process_does_not_pass_for_the_first(backend: Backend, key: str) -> None:
    async with backend.worker(acquire_timeout_s=0) as worker:
        await worker.acquire(key)
        with pytest.raises(LeaseTimeoutError):
            await worker.acquire(key)


async def test_contention_backs_off_until_the_holder_releases(backend: Backend, key: str) -> None:
    taken: list[Lease] = []

    async def wait_for_it() -> None:
        async with backend.worker(acquire_timeout_s=30) as second:
            taken.append(await second.acquire(key))

    async with backend.worker() as first:
        lease = await first.acquire(key)
        async with anyio.create_task_group() as tasks:
            already = backend.requests()
            tasks.start_soon(wait_for_it)
            await wait_until(lambda: backend.requests() >= already + 3, "the second worker has asked three times")
            assert not taken
            await lease.release()
    assert taken
    await assert_held(backend, key)


async def test_contention_that_lasts_too_long_tells_key_time_and_attempts(backend: Backend, key: str) -> None:
    async with backend.worker() as first, backend.worker(acquire_timeout_s=0.5) as second:
        await first.acquire(key)
        already, started_s = backend.requests(), anyio.current_time()
        with pytest.raises(LeaseTimeoutError) as caught:
            await second.acquire(key)
        waited_s = anyio.current_time() - started_s
    error = caught.value
    assert error.key == key
    assert 0.5 <= error.waited_s <= waited_s
    assert error.attempts == backend.requests() - already >= 3
    assert repr(key) in str(error)
    assert f"{error.attempts} attempts" in str(error)


async def test_renewing_moves_the_end(backend: Backend, key: str) -> None:
    async with backend.worker() as worker:
        before_s = anyio.current_time()
        lease = await worker.acquire(key)
        first_end_s = lease.expires_at_s
        assert before_s <= first_end_s - DURATION_S <= anyio.current_time()
        await wait_until(lambda: anyio.current_time() > first_end_s - DURATION_S, "time has passed")
        await lease.renew()
        assert first_end_s < lease.expires_at_s <= anyio.current_time() + DURATION_S


async def test_a_broken_lease_is_found_lost_on_renewal(backend: Backend, key: str) -> None:
    async with backend.worker() as worker:
        lease = await worker.acquire(key)
        await backend.break_lease(key)
        with pytest.raises(LeaseLostError) as caught:
            await lease.renew()
    assert caught.value.key == key


async def test_a_lease_that_another_took_is_found_lost_and_its_release_harms_nobody(backend: Backend, key: str) -> None:
    async with backend.worker() as first, backend.worker() as second:
        lost = await first.acquire(key)
        await backend.break_lease(key)
        taken = await second.acquire(key)
        with pytest.raises(LeaseLostError):
            await lost.renew()
        await lost.release()
        await taken.renew()
        await assert_held(backend, key)


@pytest.mark.slow  # Azurite's clock cannot jump: its lease takes 15 s to expire
async def test_an_expired_lease_is_renewed_until_another_takes_it(backend: Backend, key: str) -> None:
    kept, lost = key, f"{key} lost"
    async with backend.worker() as first, backend.worker() as second:
        lease_kept, lease_lost = await first.acquire(kept), await first.acquire(lost)
        await backend.expire(kept)
        await lease_kept.renew()
        await assert_held(backend, kept)
        await backend.expire(lost)
        taken = await second.acquire(lost)
        with pytest.raises(LeaseLostError):
            await lease_lost.renew()
        await taken.renew()


async def test_release_frees_the_key_at_once_and_ends_the_lease(backend: Backend, key: str) -> None:
    async with backend.worker() as worker:
        lease = await worker.acquire(key)
        await lease.release()
        await assert_free(backend, key)
        await lease.release()
        with pytest.raises(LeaseLostError):
            await lease.renew()


async def test_release_of_a_broken_lease_is_no_error(backend: Backend, key: str) -> None:
    async with backend.worker() as worker:
        lease = await worker.acquire(key)
        await backend.break_lease(key)
        await lease.release()
    await assert_free(backend, key)


async def test_a_lost_answer_does_not_lock_the_worker_out(backend: Backend, key: str) -> None:
    async with backend.worker() as worker:
        await (await worker.acquire(key)).release()  # the blob is there: the next request asks for the lease
        already = backend.requests()
        backend.lose_answer()
        lease = await worker.acquire(key)
        assert backend.requests() >= already + 2
        await lease.renew()
        await assert_held(backend, key)


async def test_giving_up_after_a_lost_answer_gives_back_what_it_may_have_taken(backend: Backend, key: str) -> None:
    await assert_free(backend, key)
    async with backend.worker(acquire_timeout_s=0) as worker:
        backend.lose_answer()
        with pytest.raises(LeaseUnavailableError):
            await worker.acquire(key)
    await assert_free(backend, key)


async def test_an_unavailable_service_is_told_as_such_and_passes(backend: Backend, key: str) -> None:
    async with backend.worker(acquire_timeout_s=0.2) as worker:
        lease = await worker.acquire(key)
        async with backend.unavailable():
            with pytest.raises(LeaseUnavailableError) as caught:
                await worker.acquire(f"{key} of another brook")
            with pytest.raises(LeaseUnavailableError):
                await lease.renew()
        assert caught.value.key == f"{key} of another brook"
        await lease.renew()


async def test_a_release_that_did_not_arrive_can_be_tried_again(backend: Backend, key: str) -> None:
    async with backend.worker() as worker:
        lease = await worker.acquire(key)
        async with backend.unavailable():
            with pytest.raises(LeaseUnavailableError):
                await lease.release()
        with pytest.raises(LeaseLostError):
            await lease.renew()
        await lease.release()
    await assert_free(backend, key)


async def test_the_keeper_renews_and_ends_the_task_group_when_the_lease_is_broken(backend: Backend, key: str) -> None:
    async with backend.worker() as worker:
        lease = await worker.acquire(key)

        async def session() -> None:
            already = backend.requests()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(keep_renewed, lease, renew_after_s=0.02))
                await wait_until(lambda: backend.requests() >= already + 3, "the lease was renewed three times")
                await backend.break_lease(key)
                await anyio.sleep_forever()

        with pytest.raises(ExceptionGroup) as caught:
            await session()
    assert caught.value.subgroup(LeaseLostError) is not None
