"""Events that no message holds: they go into a blob, and the command carries a claim to it."""

import hashlib
import uuid
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from azure.core.exceptions import AzureError, ResourceExistsError

from brook_client.errors import ClaimUploadError
from brook_client.messages import check_event
from schemas.claim_content import FRAME_LENGTH_BYTES, decoder, encoded
from schemas.claims import Claim, Encoding
from schemas.commands import AppendCommand, ClaimedCommand, NewEvent
from schemas.digests import PayloadDigest

if TYPE_CHECKING:  # importing it takes a third of a second, and few programs send claims
    from azure.storage.blob.aio import ContainerClient

THRESHOLD_BYTES_DEFAULT: Final = 200_000
"""Below the 256 KB that a message of Service Bus's standard tier holds, with its properties."""

_PIECE_BYTES: Final = 256 * 1024
_ANSWER_TIMEOUT_S: Final = 60
"""From the begin of a request, which sends a block of 4 MB: whatever the client that it goes by waits for otherwise."""


class ClaimUploads:
    """Puts events into `container`, which is the workers' `claim_container` and stays the caller's to close.

    Give one to a BrookClient, and commands over `threshold_bytes` travel by claim; or use it alone. A blob is made for
    each command, under a name of its own, and is the workers' to delete. With `expires_after_s`, workers reject a
    command that they come to later than that.
    """

    def __init__(
        self,
        container: "ContainerClient",
        *,
        threshold_bytes: int = THRESHOLD_BYTES_DEFAULT,
        encoding: Encoding = Encoding.JSON_LINES,
        expires_after_s: float | None = None,
    ) -> None:
        self._container = container
        self._encoding = encoding
        self._expires_after_s = expires_after_s
        self.threshold_bytes = threshold_bytes

    async def upload(self, command: AppendCommand) -> ClaimedCommand:
        """Upload the events of `command`: the same command, under the same identity, that can be sent in their place.

        Guarantee: when it returns, the blob is there whole. Raises ClaimUploadError; then nothing was sent, and trying
        again is safe.
        """
        digest = PayloadDigest(command.expected, len(command.events))
        content = _Content(command.events, self._encoding, digest)
        claim = await self._uploaded(content, {"commandid": quote(command.command_id, errors="surrogatepass")})
        return ClaimedCommand(
            command_id=command.command_id,
            brook=command.brook,
            expected=command.expected,
            claim=claim,
            correlation_id=command.correlation_id,
            causation_id=command.causation_id,
        )

    async def upload_events(self, events: Iterable[NewEvent]) -> Claim:
        """Upload events as they come, of which only a few megabytes are held at once; for a command of your own making.

        Raises as `upload` does. An event that cannot be encoded raises what msgspec does, a number in metadata that is
        not finite ValueError, and data that is not bytes TypeError.
        """
        return await self._uploaded(_Content(events, self._encoding, None), {})

    async def _uploaded(self, content: "_Content", metadata: dict[str, str]) -> Claim:
        name = uuid.uuid4().hex
        try:
            await self._container.upload_blob(
                name, content.pieces(), overwrite=False, metadata=metadata, read_timeout=_ANSWER_TIMEOUT_S
            )
        except ResourceExistsError:
            # Nobody else has this name: an answer was lost, and the library asked again.
            pass
        except (AzureError, OSError, TimeoutError) as error:
            raise ClaimUploadError(
                f"the events were not uploaded to {self._container.container_name!r} and nothing was sent; try again:"
                f" {type(error).__name__}"
            ) from error
        expires_at = None
        if self._expires_after_s is not None:
            at = datetime.now(UTC) + timedelta(seconds=self._expires_after_s)
            expires_at = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return content.claim(name, expires_at)


class _Content:
    """What goes into one blob, and what is learnt of it on the way."""

    def __init__(self, events: Iterable[NewEvent], encoding: Encoding, digest: PayloadDigest | None) -> None:
        self._events = events
        self._encoding = encoding
        self._decode = decoder(encoding)
        self._length_bytes = FRAME_LENGTH_BYTES if encoding is Encoding.MSGPACK_FRAMES else 0
        self._payload_digest = digest
        self._sha256 = hashlib.sha256()
        self._size_bytes = 0
        self._count = 0

    async def pieces(self) -> AsyncIterator[bytes]:
        """The content, to be gone through once."""
        piece = bytearray()
        for frame in encoded(self._counted(), self._encoding):
            if self._payload_digest is not None:
                # Of what stands in the blob: a date in the metadata, say, is a text there, as it is within a command.
                self._payload_digest.add(self._decode(frame[self._length_bytes :]))
            piece += frame
            if len(piece) >= _PIECE_BYTES:
                yield self._noted(piece)
                piece.clear()
        if piece:
            yield self._noted(piece)

    def claim(self, name: str, expires_at: str | None) -> Claim:
        """The claim to what went into the blob `name`."""
        return Claim(
            blob=name,
            size_bytes=self._size_bytes,
            sha256=self._sha256.hexdigest(),
            event_count=self._count,
            encoding=self._encoding,
            expires_at=expires_at,
            payload_digest=self._payload_digest.text() if self._payload_digest is not None else None,
        )

    def _counted(self) -> Iterable[NewEvent]:
        for event in self._events:
            check_event(self._count, event)
            self._count += 1
            yield event

    def _noted(self, piece: bytearray) -> bytes:
        self._size_bytes += len(piece)
        self._sha256.update(piece)
        return bytes(piece)
