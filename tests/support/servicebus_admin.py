"""A namespace's management interface, the emulator's own, with what tests of provisioning have to see and to cause."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from aiohttp import web
from azure.core.pipeline.transport import AioHttpTransport
from azure.servicebus.aio.management import ServiceBusAdministrationClient

from emulator.clock import ManualClock
from emulator.config import QueueConfig, ServiceBusConfig, TopicConfig
from emulator.journal import MemoryJournal
from emulator.servicebus import admin_app
from emulator.servicebus.engine.namespace import Namespace

_ERROR = "<Error><Code>{status}</Code><Detail>refused</Detail></Error>"
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class PlainHttp(AioHttpTransport):  # type: ignore[misc]  # imported lazily by azure-core, so untyped
    """The client speaks https only; the emulator has no certificate."""

    async def send(self, request: Any, **config: Any) -> Any:
        request.url = request.url.replace("https://", "http://", 1)
        return await super().send(request, **config)


class ManagementServer:
    """Remembers what is put, and answers everything with `refusal` while that is set."""

    def __init__(self) -> None:
        self.engine = Namespace(ServiceBusConfig(), clock=ManualClock(), journal=MemoryJournal())
        self.puts: list[str] = []
        self.refusal: int | None = None
        self.made_meanwhile: list[QueueConfig] = []
        """Queues that another makes between our looking for them and our making them."""
        self.being_made: list[QueueConfig] = []
        """Queues that another is making: ours are refused, and these are there after `looks_until_made` looks."""
        self.looks_until_made = 0

    def has(self, *entities: QueueConfig | TopicConfig) -> None:
        """Make entities past the interface; one that is there is replaced."""
        for entity in entities:
            if entity.name in (path for path in (*self.engine.entities.paths(), *self.engine.entities.topics)):
                self.engine.entities.delete(entity.name)
            if isinstance(entity, QueueConfig):
                self.engine.entities.create_queue(entity)
            else:
                self.engine.entities.create_topic(entity)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[ServiceBusAdministrationClient]:
        """Serve on a free port and give the SDK's own client for it."""
        app = admin_app(self.engine)
        app.middlewares.insert(0, self._watch)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        connection_string = (
            f"Endpoint=sb://127.0.0.1:{runner.addresses[0][1]};SharedAccessKeyName=name;SharedAccessKey=key"
        )
        try:
            async with ServiceBusAdministrationClient.from_connection_string(
                connection_string, transport=PlainHttp(), retry_total=0
            ) as client:
                yield client
        finally:
            await runner.cleanup()

    @web.middleware
    async def _watch(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        if self.refusal is not None:
            text = _ERROR.format(status=self.refusal)
            return web.Response(status=self.refusal, text=text, content_type="application/xml")
        if request.method == "PUT":
            self.puts.append(request.path.strip("/"))
            self.has(*self.made_meanwhile)
            if self.being_made:
                return web.Response(status=409, text=_ERROR.format(status=409), content_type="application/xml")
        elif self.puts and self.being_made:
            self.looks_until_made -= 1
            self.has(*(self.being_made if self.looks_until_made < 0 else ()))
        return await handler(request)
