"""Everything that tells of a worker from outside, for as long as it runs."""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
import msgspec
from anyio.abc import TaskGroup

from worker.redaction import Redactor
from worker.settings import Settings
from worker.telemetry.health import Health
from worker.telemetry.instruments import LOOP_DELAY
from worker.telemetry.scaling import ScalingSignal
from worker.telemetry.tracing import tracing

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricReader

_LOOK_S: Final = 1.0
_UPDATE_LOOKS: Final = 5
_CLOSE_S: Final = 10.0
_STUCK_MIN_S: Final = 60.0


class Observers(msgspec.Struct, frozen=True):
    """What a worker tells as it goes."""

    health: Health
    signal: ScalingSignal


@asynccontextmanager
async def observed(settings: Settings, tasks: TaskGroup) -> AsyncIterator[Observers]:
    """Watch the event loop, serve the endpoint and export to a collector, as far as the settings ask for it.

    The watching goes on in `tasks` until they are cancelled.

    Raises StartError when the endpoint's address cannot be had, or what is needed is not installed.
    """
    health = Health(stuck_after_s=stuck_after_s(settings), tidy=Redactor(settings.secrets()))
    signal = ScalingSignal(settings.max_concurrent_sessions, is_broken=lambda: health.is_broken)
    async with AsyncExitStack() as stack:
        if settings.http_port is not None or settings.otlp_endpoint is not None:
            await _export(stack, settings, health, signal)
        tasks.start_soon(_watch, health, signal)
        yield Observers(health, signal)


def stuck_after_s(settings: Settings) -> float:
    """A stage that has not got on for so long hangs: each of its waits is bounded by less than half of that."""
    store_s = settings.store_time_max_s + settings.cosmos_timeout_s
    return max(_STUCK_MIN_S, 2 * store_s, 2 * settings.reply_send_timeout_s)


async def _export(stack: AsyncExitStack, settings: Settings, health: Health, signal: ScalingSignal) -> None:
    # The SDK takes a fifth of a second to import: only who wants it waits for it.
    from worker.telemetry.endpoint import endpoint  # noqa: PLC0415
    from worker.telemetry.export import Exports, Prometheus, otlp_metrics, otlp_traces, resource  # noqa: PLC0415

    prometheus = Prometheus()
    readers: list[MetricReader] = [prometheus.reader]
    closing: list[Callable[[], object]] = []
    stack.push_async_callback(_close, closing)
    us = resource()
    if settings.otlp_endpoint is not None:
        readers.append(otlp_metrics(settings.otlp_endpoint))
        traces = otlp_traces(settings.otlp_endpoint, us, sample_ratio=settings.trace_sample_ratio)
        tracing.install(traces)
        closing.append(traces.shutdown)
        stack.callback(tracing.install, None)
    closing.append(Exports(readers, us).close)
    if settings.http_port is not None:
        await stack.enter_async_context(
            endpoint(settings.http_host, settings.http_port, prometheus=prometheus, health=health, signal=signal)
        )


async def _close(closing: Sequence[Callable[[], object]]) -> None:
    """Send what is left, all at once: each blocks for a bounded time where nobody answers."""
    with anyio.move_on_after(_CLOSE_S, shield=True):
        async with anyio.create_task_group() as tasks:
            for close in closing:
                tasks.start_soon(partial(anyio.to_thread.run_sync, close, abandon_on_cancel=True))


async def _watch(health: Health, signal: ScalingSignal) -> None:
    """Measure how late the event loop is, and keep up what changes with time alone."""
    looks = 0
    while True:
        due_s = time.monotonic() + _LOOK_S
        await anyio.sleep(_LOOK_S)
        LOOP_DELAY.record(max(0.0, time.monotonic() - due_s))
        looks += 1
        if looks % _UPDATE_LOOKS == 0:
            health.update()
            signal.read()
