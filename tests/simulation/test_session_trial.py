"""An outage shows and ends where no session tells of it: the server asks the services itself, and not too often."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import msgspec
import pytest

from schemas.codec import JSON, encode_command
from schemas.guards import Guards
from schemas.keys import BrookKey, session_id_for
from tests.support.brooks import command
from tests.support.waiting import wait_until
from worker.claims.base import ClaimsUnavailableError
from worker.claims.memory import MemoryClaimStore
from worker.handlers.append import AppendHandler
from worker.locking.base import LeaseUnavailableError
from worker.locking.memory import MemoryLeaseManager, MemoryLeaseService
from worker.locking.options import LeaseOptions
from worker.protocol.model import Limits
from worker.sessions.base import BrokerRefusedError, CommandSession
from worker.sessions.group import GroupProcessor
from worker.sessions.intake import Intake
from worker.sessions.memory import MemoryBroker, MemoryReplies
from worker.sessions.serve import SessionOptions, SessionServer
from worker.sessions.stopping import Stopping
from worker.sessions.trial import NAME, Trial, try_services
from worker.storage.base import LoadedBrook, StoreUnavailableError
from worker.storage.memory import MemoryBrookStore

pytestmark = pytest.mark.anyio

OPTIONS = SessionOptions(
    max_concurrent_sessions=4,
    session_idle_s=0.02,
    session_pause_initial_s=0.02,
    session_pause_max_s=0.05,
    session_hold_max_s=5,
    group_commands_max=100,
    group_bytes_max=1_000_000,
    lease_renew_after_s=10,
)


class Store(MemoryBrookStore):
    is_away = False
    asked = 0

    async def load(self, key: BrookKey) -> LoadedBrook:
        self.asked += 1
        if self.is_away:
            raise StoreUnavailableError("the store does not answer")
        return await super().load(key)


class World:
    """A worker whose store can be away, and to which sessions may stop coming."""

    def __init__(self, trial: Trial | None = None, options: SessionOptions = OPTIONS) -> None:
        self.broker = MemoryBroker(accept_wait_s=0.01 if options is OPTIONS else 5)
        self.replies = MemoryReplies()
        self.store = Store()
        self.sessions_come = True
        self.trials = 0
        self.waiting = 0
        self.stopping = Stopping()
        self.server = SessionServer(
            self,
            MemoryLeaseManager(MemoryLeaseService(), LeaseOptions()),
            GroupProcessor(
                Intake(Guards(), frozenset()), AppendHandler(self.store, Limits(), replans_max=10), self.replies
            ),
            options,
            trial or self.trial,
        )

    async def accept(self) -> CommandSession | None:
        if self.sessions_come:
            self.waiting += 1
            try:
                return await self.broker.accept()
            finally:
                self.waiting -= 1
        await anyio.sleep(0.01)
        return None

    async def trial(self) -> None:
        self.trials += 1
        await self.store.load(BrookKey("nobody", "1"))

    def send(self, entity_id: str) -> None:
        one = command(command_id=entity_id, key=BrookKey("orders", entity_id))
        self.broker.send(
            encode_command(one, JSON),
            session_id=session_id_for(one.brook, None),
            message_id=one.command_id,
            content_type=JSON,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.server.run, self.stopping)
            yield
            self.stopping.set()


async def test_a_worker_that_gets_no_further_session_is_ready_again_after_a_store_outage() -> None:
    """Other workers take the sessions over: it stayed unready, and no rolling update went on."""
    world = World()
    world.store.is_away = True
    world.send("1")
    world.send("2")
    async with world.running():
        await wait_until(lambda: world.server.trouble is not None, "the outage shows")
        world.sessions_come = False
        asked = world.trials
        await wait_until(lambda: world.trials >= asked + 3, "the services are asked again and again")
        assert world.server.trouble == "the store does not answer"
        world.store.is_away = False
        await wait_until(lambda: world.server.trouble is None, "it is ready again")
        asked = world.trials
        for _ in range(3):
            await world.accept()
        assert world.trials == asked, "nobody asks while all is well"


async def test_an_outage_that_meets_a_single_session_shows_and_ends_with_it() -> None:
    world = World()
    world.store.is_away = True
    world.send("alone")
    async with world.running():
        await wait_until(lambda: world.server.trouble is not None, "the outage shows")
        world.store.is_away = False
        await wait_until(lambda: world.broker.pending() == 0, "its command is done")
        await wait_until(lambda: world.server.trouble is None, "it is ready again")


async def test_slots_that_already_waited_for_a_session_when_an_outage_began_give_it_back() -> None:
    """Each of them tried it in turn: sixteen tries within a second, though the breaker was open."""
    world = World(options=msgspec.structs.replace(OPTIONS, session_pause_initial_s=100, session_pause_max_s=100))
    world.store.is_away = True
    async with world.running():
        await wait_until(lambda: world.waiting == OPTIONS.max_concurrent_sessions, "all slots wait for a session")
        world.send("alone")
        await wait_until(lambda: world.server.trouble is not None, "the outage shows")
        await wait_until(lambda: world.waiting == 0 and not world.broker.held(), "nobody has the session")
        assert world.store.asked == 2, "the session that failed first, and the trial"


async def test_stopping_waits_for_no_trial() -> None:
    hanging = anyio.Event()

    async def hang() -> None:
        hanging.set()
        await anyio.sleep_forever()

    world = World(hang)
    world.store.is_away = True
    world.send("alone")
    with anyio.fail_after(5):
        async with world.running():
            await hanging.wait()


# --- what a trial asks ---


class Asked:
    """The services of a trial, each of which can fail."""

    def __init__(self) -> None:
        self.store = Store()
        self.leases = MemoryLeaseService()
        self.claims = MemoryClaimStore()
        self.refusal: BrokerRefusedError | None = None

    async def open_replies(self) -> None:
        await anyio.lowlevel.checkpoint()
        if self.refusal is not None:
            raise self.refusal

    async def __call__(self) -> None:
        manager = MemoryLeaseManager(self.leases, LeaseOptions(acquire_timeout_s=0))
        await try_services(self.store, manager, self.claims, self.open_replies)


async def test_a_trial_of_services_that_are_well_leaves_nothing_behind() -> None:
    asked = Asked()
    await asked()
    await asked()
    assert await asked.store.head_position(BrookKey("brook-worker", "trial")) == -1


async def test_a_lease_that_another_worker_tries_with_is_an_answer() -> None:
    asked = Asked()
    other = await MemoryLeaseManager(asked.leases, LeaseOptions()).acquire(NAME)
    await asked()
    await other.release()


def store_away(asked: Asked) -> None:
    asked.store.is_away = True


def leases_away(asked: Asked) -> None:
    asked.leases.unavailable = True


def claims_away(asked: Asked) -> None:
    asked.claims.unavailable = True


def replies_refused(asked: Asked) -> None:
    asked.refusal = BrokerRefusedError("open a reply entity: it is gone")


@pytest.mark.parametrize(
    ("breaks", "told"),
    [
        (store_away, StoreUnavailableError),
        (leases_away, LeaseUnavailableError),
        (claims_away, ClaimsUnavailableError),
        (replies_refused, BrokerRefusedError),
    ],
)
async def test_each_service_that_is_away_fails_the_trial(
    breaks: Callable[[Asked], None], told: type[Exception]
) -> None:
    asked = Asked()
    breaks(asked)
    with pytest.raises(told):
        await asked()
