"""The Cosmos DB adapter of the store. The only place that knows what its client really does."""

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from operator import itemgetter
from typing import Any, Final

import anyio
from azure.cosmos import CosmosList
from azure.cosmos import exceptions as cosmos_errors
from azure.cosmos.aio import ContainerProxy

from schemas.events import RecordedEvent
from schemas.keys import BrookKey, partition_key
from schemas.types import CommandId, Position
from worker.protocol.documents import Document, DocumentError, read_event
from worker.protocol.model import ETag
from worker.protocol.writes import Create, Delete, Operation, Replace
from worker.storage.base import (
    ContradictionError,
    Diverged,
    LoadedBrook,
    TooLarge,
    WriteResult,
    Written,
)
from worker.storage.heads import stored_brook
from worker.storage.paging import PagedReads
from worker.storage.retries import RetryOptions, SeenMoreError, retrying, translated

_HEADS: Final = 'SELECT * FROM c WHERE c.id IN ("head", "head-pending")'
_RANGE: Final = (
    'SELECT * FROM c WHERE c.type = "event" AND c.position >= @first AND c.position <= @last ORDER BY c.position'
)
# An IN over parameters is served by the index, an ARRAY_CONTAINS over one parameter is not on every service version.
_COMMANDS: Final = (
    "SELECT c.commandId, c.position FROM c"
    ' WHERE c.type = "event" AND c.commandId IN (@commands) AND c.position <= @head'
)
_PAST: Final = 'SELECT c.position FROM c WHERE c.type = "event" AND c.position > @head ORDER BY c.position'
_LOOKUP_MAX: Final = 250

_SESSION_TOKEN: Final = "x-ms-session-token"  # noqa: S105 - the name of a header
_CHARGE: Final = "x-ms-request-charge"
_SESSION_TOKENS_MAX: Final = 10_000
_DIVERGED: Final = frozenset({404, 409, 412})
_DIVERGED_WHOLE: Final = frozenset({409, 412})
"""Of a whole request. Then 404 tells of a container that is missing."""

_TOO_LARGE: Final = 413


