"""When the breaker opens, for whom, and when it closes."""

import anyio
import anyio.lowlevel
import pytest

from worker.sessions.breaker import Breaker
from worker.sessions.stopping import Stopping
from worker.storage.base import StoreUnavailableError

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


class Trial:
    """The services, well or not; counts how often they were asked."""

    def __init__(self, trouble: str | None) -> None:
        self.trouble = trouble
        self.count = 0

    async def __call__(self) -> None:
        self.count += 1
        await anyio.lowlevel.checkpoint()
        if self.trouble is not None:
            raise StoreUnavailableError(self.trouble)


@pytest.mark.parametrize("trouble", ["no answer from anything", None])
async def test_whether_a_single_session_fails_in_an_outage_is_told_by_a_trial(trouble: str | None) -> None:
    """An outage with one busy session was none: ready, no alert, and no longer pauses between the tries."""
    it, trial = breaker(), Trial(trouble)
    it.failed("no answer", "orders|hot")
    assert it.is_doubtful
    await it.try_services(trial)
    assert (it.is_open, it.reason, it.is_doubtful) == (trouble is not None, trouble, False)


async def test_a_trial_by_the_probe_that_found_no_session_ends_what_sessions_opened() -> None:
    """Without it a worker that gets no further session would not be ready again after an outage."""
    it, stopping, trial = breaker(), Stopping(), Trial("store: no answer")
    it.failed("store: no answer", "orders|1")
    it.failed("store: no answer", "orders|2")
    it.answered()
    assert not it.is_doubtful, "that was none of the probe's answers"
    began_s = anyio.current_time()
    for trouble in ("store: still no answer", None):
        trial.trouble = trouble
        async with it.admission(stopping):
            it.answered()
            assert it.is_doubtful
            await it.try_services(trial)
        assert it.reason == trouble
    assert not it.is_open
    assert anyio.current_time() - began_s >= 0.025 + 0.05, "each trial comes after a pause, the next after twice that"


async def test_of_many_that_doubt_one_asks() -> None:
    it, trial = breaker(), Trial("no answer")
    it.failed("no answer", "orders|hot")
    async with anyio.create_task_group() as tasks:
        for _ in range(16):
            tasks.start_soon(it.try_services, trial)
    assert trial.count == 1


async def test_what_a_session_tells_during_a_trial_counts() -> None:
    it = breaker()
    it.failed("no answer", "orders|hot")

    async def others_fail_meanwhile() -> None:
        it.failed("no answer", "orders|2")

    await it.try_services(others_fail_meanwhile)
    assert it.reason == "no answer", "what was well before says nothing"


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
