"""The waiting that all lease adapters share, on the reference in memory."""

import anyio
import pytest
from anyio.lowlevel import checkpoint

from tests.support.leases import options
from worker.locking.acquire import acquire_patiently
from worker.locking.base import LeaseMisconfiguredError, LeaseTimeoutError, LeaseUnavailableError
from worker.locking.memory import MemoryLeaseManager, MemoryLeaseService

pytestmark = pytest.mark.anyio

KEY = "orders|1"


async def test_a_request_that_does_not_arrive_is_sent_again() -> None:
    service = MemoryLeaseService()
    service.fail_next("lost-request", "lost-request")
    lease = await MemoryLeaseManager(service, options()).acquire(KEY)
    assert service.requests == 3
    await lease.renew()


async def test_a_cancelled_acquire_gives_back_what_a_lost_answer_had_taken() -> None:
    service = MemoryLeaseService()
    service.fail_next("lost-answer")
    manager = MemoryLeaseManager(service, options(acquire_timeout_s=30))
    with anyio.CancelScope() as scope:

        async def attempt() -> None:
            await manager.acquire(KEY)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(attempt)
            while service.requests == 0:
                await checkpoint()
            scope.cancel()
    await MemoryLeaseManager(service, options(acquire_timeout_s=0)).acquire(KEY)


async def test_the_last_attempt_is_made_at_the_end_of_the_time() -> None:
    asked_at_s: list[float] = []

    async def held() -> None:
        asked_at_s.append(anyio.current_time())

    started_s = anyio.current_time()
    with pytest.raises(LeaseTimeoutError) as caught:
        await acquire_patiently(KEY, held, options(acquire_timeout_s=0.3))
    assert asked_at_s[0] - started_s < 0.1
    assert 0.3 <= asked_at_s[-1] - started_s <= caught.value.waited_s
    assert caught.value.attempts == len(asked_at_s)


async def test_without_time_to_wait_there_is_one_attempt() -> None:
    asked = []

    async def held() -> None:
        asked.append(1)

    with pytest.raises(LeaseTimeoutError):
        await acquire_patiently(KEY, held, options(acquire_timeout_s=0))
    assert asked == [1]


async def test_what_only_a_person_can_mend_is_not_waited_for() -> None:
    asked = []

    async def misconfigured() -> None:
        asked.append(1)
        raise LeaseMisconfiguredError(KEY, "the container is missing")

    with pytest.raises(LeaseMisconfiguredError):
        await acquire_patiently(KEY, misconfigured, options(acquire_timeout_s=30))
    assert asked == [1]


async def test_the_last_answer_decides_what_is_told() -> None:
    answers: list[Exception | None] = [None, LeaseUnavailableError(KEY, "no answer")]

    async def first_held_then_silent() -> None:
        if (answer := answers[0] if len(answers) == 1 else answers.pop(0)) is not None:
            raise answer

    with pytest.raises(LeaseUnavailableError, match="no answer"):
        await acquire_patiently(KEY, first_held_then_silent, options(acquire_timeout_s=0.1))


async def test_a_mistake_in_an_adapter_is_not_retried() -> None:
    asked = []

    async def broken() -> None:
        asked.append(1)
        raise KeyError("bug")

    with pytest.raises(KeyError):
        await acquire_patiently(KEY, broken, options(acquire_timeout_s=30))
    assert asked == [1]
