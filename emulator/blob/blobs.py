"""Blobs: what Azure does with a request to one.

Checks come in Azure's order: the container, the lease, the conditions. So creating with `If-None-Match: *` where a
leased blob exists is refused for the lease that is not named, not for the blob that exists.
"""

from collections.abc import Mapping

import msgspec

from emulator.blob import lease as leases
from emulator.blob.conditions import check_read, check_write
from emulator.blob.containers import OPEN, Access
from emulator.blob.errors import BlobError
from emulator.blob.lease import NO_LEASE, Lease, LeaseOperation
from emulator.blob.listing import Page, list_names
from emulator.blob.records import Blob, Block, ContentHeaders, check_blob_name, check_metadata
from emulator.blob.store import BlobKey, Store, Upload


class Blobs:
    """Every method either changes durably what it says and returns the record, or raises BlobError."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def put(
        self,
        key: BlobKey,
        upload: Upload,
        *,
        headers: ContentHeaders,
        metadata: Mapping[str, str],
        tier: str = "",
        access: Access = OPEN,
    ) -> Blob:
        """Create or overwrite a blob with the whole upload. Staged blocks are dropped, a held lease stays."""
        blocks = (Block("", upload.size_bytes, tuple(upload.pieces)),)
        return self.write(key, blocks, headers=headers, metadata=metadata, tier=tier, access=access)

    def write(
        self,
        key: BlobKey,
        blocks: tuple[Block, ...],
        *,
        headers: ContentHeaders,
        metadata: Mapping[str, str],
        tier: str,
        access: Access,
    ) -> Blob:
        """Make `blocks` the content of a blob: the one place where content changes."""
        before = self.check_write(key, access, creates=True)
        check_metadata(dict(metadata))
        now_s = self._store.now_s
        blob = Blob(
            ticks=self._store.new_ticks(),
            created_s=before.created_s if before else int(now_s),
            modified_s=int(now_s),
            size_bytes=sum(block.size_bytes for block in blocks),
            blocks=blocks,
            headers=headers,
            metadata=dict(metadata),
            tier=tier,
            lease=leases.after_write(before.lease, now_s) if before else NO_LEASE,
        )
        transaction = self._store.transaction()
        transaction.set_blob(key, blob)
        transaction.clear_staged(key)
        transaction.commit()
        return blob

    def get(self, key: BlobKey, access: Access = OPEN) -> Blob:
        """The record, where lease and conditions let the request in. 304 and 412 are raised as BlobError."""
        self._store.folder(key.container)
        blob = self._store.blobs.get(key)
        if blob is not None:
            leases.check_access(blob.lease, self._store.now_s, access.lease_id, write=False)
        check_read(access.conditions, blob.version if blob else None)
        if blob is None:
            raise BlobError("BlobNotFound")
        return blob

    def content(self, blob: Blob, first: int, last: int) -> list[bytes]:
        """The bytes from `first` to `last`, both included. They outlive the blob's deletion."""
        return self._store.content(blob, first, last)

    def delete(self, key: BlobKey, access: Access = OPEN) -> None:
        """Delete the blob, its lease and its staged blocks."""
        if self.check_write(key, access) is None:
            raise BlobError("BlobNotFound")
        transaction = self._store.transaction()
        transaction.delete_blob(key)
        transaction.commit()

    def set_metadata(self, key: BlobKey, metadata: Mapping[str, str], access: Access = OPEN) -> Blob:
        """Replace all metadata."""
        check_metadata(dict(metadata))
        return self._update(key, access, metadata=dict(metadata))

    def set_headers(self, key: BlobKey, headers: ContentHeaders, access: Access = OPEN) -> Blob:
        """Replace all content headers: those that are not given are cleared."""
        return self._update(key, access, headers=headers)

    def lease(self, key: BlobKey, operation: LeaseOperation, access: Access = OPEN) -> tuple[Blob, int]:
        """Carry out a lease operation: the record, and a break's remaining seconds. The ETag stays."""
        self._store.folder(key.container)
        before = self._store.blobs.get(key)
        check_write(access.conditions, before.version if before else None)
        if before is None:
            raise BlobError("BlobNotFound")
        lease, remaining_s = leases.carry_out(before.lease, self._store.now_s, operation)
        return self._save(key, msgspec.structs.replace(before, lease=lease)), remaining_s

    def lease_now(self, blob: Blob) -> tuple[Lease, leases.LeaseState]:
        """The lease and its state at this moment."""
        return blob.lease, blob.lease.state(self._store.now_s)

    def list(
        self,
        container: str,
        *,
        prefix: str = "",
        delimiter: str = "",
        start: str = "",
        limit: int = 5000,
        uncommitted: bool = False,
        access: Access = OPEN,
    ) -> Page:
        """Names in order from `start`; with `uncommitted` also those that have staged blocks only."""
        folder = self._store.folder(container)
        leases.check_access(folder.record.lease, self._store.now_s, access.lease_id, write=False, kind="Container")
        names = folder.names
        if uncommitted:
            names = sorted(key.name for key in self._store.blob_rows_of(container))
        return list_names(names, prefix=prefix, delimiter=delimiter, start=start, limit=limit)

    def find(self, key: BlobKey) -> Blob | None:
        """The record without any check, for listings."""
        return self._store.blobs.get(key)

    def check_write(self, key: BlobKey, access: Access, *, creates: bool = False) -> Blob | None:
        """Refuse a write that lease or conditions forbid; returns what is there, None where nothing is."""
        self._store.folder(key.container)
        check_blob_name(key.name)
        before = self._store.blobs.get(key)
        lease = before.lease if before else NO_LEASE
        leases.check_access(lease, self._store.now_s, access.lease_id, write=True)
        if creates and before and access.conditions.if_none_match == ("*",):
            raise BlobError("BlobAlreadyExists")
        check_write(access.conditions, before.version if before else None, creates=creates)
        return before

    def _update(
        self,
        key: BlobKey,
        access: Access,
        *,
        metadata: dict[str, str] | None = None,
        headers: ContentHeaders | None = None,
    ) -> Blob:
        before = self.check_write(key, access)
        if before is None:
            raise BlobError("BlobNotFound")
        now_s = self._store.now_s
        changed = msgspec.structs.replace(
            before,
            ticks=self._store.new_ticks(),
            modified_s=int(now_s),
            metadata=before.metadata if metadata is None else metadata,
            headers=before.headers if headers is None else headers,
            lease=leases.after_write(before.lease, now_s),
        )
        return self._save(key, changed)

    def _save(self, key: BlobKey, blob: Blob) -> Blob:
        transaction = self._store.transaction()
        transaction.set_blob(key, blob)
        transaction.commit()
        return blob
