"""When the breaker opens, for whom, and when it closes."""

import anyio
import pytest

from worker.sessions.breaker import Breaker
from worker.sessions.stopping import Stopping

pytestmark = pytest.mark.anyio


def breaker() -> Breaker:
    return Breaker(pause_initial_s=0.05, pause_max_s=0.2)


async def test_one_session_that_fails_again_and_again_holds_up_nobody() -> None:
    it = breaker()
    for _ in range(5):
        it.failed("its partition is throttled", "orders|hot")
    assert not it.is_open


async def test_two_sessions_that_fail_with_no_success_between_them_are_an_outage() -> None:
    it = breaker()
    it.failed("no answer", "orders|1")
    it.succeeded()
    it.failed("no answer", "orders|2")
    assert not it.is_open
    it.failed("no answer", "orders|1")
    assert it.is_open


async def test_it_says_why_it_is_open_and_names_no_session() -> None:
    it = breaker()
    assert it.reason is None
    for session in ("orders|o'1", "orders|2"):
        it.failed(f"lease {session!r}: no answer", session)
    assert it.reason == "lease of a session: no answer"
    it.succeeded()
    assert it.reason is None


async def test_a_broker_that_does_not_answer_is_one_at_once() -> None:
    it = breaker()
    it.failed("accept a session: no answer")
    assert it.is_open
    it.succeeded()
    assert not it.is_open


async def test_an_answer_of_the_broker_closes_what_its_silence_opened() -> None:
    """Without it a worker with nothing to do would never be ready again after an outage."""
    it = breaker()
    it.failed("accept a session: no answer")
    it.answered()
    assert (it.is_open, it.reason) == (False, None)


async def test_an_answer_of_the_broker_says_nothing_of_the_store() -> None:
    it = breaker()
    it.answered()
    it.failed("store: no answer", "orders|1")
    it.failed("store: no answer", "orders|2")
    it.answered()
    assert it.reason == "store: no answer"


async def test_while_it_is_open_one_at_a_time_gets_through_and_none_before_the_pause_is_over() -> None:
    it, stopping = breaker(), Stopping()
    it.failed("no answer")
    opened_s, inside, most, starts = anyio.current_time(), 0, 0, []

    async def probe(number: int) -> None:
        nonlocal inside, most
        async with it.admission(stopping):
            starts.append(anyio.current_time() - opened_s)
            inside += 1
            most = max(most, inside)
            await anyio.sleep(0.01)
            if number < 3:
                it.failed("no answer", f"orders|{number}")
            inside -= 1

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(probe, number)
    assert most == 1
    assert len(starts) == 5
    assert starts[0] >= 0.025


async def test_stopping_lets_all_go_at_once() -> None:
    it, stopping = Breaker(pause_initial_s=100, pause_max_s=100), Stopping()
    it.failed("no answer")

    async def wait() -> None:
        async with it.admission(stopping):
            pass

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            stopping.set()
