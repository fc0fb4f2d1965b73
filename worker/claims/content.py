"""The events of a claim in a temporary file: read once to check and measure them, and again one at a time."""

from array import array
from collections.abc import Iterator
from itertools import islice
from typing import IO, Final

import anyio.lowlevel
import msgspec

from schemas.claim_content import FRAME_LENGTH_BYTES, MetadataTooLargeError, bounded_decoder, decoder
from schemas.claims import Encoding
from schemas.commands import ClaimedCommand, NewEvent
from schemas.digests import PayloadDigest
from schemas.guards import PROBLEMS_MAX, EventChecker, Guards, metadata_too_large
from schemas.problems import Problem, shortened
from schemas.replies import Rejected, RejectionCode, rejected
from worker.claims.base import ClaimsMisconfiguredError
from worker.protocol.documents import event_sizer
from worker.protocol.prepare import PreparedCommand

FRAME_BYTES_MAX: Final = 16 * 1024 * 1024
"""One event in the blob takes no more: six times the largest that can be stored, for text may be written as escapes."""

_SLICE_BYTES: Final = 200_000
_EVENT_BYTES: Final = 2_000
"""After so much others get their turn, for a lock or a lease may have to be renewed. Each event counts for its size and
as much more."""

Frame = tuple[int, bytes]
"""Where an event starts in the file, and the event."""


class ClaimedEvents:
    """The events of a claim, each read from the file when it is asked for."""

    def __init__(self, file: IO[bytes], encoding: Encoding) -> None:
        self._file = file
        self._decode = decoder(encoding)
        self._starts = array("Q")
        self._lengths = array("I")

    def add(self, start: int, length: int) -> None:
        """Note where the next one stands."""
        self._starts.append(start)
        self._lengths.append(length)

    def __len__(self) -> int:
        """Count them."""
        return len(self._starts)

    def __getitem__(self, index: int, /) -> NewEvent:
        """Event `index`. Raises ClaimsMisconfiguredError where the file cannot be read any more."""
        try:
            self._file.seek(self._starts[index])
            return self._decode(self._file.read(self._lengths[index]))
        except OSError as error:
            raise unusable_file(error) from error


class _WrongContentError(Exception):
    """The blob has the digest that was told, and is not what a claim's blob has to be."""

    def __init__(self, code: RejectionCode, problem: Problem) -> None:
        super().__init__(str(problem))
        self.code = code
        self.problem = problem


class _Reading:
    """What is learnt of the events one after the other."""

    def __init__(self, command: ClaimedCommand, file: IO[bytes], default_time: str, guards: Guards) -> None:
        self._count_told = command.claim.event_count
        self._guards = guards
        self._decode = bounded_decoder(command.claim.encoding, guards.metadata_bytes_max)
        self._size_of = event_sizer(command, default_time)
        self._checker = EventChecker(guards)
        self._digest = PayloadDigest(command.expected, command.claim.event_count)
        self.events = ClaimedEvents(file, command.claim.encoding)
        self.sizes = array("I")
        self.problems: list[Problem] = []

    @property
    def digest(self) -> str:
        return self._digest.text()

    def take(self, index: int, start: int, frame: bytes) -> None:
        """Take the next event. Raises _WrongContentError."""
        if index == self._count_told:
            raise _wrong_count(self._count_told, "more")
        try:
            event = self._decode(frame)
        except MetadataTooLargeError:
            self.problems.append(metadata_too_large(index, self._guards))
            return
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _undecodable(index, shortened(str(error)) or "is not readable") from error
        self.problems.extend(islice(self._checker.problems(index, event), PROBLEMS_MAX - len(self.problems)))
        if not self.problems:  # what cannot be stored need not be measured, and cannot always be
            self._digest.add(event)
            self.sizes.append(self._size_of(event))
            self.events.add(start, len(frame))


