"""The claim: what a command carries in the place of events that no message could hold."""

import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Final

import msgspec

from schemas.problems import Problem, shortened
from schemas.types import NUMBER_MAX

BLOB_NAME_LENGTH_MAX: Final = 250

BLOB_NAME: Final = re.compile(r"[A-Za-z0-9_-]+(?:[./][A-Za-z0-9_-]+)*")
SHA_256: Final = re.compile(r"[0-9a-f]{64}")
PAYLOAD_DIGEST: Final = re.compile(r"[A-Za-z0-9_-]{12}")


class Encoding(StrEnum):
    """How the events stand in the blob, one after the other.

    `JSON_LINES`: each as JSON on a line of its own. `MSGPACK_FRAMES`: each as MessagePack behind its length, four
    bytes, the highest first. An event is encoded as it would be within a command.
    """

    JSON_LINES = "json-lines"
    MSGPACK_FRAMES = "msgpack-frames"


class Claim(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True):
    """Where the events of a command are, and how whoever reads them knows that they are these.

    `blob` is a name within the one container that workers look into. `size_bytes` and `sha256` (hex, lower case) are
    those of the blob's content, `event_count` is how many events it holds. From `expires_at` on (RFC 3339) nobody has
    to look for it. `payload_digest`, made by `schemas.digests`, tells the command from another one under its id even
    when the blob is gone.
    """

    blob: str
    size_bytes: int
    sha256: str
    event_count: int
    encoding: Encoding = Encoding.JSON_LINES
    expires_at: str | None = None
    payload_digest: str | None = None


def is_blob_name(text: str) -> bool:
    """Tell whether a claim may name its blob so.

    Letters, digits, `-` and `_`, with single `.` and `/` between them: no such name leads out of a container,
    however a URL is put together.
    """
    return len(text) <= BLOB_NAME_LENGTH_MAX and BLOB_NAME.fullmatch(text) is not None


def claim_problems(claim: Claim) -> Iterator[Problem]:
    """What keeps a claim from being one, but for the time that it lasts."""
    if not is_blob_name(claim.blob):
        yield Problem(
            "claim.blob",
            f"{shortened(repr(claim.blob))} is no name that a claim may have",
            f"use up to {BLOB_NAME_LENGTH_MAX} letters, digits, - and _, with single . and / between them",
        )
    if claim.size_bytes < 1:
        yield Problem("claim.sizeBytes", "is not above 0", "give the size of the blob in bytes")
    if claim.size_bytes > NUMBER_MAX:
        yield Problem("claim.sizeBytes", "is beyond 2^53 - 1", "give the size of the blob in bytes")
    if SHA_256.fullmatch(claim.sha256) is None:
        yield Problem("claim.sha256", "is no SHA-256", "give 64 hexadecimal digits in lower case")
    if claim.event_count < 1:
        yield Problem("claim.eventCount", "is not above 0", "put at least one event into the blob")
    if claim.event_count > NUMBER_MAX:
        yield Problem("claim.eventCount", "is beyond 2^53 - 1", "give the number of events in the blob")
    if claim.payload_digest is not None and PAYLOAD_DIGEST.fullmatch(claim.payload_digest) is None:
        yield Problem("claim.payloadDigest", "is no payload digest", "give what schemas.digests makes, or leave it out")
