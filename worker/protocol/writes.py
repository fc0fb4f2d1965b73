"""The conditional transactional batches of the protocol, as data for the store to carry out.

Each write names the state that it builds on. So any of them may be sent twice, land late or be sent by a writer
that has lost its lease: it takes effect at most once, and only on the state that it was decided on.
"""

from typing import Final

import msgspec

from worker.protocol.documents import Document, head_document
from worker.protocol.model import ETag, Head, StoredHead


class Create(msgspec.Struct, frozen=True):
    """Create `document`; refused where its id exists."""

    document: Document


class Replace(msgspec.Struct, frozen=True):
    """Replace the document of the same id; refused unless it stands at `if_match`."""

    document: Document
    if_match: ETag


class Delete(msgspec.Struct, frozen=True):
    """Delete the document `document_id`; refused where it is missing or, with `if_match`, stands elsewhere."""

    document_id: str
    if_match: ETag | None = None


Operation = Create | Replace | Delete

# Bytes that an operation adds to the request around its document, comma included; the request adds two brackets.
ETAG_BYTES_MAX: Final = 64
CREATE_BYTES: Final = len('{"operationType":"Create","resourceBody":},')
REPLACE_HEAD_BYTES: Final = (
    len('{"operationType":"Replace","id":"head","resourceBody":,"ifMatch":""},') + ETAG_BYTES_MAX
)
REPLACE_PENDING_BYTES: Final = (
    len('{"operationType":"Replace","id":"head-pending","resourceBody":,"ifMatch":""},') + ETAG_BYTES_MAX
)
REQUEST_BYTES: Final = len("[]")


def write_head(stored: StoredHead, after: Head) -> Create | Replace:
    """Put `after` in the place of exactly the head that was read."""
    document = head_document(stored.key, after)
    return Create(document) if stored.etag is None else Replace(document, stored.etag)


def append_events(stored: StoredHead, after: Head, events: tuple[Document, ...]) -> tuple[Operation, ...]:
    """A small append or group: the head moves and its events appear, or nothing happens."""
    assert after.position == stored.head.position + len(events), "the head moves by the events that are created"
    return (write_head(stored, after), *(Create(document) for document in events))
