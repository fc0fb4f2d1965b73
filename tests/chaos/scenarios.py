"""What is done to workers under load, one thing at a time: `python -m tests.chaos --scenario NAME`."""

import signal
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final

import anyio
from azure.servicebus import ServiceBusMessage

from emulator.faults import Answer, ApplyLate, ApplyThenDrop, DropBefore, Rule, Truncate
from emulator.handle import ControlError
from schemas.keys import session_id_for
from tests.chaos.clients import asking_clients
from tests.chaos.crew import faults
from tests.chaos.operators import dead_letters_and_back
from tests.chaos.trial import Scenario, Setup, Trial
from tests.support.wires import BOTH, Direction, Wire

LOCK_S: Final = 10
LEASE_S: Final = 15
FORGOTTEN_S: Final = LEASE_S + 2.0
"""A worker that did nothing for so long has lost every lock and every lease."""


async def kills(trial: Trial, rounds: int) -> None:
    """Faults all the time, and `kill -9` of one worker after the other; some of their leases have to lapse."""
    for rule in faults(trial.place.command_queue, trial.place.reply_queue):
        await trial.place.control.add_rule(rule)
    for number in range(rounds):
        await trial.grows(15, f"before kill {number + 1}")
        await trial.kill(trial.chance.choice(trial.hands))
        if number % 4 != 3:  # the others are broken at once, so that there is something to kill
            await trial.break_leases()
        await trial.hire()


async def rolling(trial: Trial, rounds: int) -> None:
    """One worker after the other is replaced by one with other settings, as a release does it."""
    for number in range(rounds):
        await trial.hire(group_commands_max=str(trial.chance.choice((1, 7, 100))), batch_operations_max="50")
        await trial.dismiss(trial.hands[0])
        await trial.grows(15, f"after replacement {number + 1}")


async def zombies(trial: Trial, rounds: int) -> None:
    """A worker is stopped until its locks and leases are over, others go on in its sessions, and it wakes up.

    In every other round they lapse by themselves, and of two workers one after the other is stopped.
    """
    for number in range(rounds):
        lapses = number % 2 == 1
        for hand in list(trial.hands) if lapses else trial.hands[:1]:
            hand.worker.send_signal(signal.SIGSTOP)
            try:
                if lapses:
                    await anyio.sleep(FORGOTTEN_S)
                else:
                    await trial.take_locks()
                    await trial.break_leases()
                await trial.grows(20, "while a worker is stopped")
            finally:
                hand.worker.send_signal(signal.SIGCONT)
            await trial.grows(10, "once it has woken up")