class CosmosBrookStore(PagedReads):
    """Brooks in one Cosmos DB container with partition key path `/brookPartitionKey`.

    A read of a brook sees at least what the last read or write of it by this store saw: the session tokens are kept
    by brook, for the last ten thousand brooks. The client's own are not updated by batches. Where no replica is as new
    within the retries, the token is dropped: what was seen may be gone, with the container or with a region, and the
    brook is to be loaded again.
    """

    def __init__(self, container: ContainerProxy, retry: RetryOptions) -> None:
        self._container = container
        self._retry = retry
        self._session_tokens: OrderedDict[str, str] = OrderedDict()

    async def load(self, key: BrookKey) -> LoadedBrook:
        """Head and head-pending, from one query, so that both are of one moment."""
        documents, charge_ru = await self._query(key, _HEADS, [])
        found = {document["id"]: (document, ETag(document["_etag"])) for document in documents}
        return LoadedBrook(brook=stored_brook(key, found), charge_ru=charge_ru)

    async def write(self, key: BrookKey, operations: Sequence[Operation]) -> WriteResult:
        """Carry out one conditional batch.

        Sent again after a throttle, a time-out, a disconnect or a server error: each try is conditional on the
        same state, so that at most one takes effect. If an earlier one did, the next is refused as `Diverged`.
        """
        charge_ru = 0.0
        try:
            async for attempt in retrying(self._retry):
                number = attempt.retry_state.attempt_number
                with attempt:
                    result = await self._write_once(key, operations)
                    if isinstance(result, TooLarge):
                        return TooLarge(attempts=number)
                    charge_ru += result.charge_ru
                    if isinstance(result, Diverged):
                        return Diverged(operation=result.operation, charge_ru=charge_ru, attempts=number)
                    return Written(etags=result.etags, charge_ru=charge_ru, attempts=number)
        except SeenMoreError:
            self._session_tokens.pop(partition_key(key), None)
            raise
        raise AssertionError("retrying returns or raises")

    async def find_commands(
        self, key: BrookKey, command_ids: Collection[CommandId], head: Position
    ) -> Mapping[CommandId, tuple[Position, Position]]:
        """First and last position of the events that each command has up to `head`."""
        found: dict[CommandId, tuple[Position, Position]] = {}
        remaining = iter(command_ids)
        while some := list(islice(remaining, _LOOKUP_MAX)):
            names = [f"@c{index}" for index in range(len(some))]
            query = _COMMANDS.replace("@commands", ", ".join(names))
            rows, _ = await self._query(key, query, [("@head", head), *zip(names, some, strict=True)])
            for row in sorted(rows, key=itemgetter("position")):
                position = Position(row["position"])
                first, _last = found.get(row["commandId"], (position, position))
                found[row["commandId"]] = (first, position)
        return found

    async def positions_past(self, key: BrookKey, head: Position) -> Sequence[Position]:
        """The positions past `head` at which an event stands."""
        rows, _ = await self._query(key, _PAST, [("@head", head)])
        return [Position(row["position"]) for row in rows]

    async def head_position(self, key: BrookKey) -> Position:
        """The last committed position."""
        return (await self.load(key)).brook.head.head.position

    async def _read_range(self, key: BrookKey, first: Position, last: Position) -> list[RecordedEvent]:
        documents, _ = await self._query(key, _RANGE, [("@first", first), ("@last", last)])
        try:
            return [read_event(key, document) for document in documents]
        except DocumentError as error:
            remedy = "compare the document with docs/protocol.md and repair it"
            raise ContradictionError(key, str(error), remedy) from error

    async def _write_once(self, key: BrookKey, operations: Sequence[Operation]) -> Written | Diverged | TooLarge:
        """One try, its outcome told in the port's words."""
        pk = partition_key(key)
        with translated():
            try:
                # A cancelled request would leave its connection in an unknown state; the client's time-out bounds it.
                with anyio.CancelScope(shield=True):
                    results = await self._send(pk, operations)
            except (cosmos_errors.CosmosBatchOperationError, cosmos_errors.CosmosHttpResponseError) as error:
                headers = error.headers or {}
                self._remember_token(pk, headers)
                refused = _DIVERGED if isinstance(error, cosmos_errors.CosmosBatchOperationError) else _DIVERGED_WHOLE
                if error.status_code in refused:
                    index = getattr(error, "error_index", None) or 0
                    return Diverged(operation=index, charge_ru=float(headers.get(_CHARGE, 0)))
                if error.status_code == _TOO_LARGE:
                    return TooLarge()
                raise
        headers = results.get_response_headers()
        self._remember_token(pk, headers)
        return Written(etags=tuple(map(_etag, results)), charge_ru=float(headers.get(_CHARGE, 0)))

    async def _send(self, pk: str, operations: Sequence[Operation]) -> CosmosList:
        """One request: what the client would send again by itself is left to `write`.

        But for a 503, which azure-cosmos 4.17 sends once more, whatever it is told. That may be refused because the
        first took effect, as any other that is sent again.
        """
        options: dict[str, Any] = {}
        if token := self._session_tokens.get(pk):
            # A write needs none. But without one the client looks for its own, hashing the partition key in Python, for
            # a seventh of the processor time of the whole request.
            options["session_token"] = token
        # The client empties the options of each operation: they are built anew for every try.
        return await self._container.execute_item_batch(
            [_as_tuple(operation) for operation in operations],
            partition_key=pk,
            retry_connect=0,
            retry_read=0,
            no_response=True,
            timeout=self._retry.time_max_s,  # or the client waits two minutes for a region that takes writes again
            **options,
        )

    async def _query(
        self, key: BrookKey, query: str, parameters: list[tuple[str, object]]
    ) -> tuple[list[Document], float]:
        """All rows of a query within the brook's partition, and what it cost."""
        pk = partition_key(key)
        try:
            async for attempt in retrying(self._retry):
                with attempt:
                    return await self._query_once(pk, query, parameters)
        except SeenMoreError:
            self._session_tokens.pop(pk, None)
            raise
        raise AssertionError("retrying returns or raises")

    async def _query_once(
        self, pk: str, query: str, parameters: list[tuple[str, object]]
    ) -> tuple[list[Document], float]:
        charge_ru = 0.0

        def note(headers: Mapping[str, Any], _: object) -> None:
            nonlocal charge_ru
            charge_ru += float(headers.get(_CHARGE, 0))
            # The next read of this brook must not come from a replica that is behind this one: a lookup that missed
            # what the head has told of already would let a command take effect twice.
            self._remember_token(pk, headers)

        options: dict[str, Any] = {}
        if token := self._session_tokens.get(pk):
            options["session_token"] = token
        with translated():
            rows = self._container.query_items(
                query,
                parameters=[{"name": name, "value": value} for name, value in parameters],
                partition_key=pk,
                response_hook=note,
                timeout=self._retry.time_max_s,
                **options,
            )
            return [row async for row in rows], charge_ru

    def _remember_token(self, pk: str, headers: Mapping[str, Any]) -> None:
        """Keep the newest session token of a brook; forget that of the brook not written to for longest."""
        if (token := headers.get(_SESSION_TOKEN)) and not _has_seen_less(token, self._session_tokens.get(pk, "")):
            self._session_tokens[pk] = token
            self._session_tokens.move_to_end(pk)
            if len(self._session_tokens) > _SESSION_TOKENS_MAX:
                self._session_tokens.popitem(last=False)


def _has_seen_less(token: str, other: str) -> bool:
    """Whether `token` is of an earlier moment than `other`; only of two such as `0:-1#12#1=8` that begin alike.

    The answer to a write of a session that was lost may come after those of who has it now.
    """
    (epoch, _, progress), (other_epoch, _, other_progress) = token.partition("#"), other.partition("#")
    number, other_number = progress.partition("#")[0], other_progress.partition("#")[0]
    return epoch == other_epoch and number.isdecimal() and other_number.isdecimal() and int(number) < int(other_number)


def _as_tuple(operation: Operation) -> tuple[str, tuple[Any, ...]] | tuple[str, tuple[Any, ...], dict[str, Any]]:
    """The operation in the client's form."""
    match operation:
        case Create(document):
            return ("create", (document,))
        case Replace(document, if_match):
            return ("replace", (document["id"], document), {"if_match_etag": if_match})
        case Delete(document_id, None):
            return ("delete", (document_id,))
        case Delete(document_id, if_match):
            return ("delete", (document_id,), {"if_match_etag": if_match})


def _etag(result: Mapping[str, Any]) -> ETag | None:
    """The new state's name: beside the body on the service, within it where the body is returned."""
    etag = result.get("eTag") or (result.get("resourceBody") or {}).get("_etag")
    return ETag(etag) if etag else None
