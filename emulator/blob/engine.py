"""What Azure Blob Storage does, without sockets: one object that a front or a test asks."""

from emulator.blob.blobs import Blobs
from emulator.blob.blocks import Blocks
from emulator.blob.containers import Containers
from emulator.blob.store import CAPACITY_BYTES, Store, Upload
from emulator.clock import Clock
from emulator.journal import Journal


class BlobEngine:
    """Containers, blobs, blocks and leases of one account.

    Guarantee: what a method acknowledged is in the journal, and a new engine on the same journal answers alike,
    leases included; what a method refused left no trace.
    """

    def __init__(self, *, clock: Clock, journal: Journal, capacity_bytes: int = CAPACITY_BYTES) -> None:
        self._store = Store(clock=clock, journal=journal, capacity_bytes=capacity_bytes)
        self.containers = Containers(self._store)
        self.blobs = Blobs(self._store)
        self.blocks = Blocks(self._store, self.blobs)

    @property
    def now_s(self) -> float:
        """The time that the engine goes by."""
        return self._store.now_s

    @property
    def content_bytes(self) -> int:
        """How much content is held."""
        return self._store.content_bytes

    def add_piece(self, upload: Upload, content: bytes) -> None:
        """Keep a stretch of content for the operation that will refer to it; it takes part in no answer yet."""
        self._store.add_piece(upload, content)

    def discard(self, upload: Upload) -> None:
        """Drop what no operation came to refer to. Idempotent."""
        self._store.discard(upload)
