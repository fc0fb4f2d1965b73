"""A namespace's management interface, as far as provisioning uses it: entities by name, in Atom XML, over HTTP."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web
from azure.core.pipeline.transport import AioHttpTransport
from azure.servicebus.aio.management import ServiceBusAdministrationClient

_ERROR = "<Error><Code>{status}</Code><Detail>{detail}</Detail></Error>"


class ManagementServer:
    """Keeps what is put, refuses to replace it, and answers everything with `refusal` while that is set."""

    def __init__(self) -> None:
        self.entities: dict[str, str] = {}
        self.puts: list[str] = []
        self.refusal: int | None = None
        self.made_meanwhile: dict[str, str] = {}
        """Entities that another makes between our looking for them and our making them."""

    def has(self, name: str, kind: str = "Queue", **properties: str) -> None:
        """Make an entity past the interface."""
        self.entities[name] = self._entry(kind, properties)

    def will_have(self, name: str, **properties: str) -> None:
        self.made_meanwhile[name] = self._entry("Queue", properties)

    @staticmethod
    def _entry(kind: str, properties: dict[str, str]) -> str:
        namespace = 'xmlns="http://schemas.microsoft.com/netservices/2010/10/servicebus/connect"'
        inner = "".join(f"<{name}>{value}</{name}>" for name, value in properties.items())
        return (
            '<entry xmlns="http://www.w3.org/2005/Atom"><content type="application/xml">'
            f"<{kind}Description {namespace}>{inner}</{kind}Description></content></entry>"
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[ServiceBusAdministrationClient]:
        """Serve on a free port and give the SDK's own client for it."""
        app = web.Application()
        app.router.add_route("*", "/{name:.+}", self._handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        connection_string = (
            f"Endpoint=sb://127.0.0.1:{runner.addresses[0][1]};SharedAccessKeyName=name;SharedAccessKey=key"
        )
        try:
            async with ServiceBusAdministrationClient.from_connection_string(
                connection_string, transport=_WithoutTls(), retry_total=0
            ) as client:
                yield client
        finally:
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if self.refusal is not None:
            return self._error(self.refusal, "refused")
        if request.method == "PUT":
            self.puts.append(name)
            self.entities |= self.made_meanwhile
            if name in self.entities:
                return self._error(409, "The specified name is not available.")
            self.entities[name] = await request.text()
            return self._answer(201, self.entities[name])
        if request.method == "GET" and name in self.entities:
            return self._answer(200, self.entities[name])
        return self._error(404, "Entity not found.")

    def _error(self, status: int, detail: str) -> web.Response:
        return self._answer(status, _ERROR.format(status=status, detail=detail))

    @staticmethod
    def _answer(status: int, text: str) -> web.Response:
        return web.Response(status=status, text=text, content_type="application/xml")


class _WithoutTls(AioHttpTransport):  # type: ignore[misc]  # imported lazily by azure-core, so untyped
    """The client speaks https only; the server of the test has no certificate."""

    async def send(self, request: Any, **config: Any) -> Any:
        request.url = request.url.replace("https://", "http://", 1)
        return await super().send(request, **config)
