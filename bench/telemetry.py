"""What metrics and traces add to a command: processor time of deciding on a group, replying and settling, in memory.

    python -m bench.telemetry

Each figure is the least of several rounds. `bare` is the same code with everything that tells of it taken out. What the
requests to Cosmos DB and Blob Storage add, a few microseconds each, is not in it.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Final, NamedTuple
from unittest import mock

import anyio
import structlog
from opentelemetry.sdk.trace import TracerProvider

from schemas.codec import encode_command
from schemas.commands import AppendCommand, NewEvent
from schemas.guards import Guards
from schemas.keys import BrookKey, session_id_for
from schemas.types import CommandId
from worker.handlers.append import AppendHandler
from worker.protocol.model import Limits
from worker.sessions import group as groups
from worker.sessions.base import Delivery, OutgoingReply
from worker.sessions.brooks import Brooks
from worker.sessions.group import GroupProcessor
from worker.sessions.intake import Intake
from worker.sessions.memory import MemoryBroker, MemoryReplies
from worker.sessions.observed import ObservedReplies, ObservedSource
from worker.sessions.outcomes import Told
from worker.storage.memory import MemoryBrookStore
from worker.telemetry.export import sampler
from worker.telemetry.scaling import ScalingSignal
from worker.telemetry.tracing import tracing

ROUNDS: Final = 12
SIZES: Final = {198: 990, 1: 200}
"""The sizes of groups, and how many commands a round takes of each."""

UNSAMPLED: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
SAMPLED: Final = UNSAMPLED[:-2] + "01"


class Nowhere(MemoryReplies):
    """Takes replies and forgets them."""

    async def send(self, replies: Sequence[OutgoingReply]) -> None:
        """Forget."""


class _Bare:
    def __init__(self, *_: object) -> None:
        pass

    @contextmanager
    def under_way(self) -> Iterator[None]:
        yield

    def replied(self) -> None:
        pass


@contextmanager
def _nothing(*_: object) -> Iterator[None]:
    yield


_NOT_TOLD: Final = Told()


@contextmanager
def bare() -> Iterator[None]:
    """Take out what tells of groups and commands."""
    without: dict[str, Any] = {
        "deciding": _nothing,
        "traced": lambda _: (None, {}),
        "told": lambda *_, **__: _NOT_TOLD,
        "tell_group": lambda *_: None,
        "Finishing": _Bare,
    }
    with mock.patch.multiple(groups, **without):
        yield


async def round_s(size: int, commands: int, *, observed: bool, parent: str | None) -> float:
    """Processor seconds for all commands, in groups of `size`, each in a new brook."""
    broker = MemoryBroker()
    handler = AppendHandler(MemoryBrookStore(), Limits(), replans_max=3)
    replies = ObservedReplies(Nowhere()) if observed else Nowhere()
    processor = GroupProcessor(Intake(Guards(), frozenset()), handler, replies)
    source = ObservedSource(broker, ScalingSignal(4)) if observed else broker
    spent_s = 0.0
    for group in range(commands // size):
        key = BrookKey("bench", str(group))
        for number in range(size):
            event = NewEvent(event_id="e", event_type="happened", data=b"data")
            command = AppendCommand(
                command_id=CommandId(f"c{group}-{number}"), brook=key, expected="any", events=(event,)
            )
            body = encode_command(command)
            broker.send(body, session_id=session_id_for(key), message_id=command.command_id, trace_parent=parent)
        session = await source.accept()
        assert session is not None
        started_s = time.process_time()
        deliveries: Sequence[Delivery] = await session.receive(size, 1)
        decided = await processor.decide(Brooks(10), deliveries, doubtful=False)
        await processor.finish(session, decided)
        spent_s += time.process_time() - started_s
        await session.close()
    return spent_s


class Variant(NamedTuple):
    """One way to run: with or without what tells, with or without spans, and what the producers send along."""

    name: str
    observed: bool = True
    spans: bool = False
    parent: str | None = None


VARIANTS: Final = (
    Variant("bare", observed=False),
    Variant("metrics"),
    Variant("metrics; producers with a context", parent=UNSAMPLED),
    Variant("tracing on, nothing recorded", spans=True),
    Variant("tracing on, every command recorded", spans=True, parent=SAMPLED),
)


async def measure() -> None:
    """Measure all variants in turn, again and again, and print the least of each."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    provider = TracerProvider(sampler=sampler(0.0))
    least: dict[tuple[Variant, int], float] = defaultdict(lambda: float("inf"))
    for _ in range(ROUNDS):
        for variant in VARIANTS:
            tracing.install(provider if variant.spans else None)
            with nullcontext() if variant.observed else bare():
                for size, commands in SIZES.items():
                    spent_s = await round_s(size, commands, observed=variant.observed, parent=variant.parent)
                    least[variant, size] = min(least[variant, size], spent_s / commands * 1e6)
    tracing.install(None)
    provider.shutdown()
    print(f"{'processor time a command, us':40}" + "".join(f"{f'groups of {size}':>15}" for size in SIZES))
    for variant in VARIANTS:
        base = {size: 0.0 if variant is VARIANTS[0] else least[VARIANTS[0], size] for size in SIZES}
        print(f"{variant.name:40}" + "".join(f"{least[variant, size] - base[size]:15.1f}" for size in SIZES))


if __name__ == "__main__":
    anyio.run(measure)
