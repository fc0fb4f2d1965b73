"""The composition root: opens the clients, puts the pieces together, runs until told to stop."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Final

import anyio
import msgspec
import structlog
from anyio.abc import TaskGroup

from schemas.guards import Guards
from worker.claims.blob import BlobClaimStore
from worker.claims.resolve import Claims
from worker.clients import blob_service_client, brooks_container, cosmos_client, servicebus_client, store_retries
from worker.errors import StartError, WorkerError
from worker.handlers.append import AppendHandler
from worker.handlers.lookup import Lookup
from worker.locking.blob import BlobLeaseManager
from worker.provisioning import check_leases, check_store, provision
from worker.sessions.base import BrokerError, BrokerRefusedError
from worker.sessions.group import GroupProcessor
from worker.sessions.intake import Intake
from worker.sessions.observed import ObservedLeases, ObservedReplies, ObservedSource
from worker.sessions.replies import ServiceBusReplies
from worker.sessions.serve import SessionOptions, SessionServer
from worker.sessions.servicebus import ServiceBusSessionSource
from worker.sessions.stopping import Stopping
from worker.sessions.trial import try_services
from worker.settings import Settings
from worker.storage.base import BrookStore
from worker.storage.cosmos import CosmosBrookStore
from worker.storage.retries import RetryOptions
from worker.telemetry.health import Health
from worker.telemetry.instruments import VERSION
from worker.telemetry.running import observed
from worker.telemetry.scaling import ScalingSignal

log = structlog.get_logger()

_END_S: Final = 1.0
"""How long leases and sessions may take to be given back when the worker ends at once."""

_EXIT_UNFINISHED: Final = 1


class UnfinishedError(WorkerError):
    """The worker was made to end before it had finished what it had in hand. Nothing is lost by that."""


async def run_worker(settings: Settings, on_started: Callable[[], None] = lambda: None) -> None:
    """Work until SIGTERM or SIGINT, then drain within `drain_grace_s`; a second signal ends at once.

    `on_started` is called when everything is open and before the first session is accepted.

    Raises StartError when a service refuses us or does not answer at the start, and UnfinishedError when it ended
    with work in hand.
    """
    stopping = Stopping()
    async with anyio.create_task_group() as tasks, observed(settings, tasks) as observers:
        with anyio.CancelScope() as starting:
            await tasks.start(_watch_signals, tasks, starting, stopping, settings.drain_grace_s, observers.health)
            log.info("worker.starting", version=VERSION)
            if settings.auto_provision:
                await provision(settings)
            async with open_server(settings, observers.signal) as server:
                observers.health.running(lambda: server.trouble)
                log.info("worker.started", queue=settings.command_queue, sessions_max=settings.max_concurrent_sessions)
                on_started()
                try:
                    await server.run(stopping)
                except* BrokerRefusedError as group:
                    raise StartError(f"command_queue: {_first(group)}") from group
        log.info("worker.stopped")
        tasks.cancel_scope.cancel()
        return
    raise UnfinishedError("ended with work in hand; what was not settled comes again and gets the same replies")


@contextlib.asynccontextmanager
async def open_server(settings: Settings, signal: ScalingSignal) -> AsyncIterator[SessionServer]:
    """Everything that a worker consists of, opened in order and closed in reverse order; `signal` follows its slots.

    Raises StartError when a service refuses us or does not answer.
    """
    async with (
        cosmos_client(settings) as cosmos,
        blob_service_client(settings) as blobs,
        servicebus_client(settings) as broker,
        _replies(settings) as replies,
        _claim_store(settings) as claim_store,
    ):
        await check_store(cosmos, settings)
        await check_leases(blobs, settings)
        source = ServiceBusSessionSource(broker, settings.command_queue, accept_wait_s=settings.session_accept_wait_s)
        leases = BlobLeaseManager(blobs, settings.lease_container, settings.lease_options())
        store = CosmosBrookStore(brooks_container(cosmos, settings), store_retries(settings))
        # Each asks once: the breaker decides when to ask again.
        trial = partial(
            try_services,
            CosmosBrookStore(brooks_container(cosmos, settings), RetryOptions(attempts_max=1)),
            BlobLeaseManager(
                blobs, settings.lease_container, msgspec.structs.replace(settings.lease_options(), acquire_timeout_s=0)
            ),
            claim_store,
            replies.open,
        )
        yield SessionServer(
            ObservedSource(source, signal),
            ObservedLeases(leases),
            _groups(settings, store, replies, claim_store),
            _session_options(settings),
            trial,
        )


def _groups(
    settings: Settings, store: BrookStore, replies: ServiceBusReplies, claim_store: BlobClaimStore | None
) -> GroupProcessor:
    """What is done with a group of commands."""
    guards = Guards(
        event_ids=settings.event_id_guard,
        events_max=settings.events_max,
        metadata_bytes_max=settings.metadata_bytes_max,
        metadata_depth_max=settings.metadata_depth_max,
    )
    return GroupProcessor(
        Intake(
            guards,
            _reply_addresses(settings),
            settings.session_buckets,
            command_bytes_max=settings.command_bytes_max,
        ),
        AppendHandler(
            store,
            settings.limits(),
            replans_max=settings.replans_max,
            lookup=Lookup(settings.command_lookup),
        ),
        ObservedReplies(replies),
        claims=Claims(claim_store, guards, settings.claim_options()),
        brooks_concurrency_max=settings.brooks_concurrency_max,
    )


def _session_options(settings: Settings) -> SessionOptions:
    return SessionOptions(
        max_concurrent_sessions=settings.max_concurrent_sessions,
        session_idle_s=settings.session_idle_s,
        session_pause_initial_s=settings.session_pause_initial_s,
        session_pause_max_s=settings.session_pause_max_s,
        session_hold_max_s=settings.session_hold_max_s,
        group_commands_max=settings.group_commands_max,
        group_bytes_max=settings.group_bytes_max,
        lease_renew_after_s=settings.lease_renew_after_s,
    )


@contextlib.asynccontextmanager
async def _replies(settings: Settings) -> AsyncIterator[ServiceBusReplies]:
    """Senders with a client of their own, so that closing them waits for nothing of the sessions."""
    address = settings.reply_queue or settings.reply_topic
    assert address is not None, "the settings were checked: one of the two is set"
    async with servicebus_client(settings) as broker:
        replies = ServiceBusReplies(broker, address, timeout_s=settings.reply_send_timeout_s)
        try:
            await replies.open()
        except BrokerError as error:
            setting = "reply_queue" if settings.reply_queue else "reply_topic"
            remedy = "" if isinstance(error, BrokerRefusedError) else "; check the namespace and the network"
            raise StartError(f"{setting} {address!r}: {error}{remedy}") from error
        try:
            yield replies
        finally:
            await replies.close()


@contextlib.asynccontextmanager
async def _claim_store(settings: Settings) -> AsyncIterator[BlobClaimStore | None]:
    """The claims, with a client of their own: downloads take no connection from the leases."""
    if settings.claim_container is None:
        yield None
        return
    async with blob_service_client(settings) as blobs:
        yield BlobClaimStore(blobs, settings.claim_container)


async def _watch_signals(
    tasks: TaskGroup,
    starting: anyio.CancelScope,
    stopping: Stopping,
    grace_s: float,
    health: Health,
    *,
    task_status: anyio.abc.TaskStatus[None],
) -> None:
    """First signal: stop by flag, with a bound, or give up the start. Second signal, or the bound: end at once."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        received = await anext(aiter(signals))
        log.info("worker.draining", signal=signal.Signals(received).name, grace_s=grace_s)
        if health.is_starting:
            starting.cancel()  # nothing is in hand, and a service that is silent would hold it up
        health.draining()
        stopping.set()
        with anyio.move_on_after(grace_s):
            await anext(aiter(signals))
        log.warning("worker.ended-at-once", reason="second signal or end of the grace period")
        # Requests under way are shielded from cancellation and may take as long as their time-outs: the end does not.
        asyncio.get_running_loop().call_later(_END_S, os._exit, _EXIT_UNFINISHED)
        tasks.cancel_scope.cancel()


def _first(group: BaseExceptionGroup[BrokerRefusedError]) -> BaseException:
    """All slots are refused for the same reason: one of them tells it."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _reply_addresses(settings: Settings) -> frozenset[str]:
    """The entities that a sender may name as its reply address: ours and those allowed, in lower case."""
    named = (settings.reply_queue, settings.reply_topic, *settings.reply_entities_allowed)
    return frozenset(name.lower() for name in named if name is not None)
