"""What Blob Storage keeps: containers, blobs, blocks. Immutable values, encoded with msgspec for the journal."""

import datetime as dt
import email.utils
import re

import msgspec

from emulator.blob.conditions import Version
from emulator.blob.errors import BlobError
from emulator.blob.lease import NO_LEASE, Lease

NAME_CHARS_MAX = 1024
METADATA_BYTES_MAX = 8 * 1024
TIERS = ("Hot", "Cool", "Cold")
_EPOCH_TICKS = 621_355_968_000_000_000
_TICKS_PER_S = 10_000_000
_CONTAINER_NAME = re.compile(r"[a-z0-9](?:-?[a-z0-9])*")
_CONTAINER_CHARS = (3, 63)
_METADATA_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SYSTEM_CONTAINERS = ("$root", "$web", "$logs")


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """A stretch of content under an id of its own, so that committing a block list moves no bytes."""

    chunk_id: int
    size_bytes: int


class Block(msgspec.Struct, frozen=True, array_like=True):
    """A staged or committed block. Put Blob makes one without an id, which no block list can name."""

    block_id: str
    size_bytes: int
    pieces: tuple[Piece, ...]


class ContentHeaders(msgspec.Struct, frozen=True, kw_only=True):
    """The headers that a blob is served with."""

    content_type: str = "application/octet-stream"
    encoding: str = ""
    language: str = ""
    disposition: str = ""
    cache_control: str = ""
    md5: bytes = b""


class Container(msgspec.Struct, frozen=True, kw_only=True):
    """A container as stored."""

    ticks: int
    """What the ETag shows; grows with every change of the record but its lease."""
    modified_s: int
    metadata: dict[str, str] = {}
    lease: Lease = NO_LEASE

    @property
    def version(self) -> Version:
        """What conditions look at."""
        return Version(etag_of(self.ticks), self.modified_s)


class Blob(msgspec.Struct, frozen=True, kw_only=True):
    """A committed block blob as stored."""

    ticks: int
    created_s: int
    modified_s: int
    size_bytes: int
    blocks: tuple[Block, ...]
    headers: ContentHeaders
    metadata: dict[str, str]
    tier: str = ""
    """The access tier that was asked for; empty: the account's."""
    lease: Lease = NO_LEASE

    @property
    def version(self) -> Version:
        """What conditions look at."""
        return Version(etag_of(self.ticks), self.modified_s)


def etag_of(ticks: int) -> str:
    """The ETag, quoted as in a header."""
    return f'"0x{ticks:X}"'


def ticks_at(now_s: float) -> int:
    """100 ns since the year 1, which is what Azure's ETags count."""
    return _EPOCH_TICKS + int(now_s * _TICKS_PER_S)


def http_date(at_s: int) -> str:
    """RFC 1123, as in Last-Modified."""
    return dt.datetime.fromtimestamp(at_s, dt.UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")


def parse_http_date(text: str) -> int:
    """Seconds since the epoch of an RFC 1123 date; ValueError where it is none, or of no year that there is."""
    try:
        at = email.utils.parsedate_to_datetime(text)
        return int(at.replace(tzinfo=at.tzinfo or dt.UTC).timestamp())
    except (OverflowError, TypeError) as error:
        raise ValueError(f"{text!r} is no date") from error


def check_container_name(name: str) -> None:
    """3 to 63 lower-case letters, digits and single hyphens, or one of the system's names."""
    if name in SYSTEM_CONTAINERS:
        return
    low, high = _CONTAINER_CHARS
    if not low <= len(name) <= high:
        raise _out_of_range(low, high)
    if not _CONTAINER_NAME.fullmatch(name):
        raise BlobError("InvalidResourceName")


def check_blob_name(name: str) -> None:
    """1 to 1,024 characters, no NUL."""
    if not 1 <= len(name) <= NAME_CHARS_MAX:
        raise _out_of_range(1, NAME_CHARS_MAX)
    if "\0" in name:
        raise BlobError("InvalidUri")


def check_metadata(metadata: dict[str, str]) -> None:
    """C# identifiers as names, ASCII values, 8 KiB in all."""
    for name, value in metadata.items():
        if not name:
            raise BlobError("EmptyMetadataKey")
        if not _METADATA_NAME.fullmatch(name) or not value.isascii() or not value.isprintable():
            raise BlobError("InvalidMetadata")
    if sum(len(name) + len(value) for name, value in metadata.items()) > METADATA_BYTES_MAX:
        raise BlobError("MetadataTooLarge")


def _out_of_range(low: int, high: int) -> BlobError:
    return BlobError(
        "OutOfRangeInput",
        message=f"The specified resource name length is not within the permissible limits, {low} to {high}.",
    )
