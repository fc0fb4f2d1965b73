"""The worker's HTTP endpoint: metrics for Prometheus, health for whoever starts it, and the signal for a scaler."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import anyio
import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from worker.errors import StartError
from worker.telemetry import log
from worker.telemetry.export import Prometheus
from worker.telemetry.health import Health, Status
from worker.telemetry.scaling import ScalingSignal

_CLOSE_S: Final = 2.0
_UNAVAILABLE: Final = 503
PATHS: Final = ("/metrics", "/healthz", "/readyz", "/scaling")


@asynccontextmanager
async def endpoint(
    host: str, port: int, *, prometheus: Prometheus, health: Health, signal: ScalingSignal
) -> AsyncIterator[int]:
    """Serve until the end of the context; gives the port, which the system chose where `port` is 0.

    Raises StartError when the address cannot be had.
    """
    runner = web.AppRunner(
        _application(prometheus, health, signal),
        access_log=None,
        logger=_logger(),
        handle_signals=False,
        shutdown_timeout=_CLOSE_S / 2,
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            where = f"{host}:{port} cannot be listened on ({error.strerror or error})"
            raise StartError(f"http_port: {where}; give another http_port or http_host, or unset http_port") from error
        listening: int = runner.addresses[0][1]
        log.info("http.listening", host=host, port=listening, paths=PATHS)
        yield listening
    finally:
        with anyio.move_on_after(_CLOSE_S, shield=True):
            await runner.cleanup()


class _OurFaults(logging.Filter):
    """What is no HTTP is answered with 400 and not logged: whoever reaches the port could fill the log with it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep what is not the sender's fault."""
        return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError)


def _logger() -> logging.Logger:
    logger = logging.getLogger("brook-worker.http")
    if not logger.filters:
        logger.addFilter(_OurFaults())
    return logger


def _application(prometheus: Prometheus, health: Health, signal: ScalingSignal) -> web.Application:
    async def metrics(request: web.Request) -> web.Response:
        health.update()
        signal.read()
        # In a thread: a page takes several milliseconds, in which commands need not wait.
        body, content_type = await anyio.to_thread.run_sync(prometheus.page, request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def scaling(_: web.Request) -> web.Response:
        return _json(signal.read())

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/healthz", _status(health.liveness))
    app.router.add_get("/readyz", _status(health.readiness))
    app.router.add_get("/scaling", scaling)
    return app


def _status(look: Callable[[], Status]) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_: web.Request) -> web.Response:
        status = look()
        return _json(status, code=200 if status.ok else _UNAVAILABLE)

    return answer


def _json(value: msgspec.Struct, *, code: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value),
        status=code,
        headers={"Content-Type": "application/json", "Cache-Control": "no-store"},
    )