async def half_open(trial: Trial, rounds: int) -> None:
    """Connections that there are never carry a byte again, in one direction or both, and nobody is told."""
    ways: tuple[tuple[Direction, ...], ...] = (BOTH, ("up",), ("down",))
    wires = _named(trial)
    for number in range(rounds):
        name = list(wires)[number % len(wires)]
        directions = ways[number // len(wires) % len(ways)]
        count = wires[name].forsake(directions)
        began_s = anyio.current_time()
        await trial.grows(40, f"after {count} connections of {name} fell silent ({' and '.join(directions)})")
        trial.record.facts.append(
            f"{name}, {count} connections silent {' and '.join(directions)}:"
            f" 40 more replies after {anyio.current_time() - began_s:.1f} s"
        )


async def partitions(trial: Trial, rounds: int) -> None:
    """Nothing passes between the workers and one service for a while, and then all of it does."""
    wires = _named(trial)
    for number in range(rounds):
        name = list(wires)[number % len(wires)]
        wires[name].hold()
        await anyio.sleep(trial.chance.uniform(3, 12))
        wires[name].release()
        await trial.grows(40, f"after the partition from {name}")


async def leaving(trial: Trial, rounds: int) -> None:
    """Workers are told to end while one service does not answer: in time all the same, though not always in order."""
    wires = [wire for wire in _named(trial).values() if wire is not trial.wires.client]
    for number in range(rounds):
        wires[number % len(wires)].hold()
        await anyio.sleep(trial.chance.uniform(0, 3))
        await trial.dismiss(trial.hands[0], codes=(0, 1))
        wires[number % len(wires)].release()
        await trial.hire()
        await trial.grows(20, f"after departure {number + 1}")


async def cuts(trial: Trial, rounds: int) -> None:
    """Every connection is cut after so many bytes, wherever that is in a frame or an answer."""
    for number in range(rounds):
        for name, wire in _named(trial).items():
            wire.bytes_max = partial(trial.chance.randint, *_CUT_AFTER_BYTES[name])
            wire.cut()
        await trial.grows(60, f"with connections cut after some bytes, round {number + 1}")
    trial.record.facts.append(f"{sum(wire.cuts for wire in trial.wires.all()):,} connections were cut")


_CUT_AFTER_BYTES: Final[Mapping[str, tuple[int, int]]] = {
    "servicebus": (3_000, 600_000),
    "cosmos": (600, 300_000),
    "blob": (600, 20_000),
    "client": (3_000, 1_000_000),
}
"""More than the largest command or batch, now and then: what needs more would never get through."""


async def spikes(trial: Trial, rounds: int) -> None:
    """Each service takes seconds to answer for a while, now and then for longer than anybody waits."""
    for number in range(rounds):
        service = ("cosmos", "blob", "servicebus")[number % 3]
        rule = Rule(service=service, probability=0.2, latency_s=1.0, latency_jitter_s=4.0)
        async with trial.place.rule(rule):
            await anyio.sleep(8)
        await trial.grows(40, f"after {service} was slow")


async def slow_lines(trial: Trial, rounds: int) -> None:
    """Every line between workers, clients and services takes longer and longer, up to half a second each way."""
    for number in range(rounds):
        latency_s = (0.05, 0.1, 0.25, 0.5)[number % 4]
        for wire in trial.wires.all():
            wire.latency_s = latency_s
        began_s = anyio.current_time()
        await trial.grows(30, f"on lines that take {latency_s:g} s")
        took_s = anyio.current_time() - began_s
        trial.record.facts.append(f"30 replies in {took_s:.1f} s where each piece takes {latency_s:g} s each way")


async def throttled(trial: Trial, rounds: int) -> None:
    """Storms of 429 and 449 from Cosmos DB, and of server-busy from the others."""
    for number in range(rounds):
        for rule in (
            Rule(service="cosmos", probability=0.5, effect=Answer(status=429, retry_after_ms=300)),
            Rule(service="cosmos", operation="batch", probability=0.4, effect=Answer(status=449, retry_after_ms=20)),
            Rule(service="blob", probability=0.3, effect=Answer(status=503)),
            Rule(service="servicebus", operation="send", probability=0.2, effect=Answer()),
            Rule(service="servicebus", operation="accept-session", probability=0.2, effect=Answer()),
        ):
            await trial.place.control.add_rule(rule)
        await anyio.sleep(8)
        await trial.place.control.clear_rules()
        await trial.grows(40, f"after storm {number + 1}")


async def lost_requests(trial: Trial, rounds: int) -> None:
    """Requests that are applied seconds after their connection was lost, or answered by half, on all services."""
    batch = {"service": "cosmos", "operation": "batch"}
    for rule in (
        Rule(**batch, probability=0.1, effect=ApplyLate(0.5)),  # type: ignore[arg-type]  # only names are given
        Rule(**batch, probability=0.05, effect=ApplyLate(4.0)),  # type: ignore[arg-type]
        Rule(**batch, probability=0.05, effect=Truncate()),  # type: ignore[arg-type]
        Rule(service="cosmos", probability=0.05, effect=DropBefore()),
        Rule(service="blob", probability=0.05, effect=ApplyLate(2.0)),
        Rule(service="servicebus", operation="send", probability=0.05, effect=ApplyThenDrop()),
        Rule(service="servicebus", operation="settle", probability=0.01, effect=ApplyThenDrop()),
        Rule(service="servicebus", operation="accept-session", probability=0.1, effect=ApplyThenDrop()),
    ):
        await trial.place.control.add_rule(rule)
    for number in range(rounds):
        await trial.grows(60, f"with requests lost, round {number + 1}", 120)


async def restarts(trial: Trial, rounds: int) -> None:
    """All services are killed and come back with what they had written down."""
    for number in range(rounds):
        await trial.site.restart()
        await trial.grows(40, f"after restart {number + 1}")


async def reply_queue(trial: Trial, rounds: int) -> None:
    """The reply queue is full, is not there, or does not let anybody in, and is well again."""
    where = {"entity": trial.place.reply_queue}
    for number in range(rounds):
        condition = ("amqp:resource-limit-exceeded", "amqp:not-found", "amqp:unauthorized-access")[number % 3]
        answer = Answer(condition=condition)
        async with (
            trial.place.rule(Rule(service="servicebus", operation="open-sender", where=where, effect=answer)),
            trial.place.rule(Rule(service="servicebus", operation="send", where=where, effect=answer)),
        ):
            await anyio.sleep(6)
        await trial.grows(40, f"after {condition}")


async def poison(trial: Trial, rounds: int) -> None:
    """Messages that are no commands, or stand in the wrong place, among the commands of every brook."""
    async with trial.place.broker.get_queue_sender(trial.place.command_queue) as sender:
        for number in range(rounds):
            for key in trial.keys:
                kind = trial.chance.choice(list(_POISON))
                name = f"poison-{number}-{key.entity_id}-{kind}"
                session_id = session_id_for(key, trial.setup.buckets)
                await sender.send_messages(
                    ServiceBusMessage(
                        _POISON[kind], message_id=name, session_id=session_id, content_type="application/json"
                    )
                )
                trial.letters_expected.add(name)
            await trial.grows(20, f"with poison, round {number + 1}")


_POISON: Final[Mapping[str, bytes]] = {
    "empty": b"",
    "garbage": b"\xff\xfe\x00",
    "json": b'{"commandId": "x"}',
    "version": b'{"version": 99, "commandId": "x", "brook": {"name": "a", "entityId": "b"}}',
    "deep": b"[" * 20_000,
    "elsewhere": b'{"commandId": "@", "brook": {"name": "other", "entityId": "1"}, "expected": "any",'
    b' "events": [{"eventId": "1", "eventType": "t", "data": ""}]}',
}


async def clocks(trial: Trial, rounds: int) -> None:
    """The services' clock jumps, so that locks and leases end early or seem to last for an hour, and jumps back."""
    for number in range(rounds):
        seconds = (45.0, -45.0, 600.0, -600.0)[number % 4]
        await trial.place.control.jump(seconds)
        await trial.grows(30, f"after the services' clock went {seconds:+g} s")


async def stolen(trial: Trial, rounds: int) -> None:
    """Session locks are taken and leases broken, several times a second."""
    for _ in range(rounds):
        for _ in range(20):
            session_id = trial.chance.choice(trial.sessions)
            try:
                if trial.chance.random() < 0.5:
                    await trial.place.control.take_session_lock(trial.place.command_queue, session_id)
                else:
                    await trial.break_leases()
            except ControlError:
                pass  # nobody has it just now
            await anyio.sleep(0.1)
        await trial.grows(20, "after locks and leases were taken")


def _named(trial: Trial) -> dict[str, Wire]:
    wires = trial.wires
    return {"servicebus": wires.servicebus, "cosmos": wires.cosmos, "blob": wires.blob, "client": wires.client}


def _about(disturb: Callable[[Trial, int], Awaitable[None]]) -> str:
    return (disturb.__doc__ or "").partition("\n")[0]


_SHORT_LOCKS: Final = Setup(lock_s=LOCK_S)

SCENARIOS: Final[Mapping[str, Scenario]] = {
    "routes": Scenario(
        about="Buckets, claims and a reply topic at once, with faults and kills.",
        disturb=kills,
        rounds=8,
        setup=Setup(brooks=24, buckets=4, claims=True, topic=True),
    ),
    "clients": Scenario(
        about=_about(asking_clients), disturb=asking_clients, rounds=6, setup=Setup(brooks=6, lock_s=LOCK_S)
    ),
    "rolling": Scenario(about=_about(rolling), disturb=rolling, rounds=6),
    "zombies": Scenario(about=_about(zombies), disturb=zombies, rounds=2, setup=_SHORT_LOCKS),
    "half-open": Scenario(about=_about(half_open), disturb=half_open, rounds=12, setup=_SHORT_LOCKS),
    "partitions": Scenario(about=_about(partitions), disturb=partitions, rounds=8, setup=_SHORT_LOCKS),
    "leaving": Scenario(about=_about(leaving), disturb=leaving, rounds=6),
    "cuts": Scenario(about=_about(cuts), disturb=cuts, rounds=8),
    "spikes": Scenario(about=_about(spikes), disturb=spikes, rounds=6, setup=_SHORT_LOCKS),
    "slow-lines": Scenario(about=_about(slow_lines), disturb=slow_lines, rounds=4, setup=Setup(lock_s=60)),
    "throttled": Scenario(about=_about(throttled), disturb=throttled, rounds=4),
    "lost-requests": Scenario(about=_about(lost_requests), disturb=lost_requests, rounds=8),
    "restarts": Scenario(about=_about(restarts), disturb=restarts, rounds=4, setup=Setup(durable=True)),
    "reply-queue": Scenario(about=_about(reply_queue), disturb=reply_queue, rounds=6),
    "poison": Scenario(about=_about(poison), disturb=poison, rounds=6),
    "dead-letters": Scenario(
        about=_about(dead_letters_and_back), disturb=dead_letters_and_back, rounds=3, setup=Setup(brooks=8)
    ),
    "clocks": Scenario(about=_about(clocks), disturb=clocks, rounds=4),
    "stolen": Scenario(about=_about(stolen), disturb=stolen, rounds=6),
}
