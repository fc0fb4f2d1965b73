"""Counts what goes to Cosmos DB and Blob Storage where it leaves the process: every try, the client's own included."""

import time
from typing import Any, Final

import aiohttp
from azure.core.exceptions import AzureError, ServiceRequestTimeoutError, ServiceResponseTimeoutError
from azure.core.pipeline.transport import AioHttpTransport
from opentelemetry.trace import SpanKind

from worker.telemetry.instruments import AMBIGUOUS_WRITES, REQUEST_CHARGE, REQUEST_DURATION, REQUESTS
from worker.telemetry.stages import stages
from worker.telemetry.tracing import failed, tracing

_CHARGE: Final = "x-ms-request-charge"
_BATCH: Final = "x-ms-cosmos-is-batch-request"
_QUERY: Final = "x-ms-documentdb-isquery"
_LEASE_ACTION: Final = "x-ms-lease-action"
_OTHER: Final = "other"

_BY_METHOD: Final = {"PUT": "create", "DELETE": "delete"}
_BY_STATUS: Final = {
    207: "conflict",  # the batch was refused for one of its operations
    404: "missing",
    408: "timeout",
    409: "conflict",
    412: "conflict",
    413: "too-large",
    429: "throttled",
    449: "throttled",
}
_REFUSED_MIN: Final = 400
_SERVER_ERROR_MIN: Final = 500
_AMBIGUOUS: Final = frozenset(AMBIGUOUS_WRITES.attributes["reason"])


class ObservedTransport(AioHttpTransport):  # type: ignore[misc]  # the SDK imports it lazily, without its type
    """The SDK's own transport, with a count, a duration and, where a trace is recorded, a span for each request."""

    def __init__(self, service: str, **options: Any) -> None:
        super().__init__(**options)
        self._service = service

    async def send(self, request: Any, **options: Any) -> Any:
        """Send the request as the SDK does; nothing is changed on the way."""
        operation = _operation_of(self._service, request)
        if not tracing.is_on:
            return await self._counted(operation, request, options)
        with tracing.part(f"{self._service} {operation}", SpanKind.CLIENT) as span:
            try:
                response = await self._counted(operation, request, options)
            except Exception as error:
                failed(span, outcome_of(error))
                raise
            span.set_attribute("http.response.status_code", response.status_code)
            if charge := response.headers.get(_CHARGE):
                span.set_attribute("azure.cosmosdb.operation.request_charge", _number(charge))
            return response

    async def _counted(self, operation: str, request: Any, options: dict[str, Any]) -> Any:
        started_s = time.perf_counter()
        outcome = "lost"  # cancelled: nobody will know
        try:
            response = await super().send(request, **options)
            outcome = outcome_of(response.status_code)
            if (charge := response.headers.get(_CHARGE)) is not None:
                REQUEST_CHARGE.add(_number(charge), operation)
        except Exception as error:
            outcome = outcome_of(error)
            raise
        finally:
            REQUESTS.add(1, self._service, operation, outcome)
            REQUEST_DURATION.record(time.perf_counter() - started_s, self._service, operation)
            stages.moved()
            if operation == "batch" and outcome in _AMBIGUOUS:
                AMBIGUOUS_WRITES.add(1, outcome)
        return response


def outcome_of(result: int | BaseException) -> str:
    """What came of a request, by its status or by what was raised instead of an answer."""
    if isinstance(result, BaseException):
        if isinstance(result, ServiceRequestTimeoutError | ServiceResponseTimeoutError | TimeoutError):
            return "timeout"
        return "connection" if isinstance(result, AzureError | aiohttp.ClientError | OSError) else _OTHER
    if result < _REFUSED_MIN:
        return _BY_STATUS.get(result, "ok")
    return _BY_STATUS.get(result) or ("server-error" if result >= _SERVER_ERROR_MIN else "refused")


def _operation_of(service: str, request: Any) -> str:
    """The table's name for what a request does."""
    headers = request.headers
    if service == "blob":
        return str(headers.get(_LEASE_ACTION) or _BY_METHOD.get(request.method, "read"))
    if _BATCH in headers:
        return "batch"
    return "query" if _QUERY in headers else "read"


def _number(charge: str) -> float:
    try:
        return float(charge)
    except ValueError:
        return 0.0
