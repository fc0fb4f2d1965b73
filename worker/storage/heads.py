"""Reading the documents of a brook into what the protocol decides on, the same for every store."""

from schemas.keys import BrookKey
from worker.protocol.documents import Document, DocumentError, read_head
from worker.protocol.model import ETag, StoredHead
from worker.storage.base import ContradictionError


def stored_head(key: BrookKey, document: Document, etag: ETag) -> StoredHead:
    """The head as stored. Raises ContradictionError where the document is not readable."""
    try:
        return StoredHead(key=key, head=read_head(key, document), etag=etag)
    except DocumentError as error:
        raise ContradictionError(key, str(error), "compare the document with docs/protocol.md and repair it") from error
