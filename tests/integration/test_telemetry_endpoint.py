"""The endpoint before, beside and after a worker: without any service, over a real socket."""

import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import anyio
import pytest
import structlog

from tests.support.scraping import Endpoint
from tests.support.waiting import wait_until
from tests.support.worker_settings import worker_settings
from worker.errors import StartError
from worker.redaction import Secret
from worker.telemetry.endpoint import PATHS
from worker.telemetry.instruments import LOOP_DELAY
from worker.telemetry.running import Observers, observed, stuck_after_s
from worker.telemetry.stages import stages
from worker.telemetry.tracing import tracing

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def telling(**settings: Any) -> AsyncIterator[tuple[Endpoint, Observers]]:
    """What a worker tells with these settings, while it has not opened anything yet."""
    with structlog.testing.capture_logs() as lines:
        async with (
            anyio.create_task_group() as tasks,
            observed(worker_settings(http_port=0, **settings), tasks) as observers,
            aiohttp.ClientSession() as session,
        ):
            (line,) = [line for line in lines if line["event"] == "http.listening"]
            yield Endpoint(session, f"http://127.0.0.1:{line['port']}"), observers
            tasks.cancel_scope.cancel()


async def test_while_the_services_are_being_opened_it_lives_and_is_not_ready() -> None:
    async with telling() as (there, observers):
        assert await there.reasons("/readyz") == ["starting"]
        assert await there.reasons("/healthz") == []
        observers.health.running(lambda: None)
        assert await there.reasons("/readyz") == []
        observers.health.draining()
        assert await there.reasons("/readyz") == ["draining"]


async def test_a_reason_shows_no_secret() -> None:
    async with telling(cosmos_key=Secret("cGxhbnRlZC1zZWNyZXQ=")) as (there, observers):
        observers.health.running(lambda: "401 for cGxhbnRlZC1zZWNyZXQ=; AccountKey=cGxhbnRlZA==")
        status, _, body = await there.get("/readyz")
        assert status == 503
        assert b"cGxhbnRlZ" not in body
        assert b"401 for ***" in body


async def test_the_signal_is_a_number_at_the_top_level_that_a_scaler_can_read() -> None:
    async with telling(max_concurrent_sessions=3) as (there, observers):
        observers.signal.accepted("a")
        status, body = await there.json("/scaling")
        assert (status, body["slots"], body["busy"]) == (200, 3, 1)
        assert isinstance(body["wanted"], float | int)


async def test_a_stage_that_hangs_fails_the_health_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.telemetry.running.stuck_after_s", lambda _: 0.0)
    async with telling() as (there, _):
        with stages.doing("decide"):

            async def told() -> bool:
                return await there.reasons("/healthz") == ["stage-stuck"]

            await wait_until(told, "the stage counts as stuck")
        assert await there.reasons("/healthz") == []


def test_no_stage_counts_as_stuck_while_its_own_bounds_let_it_wait() -> None:
    assert stuck_after_s(worker_settings()) == 60
    slow = worker_settings(store_time_max_s=300.0, cosmos_timeout_s=65.0)
    assert stuck_after_s(slow) == 730


async def test_what_nobody_serves_is_told_so_and_does_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    async with telling() as (there, _):
        assert (await there.get("/"))[0] == 404
        assert (await there.get("/metrics/../../etc/passwd"))[0] == 404
        for path in PATHS:
            async with there._session.post(there.url + path, data=b"x" * 10_000) as answer:
                assert answer.status == 405
        port = int(there.url.rpartition(":")[2])
        for garbage in (b"\x00\xff\r\n\r\n", b"GET /a HTTP/1.1\r\nContent-Length: b\r\n\r\n", b"GET /" + b"a" * 20_000):
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await stream.send(garbage)
                assert (await stream.receive()).startswith(b"HTTP/1.0 400 ")
        assert caplog.records == [], "garbage does not fill the log"
        status, content_type, body = await there.get("/metrics", Accept="application/openmetrics-text")
        assert (status, content_type) == (200, "application/openmetrics-text")
        assert body.endswith(b"# EOF\n")


async def test_several_who_ask_at_once_get_everything_each() -> None:
    pages: list[bytes] = []
    async with telling() as (there, _):

        async def ask() -> None:
            pages.append((await there.get("/metrics"))[2])

        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(ask)
    names = [{line.partition(b" ")[0] for line in page.splitlines()} for page in pages]
    assert len(names[0]) > 100
    assert names == [names[0]] * 8


async def test_a_fault_of_ours_is_logged_and_no_secret_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with telling() as (there, observers):
        monkeypatch.setattr(observers.signal, "read", lambda: 1 / 0)
        status, _, body = await there.get("/scaling")
        assert status == 500
        assert b"ZeroDivision" not in body
    (record,) = [record for record in caplog.records if record.name == "brook-worker.http"]
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


async def test_the_event_loop_is_watched() -> None:
    before = LOOP_DELAY.count()
    async with telling():
        await wait_until(lambda: LOOP_DELAY.count() > before, "the loop was looked at", 5)


async def test_a_port_that_is_taken_is_an_error_that_says_what_to_change() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = worker_settings(http_port=taken.getsockname()[1])
        with pytest.raises(ExceptionGroup) as raised:
            async with anyio.create_task_group() as tasks, observed(settings, tasks):
                raise AssertionError("it listens on a port that is taken")
    error = raised.value.exceptions[0]
    assert isinstance(error, StartError)
    assert str(error).startswith("http_port: 127.0.0.1:")
    assert "give another http_port" in str(error)


async def test_a_collector_that_does_not_answer_holds_up_neither_the_start_nor_the_end() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        collector = f"http://127.0.0.1:{silent.getsockname()[1]}"
        started_s = time.monotonic()
        async with telling(otlp_endpoint=collector, trace_sample_ratio=1.0) as (there, _):
            assert tracing.is_on
            with tracing.group("append group", []):
                pass
            assert (await there.get("/metrics"))[0] == 200
        assert time.monotonic() - started_s < 15
    assert not tracing.is_on


async def test_without_settings_for_it_nothing_is_served_and_the_signal_is_followed_all_the_same() -> None:
    async with anyio.create_task_group() as tasks, observed(worker_settings(), tasks) as observers:
        observers.signal.accepted("a")
        assert observers.signal.read().busy == 1
        tasks.cancel_scope.cancel()
