"""From a request to the engine and back: which operation is carried out by whom."""

from collections.abc import Callable
from typing import Any, Final

from emulator.cosmos.engine import CosmosEngine
from emulator.cosmos.errors import CosmosError, bad_request, not_covered
from emulator.cosmos.inputs import Request, container_of
from emulator.cosmos.itemhandlers import ItemHandlers
from emulator.cosmos.metadata import MetadataHandlers
from emulator.cosmos.replies import Reply
from emulator.cosmos.wire import SESSION_TOKEN
from emulator.faults import READS_OF_ITEMS

_CONSISTENCY_LEVELS: Final = ("Eventual", "ConsistentPrefix", "Session")


class Handlers:
    """The operations of one account."""

    def __init__(self, engine: CosmosEngine, account_properties: Callable[[], dict[str, Any]]) -> None:
        self._engine = engine
        self.routes = MetadataHandlers(engine, account_properties).routes | ItemHandlers(engine).routes

    def handle_behind(self, request: Request, transactions: int) -> Reply:
        """Carry a read of items out as a replica that is so many transactions behind; anything else as it is.

        Raises:
            CosmosError: what the service answers instead.
        """
        if request.target.operation not in READS_OF_ITEMS:
            return self.handle(request)
        container = container_of(self._engine, request)
        with self._engine.behind(container, transactions, request.headers.get(SESSION_TOKEN)):
            return self.handle(request)

    def handle(self, request: Request) -> Reply:
        """Carry a request out.

        Raises:
            CosmosError: what the service answers instead.
        """
        level = request.headers.get("x-ms-consistency-level")
        if level is not None and level not in _CONSISTENCY_LEVELS:
            raise bad_request(
                f"ConsistencyLevel {level[:40]} specified in the request is invalid when service is configured with"
                " consistency level Session."
            )
        route = self.routes.get(request.target.operation)
        if route is None:
            if request.target.operation == "not-covered":
                raise not_covered(f"The resource '{request.target.item}'")
            raise CosmosError(405, "The requested verb is not supported on this resource.")
        return route(request)
