"""docs/telemetry.md, its table generated from the instruments. A test fails when the page is not up to date."""

from typing import Final

from worker.telemetry.instruments import INSTRUMENTS, VERSION
from worker.telemetry.kinds import Instrument

_INTRODUCTION: Final = """\
# Telemetry

What a worker tells about itself: metrics, health, a signal to scale by, traces, and log lines that belong to them.

## The endpoint

With `BROOK_WORKER_HTTP_PORT` set, a worker serves HTTP on `BROOK_WORKER_HTTP_HOST`, which is 127.0.0.1 unless it is
set; in a container, 0.0.0.0. It asks for no credentials and tells no secret, no brook and no payload: let only those
reach it who may read that. With port 0 the system chooses one, and the line `http.listening` says which. With
`brook-worker run --processes N`, the first worker has the port, and each further one the next: open as many.

| path | what it answers |
|---|---|
| `/metrics` | all metrics, as Prometheus reads them |
| `/healthz` | 200 while the worker gets on, else 503 with the reasons: end it and start it anew |
| `/readyz` | 200 while it takes on commands, else 503 with the reasons: wait |
| `/scaling` | the signal to scale by |

`/healthz` and `/readyz` answer in JSON:

```json
{"ok":false,"state":"running","reasons":[{"code":"breaker-open","detail":"Cosmos DB answered 503/0"}]}
```

| reason | of | what it says |
|---|---|---|
| `starting` | `/readyz` | the services are being opened |
| `draining` | `/readyz` | after SIGTERM: nothing more is accepted, the groups in hand are being finished |
| `breaker-open` | `/readyz` | what all sessions need is out of order; one slot probes, the others wait |
| `stage-stuck` | `/healthz` | a stage of a session has not got on for longer than all of its waits together may take |

An outage of Cosmos DB, Blob Storage or Service Bus is no reason to start a worker anew, so `/healthz` does not look
at it. That it answers at all says that the event loop turns: give the probe a time-out of a few seconds.

## The signal to scale by

The length of the queue does not say how many workers there is work for: a session has one worker, however many
commands wait in it. `/scaling` tells what does, over the last minute:

```json
{"slots":16,"busy":16,"busyAverage":15.8,"accepted":41,"turns":38,"turnsAtOnce":38,"timedOut":0,"failed":0,
 "wanted":31.8,"held":false,"windowS":60.0}
```

| field | what it is |
|---|---|
| `slots` | sessions that may be worked on at once: `max_concurrent_sessions` |
| `busy`, `busyAverage` | slots that have a session, now and on average |
| `accepted`, `timedOut`, `failed` | how waits for a session ended |
| `turns` | slots that became free when all were busy |
| `turnsAtOnce` | those of them that had another session within a second: one was waiting |
| `wanted` | **the number to scale by**, in slots: `busyAverage + min(turnsAtOnce, slots * turnsAtOnce / turns)` |
| `held` | whether `wanted` is the one from before an outage, in which idle slots are no sign of little work |

One hot session keeps `wanted` at 1. When all slots are busy, it is `slots`; when sessions wait besides, up to twice
that. A scaler that keeps `wanted` at three quarters of the slots adds workers in both cases, and takes them away as
sessions end. A session that the same worker gets again within five seconds was not waiting for a slot, and is not
counted as such.

## Metrics

They are OpenTelemetry's. For Prometheus, dots become underscores, seconds and bytes are added to the name, and a
counter ends in `_total`; a histogram has `_bucket`, `_sum` and `_count`. Beside them `/metrics` has `process_*` and
`python_*`, and `target_info` with the attributes of the resource, which `OTEL_SERVICE_NAME` and
`OTEL_RESOURCE_ATTRIBUTES` set.

The values of each attribute are listed, and whatever else may come becomes `other`: no brook, session or command is
ever an attribute, and a worker has at most {series} series, of a histogram one for each of its combinations.

{table}
With `BROOK_WORKER_OTLP_ENDPOINT` set, the metrics go to an OpenTelemetry collector too, every 30 s and once more at
the end, by OTLP over HTTP (`/v1/metrics`). This needs the extra: `pip install 'brook-worker[otlp]'`. Headers, such as
a key of the collector's, come from `OTEL_EXPORTER_OTLP_HEADERS`.

## Traces

A producer's trace goes on through the worker to whoever reads the reply. A command carries its context in the
application properties `traceparent` and `tracestate`, as [W3C Trace Context](https://www.w3.org/TR/trace-context) has
them; older clients' `Diagnostic-Id` is understood too. `brook_client` writes them within a span, and the Azure SDKs
do where their tracing is on.

| span | what it is |
|---|---|
| `append command` | one command, from when it was received until it was settled: a child of its producer's span |
| `append group` | the commands that were decided together, of a trace of its own: linked to each producer's span |
| `receive`, `plan`, `cosmos batch`, `cosmos query` | parts of the group; requests have their status and charge |
| `finish`, with `reply` and `settle` | replies and settlements, as a part of the group |

`append command` is linked to its group. The reply carries the context of `append command` in the same two properties.

Spans go to the collector that `BROOK_WORKER_OTLP_ENDPOINT` names. Recorded is what the producer records; of the
groups in which no producer has decided, `BROOK_WORKER_TRACE_SAMPLE_RATIO`. A worker that records nothing still hands
a producer's context on to its reply, so that the trace is not cut in two. What is no context, whoever wrote it, is
left out.

Spans name sessions, command ids and outcomes, never data; of an error they tell the type alone.

A line of the log that belongs to a span has its `trace_id` and `span_id`.

## What it costs

Recording is a few additions for each group. `python -m bench.telemetry` measures it: metrics add 1 µs of processor time
to a command of a full group and 20 µs to one alone; with every command recorded in a trace, 25 µs and 140 µs. Handing a
context on costs the client 3 µs a reply besides.

This page is generated: `python -m worker.telemetry.page > docs/telemetry.md`.
"""


def telemetry_page() -> str:
    """The whole page."""
    series = sum(one.series_max for one in INSTRUMENTS)
    return _INTRODUCTION.replace("{series}", f"{series:,}").replace("{table}", _table())


def _table() -> str:
    head = "| metric and its name in Prometheus | kind, unit | attributes | what it is |\n|---|---|---|---|\n"
    return head + "".join(map(_row, INSTRUMENTS))


def _row(one: Instrument) -> str:
    attributes = "; ".join(
        f"`{name}`" if values == (VERSION,) else f"`{name}`: {', '.join(f'`{value}`' for value in values)}"
        for name, values in one.attributes.items()
    )
    names = f"`{one.name}`<br>`{one.prometheus_name}`"
    return f"| {names} | {one.kind}, {one.unit} | {attributes or 'none'} | {one.description} |\n"


if __name__ == "__main__":
    print(telemetry_page(), end="")  # noqa: T201 - the page is what this prints
