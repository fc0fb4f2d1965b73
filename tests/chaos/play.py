"""Plays a scenario: services, wires, workers and load, and afterwards the proof that nothing came of it."""

import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import anyio
from azure.storage.blob.aio import BlobServiceClient

from bench.processes import usage
from brook_client.claims import ClaimUploads
from brook_client.client import BrookClient
from brook_client.connect import with_connection_string
from schemas.replies import Appended
from tests.chaos.checks import findings
from tests.chaos.load import Producer, as_command
from tests.chaos.run import leaves
from tests.chaos.trial import DRAIN_S, Hand, Record, Scenario, Trial, Wires, claim_container
from tests.support.brooks import command
from tests.support.places import Replies
from tests.support.site import SESSION_SUBSCRIPTION, SESSION_TOPIC, Site, port_in, running_site
from tests.support.waiting import wait_until
from tests.support.wires import Wire
from worker.sessions.replies import SENDERS_MAX_DEFAULT

CALM_S: Final = 60.0
"""Within so long after that, a worker holds no more connections than before: those of the HTTP clients' pools lapse."""
MEMORY_GROWTH_MAX: Final = 1.6
CLAIM_THRESHOLD_BYTES: Final = 20_000


async def run_trial(scenario: Scenario, rounds: int, seed: int, *, folder: Path | None = None) -> Record:
    """Play a scenario on services of its own. Everything that it starts is gone afterwards."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="chaos-") as made:
            return await run_trial(scenario, rounds, seed, folder=Path(made))
    setup = scenario.setup
    async with running_site(
        folder, seed=seed, lock_s=setup.lock_s, data_dir=folder / "data" if setup.durable else None
    ) as site:
        return await play(scenario, rounds, seed, site)


async def play(scenario: Scenario, rounds: int, seed: int, site: Site) -> Record:
    """Play a scenario in a place of its own, and look at what came of it."""
    started_s = time.monotonic()
    async with _wires(site) as wires:
        trial = Trial(site, site.place(), wires, scenario.setup, seed)
        async with _client(trial) as (client, replies):
            trial.replies = replies
            trial.producer = Producer(client, replies, seed=seed, brooks=scenario.setup.brooks)
            try:
                await _played(trial, scenario, rounds)
            except* AssertionError as group:
                trial.record.findings += [str(error)[:600] for error in leaves(group)]
                counts = (await site.control.entities())[trial.place.command_queue]
                trial.record.findings.append(f"the queue then: {counts}")
            finally:
                with anyio.CancelScope(shield=True):
                    await trial.release()
    record = trial.record
    record.commands, record.replies = len(trial.producer.sent), trial.replies.count
    record.facts += [f"{name} {count}" for name, count in trial.producer.failures.items()]
    record.duration_s = time.monotonic() - started_s
    return record


async def _played(trial: Trial, scenario: Scenario, rounds: int) -> None:
    for _ in range(trial.setup.workers):
        await trial.hire()
    await _under_load(trial, scenario, rounds)
    await _calm(trial)
    found = await findings(trial.place, trial.keys, trial.producer.sent, trial.replies)
    trial.record.findings += [one for one in found if not _is_expected(trial, one)]
    await _end(trial)


async def _under_load(trial: Trial, scenario: Scenario, rounds: int) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(trial.producer.run)
        await trial.grows(20, "before anything is done")
        await scenario.disturb(trial, rounds)
        trial.producer.stop()
        await trial.site.control.clear_rules()
        for wire in trial.wires.all():
            wire.bytes_max, wire.latency_s = None, 0.0
            wire.release()


async def _calm(trial: Trial) -> None:
    """Without faults, everything comes to its end, and a worker to what it was."""
    began_s = time.monotonic()
    await trial.replies.to_each([as_command(one) for one in trial.producer.sent], DRAIN_S)
    await wait_until(trial.place.is_drained, "the command queue is empty", DRAIN_S)
    trial.record.facts.append(f"all answered {time.monotonic() - began_s:.1f} s after the last fault")
    for hand in trial.hands:
        await _comes_to_rest(trial, hand)


async def _comes_to_rest(trial: Trial, hand: Hand) -> None:
    assert hand.idle is not None, "it was ready before"
    idle, name = hand.idle, hand.worker.log_file.name
    # Senders of replies stay open, and the pools of the HTTP clients keep a connection or two.
    sockets_max = idle.sockets + SENDERS_MAX_DEFAULT + 2
    await wait_until(
        lambda: usage(hand.worker.pid).sockets <= sockets_max,
        f"{name} holds at most {sockets_max} sockets again, {idle.sockets} when it was started",
        CALM_S,
    )
    now = usage(hand.worker.pid)
    if now.memory_bytes > MEMORY_GROWTH_MAX * idle.memory_bytes:
        grown = f"{now.memory_bytes / 1e6:.0f} MB, {idle.memory_bytes / 1e6:.0f} when it was started"
        trial.record.findings.append(f"{name}: {grown}")
    trial.record.facts.append(
        f"{name}: {now.sockets} sockets ({idle.sockets} at the start), {now.memory_bytes / 1e6:.0f} MB"
        f" ({idle.memory_bytes / 1e6:.0f}), {now.threads} threads ({idle.threads})"
    )


async def _end(trial: Trial) -> None:
    """One more command to each brook goes through; then the workers end in order and nothing is held."""
    heads = {key: await trial.place.store.head_position(key) for key in trial.keys}
    last = [command(command_id=f"last-{key}", key=key, expected=heads[key]) for key in trial.keys]
    async with _client(trial) as (client, replies):
        await client.send_many(last)
        await replies.to_each(last, DRAIN_S)
        for one in last:
            reply = replies.by_command[one.command_id][0].reply
            if not (isinstance(reply, Appended) and reply.first_position == heads[one.brook] + 1):
                trial.record.findings.append(f"brook {one.brook}: the last command got {reply}")
        await wait_until(trial.place.is_drained, "the command queue is empty", DRAIN_S)
    for hand in list(trial.hands):
        await trial.dismiss(hand)
    if held := await trial.place.held_leases():
        # Those of workers that were killed lapse by themselves.
        await _until_none_is_held(trial, held)


async def _until_none_is_held(trial: Trial, held: list[str]) -> None:
    async def none_held() -> bool:
        return not await trial.place.held_leases()

    await wait_until(none_held, f"no lease is held, but were {held[:5]}", 20.0)


def _is_expected(trial: Trial, finding: str) -> bool:
    return any(finding.startswith(f"dead letter {name!r}:") for name in trial.letters_expected)


@asynccontextmanager
async def _client(trial: Trial) -> AsyncIterator[tuple[BrookClient, Replies]]:
    """A client of this setup, and all the replies that it gets."""
    connections = trial.site.services.connections
    replies = Replies()
    async with AsyncExitStack() as stack:
        claims = None
        if trial.setup.claims:
            blobs = BlobServiceClient.from_connection_string(connections.blob_connection_string)
            container = (await stack.enter_async_context(blobs)).get_container_client(claim_container(trial.place))
            if not await container.exists():
                await container.create_container()
            claims = ClaimUploads(container, threshold_bytes=CLAIM_THRESHOLD_BYTES)
        client = await stack.enter_async_context(
            BrookClient(
                with_connection_string(trial.client_connection_string),
                command_queue=trial.place.command_queue,
                reply_queue=None if trial.setup.topic else trial.place.reply_queue,
                reply_topic=SESSION_TOPIC if trial.setup.topic else None,
                subscription=SESSION_SUBSCRIPTION if trial.setup.topic else None,
                session_buckets=trial.setup.buckets,
                claims=claims,
            )
        )
        with client.listen(replies.take):
            yield client, replies


@asynccontextmanager
async def _wires(site: Site) -> AsyncIterator[Wires]:
    connections = site.services.connections
    servicebus = port_in(connections.servicebus_connection_string)
    ports = (servicebus, port_in(connections.cosmos_endpoint), port_in(connections.blob_connection_string), servicebus)
    async with AsyncExitStack() as stack:
        yield Wires(*[await stack.enter_async_context(Wire(port).running()) for port in ports])
