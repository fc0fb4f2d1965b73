"""Blocks: staging them and committing a list of them.

Source: https://learn.microsoft.com/rest/api/storageservices/put-block and .../put-block-list.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from emulator.blob import lease as leases
from emulator.blob.blobs import Blobs
from emulator.blob.conditions import check_read
from emulator.blob.containers import OPEN, Access
from emulator.blob.errors import BlobError, invalid_query
from emulator.blob.lease import NO_LEASE
from emulator.blob.records import Blob, Block, ContentHeaders, check_blob_name
from emulator.blob.store import BlobKey, Store, Upload

BLOCK_ID_BYTES_MAX = 64
STAGED_BLOCKS_MAX = 100_000
COMMITTED_BLOCKS_MAX = 50_000

Origin = Literal["Committed", "Uncommitted", "Latest"]


class BlockChoice(NamedTuple):
    """One entry of a block list: which block, and where to look for it."""

    origin: Origin
    block_id: str


class BlockList(NamedTuple):
    """What Get Block List answers; `blob` is None where there are staged blocks only."""

    blob: Blob | None
    committed: Sequence[Block]
    staged: Sequence[Block]


class Blocks:
    """Every method either changes durably what it says, or raises BlobError."""

    def __init__(self, store: Store, blobs: Blobs) -> None:
        self._store = store
        self._blobs = blobs

    def stage(self, key: BlobKey, block_id: str, upload: Upload, access: Access = OPEN) -> None:
        """Keep a block until a block list names it. All ids of a blob must have the same length."""
        self._store.folder(key.container)
        check_blob_name(key.name)
        length = _id_length(block_id)
        blob = self._store.blobs.get(key)
        lease = blob.lease if blob else NO_LEASE
        leases.check_access(lease, self._store.now_s, access.lease_id, write=True)
        staged = self._store.staged.get(key, {})
        known_id = next(iter(staged), "") or _first_id(blob)
        if known_id and _id_length(known_id) != length:
            raise BlobError("InvalidBlobOrBlock")
        if block_id not in staged and len(staged) >= STAGED_BLOCKS_MAX:
            raise BlobError("BlockCountExceedsLimit")
        transaction = self._store.transaction()
        transaction.stage(key, Block(block_id, upload.size_bytes, tuple(upload.pieces)))
        transaction.commit()

    def commit(
        self,
        key: BlobKey,
        choices: Sequence[BlockChoice],
        *,
        headers: ContentHeaders,
        metadata: Mapping[str, str],
        tier: str = "",
        access: Access = OPEN,
    ) -> Blob:
        """Make the chosen blocks the content, in their order; staged blocks that are not chosen are dropped."""
        before = self._blobs.check_write(key, access, creates=True)
        if len(choices) > COMMITTED_BLOCKS_MAX:
            raise BlobError("BlockListTooLong")
        staged = self._store.staged.get(key, {})
        committed = {block.block_id: block for block in before.blocks if block.block_id} if before else {}
        chosen: list[Block] = []
        for origin, block_id in choices:
            block = staged.get(block_id) if origin != "Committed" else None
            if block is None and origin != "Uncommitted":
                block = committed.get(block_id)
            if block is None:
                raise BlobError("InvalidBlockList")
            chosen.append(block)
        return self._blobs.write(key, tuple(chosen), headers=headers, metadata=metadata, tier=tier, access=access)

    def list(self, key: BlobKey, access: Access = OPEN) -> BlockList:
        """The committed blocks in order and the staged ones by id; 404 where there is neither."""
        self._store.folder(key.container)
        blob = self._store.blobs.get(key)
        staged = self._store.staged.get(key, {})
        if blob is not None:
            leases.check_access(blob.lease, self._store.now_s, access.lease_id, write=False)
        check_read(access.conditions, blob.version if blob else None)
        if blob is None and not staged:
            raise BlobError("BlobNotFound")
        committed = [block for block in blob.blocks if block.block_id] if blob else []
        return BlockList(blob, committed, sorted(staged.values(), key=lambda block: block.block_id))


def _first_id(blob: Blob | None) -> str:
    """The id of a committed block, empty where there is none."""
    return next((block.block_id for block in blob.blocks if block.block_id), "") if blob else ""


def _id_length(block_id: str) -> int:
    """Bytes of the decoded id; 400 where it is not base64 or too long."""
    try:
        raw = base64.b64decode(block_id, validate=True)
    except (binascii.Error, ValueError):
        raise invalid_query("blockid", block_id, "Not a valid base64 string.") from None
    if not raw:
        raise invalid_query("blockid", block_id, "A block ID must not be empty.")
    if len(raw) > BLOCK_ID_BYTES_MAX:
        raise BlobError(
            "OutOfRangeInput",
            details={"QueryParameterName": "blockid", "Reason": "Block ID length cannot exceed 64."},
        )
    return len(raw)
