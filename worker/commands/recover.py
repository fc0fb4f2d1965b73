"""`brook-worker recover`: by hand what the worker does when it finds a large append that somebody left."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final

import anyio
from rich.console import Console

from schemas.keys import BrookKey, session_id_for
from worker.clients import blob_service_client
from worker.commands.failures import CommandError
from worker.commands.inspect import inspected, tell
from worker.commands.read import brook_store
from worker.handlers.append import BrookContendedError
from worker.handlers.brook import BrookState, BrookWriter
from worker.handlers.recovery import recover
from worker.locking.base import LeaseManager, LeaseTimeoutError, LeaseUnavailableError
from worker.locking.blob import BlobLeaseManager
from worker.locking.keeper import keep_renewed
from worker.protocol.model import Limits
from worker.settings import Settings
from worker.storage.base import BrookStore, ContradictionError

_RELEASE_TIMEOUT_S: Final = 5.0


async def recover_and_tell(
    settings: Settings, key: BrookKey, *, dry_run: bool, as_json: bool, console: Console
) -> None:
    """Recover the brook under its lease and print how it then stands; with `dry_run` only how it stands.

    Raises ContradictionError where an operator has to look, CommandError where a worker has the brook in hand for
    as long as `lease_acquire_timeout_s`.
    """
    async with brook_store(settings) as store:
        if not dry_run:
            async with blob_service_client(settings) as blobs:
                leases = BlobLeaseManager(blobs, settings.lease_container, settings.lease_options())
                session_id = session_id_for(key, settings.session_buckets)
                async with leased(leases, session_id, renew_after_s=settings.lease_renew_after_s):
                    await recovered(store, key, settings.limits(), attempts_max=settings.replans_max)
        found = await inspected(store, key)
    tell(found, as_json=as_json, console=console)
    if found.remedy is not None:
        raise ContradictionError(key, found.why, found.remedy)


async def recovered(store: BrookStore, key: BrookKey, limits: Limits, *, attempts_max: int) -> None:
    """Recover until nothing is pending. Raises BrookContendedError when others move the brook all the time."""
    writer = BrookWriter(store, BrookState(key), limits)
    for _ in range(attempts_max):
        if await recover(store, writer):
            return
    raise BrookContendedError(f"brook {key}: other writers moved it {attempts_max} times in a row; try again")


@asynccontextmanager
async def leased(leases: LeaseManager, session_id: str, *, renew_after_s: float) -> AsyncIterator[None]:
    """Hold the lease that workers hold on the brook's session. Raises CommandError while somebody else has it."""
    try:
        lease = await leases.acquire(session_id)
    except LeaseTimeoutError as error:
        raise CommandError(
            f"{error}\na worker is at work on it, which settles by itself what was left there; if one has just died,"
            " run the command again in a minute"
        ) from error
    try:
        async with anyio.create_task_group() as keeping:
            keeping.start_soon(partial(keep_renewed, lease, renew_after_s=renew_after_s))
            yield
            keeping.cancel_scope.cancel()
    finally:
        with anyio.move_on_after(_RELEASE_TIMEOUT_S, shield=True):
            with suppress(LeaseUnavailableError):  # it lapses by itself
                await lease.release()
