"""What a failed request of the Cosmos DB client says about trying again."""

from typing import Any

import pytest
from azure.cosmos.exceptions import CosmosBatchOperationError, CosmosHttpResponseError

from worker.storage.base import StoreMisconfiguredError, StoreRefusedError
from worker.storage.retries import SeenMoreError, TransientStoreError, classified

KINDS = [
    (408, 0, TransientStoreError),
    (410, 0, TransientStoreError),
    (429, 0, TransientStoreError),
    (449, 0, TransientStoreError),
    (500, 0, TransientStoreError),
    (503, 0, TransientStoreError),
    (404, 1002, SeenMoreError),
    (403, 3, TransientStoreError),
    (403, 1008, TransientStoreError),
    (401, 0, StoreMisconfiguredError),
    (403, 0, StoreMisconfiguredError),
    (404, 0, StoreMisconfiguredError),
    (404, 1003, StoreMisconfiguredError),
    (400, 0, StoreRefusedError),
    (403, 1014, StoreRefusedError),
]


@pytest.mark.parametrize(("status", "sub_status", "kind"), KINDS)
def test_a_request_that_failed(status: int, sub_status: int, kind: type[Exception]) -> None:
    error = CosmosHttpResponseError(  # type: ignore[no-untyped-call]  # the client has no types here
        status_code=status, message="no", sub_status=sub_status
    )
    found = classified(error)
    assert type(found) is kind
    assert f"{status}/{sub_status}" in str(found)


@pytest.mark.parametrize(("status", "sub_status", "kind"), KINDS)
def test_an_operation_that_failed_in_a_batch_whose_request_went_well(
    status: int, sub_status: int, kind: type[Exception]
) -> None:
    found = classified(batch_error({"statusCode": status, "subStatusCode": sub_status}))
    assert type(found) is kind
    assert f"{status}/{sub_status}" in str(found)


@pytest.mark.parametrize("told", [{}, {"retryAfterMilliseconds": 250}])
def test_an_operation_that_is_throttled_says_how_long(told: dict[str, Any]) -> None:
    found = classified(batch_error({"statusCode": 429, **told}))
    assert isinstance(found, TransientStoreError)
    assert found.retry_after_s == (0.25 if told else None)


def batch_error(failed: dict[str, Any]) -> CosmosBatchOperationError:
    """As the client raises it for an answer of 207: the headers tell nothing of the failure."""
    return CosmosBatchOperationError(  # type: ignore[no-untyped-call]  # as above
        error_index=1,
        headers={"x-ms-request-charge": "5"},
        status_code=failed["statusCode"],
        message="There was an error in the transactional batch on index 1.",
        operation_responses=[{"statusCode": 424}, failed, {"statusCode": 424}],
    )
