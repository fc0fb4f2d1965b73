"""From a command with a claim to one that can be planned: a bounded number at a time, each on a file of its own."""

import hashlib
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from typing import IO, Final

import anyio
import anyio.to_thread
import msgspec
import structlog

from schemas.claims import Claim
from schemas.commands import ClaimedCommand
from schemas.guards import Guards
from schemas.replies import Rejected, RejectionCode
from worker.claims.base import ClaimContent, ClaimGoneError, ClaimStore, ClaimsUnavailableError
from worker.claims.content import prepare_claimed, unusable_file
from worker.claims.options import ClaimOptions
from worker.protocol.prepare import PreparedCommand, prepare_withheld
from worker.telemetry.stages import stages

log = structlog.get_logger()

_IN_MEMORY_BYTES_MAX: Final = 1024 * 1024
"""Content up to this size makes no file on disk."""

_READ_TIME_MIN_S: Final = 30.0
_READ_BYTES_PER_S_MIN: Final = 256 * 1024
_CLEAN_UP_TIME_MAX_S: Final = 5.0


def _now() -> datetime:
    return datetime.now(UTC)


class ReadBlob(msgspec.Struct, frozen=True):
    """A blob that was read under the digest that its command told, and the state that it was in."""

    name: str
    etag: str


class Resolved(msgspec.Struct, frozen=True):
    """What a claimed command turned out to be. Without `blob`, there was none that could be used."""

    command: PreparedCommand | Rejected
    blob: ReadBlob | None = None


class Claims:
    """Reads what claims refer to. Without a `store` no claim is taken.

    `now` tells the time, for claims that last until some time.
    """

    def __init__(
        self,
        store: ClaimStore | None,
        guards: Guards,
        options: ClaimOptions | None = None,
        *,
        now: Callable[[], datetime] = _now,
    ) -> None:
        self._store = store
        self._guards = guards
        self._options = options or ClaimOptions()
        self._now = now
        self._places = anyio.CapacityLimiter(self._options.claims_concurrency_max)

    @asynccontextmanager
    async def resolved(self, command: ClaimedCommand, default_time: str) -> AsyncIterator[Resolved]:
        """The command with its events, for as long as the context lasts; or why it has none.

        A rejection rests on the command and the limits alone. What rests on the blob's being there is a command whose
        events are withheld, for the planner to refuse. Raises ClaimsUnavailableError: then nothing is known.
        """
        reason = self._refused_unseen(command.claim)
        if reason is not None or self._store is None:
            reason = reason or RejectionCode.CLAIMS_NOT_SUPPORTED
            yield _withheld(command, reason, default_time)
            return
        # Each waits with nothing in hand that another of them needs: the first ones always get on.
        with stages.waiting():
            await self._places.acquire()
        try:
            with _temporary_file() as file:
                found = await self._read(self._store, command.claim, file)
                if isinstance(found, RejectionCode):
                    yield _withheld(command, found, default_time)
                else:
                    yield Resolved(await prepare_claimed(command, file, default_time, self._guards), found)
        finally:
            self._places.release()

    async def clean_up(self, blobs: Sequence[ReadBlob]) -> None:
        """Delete what is done with, if that is the policy; what cannot be is left to age. Bounded; never raises."""
        if self._store is None or not self._options.deletes or not blobs:
            return
        with anyio.move_on_after(_CLEAN_UP_TIME_MAX_S):
            for blob in blobs:
                try:
                    deleted = await self._store.delete(blob.name, blob.etag)
                except ClaimsUnavailableError as error:
                    log.warning("claim.not-deleted", blob=blob.name, reason=str(error))
                else:
                    log.debug("claim.deleted" if deleted else "claim.not-there", blob=blob.name)
            return
        log.warning("claim.not-deleted", blobs=len(blobs), reason=f"not done within {_CLEAN_UP_TIME_MAX_S:g} s")

    def _refused_unseen(self, claim: Claim) -> RejectionCode | None:
        """Why the blob need not be asked for."""
        if self._store is None:
            return RejectionCode.CLAIMS_NOT_SUPPORTED
        if claim.event_count > self._guards.events_max:
            return RejectionCode.TOO_MANY_EVENTS
        if claim.size_bytes > self._options.claim_bytes_max:
            return RejectionCode.CLAIM_TOO_LARGE
        if claim.expires_at is not None and _time(claim.expires_at) <= self._now():
            return RejectionCode.CLAIM_EXPIRED
        return None

    async def _read(self, store: ClaimStore, claim: Claim, file: IO[bytes]) -> ReadBlob | RejectionCode:
        """Bring the blob's content into `file`, if it is what the claim tells."""
        time_max_s = _READ_TIME_MIN_S + claim.size_bytes / _READ_BYTES_PER_S_MIN
        with anyio.move_on_after(time_max_s):
            content = await store.find(claim.blob)
            if content is None:
                return RejectionCode.CLAIM_MISSING
            try:
                agrees = content.size_bytes == claim.size_bytes and await _copied(content, claim, file)
            except ClaimGoneError:
                return RejectionCode.CLAIM_MISSING
            return ReadBlob(claim.blob, content.etag) if agrees else RejectionCode.CLAIM_MISMATCH
        raise ClaimsUnavailableError(f"claims: {claim.size_bytes:,} bytes were not read within {time_max_s:.0f} s")


async def _copied(content: ClaimContent, claim: Claim, file: IO[bytes]) -> bool:
    """Copy the content; False when it is not of the size and the digest that the claim tells."""
    digest = hashlib.sha256()
    size_bytes = 0

    def keep(piece: bytes) -> None:
        digest.update(piece)
        file.write(piece)

    while size_bytes < claim.size_bytes and (piece := await content.read(size_bytes)):
        size_bytes += len(piece)
        try:
            await anyio.to_thread.run_sync(keep, piece)
        except OSError as error:
            raise unusable_file(error) from error
    return size_bytes == claim.size_bytes and digest.hexdigest() == claim.sha256


@contextmanager
def _temporary_file() -> Iterator[IO[bytes]]:
    """A file without a name, of which nothing is left when the process ends, however that is."""
    file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES_MAX)  # noqa: SIM115 - closed below
    try:
        yield file
    finally:
        # Closing writes what is still in memory: on a full disk that fails, and nobody wants it any more.
        with suppress(OSError):
            file.close()


def _withheld(command: ClaimedCommand, reason: RejectionCode, default_time: str) -> Resolved:
    log.warning(
        "claim.withheld", brook=str(command.brook), command=command.command_id, blob=command.claim.blob, code=reason
    )
    return Resolved(prepare_withheld(command, reason, default_time))


def _time(text: str) -> datetime:
    """The time that a text tells which the guards have let pass."""
    return datetime.fromisoformat(text.upper())
