"""The in-memory reference of the claim store: the contract with nothing around it. For tests and simulations."""

import itertools

import anyio.lowlevel
import msgspec

from worker.claims.base import PIECE_BYTES_MAX, ClaimGoneError, ClaimsUnavailableError


class _Blob(msgspec.Struct, frozen=True):
    content: bytes
    etag: str


class MemoryClaimStore:
    """Holds blobs by name. While `unavailable` is set, every request fails."""

    def __init__(self, piece_bytes_max: int = PIECE_BYTES_MAX) -> None:
        self._blobs: dict[str, _Blob] = {}
        self._etags = itertools.count(1)
        self._piece_bytes_max = piece_bytes_max
        self.unavailable = False

    def put(self, name: str, content: bytes) -> None:
        """Put a blob there, in the place of one of that name."""
        self._blobs[name] = _Blob(content, f'"{next(self._etags)}"')

    def remove(self, name: str) -> None:
        """Take a blob away; it must be there."""
        del self._blobs[name]

    def names(self) -> list[str]:
        """What there is, sorted."""
        return sorted(self._blobs)

    async def find(self, name: str) -> "MemoryClaimContent | None":
        """The blob of that name; None when there is none."""
        await self._asked()
        blob = self._blobs.get(name)
        return None if blob is None else MemoryClaimContent(self, name, blob.etag, len(blob.content))

    async def delete(self, name: str, etag: str) -> bool:
        """Delete the blob if it still is in that state."""
        await self._asked()
        blob = self._blobs.get(name)
        if blob is None or blob.etag != etag:
            return False
        self.remove(name)
        return True

    async def piece(self, name: str, etag: str, start: int) -> bytes:
        """What stands from `start` on, up to one piece, in that state of the blob."""
        await self._asked()
        blob = self._blobs.get(name)
        if blob is None or blob.etag != etag:
            raise ClaimGoneError(name)
        return blob.content[start : start + self._piece_bytes_max]

    async def _asked(self) -> None:
        await anyio.lowlevel.checkpoint()
        if self.unavailable:
            raise ClaimsUnavailableError("out of order")


class MemoryClaimContent:
    """One blob as it was found."""

    def __init__(self, store: MemoryClaimStore, name: str, etag: str, size_bytes: int) -> None:
        self._store = store
        self._name = name
        self.etag = etag
        self.size_bytes = size_bytes

    async def read(self, start: int) -> bytes:
        """What stands from byte `start` on."""
        return await self._store.piece(self._name, self.etag, start)