async def prepare_claimed(
    command: ClaimedCommand, file: IO[bytes], default_time: str, guards: Guards
) -> PreparedCommand | Rejected:
    """Check and measure the events that `file` holds, which has the size and the digest that the claim tells.

    A function of the command and the guards: what is wrong with the content is wrong for ever. Gives way to others
    between slices. Raises ClaimsMisconfiguredError where the file cannot be read.
    """
    claim = command.claim
    reading = _Reading(command, file, default_time, guards)
    in_slice = 0
    try:
        for index, (start, frame) in enumerate(_frames(file, claim.encoding)):
            reading.take(index, start, frame)
            if len(reading.problems) == PROBLEMS_MAX:
                break
            in_slice += len(frame) + _EVENT_BYTES
            if in_slice >= _SLICE_BYTES:
                in_slice = 0
                await anyio.lowlevel.checkpoint()
    except _WrongContentError as error:
        return rejected(command.command_id, error.code, error.problem)
    except OSError as error:
        raise unusable_file(error) from error
    if reading.problems:
        return rejected(command.command_id, RejectionCode.INVALID_EVENT, *reading.problems)
    if (count := len(reading.events)) < claim.event_count:
        found = _wrong_count(claim.event_count, f"{count:,}")
        return rejected(command.command_id, found.code, found.problem)
    if claim.payload_digest not in (None, reading.digest):
        problem = Problem("claim.payloadDigest", "is not that of the events", "see schemas.digests, or leave it out")
        return rejected(command.command_id, RejectionCode.CLAIM_WRONG_CONTENT, problem)
    return PreparedCommand(
        command=command,
        digest=reading.digest,
        default_time=default_time,
        count=count,
        bytes_at_start=reading.sizes,
        events=reading.events,
    )


def unusable_file(error: OSError) -> ClaimsMisconfiguredError:
    """The temporary file cannot be made, written or read."""
    reason = error.strerror or type(error).__name__
    return ClaimsMisconfiguredError(
        f"claims: cannot keep events in a temporary file ({reason}); give the worker a TMPDIR that it may write to,"
        " with room for claims_concurrency_max times claim_bytes_max"
    )


def _frames(file: IO[bytes], encoding: Encoding) -> Iterator[Frame]:
    file.seek(0)
    return _lines(file) if encoding is Encoding.JSON_LINES else _length_prefixed(file)


def _lines(file: IO[bytes]) -> Iterator[Frame]:
    start = index = 0
    while line := file.readline(FRAME_BYTES_MAX + 1):
        if len(line) > FRAME_BYTES_MAX:
            raise _too_large(index)
        yield start, line
        start += len(line)
        index += 1


def _length_prefixed(file: IO[bytes]) -> Iterator[Frame]:
    start = index = 0
    while prefix := file.read(FRAME_LENGTH_BYTES):
        length = int.from_bytes(prefix, "big")
        if len(prefix) == FRAME_LENGTH_BYTES and length > FRAME_BYTES_MAX:
            raise _too_large(index)
        frame = file.read(length)
        if len(prefix) < FRAME_LENGTH_BYTES or len(frame) < length:
            raise _undecodable(index, "ends within its length or its event")
        yield start + FRAME_LENGTH_BYTES, frame
        start += FRAME_LENGTH_BYTES + length
        index += 1


def _undecodable(index: int, text: str) -> _WrongContentError:
    remedy = "see the NewEvent schema and the encodings of claims; unknown fields are errors"
    return _WrongContentError(RejectionCode.CLAIM_UNDECODABLE, Problem(f"events[{index}]", text, remedy))


def _too_large(index: int) -> _WrongContentError:
    text = f"takes over {FRAME_BYTES_MAX:,} bytes in the blob"
    remedy = "make the event smaller, or keep its data elsewhere and append a reference to it"
    return _WrongContentError(RejectionCode.EVENT_TOO_LARGE, Problem(f"events[{index}]", text, remedy))


def _wrong_count(told: int, found: str) -> _WrongContentError:
    problem = Problem("claim.eventCount", f"is {told:,}, but the blob holds {found}", "give the number of its events")
    return _WrongContentError(RejectionCode.CLAIM_WRONG_CONTENT, problem)
