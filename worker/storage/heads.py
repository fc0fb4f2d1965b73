"""Reading the documents of a brook into what the protocol decides on, the same for every store."""

from collections.abc import Mapping

from schemas.keys import BrookKey
from worker.protocol.documents import HEAD_ID, PENDING_ID, Document, DocumentError, read_head
from worker.protocol.model import ETag, StoredHead
from worker.protocol.pending import StoredBrook, StoredPending, read_pending
from worker.storage.base import ContradictionError


def stored_brook(key: BrookKey, documents: Mapping[str, tuple[Document, ETag]]) -> StoredBrook:
    """Head and head-pending as stored, by id. Raises ContradictionError where one is not readable."""
    head, pending = documents.get(HEAD_ID), documents.get(PENDING_ID)
    try:
        return StoredBrook(
            head=StoredHead(key=key, head=read_head(key, head[0]), etag=head[1]) if head else StoredHead(key=key),
            pending=StoredPending(pending=read_pending(key, pending[0]), etag=pending[1]) if pending else None,
        )
    except DocumentError as error:
        raise ContradictionError(key, str(error), "compare the document with docs/protocol.md and repair it") from error
