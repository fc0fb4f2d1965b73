"""What comes of a request, in the table's words."""

import aiohttp
import pytest
from azure.core.exceptions import ServiceRequestError, ServiceResponseTimeoutError
from azure.core.pipeline.transport import AioHttpTransport, HttpRequest

from worker.telemetry.instruments import REQUEST_DURATION, REQUESTS
from worker.telemetry.transport import ObservedTransport, outcome_of

pytestmark = pytest.mark.anyio

STATUSES = {
    "ok": (200, 201, 202, 204, 206, 304),
    "conflict": (207, 409, 412),
    "missing": (404,),
    "timeout": (408,),
    "too-large": (413,),
    "throttled": (429, 449),
    "refused": (400, 401, 403, 410, 416),
    "server-error": (500, 502, 503, 504),
}


@pytest.mark.parametrize(("status", "outcome"), [(status, name) for name, all_ in STATUSES.items() for status in all_])
async def test_an_answer_is_told_by_its_status(status: int, outcome: str) -> None:
    assert outcome_of(status) == outcome
    assert outcome in REQUESTS.attributes["outcome"]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ServiceResponseTimeoutError("slow"), "timeout"),
        (TimeoutError(), "timeout"),
        (ServiceRequestError("refused"), "connection"),
        (aiohttp.ClientPayloadError(), "connection"),
        (ConnectionResetError(), "connection"),
        (ValueError("a bug"), "other"),
    ],
)
async def test_what_is_raised_instead_of_an_answer_is_told_by_its_kind(error: Exception, outcome: str) -> None:
    assert outcome_of(error) == outcome


@pytest.mark.parametrize(
    ("service", "method", "headers", "operation"),
    [
        ("cosmos", "POST", {"x-ms-cosmos-is-batch-request": "True"}, "batch"),
        ("cosmos", "POST", {"x-ms-documentdb-isquery": "true"}, "query"),
        ("cosmos", "GET", {}, "read"),
        ("blob", "PUT", {"x-ms-lease-action": "acquire"}, "acquire"),
        ("blob", "PUT", {"x-ms-lease-action": "something-new"}, "other"),
        ("blob", "PUT", {}, "create"),
        ("blob", "GET", {}, "read"),
        ("blob", "DELETE", {}, "delete"),
    ],
)
async def test_each_request_is_counted_by_what_it_does_and_its_error_goes_on(
    service: str, method: str, headers: dict[str, str], operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cut(*_: object, **__: object) -> None:
        raise ServiceRequestError("cut")

    monkeypatch.setattr(AioHttpTransport, "send", cut)
    before = REQUESTS.get(service, operation, "connection"), REQUEST_DURATION.count(service, operation)
    with pytest.raises(ServiceRequestError, match="cut"):
        await ObservedTransport(service).send(HttpRequest(method, "http://127.0.0.1:1", headers))
    after = REQUESTS.get(service, operation, "connection"), REQUEST_DURATION.count(service, operation)
    assert [one - other for one, other in zip(after, before, strict=True)] == [1, 1]
