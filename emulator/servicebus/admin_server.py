"""The administration interface on a port of its own, as the official emulator has it."""

import structlog
from aiohttp import web

from emulator.http_connections import HOST, STOP_S, Listener
from emulator.servicebus.front.admin import admin_app
from emulator.servicebus.server import ServiceBusServer

log = structlog.get_logger()


class AdminServer:
    """Entities of one ServiceBusServer over HTTP on 127.0.0.1, under the same keys.

    Guarantee: what it answered is in the server's journal, and its clients meet it at once.
    """

    def __init__(self, server: ServiceBusServer) -> None:
        self._server = server
        self._listener = Listener()
        self._port = 0

    @property
    def address(self) -> str:
        """Host and port, as connection strings have it."""
        return f"{HOST}:{self._port}"

    @property
    def endpoint(self) -> str:
        """The URL of the interface."""
        return f"http://{self.address}"

    async def start(self, port: int = 0) -> int:
        """Listen; 0 takes any free port. Returns the port."""
        app = admin_app(self._server.engine, tokens=self._server.tokens, wall_s=self._server.wall_s)
        self._port = await self._listener.start(web.AppRunner(app, access_log=None, shutdown_timeout=STOP_S), port)
        log.info("servicebus.admin-listening", port=self._port)
        return self._port

    async def stop(self) -> None:
        """Stop listening and close what is open, within STOP_S. Idempotent."""
        await self._listener.stop()
