"""What metrics and traces add to a command: the processor time of telling of a group, and nothing else.

    python -m bench.telemetry

Each figure is the least of many short rounds, so that other work on the machine hardly shows. What the requests to
Cosmos DB and Blob Storage add, a few microseconds each, is not in it.
"""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

import anyio
from opentelemetry.sdk.trace import TracerProvider

from schemas.replies import Appended
from schemas.types import CommandId, Position
from worker.handlers.brook import BatchFacts
from worker.sessions.base import Complete, Delivery, OutgoingReply, Settlement
from worker.sessions.memory import MemoryReplies
from worker.sessions.observed import ObservedReplies, ObservedSession
from worker.sessions.outcomes import Finishing, deciding, tell_group, told, traced
from worker.telemetry.export import sampler
from worker.telemetry.scaling import ScalingSignal
from worker.telemetry.tracing import tracing

SIZES: Final = {198: 100, 1: 3_000}
"""The sizes of groups, and how many rounds are made of each."""

UNSAMPLED: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
SAMPLED: Final = UNSAMPLED[:-2] + "01"
BATCHES: Final = [BatchFacts(commands=99, events=99, request_bytes=40_000, charge_ru=50.0, attempts=1)]


class Variant(NamedTuple):
    """With or without spans, and what the producers send along."""

    name: str
    spans: bool = False
    parent: str | None = None


VARIANTS: Final = (
    Variant("metrics"),
    Variant("metrics; producers with a context", parent=UNSAMPLED),
    Variant("tracing on, nothing recorded", spans=True),
    Variant("tracing on, every command recorded", spans=True, parent=SAMPLED),
)


class Nowhere(MemoryReplies):
    """Replies, and a session: takes everything and does nothing."""

    session_id = "nowhere"

    def __init__(self, deliveries: Sequence[Delivery]) -> None:
        super().__init__()
        self._deliveries = deliveries

    async def send(self, replies: Sequence[OutgoingReply]) -> None:
        """Nothing."""

    async def receive(self, count_max: int, wait_s: float) -> Sequence[Delivery]:  # noqa: ARG002 - as the port has it
        """All there is."""
        return self._deliveries

    async def settle(self, settlements: Sequence[tuple[Delivery, Settlement]]) -> None:
        """Nothing."""

    async def keep_locked(self) -> None:
        """Nothing."""

    async def close(self) -> None:
        """Nothing."""


def delivery(number: int, parent: str | None) -> Delivery:
    """A command as it comes."""
    return Delivery(
        body=b"",
        content_type=None,
        message_id=f"c{number}",
        session_id="nowhere",
        reply_to=None,
        reply_to_session_id=None,
        enqueued_at=datetime.now(UTC),
        delivery_count=0,
        received_at_s=anyio.current_time(),
        trace_parent=parent,
    )


async def round_s(session: ObservedSession, replies: ObservedReplies) -> float:
    """Processor seconds for everything that is told of one group, from its receipt to its settlement."""
    reply = Appended(command_id=CommandId("c"), first_position=Position(0), last_position=Position(0))
    complete = Complete()
    started_s = time.process_time()
    deliveries = await session.receive(1_000, 1)
    about = []
    with deciding(deliveries):
        for one in deliveries:
            trace, _ = traced(one)
            about.append(told(one, reply, complete, trace, before=False))
        tell_group(len(deliveries), BATCHES, 1)
    finishing = Finishing(deliveries, about)
    with finishing.under_way():
        await replies.send([])
        finishing.replied()
        await session.settle([(one, complete) for one in deliveries])
    return time.process_time() - started_s


async def least_us(size: int, parent: str | None) -> float:
    """Microseconds a command, the least of all rounds."""
    nowhere = Nowhere([delivery(number, parent) for number in range(size)])
    session, replies = ObservedSession(nowhere, ScalingSignal(1)), ObservedReplies(nowhere)
    return min([await round_s(session, replies) for _ in range(SIZES[size])]) / size * 1e6


async def measure() -> None:
    """Measure and print."""
    provider = TracerProvider(sampler=sampler(0.0))
    print(f"{'processor time a command, us':40}" + "".join(f"{f'groups of {size}':>15}" for size in SIZES))
    for variant in VARIANTS:
        tracing.install(provider if variant.spans else None)
        found = [await least_us(size, variant.parent) for size in SIZES]
        print(f"{variant.name:40}" + "".join(f"{one:15.1f}" for one in found))
    tracing.install(None)
    provider.shutdown()


if __name__ == "__main__":
    anyio.run(measure)
