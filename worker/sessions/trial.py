"""A trial of what all sessions need, for when no session shows how it is."""

from collections.abc import Awaitable, Callable
from typing import Final

import anyio

from schemas.keys import BrookKey
from worker.claims.base import ClaimStore
from worker.locking.base import LeaseManager, LeaseTimeoutError
from worker.sessions.base import BrokerUnavailableError
from worker.storage.base import BrookReader

Trial = Callable[[], Awaitable[None]]
"""Asks each service once, in a bounded time. Raises the StoreError, LeaseError or BrokerError that a session met."""

NAME: Final = "brook-worker-trial"
"""The lease that is taken: its blob stays in the container, empty."""

_BROOK: Final = BrookKey("brook-worker", "trial")
"""Nobody's: only looked for."""

_TIME_MAX_S: Final = 30.0


async def try_services(
    store: BrookReader,
    leases: LeaseManager,
    claims: ClaimStore | None,
    open_replies: Callable[[], Awaitable[None]],
) -> None:
    """Read, take a lease, look for a claim and open the reply entity, as a session does. Nothing is written to a brook.

    `leases` should not wait for one that another worker holds, which tries as well: the service has answered.
    """
    with anyio.move_on_after(_TIME_MAX_S):
        await store.head_position(_BROOK)
        try:
            lease = await leases.acquire(NAME)
        except LeaseTimeoutError:
            pass
        else:
            await lease.release()
        if claims is not None:
            await claims.find(NAME)
        await open_replies()
        return
    raise BrokerUnavailableError(f"the services have not all answered within {_TIME_MAX_S:g} s")
