"""The in-memory reference of the store: the contract with nothing around it. For tests and simulations."""

import copy
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from schemas.events import RecordedEvent
from schemas.keys import BrookKey, partition_key
from schemas.types import CommandId, Position
from worker.protocol.documents import HEAD_ID, PENDING_ID, Document, encoded_bytes, read_event
from worker.protocol.model import ETag
from worker.protocol.writes import (
    CREATE_BYTES,
    REPLACE_HEAD_BYTES,
    REQUEST_BYTES,
    Create,
    Delete,
    Operation,
    Replace,
)
from worker.storage.base import (
    Diverged,
    LoadedBrook,
    StoreRefusedError,
    TooLarge,
    WriteResult,
    Written,
)
from worker.storage.heads import stored_brook
from worker.storage.paging import PagedReads

OPERATIONS_MAX = 100
REQUEST_BYTES_MAX = 2 * 1024 * 1024


class Stored(NamedTuple):
    """A document and its state's name."""

    document: Document
    etag: ETag


Documents = Mapping[str, Stored]
"""The documents of one partition by id."""


def carry_out(
    documents: Documents, operations: Sequence[Operation], new_etag: Callable[[], ETag]
) -> tuple[Documents, Written | Diverged]:
    """What `documents` become by one conditional batch, and its answer. Changes nothing that it is given."""
    changed = dict(documents)
    etags: list[ETag | None] = []
    for index, operation in enumerate(operations):
        if not _holds(operation, changed):
            return documents, Diverged(operation=index)
        if isinstance(operation, Delete):
            del changed[operation.document_id]
            etags.append(None)
        else:
            etag = new_etag()
            changed[operation.document["id"]] = Stored(copy.deepcopy(operation.document), etag)
            etags.append(etag)
    return changed, Written(etags=tuple(etags))


class MemoryBrookStore(PagedReads):
    """Holds the documents of all brooks by partition and id. One process, no durability."""

    def __init__(self) -> None:
        self._partitions: dict[str, Documents] = {}
        self._etags = itertools.count(1)

    async def load(self, key: BrookKey) -> LoadedBrook:
        """Head and head-pending."""
        found = {
            document_id: (stored.document, stored.etag)
            for document_id, stored in self._documents(key).items()
            if document_id in (HEAD_ID, PENDING_ID)
        }
        return LoadedBrook(brook=stored_brook(key, found))

    async def write(self, key: BrookKey, operations: Sequence[Operation]) -> WriteResult:
        """Carry out one conditional batch, whole or not at all."""
        if not 1 <= len(operations) <= OPERATIONS_MAX:
            raise StoreRefusedError(f"a batch holds 1 to {OPERATIONS_MAX} operations, not {len(operations)}")
        if _request_bytes(operations) > REQUEST_BYTES_MAX:
            return TooLarge()
        changed, result = carry_out(self._documents(key), operations, self._new_etag)
        self._partitions[partition_key(key)] = changed
        return result

    async def find_commands(
        self, key: BrookKey, command_ids: Collection[CommandId], head: Position
    ) -> Mapping[CommandId, tuple[Position, Position]]:
        """First and last position of the events that each command has up to `head`."""
        found: dict[CommandId, tuple[Position, Position]] = {}
        for position in map(Position, range(head + 1)):
            stored = self._documents(key).get(str(position))
            command_id = stored.document.get("commandId") if stored is not None else None
            if command_id is not None and command_id in command_ids:
                first, _ = found.get(CommandId(command_id), (position, position))
                found[CommandId(command_id)] = (first, position)
        return found

    async def positions_past(self, key: BrookKey, head: Position) -> Sequence[Position]:
        """The positions past `head` at which an event stands."""
        return sorted(
            stored.document["position"]
            for stored in self._documents(key).values()
            if stored.document["type"] == "event" and stored.document["position"] > head
        )

    async def head_position(self, key: BrookKey) -> Position:
        """The last committed position."""
        return (await self.load(key)).brook.head.head.position

    def documents(self, key: BrookKey) -> dict[str, Document]:
        """A copy of a brook's documents by id, for checks."""
        return {document_id: copy.deepcopy(stored.document) for document_id, stored in self._documents(key).items()}

    async def _read_range(self, key: BrookKey, first: Position, last: Position) -> list[RecordedEvent]:
        documents = self._documents(key)
        found = (documents.get(str(position)) for position in range(first, last + 1))
        return [read_event(key, stored.document) for stored in found if stored is not None]

    def _documents(self, key: BrookKey) -> Documents:
        return self._partitions.get(partition_key(key), {})

    def _new_etag(self) -> ETag:
        return ETag(f'"{next(self._etags):08x}"')


def _holds(operation: Operation, documents: Documents) -> bool:
    """Whether the operation's precondition holds on `documents`."""
    match operation:
        case Create(document):
            return document["id"] not in documents
        case Replace(document, if_match):
            found = documents.get(document["id"])
            return found is not None and found.etag == if_match
        case Delete(document_id, if_match):
            found = documents.get(document_id)
            return found is not None and if_match in (None, found.etag)


def _request_bytes(operations: Sequence[Operation]) -> int:
    """The size of the request as the protocol counts it."""
    return REQUEST_BYTES + sum(
        CREATE_BYTES if isinstance(operation, Delete) else REPLACE_HEAD_BYTES + encoded_bytes(operation.document)
        for operation in operations
    )
