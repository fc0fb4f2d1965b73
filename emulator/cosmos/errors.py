"""What Cosmos DB refuses, and with which status, sub-status and words.

Sub-statuses: https://learn.microsoft.com/rest/api/cosmos-db/http-status-codes-for-cosmosdb and the constants of the
Python SDK (`azure.cosmos.http_constants.SubStatusCodes`).
"""

from typing import Final

SUB_PARTITION_KEY_MISMATCH: Final = 1001
SUB_READ_SESSION_NOT_AVAILABLE: Final = 1002
SUB_PARTITION_KEY_RANGE_GONE: Final = 1002
SUB_OWNER_NOT_FOUND: Final = 1003
SUB_CROSS_PARTITION_NOT_SERVABLE: Final = 1004
SUB_COLLECTION_RID_MISMATCH: Final = 1024

_CODES: Final = {
    304: "NotModified",
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    408: "RequestTimeout",
    409: "Conflict",
    410: "Gone",
    412: "PreconditionFailed",
    413: "RequestEntityTooLarge",
    424: "FailedDependency",
    429: "TooManyRequests",
    431: "RequestHeaderFieldsTooLarge",
    449: "RetryWith",
    500: "InternalServerError",
    503: "ServiceUnavailable",
}


def code_for(status: int) -> str:
    """The word that stands in the `code` member of an error body."""
    return _CODES.get(status, "Error")


class CosmosError(Exception):
    """A refusal: nothing was changed. `headers` are those that the service sends along with it."""

    def __init__(self, status: int, message: str, *, sub_status: int = 0, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.sub_status = sub_status
        self.retry_after_ms = retry_after_ms
        self.headers: dict[str, str] = {}
        self.additional: str | None = None
        """The member `additionalErrorInfo` of the error body: JavaScript clients find the query plan there."""


def bad_request(message: str, sub_status: int = 0) -> CosmosError:
    """400: the request can never succeed as it is."""
    return CosmosError(400, message, sub_status=sub_status)


def not_found(message: str = "Entity with the specified id does not exist in the system.") -> CosmosError:
    """404: the resource that was asked for is not there."""
    return CosmosError(404, message)


def owner_not_found(what: str) -> CosmosError:
    """404/1003: the database or container that should hold the resource is not there."""
    return CosmosError(404, f"Owner resource does not exist: {what}.", sub_status=SUB_OWNER_NOT_FOUND)


def conflict(message: str = "Entity with the specified id already exists in the system.") -> CosmosError:
    """409: an id or a unique key is taken."""
    return CosmosError(409, message)


def precondition_failed() -> CosmosError:
    """412: If-Match, If-None-Match or a patch condition does not hold."""
    return CosmosError(412, "Operation cannot be performed because one of the specified precondition is not met.")


def too_large() -> CosmosError:
    """413: an item or a request past 2 MB."""
    return CosmosError(413, "Request size is too large.")


def not_covered(what: str) -> CosmosError:
    """400: the service can do this and the emulator cannot; docs/emulator-cosmos.md lists what is left out."""
    return bad_request(f"{what} is not covered by the embedded Cosmos DB.")
