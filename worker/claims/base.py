"""What the worker asks of the place where senders put events, whichever it is."""

from typing import Final, Protocol

from worker.storage.base import StoreUnavailableError

PIECE_BYTES_MAX: Final = 4 * 1024 * 1024
"""No more of a blob is held in memory at once."""


class ClaimsUnavailableError(StoreUnavailableError):
    """The blobs of claims cannot be read at present: no command is rejected for that."""


class ClaimsMisconfiguredError(ClaimsUnavailableError):
    """They cannot be read until an operator acts: wrong credentials, missing container, no room for a file."""


class ClaimGoneError(Exception):
    """The blob was deleted or replaced after it was found."""


class ClaimContent(Protocol):
    """One blob as it was found."""

    @property
    def etag(self) -> str:
        """Names this state of the blob."""
        ...

    @property
    def size_bytes(self) -> int:
        """How long it is."""
        ...

    async def read(self, start: int) -> bytes:
        """What stands from byte `start` on, up to `PIECE_BYTES_MAX`, in this state of the blob; empty behind its end.

        Raises ClaimGoneError or ClaimsUnavailableError.
        """
        ...


class ClaimStore(Protocol):
    """The one container that claims refer to. A name is one that `schemas.claims.is_blob_name` lets pass."""

    async def find(self, name: str) -> ClaimContent | None:
        """The blob of that name; None when there is none.

        None is an answer of the service, never a guess. Raises ClaimsUnavailableError.
        """
        ...

    async def delete(self, name: str, etag: str) -> bool:
        """Delete the blob if it still is in that state; False when it was not there, or was replaced.

        Raises ClaimsUnavailableError.
        """
        ...
