"""What is recorded, given to the OpenTelemetry SDK: for Prometheus to scrape, and for a collector if one is set.

Counters and gauges are observed when somebody collects. Histograms cannot be: the SDK wants every single value. They
are put beside what it has collected instead, as the data points that it would have made itself.
"""

import dataclasses
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    HistogramDataPoint,
    Metric,
    MetricReader,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.metrics.export import Histogram as HistogramData
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import (
    Decision,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder

from worker.errors import StartError
from worker.telemetry.instruments import INSTRUMENTS, VERSION
from worker.telemetry.kinds import Counter, Gauge, Histogram, Labels

SCOPE: Final = "brook-worker"

_EXPORT_EVERY_S: Final = 30.0
_EXPORT_TIMEOUT_S: Final = 3.0
"""How long one export may take, and so how much longer a worker takes to end when its collector does not answer."""


class Exports:
    """The SDK with what reads from it. Once at a time in a process: the numbers are the process's."""

    def __init__(self, readers: Sequence[MetricReader], resource: Resource) -> None:
        self._meters = MeterProvider(readers, resource=resource, shutdown_on_exit=False)
        _observe_all(self._meters)

    def close(self) -> None:
        """Send what is left and stop. Blocks for a bounded time."""
        self._meters.shutdown(timeout_millis=_EXPORT_TIMEOUT_S * 1000)


class Prometheus:
    """The metrics as Prometheus reads them, with those of the process itself (`process_*`, `python_*`)."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._lock = threading.Lock()
        self.reader: Final = _PrometheusReader(scope_info_enabled=False, registry=self._registry)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def page(self, accept: str) -> tuple[bytes, str]:
        """The page and its content type, in the format that `accept` asks for."""
        encode, content_type = choose_encoder(accept)
        with self._lock:  # of two at once, the reader would give all to one and nothing to the other
            return encode(self._registry), content_type


def resource() -> Resource:
    """Who tells: `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` go over what is said here."""
    named = {"service.name": SCOPE, "service.version": VERSION, "service.instance.id": uuid.uuid4().hex}
    return Resource.create(named).merge(OTELResourceDetector().detect())


def otlp_metrics(endpoint: str) -> MetricReader:
    """A reader that sends the metrics to a collector. Raises StartError where the extra is not installed."""
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise _extra_is_missing() from error
    kinds = (sdk.Counter, sdk.UpDownCounter, sdk.Histogram, sdk.ObservableCounter, sdk.ObservableUpDownCounter)
    # Ours are cumulative, whatever the environment prefers.
    every_kind: dict[type, AggregationTemporality] = dict.fromkeys(
        (*kinds, sdk.ObservableGauge), AggregationTemporality.CUMULATIVE
    )
    exporter = OTLPMetricExporter(
        endpoint=f"{endpoint.rstrip('/')}/v1/metrics", timeout=_EXPORT_TIMEOUT_S, preferred_temporality=every_kind
    )
    return _PeriodicReader(
        exporter, export_interval_millis=_EXPORT_EVERY_S * 1000, export_timeout_millis=_EXPORT_TIMEOUT_S * 1000
    )


def otlp_traces(endpoint: str, of: Resource, *, sample_ratio: float) -> TracerProvider:
    """A provider that sends spans to a collector. Raises StartError where the extra is not installed."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise _extra_is_missing() from error
    provider = TracerProvider(sampler=sampler(sample_ratio), resource=of, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=_EXPORT_TIMEOUT_S)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def sampler(ratio: float) -> Sampler:
    """Record what the producer records; of the groups in which no producer decided, the given share."""
    return ParentBased(root=_AsProducersDo(ratio))


class _AsProducersDo(Sampler):
    """For the spans of groups, which have links instead of a parent."""

    def __init__(self, ratio: float) -> None:
        self._otherwise = TraceIdRatioBased(ratio)

    def should_sample(  # noqa: PLR0917 - as the SDK calls it
        self,
        parent_context: Any,
        trace_id: int,
        name: str,
        kind: Any = None,
        attributes: Any = None,
        links: Any = None,
        trace_state: Any = None,
    ) -> SamplingResult:
        """Record what is linked to anything recorded."""
        if any(link.context.trace_flags.sampled for link in links or ()):
            return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes, trace_state)
        return self._otherwise.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        """What it does."""
        return f"AsProducersDo{{{self._otherwise.get_description()}}}"


def metrics_beside(collected: MetricsData) -> MetricsData:
    """What the SDK has collected, with the histograms."""
    now_ns = time.time_ns()
    found = [
        Metric(one.name, one.description, one.unit, _histogram_data(one, now_ns))
        for one in INSTRUMENTS
        if isinstance(one, Histogram) and one.series()
    ]

    def completed(of: Any) -> Any:
        scopes = [
            dataclasses.replace(scope, metrics=[*scope.metrics, *found]) if scope.scope.name == SCOPE else scope
            for scope in of.scope_metrics
        ]
        return dataclasses.replace(of, scope_metrics=scopes)

    return MetricsData(resource_metrics=[completed(one) for one in collected.resource_metrics])


class _PrometheusReader(PrometheusMetricReader):
    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **more: Any) -> None:
        super()._receive_metrics(metrics_beside(metrics_data), timeout_millis, **more)


class _PeriodicReader(PeriodicExportingMetricReader):
    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **more: Any) -> None:
        super()._receive_metrics(metrics_beside(metrics_data), timeout_millis, **more)


def _extra_is_missing() -> StartError:
    return StartError("otlp_endpoint: needs the extra `otlp`; install brook-worker[otlp], or unset otlp_endpoint")


_BEGAN_NS: Final = time.time_ns()


def _histogram_data(one: Histogram, now_ns: int) -> HistogramData:
    points = []
    for labels, series in one.series().items():
        counts = list(series.counts)
        points.append(
            HistogramDataPoint(
                attributes=_attributes(one.attributes, labels),
                start_time_unix_nano=_BEGAN_NS,
                time_unix_nano=now_ns,
                count=sum(counts),
                sum=series.total,
                bucket_counts=counts,
                explicit_bounds=one.bounds,
                min=None,  # type: ignore[arg-type]  # not followed, and optional in what is sent
                max=None,  # type: ignore[arg-type]  # as above
            )
        )
    return HistogramData(data_points=points, aggregation_temporality=AggregationTemporality.CUMULATIVE)


def _observe_all(meters: MeterProvider) -> None:
    meter = meters.get_meter(SCOPE, VERSION)
    for one in INSTRUMENTS:
        match one:
            case Counter():
                meter.create_observable_counter(one.name, [_observer(one)], one.unit, one.description)
            case Gauge():
                meter.create_observable_gauge(one.name, [_observer(one)], one.unit, one.description)
            case _:
                pass  # a histogram: see `metrics_beside`


def _observer(one: Counter | Gauge) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_: CallbackOptions) -> Iterable[Observation]:
        return [Observation(value, _attributes(one.attributes, labels)) for labels, value in one.series().items()]

    return observe


def _attributes(names: Iterable[str], labels: Labels) -> dict[str, str]:
    return dict(zip(names, labels, strict=True))
