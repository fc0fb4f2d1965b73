"""Transactional batches: all of their operations, or none.

Rules: https://learn.microsoft.com/azure/cosmos-db/nosql/transactional-batch.
"""

from typing import Final

import msgspec

from emulator.cosmos import charges
from emulator.cosmos.errors import CosmosError, bad_request
from emulator.cosmos.transaction import Operation, Outcome, Transaction
from emulator.cosmos.values import decode

OPERATIONS_MAX: Final = 100
BATCH_BYTES_MAX: Final = 2 * 1024 * 1024

_KINDS: Final = {
    "Create": "create",
    "Upsert": "upsert",
    "Read": "read",
    "Replace": "replace",
    "Delete": "delete",
    "Patch": "patch",
}


class _WireOperation(msgspec.Struct, rename="camel"):
    """An operation as clients send it; unknown members are ignored, as on the service."""

    operation_type: str
    id: str | None = None
    resource_body: msgspec.Raw = msgspec.Raw()
    if_match: str | None = None
    if_none_match: str | None = None
    partition_key: str | None = None


class BulkOperation(msgspec.Struct, frozen=True):
    """An operation of a bulk request with the partition key header of its own."""

    operation: Operation
    partition_key: str | None


class OperationResult(msgspec.Struct, frozen=True):
    """What one operation of a batch answers; `error` where it failed, which the service does not put on the wire."""

    status: int
    sub_status: int = 0
    charge: float = 0.0
    etag: str | None = None
    body: bytes | None = None
    error: str | None = None


class BatchResult(msgspec.Struct, frozen=True):
    """`status` is 200 where everything was applied and 207 where nothing was."""

    status: int
    results: tuple[OperationResult, ...]

    @property
    def charge(self) -> float:
        """The charges of all operations."""
        return round(sum(result.charge for result in self.results), 2)


_DECODER = msgspec.json.Decoder(list[_WireOperation])


def parse_batch(raw: bytes) -> list[Operation]:
    """The operations in the body of a batch request.

    Raises:
        CosmosError: 400 where the body is malformed, or holds none or more than 100 operations.
    """
    return [member.operation for member in parse_bulk(raw)]


def parse_bulk(raw: bytes) -> list[BulkOperation]:
    """The operations in the body of a bulk request: those of a batch, each with a partition key.

    Raises:
        CosmosError: 400 where the body is malformed, or holds none or more than 100 operations.
    """
    try:
        wire = _DECODER.decode(raw)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:  # ValueError: strings that are no UTF-8
        decode(raw)  # text that is no JSON at all is told apart
        raise bad_request(f"The batch request is malformed: {error}.") from error
    if not wire:
        raise bad_request("Batch request has no operations.")
    if len(wire) > OPERATIONS_MAX:
        raise bad_request(
            "Batch request has more operations than what is supported."
            f" It has {len(wire)}, the limit is {OPERATIONS_MAX}."
        )
    operations = []
    for operation in wire:
        kind = _KINDS.get(operation.operation_type)
        if kind is None:
            raise bad_request(f"The operation type '{operation.operation_type[:40]}' is not valid in a batch.")
        parsed = Operation(
            kind, operation.id, bytes(operation.resource_body) or None, operation.if_match, operation.if_none_match
        )
        operations.append(BulkOperation(parsed, operation.partition_key))
    return operations


def perform(transaction: Transaction, operations: list[Operation]) -> BatchResult:
    """Stage all operations in order. On the first that fails the others are 424 and nothing may be taken over."""
    results = []
    for index, operation in enumerate(operations):
        try:
            outcome = transaction.perform(operation)
        except CosmosError as error:
            return _failed(len(operations), index, error)
        results.append(succeeded(outcome))
    return BatchResult(200, tuple(results))


def succeeded(outcome: Outcome) -> OperationResult:
    """What one operation answers that worked."""
    return OperationResult(outcome.status, 0, outcome.charge, outcome.etag, outcome.body)


def failed(error: CosmosError) -> OperationResult:
    """What one operation answers that did not."""
    return OperationResult(error.status, error.sub_status, charges.MISS, error=error.message)


def _failed(count: int, index: int, error: CosmosError) -> BatchResult:
    dependent = OperationResult(424)
    results = [dependent] * count
    results[index] = failed(error)
    return BatchResult(207, tuple(results))
