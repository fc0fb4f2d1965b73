"""State of Blob Storage: in memory for answers, in the journal for the next process. Journal first, always.

Rows: `containers` by name; `blobs` by container/blob; `staged` by container/blob NUL block id; `chunks` by number.
A chunk is written before the row that refers to it, so a large upload never is one long transaction; chunks that
nothing refers to (their upload never finished) are dropped when the journal is loaded.
"""

import bisect
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec
import structlog

from emulator.blob.errors import BlobError
from emulator.blob.records import Blob, Block, Container, Piece, ticks_at
from emulator.clock import Clock
from emulator.journal import Change, Journal, JournalError

log = structlog.get_logger()

CAPACITY_BYTES = 4 * 1024**3
PIECE_BYTES_MAX = 4 * 1024**2


class BlobKey(NamedTuple):
    """Where a blob is."""

    container: str
    name: str

    @property
    def row(self) -> str:
        """The journal's key. A container's name holds no slash, so this is unambiguous."""
        return f"{self.container}/{self.name}"

    @classmethod
    def of_row(cls, row: str) -> "BlobKey":
        """The key back from the journal's."""
        container, _, name = row.partition("/")
        return cls(container, name)


class Upload:
    """Content on its way in: chunks that nothing refers to yet. Ends in a record, or in `Store.discard`."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.size_bytes = 0


class Folder:
    """A container with the names of its blobs in order."""

    def __init__(self, record: Container) -> None:
        self.record = record
        self.names: list[str] = []


class Store:
    """Reads from memory; `Transaction` writes. Bounded by `capacity_bytes` of content."""

    def __init__(self, *, clock: Clock, journal: Journal, capacity_bytes: int = CAPACITY_BYTES) -> None:
        self._clock = clock
        self._journal = journal
        self._capacity_bytes = capacity_bytes
        self.folders: dict[str, Folder] = {}
        self.blobs: dict[BlobKey, Blob] = {}
        self.staged: dict[BlobKey, dict[str, Block]] = {}
        self._chunks: dict[int, bytes] = {}
        self._references: dict[int, int] = {}
        self._superfluous: set[int] = set()
        self._content_bytes = 0
        self._next_chunk = 0
        self._last_ticks = 0
        self._load()

    @property
    def content_bytes(self) -> int:
        """How much content is held, uploads under way included."""
        return self._content_bytes

    @property
    def now_s(self) -> float:
        """The clock's time."""
        return self._clock.now_s()

    def folder(self, name: str) -> Folder:
        """The container, or 404."""
        folder = self.folders.get(name)
        if folder is None:
            raise BlobError("ContainerNotFound")
        return folder

    def new_ticks(self) -> int:
        """A number for an ETag that no record of this process or the loaded journal has."""
        self._last_ticks = max(self._last_ticks + 1, ticks_at(self.now_s))
        return self._last_ticks

    def add_piece(self, upload: Upload, content: bytes) -> None:
        """Keep a stretch of an upload; it counts from now on, and survives only if a record refers to it."""
        if self._content_bytes + len(content) > self._capacity_bytes:
            raise BlobError("EmulatorCapacityExceeded")
        chunk_id = self._next_chunk
        self._journal.commit([Change("chunks", _chunk_key(chunk_id), content)])
        self._next_chunk += 1
        self._chunks[chunk_id] = content
        self._content_bytes += len(content)
        upload.pieces.append(Piece(chunk_id, len(content)))
        upload.size_bytes += len(content)

    def discard(self, upload: Upload) -> None:
        """Drop an upload that did not become part of a record. Idempotent, and harmless after it has."""
        orphans = [piece for piece in upload.pieces if piece.chunk_id not in self._references]
        self._drop([piece.chunk_id for piece in orphans if piece.chunk_id in self._chunks])

    def content(self, blob: Blob, first: int, last: int) -> list[bytes]:
        """The bytes from position `first` to `last`, both included, in stretches of at most a piece.

        The stretches stay valid when the blob is overwritten or deleted meanwhile.
        """
        found: list[bytes] = []
        at = 0
        for block in blob.blocks:
            if at > last:
                break
            if at + block.size_bytes <= first:
                at += block.size_bytes
                continue
            for piece in block.pieces:
                begin, end = max(first - at, 0), min(last + 1 - at, piece.size_bytes)
                if begin < end:
                    chunk = self._chunks[piece.chunk_id]
                    found.append(chunk if end - begin == piece.size_bytes else chunk[begin:end])
                at += piece.size_bytes
        return found

    def blob_rows_of(self, container: str) -> Iterator[BlobKey]:
        """Every key in a container that has a blob or staged blocks."""
        folder = self.folder(container)
        yield from (BlobKey(container, name) for name in folder.names)
        yield from (key for key in self.staged if key.container == container and key not in self.blobs)

    def transaction(self) -> "Transaction":
        """Begin to collect changes."""
        return Transaction(self)

    def apply(self, transaction: "Transaction") -> None:
        """Journal the changes as one, then make them visible."""
        self._journal.commit(transaction.changes)
        for name, container in transaction.containers.items():
            if container is None:
                del self.folders[name]
            elif name in self.folders:
                self.folders[name].record = container
            else:
                self.folders[name] = Folder(container)
        dropped: list[int] = []
        for key, blob in transaction.blobs.items():
            self._replace_blob(key, blob, dropped)
        for key, block in transaction.staged:
            if block is None:
                self._refer(self.staged.pop(key, {}).values(), -1, dropped)
            else:
                blocks = self.staged.setdefault(key, {})
                self._refer([block], +1, dropped)
                self._refer([blocks[block.block_id]] if block.block_id in blocks else [], -1, dropped)
                blocks[block.block_id] = block
        # Rows that nothing refers to any more. A crash before this leaves garbage that loading drops.
        self._drop([chunk_id for chunk_id in dropped if chunk_id not in self._references])

    def _replace_blob(self, key: BlobKey, blob: Blob | None, dropped: list[int]) -> None:
        before = self.blobs.pop(key, None)
        folder = self.folders.get(key.container)
        if blob is not None:
            self.blobs[key] = blob
            if before is None and folder is not None:
                bisect.insort(folder.names, key.name)
            self._refer(blob.blocks, +1, dropped)
        elif before is not None and folder is not None:
            del folder.names[bisect.bisect_left(folder.names, key.name)]
        if before is not None:
            self._refer(before.blocks, -1, dropped)

    def _refer(self, blocks: Iterable[Block], step: int, dropped: list[int]) -> None:
        for block in blocks:
            for piece in block.pieces:
                count = self._references.get(piece.chunk_id, 0) + step
                if count:
                    self._references[piece.chunk_id] = count
                else:
                    self._references.pop(piece.chunk_id, None)
                    dropped.append(piece.chunk_id)

    def _drop(self, chunk_ids: Iterable[int]) -> None:
        """Forget chunks that nothing refers to. Where the journal cannot, they stay until the next ones go.

        What made them superfluous has taken effect already, so this must not fail.
        """
        self._superfluous.update(chunk_ids)
        if not self._superfluous:
            return
        rows = [Change("chunks", _chunk_key(chunk_id), None) for chunk_id in sorted(self._superfluous)]
        try:
            self._journal.commit(rows)
        except JournalError as error:
            log.warning("blob.chunks-kept", chunks=len(self._superfluous), reason=str(error))
            return
        for chunk_id in self._superfluous:
            self._content_bytes -= len(self._chunks.pop(chunk_id))
        self._superfluous.clear()

    def _load(self) -> None:
        for name, value in self._journal.load("containers"):
            container = msgspec.msgpack.decode(value, type=Container)
            self.folders[name] = Folder(container)
            self._last_ticks = max(self._last_ticks, container.ticks)
        for row, value in self._journal.load("blobs"):
            key, blob = BlobKey.of_row(row), msgspec.msgpack.decode(value, type=Blob)
            self._last_ticks = max(self._last_ticks, blob.ticks)
            self._replace_blob(key, blob, [])
        for row, value in self._journal.load("staged"):
            block = msgspec.msgpack.decode(value, type=Block)
            key = BlobKey.of_row(row.rpartition("\0")[0])
            self.staged.setdefault(key, {})[block.block_id] = block
            self._refer([block], +1, [])
        orphans: list[int] = []
        for row, value in self._journal.load("chunks"):
            chunk_id = int(row)
            self._next_chunk = max(self._next_chunk, chunk_id + 1)
            self._chunks[chunk_id] = value
            self._content_bytes += len(value)
            if chunk_id not in self._references:
                orphans.append(chunk_id)
        self._drop(orphans)


