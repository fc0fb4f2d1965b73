"""What is recorded, as Prometheus and a collector get it."""

import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics.export import MetricsData
from prometheus_client.parser import text_string_to_metric_families

from worker.errors import StartError
from worker.telemetry.export import Exports, Prometheus, metrics_beside, otlp_metrics, otlp_traces, resource
from worker.telemetry.instruments import COMMANDS, INSTRUMENTS, LEASE_WAIT
from worker.telemetry.kinds import Histogram


@pytest.fixture
def prometheus() -> Iterator[Prometheus]:
    it = Prometheus()
    exports = Exports([it.reader], resource())
    yield it
    exports.close()


def page(prometheus: Prometheus) -> str:
    body, content_type = prometheus.page("")
    assert content_type.startswith("text/plain")
    return body.decode()


def test_each_metric_has_the_name_that_the_table_says(prometheus: Prometheus) -> None:
    for one in INSTRUMENTS:
        if isinstance(one, Histogram) and one.attributes:
            one.record(0, *(values[0] for values in one.attributes.values()))
    families = {family.name: family for family in text_string_to_metric_families(page(prometheus))}
    named = {one.prometheus_name.removesuffix("_total"): one for one in INSTRUMENTS}
    ours = {name for name in families if name.startswith("brook")}
    assert ours <= set(named)
    for name in ours:
        assert families[name].type == named[name].kind
        assert families[name].documentation == named[name].description
    silent = {one.name for one in INSTRUMENTS if not one.series()}
    assert {named[name].name for name in set(named) - ours} == silent
    assert {"process_cpu_seconds", "process_resident_memory_bytes", "python_info", "target_info"} <= set(families)


def test_a_histogram_is_cumulative_with_its_sum(prometheus: Prometheus) -> None:
    def series() -> dict[str, float]:
        lines = [line for line in page(prometheus).splitlines() if 'outcome="timeout"' in line and "lease_wait" in line]
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}

    LEASE_WAIT.record_all([0.0], "timeout")
    before = series()
    LEASE_WAIT.record_all([0.004, 0.2, 0.2, 99.0, 1000.0], "timeout")
    after = series()
    grown = {name: after[name] - before[name] for name in after}
    name = "brook_worker_lease_wait_seconds"
    assert grown[f'{name}_bucket{{le="0.005",outcome="timeout"}}'] == 1
    assert grown[f'{name}_bucket{{le="0.25",outcome="timeout"}}'] == 3
    assert grown[f'{name}_bucket{{le="300.0",outcome="timeout"}}'] == 4
    assert grown[f'{name}_bucket{{le="+Inf",outcome="timeout"}}'] == grown[f'{name}_count{{outcome="timeout"}}'] == 5
    assert grown[f'{name}_sum{{outcome="timeout"}}'] == pytest.approx(1099.404)


def test_the_open_metrics_format_is_given_to_who_asks_for_it(prometheus: Prometheus) -> None:
    body, content_type = prometheus.page("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.decode().endswith("# EOF\n")


def test_pages_are_made_one_at_a_time_whoever_asks_for_them(
    prometheus: Prometheus, monkeypatch: pytest.MonkeyPatch
) -> None:
    making: list[int] = []
    most: list[int] = []

    def slowly(collected: MetricsData) -> MetricsData:
        making.append(1)
        most.append(len(making))
        time.sleep(0.01)  # as long as a page with many series takes
        making.pop()
        return metrics_beside(collected)

    monkeypatch.setattr("worker.telemetry.export.metrics_beside", slowly)
    with ThreadPoolExecutor(8) as threads:
        pages = list(threads.map(lambda _: prometheus.page("")[0], range(8)))
    assert max(most) == 1
    assert all(b"brook_worker_commands_total" in one for one in pages)


def test_one_worker_after_another_may_export_in_a_process() -> None:
    for _ in range(2):
        it = Prometheus()
        exports = Exports([it.reader], resource())
        assert "brook_worker_commands_total" in page(it)
        exports.close()


class Collector:
    """Takes what is sent to it over HTTP, as an OpenTelemetry collector does."""

    def __init__(self) -> None:
        self.received: list[tuple[str, bytes]] = []
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                received.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    it = Collector()
    yield it
    it.close()


def test_a_collector_gets_every_metric(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta")
    COMMANDS.add(1, "appended", "first")
    LEASE_WAIT.record(0.2, "acquired")
    Exports([otlp_metrics(collector.endpoint + "/")], resource()).close()
    ((path, body),) = collector.received
    assert path == "/v1/metrics"
    request = ExportMetricsServiceRequest.FromString(body)
    (sent,) = request.resource_metrics
    attributes = {one.key: one.value.string_value for one in sent.resource.attributes}
    assert attributes["service.name"] == "brook-worker"
    (scope,) = sent.scope_metrics
    found = {metric.name: metric for metric in scope.metrics}
    assert set(found) == {one.name for one in INSTRUMENTS if one.series()}
    cumulative = 2
    assert found[COMMANDS.name].sum.aggregation_temporality == cumulative
    assert found[LEASE_WAIT.name].histogram.aggregation_temporality == cumulative
    for point in found[LEASE_WAIT.name].histogram.data_points:
        assert point.count == sum(point.bucket_counts)
        assert len(point.bucket_counts) == len(point.explicit_bounds) + 1


def test_a_collector_gets_spans(collector: Collector) -> None:
    provider = otlp_traces(collector.endpoint, resource(), sample_ratio=1.0)
    with provider.get_tracer("test").start_as_current_span("work"):
        pass
    provider.shutdown()
    ((path, body),) = collector.received
    assert path == "/v1/traces"
    (sent,) = ExportTraceServiceRequest.FromString(body).resource_spans
    assert [span.name for span in sent.scope_spans[0].spans] == ["work"]


@pytest.mark.parametrize("what", ["metric", "trace"])
def test_a_collector_without_the_extra_is_an_error_that_says_what_to_install(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, f"opentelemetry.exporter.otlp.proto.http.{what}_exporter", None)
    make = otlp_metrics if what == "metric" else partial(otlp_traces, of=resource(), sample_ratio=0)
    with pytest.raises(StartError, match=r"otlp_endpoint: .*brook-worker\[otlp\]"):
        make("http://127.0.0.1:1")


def test_who_tells_is_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resource().attributes["service.name"] == "brook-worker"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "orders-worker")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    attributes = resource().attributes
    assert attributes["service.name"] == "orders-worker"
    assert attributes["deployment.environment"] == "test"
    assert attributes["service.instance.id"] != resource().attributes["service.instance.id"]