class Transaction:
    """Changes that become durable and visible together."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.changes: list[Change] = []
        self.containers: dict[str, Container | None] = {}
        self.blobs: dict[BlobKey, Blob | None] = {}
        self.staged: list[tuple[BlobKey, Block | None]] = []
        """A block to add, or None where all staged blocks of the blob go."""

    def set_container(self, name: str, container: Container) -> None:
        """Create or replace a container's record."""
        self.containers[name] = container
        self.changes.append(Change("containers", name, msgspec.msgpack.encode(container)))

    def delete_container(self, name: str) -> None:
        """Delete a container with everything in it."""
        for key in list(self._store.blob_rows_of(name)):
            self.delete_blob(key)
        self.containers[name] = None
        self.changes.append(Change("containers", name, None))

    def set_blob(self, key: BlobKey, blob: Blob) -> None:
        """Create or replace a blob."""
        self.blobs[key] = blob
        self.changes.append(Change("blobs", key.row, msgspec.msgpack.encode(blob)))

    def delete_blob(self, key: BlobKey) -> None:
        """Delete a blob and its staged blocks."""
        if key in self._store.blobs:
            self.blobs[key] = None
            self.changes.append(Change("blobs", key.row, None))
        self.clear_staged(key)

    def stage(self, key: BlobKey, block: Block) -> None:
        """Add a block, in the place of one with the same id."""
        self.staged.append((key, block))
        self.changes.append(Change("staged", f"{key.row}\0{block.block_id}", msgspec.msgpack.encode(block)))

    def clear_staged(self, key: BlobKey) -> None:
        """Drop the staged blocks of a blob."""
        staged = self._store.staged.get(key)
        if staged:
            self.staged.append((key, None))
            self.changes.extend(Change("staged", f"{key.row}\0{block_id}", None) for block_id in staged)

    def commit(self) -> None:
        """Make all of it durable, then visible."""
        self._store.apply(self)


def _chunk_key(chunk_id: int) -> str:
    return f"{chunk_id:016d}"
