"""One request as the handlers see it: already read, with typed access to its headers and parameters."""

import base64
import binascii
import re
import uuid
from collections.abc import Mapping, Sequence
from urllib.parse import unquote, unquote_to_bytes

import msgspec

from emulator.blob.conditions import Conditions
from emulator.blob.containers import Access
from emulator.blob.errors import BlobError, invalid_header, invalid_query, missing_header, not_covered
from emulator.blob.lease import (
    BREAK_PERIOD_S_MAX,
    Acquire,
    Break,
    Change,
    LeaseOperation,
    Release,
    Renew,
    check_duration,
    parse_lease_id,
)
from emulator.blob.records import TIERS, ContentHeaders, parse_http_date
from emulator.blob.store import BlobKey, Upload

_METADATA_PREFIX = "x-ms-meta-"
_MD5_BYTES = 16
_INTEGER = re.compile(r"-?[0-9]{1,18}")  # int() would also take 1_000 and digits of other scripts
_RANGE = re.compile(r"bytes=([0-9]{1,18})-([0-9]{0,18})")
_VERSION = re.compile(r"20[0-9]{2}-[0-9]{2}-[0-9]{2}")
_ROOT = "$root"
# What these headers ask for would be silently ignored, so they are refused.
_NOT_COVERED = {
    "x-ms-copy-source": "copies from a URL",
    "x-ms-encryption-key": "customer-provided keys",
    "x-ms-encryption-scope": "encryption scopes",
    "x-ms-tags": "index tags",
    "x-ms-if-tags": "index tags",
    "x-ms-legal-hold": "legal holds",
    "x-ms-immutability-policy-until-date": "immutability policies",
    "x-ms-content-crc64": "CRC64 checksums",
    "x-ms-range-get-content-crc64": "CRC64 checksums",
    "x-ms-structured-body": "structured bodies",
    "x-ms-expiry-option": "blob expiry",
}


class Target(msgspec.Struct, frozen=True):
    """What a path names: the account, a container, or a blob."""

    container: str = ""
    blob: str = ""


def parse_query(raw_query: str) -> list[tuple[str, str]]:
    """Names and decoded values in order; a plus sign is a space, as the service reads it."""
    pairs = [part.partition("=") for part in raw_query.split("&") if part]
    return [(unquote(name), unquote(value.replace("+", " "))) for name, _, value in pairs]


def parse_target(account: str, raw_path: str, *, is_container: bool) -> Target:
    """Container and blob of a path /account/container/blob; a lone name is a blob of $root unless it is said."""
    try:
        path = unquote_to_bytes(raw_path).decode()
    except UnicodeDecodeError:
        raise BlobError("InvalidUri") from None
    first, _, rest = path.removeprefix("/").partition("/")
    if first != account:
        raise BlobError("ResourceNotFound", message=f"This service has the account {account} only.")
    container, _, blob = rest.partition("/")
    if container and not blob and not is_container:
        return Target(_ROOT, container)
    return Target(container, blob)


class Body(msgspec.Struct):
    """A request's content, kept as an upload (`upload`) or, where an operation reads it, as bytes (`data`)."""

    md5: bytes = b""
    upload: Upload = msgspec.field(default_factory=Upload)
    data: bytes = b""


class Call:
    """A request. Accessors raise the BlobError that Azure answers for a value that is missing or malformed."""

    def __init__(
        self,
        method: str,
        target: Target,
        query: Sequence[tuple[str, str]],
        headers: Mapping[str, str],
        *,
        metadata: Sequence[tuple[str, str]] = (),
        endpoint: str = "",
    ) -> None:
        self.method = method
        self.target = target
        self.query = {name.lower(): value for name, value in query}
        self.headers = headers
        self.endpoint = endpoint
        self._metadata = metadata
        self.body = Body()

    @property
    def key(self) -> BlobKey:
        """The blob that the path names."""
        return BlobKey(self.target.container, self.target.blob)

    def check_covered(self) -> None:
        """Refuse versions that do not exist and features that are left out."""
        version = self.headers.get("x-ms-version")
        if version is None:
            raise missing_header("x-ms-version")
        if not _VERSION.fullmatch(version):
            raise invalid_header("x-ms-version", version)
        for name, what in _NOT_COVERED.items():
            if name in self.headers:
                raise not_covered(what)
        for name in ("snapshot", "versionid"):
            if name in self.query:
                raise not_covered("snapshots and versions")

    def required(self, name: str) -> str:
        """A header that must be there."""
        value = self.headers.get(name)
        if value is None:
            raise missing_header(name)
        return value

    def integer(self, name: str) -> int | None:
        """A header with a whole number, None where it is absent."""
        text = self.headers.get(name)
        if text is None:
            return None
        if not _INTEGER.fullmatch(text):
            raise invalid_header(name, text)
        return int(text)

    def metadata(self) -> dict[str, str]:
        """The x-ms-meta- headers with their names as written. Names that differ in case only are refused."""
        found = {name[len(_METADATA_PREFIX) :]: value for name, value in self._metadata}
        if len({name.lower() for name in found}) < len(self._metadata):
            raise BlobError("InvalidMetadata", message="A metadata name is given twice.")
        return found

    def access(self) -> Access:
        """Lease id and conditions."""
        lease_id = self.headers.get("x-ms-lease-id")
        return Access(
            lease_id=parse_lease_id("x-ms-lease-id", lease_id) if lease_id else None,
            conditions=self.conditions(),
        )

    def conditions(self) -> Conditions:
        """The four conditional headers."""
        return Conditions(
            if_match=_etags(self.headers.get("if-match")),
            if_none_match=_etags(self.headers.get("if-none-match")),
            if_modified_since_s=self._time("if-modified-since"),
            if_unmodified_since_s=self._time("if-unmodified-since"),
        )

    def lease_operation(self) -> LeaseOperation:
        """What x-ms-lease-action asks for."""
        action = self.required("x-ms-lease-action").lower()
        match action:
            case "acquire":
                duration_s = self.integer("x-ms-lease-duration")
                if duration_s is None:
                    raise missing_header("x-ms-lease-duration")
                check_duration(duration_s)
                proposed = self.headers.get("x-ms-proposed-lease-id")
                lease_id = parse_lease_id("x-ms-proposed-lease-id", proposed) if proposed else str(uuid.uuid4())
                return Acquire(duration_s, lease_id)
            case "renew":
                return Renew(self._lease_id("x-ms-lease-id"))
            case "change":
                return Change(self._lease_id("x-ms-lease-id"), self._lease_id("x-ms-proposed-lease-id"))
            case "release":
                return Release(self._lease_id("x-ms-lease-id"))
            case "break":
                period_s = self.integer("x-ms-lease-break-period")
                if period_s is not None and not 0 <= period_s <= BREAK_PERIOD_S_MAX:
                    raise invalid_header("x-ms-lease-break-period", str(period_s))
                return Break(period_s)
            case _:
                raise invalid_header("x-ms-lease-action", action)

    def content_headers(self, *, content_type: str = "application/octet-stream") -> ContentHeaders:
        """The x-ms-blob-… headers; without a type of its own a blob gets `content_type`."""
        for name, value in self.headers.items():
            if name.startswith(("x-ms-blob-", "content-")) and not (value.isascii() and value.isprintable()):
                raise invalid_header(name, value)
        md5 = self.headers.get("x-ms-blob-content-md5")
        return ContentHeaders(
            content_type=self.headers.get("x-ms-blob-content-type") or content_type,
            encoding=self.headers.get("x-ms-blob-content-encoding", ""),
            language=self.headers.get("x-ms-blob-content-language", ""),
            disposition=self.headers.get("x-ms-blob-content-disposition", ""),
            cache_control=self.headers.get("x-ms-blob-cache-control", ""),
            md5=_md5(md5) if md5 else b"",
        )

    def check_md5(self, *header_names: str) -> None:
        """Compare the body with the first of the headers that is given."""
        for name in header_names:
            text = self.headers.get(name)
            if text is None:
                continue
            if _md5(text) != self.body.md5:
                computed = base64.b64encode(self.body.md5).decode()
                raise BlobError("Md5Mismatch", details={"UserSpecifiedMd5": text, "ServerCalculatedMd5": computed})
            return

    def tier(self) -> str:
        """The access tier asked for, empty where none is."""
        text = self.headers.get("x-ms-access-tier", "")
        found = next((tier for tier in TIERS if tier.lower() == text.lower()), "")
        if text.lower() == "archive":
            raise not_covered("the archive tier")
        if text and not found:
            raise invalid_header("x-ms-access-tier", text)
        return found

    def range(self) -> tuple[int, int | None] | None:
        """First and last position asked for. A range that cannot be read is ignored, as RFC 9110 says."""
        text = self.headers.get("x-ms-range") or self.headers.get("range") or ""
        matched = _RANGE.fullmatch(text.strip())
        if not matched:
            return None
        first, last = int(matched[1]), int(matched[2]) if matched[2] else None
        return None if last is not None and last < first else (first, last)

    def limit(self, highest: int) -> int:
        """The parameter maxresults; more than the service gives is cut to `highest`."""
        text = self.query.get("maxresults")
        if text is None:
            return highest
        if not _INTEGER.fullmatch(text):
            raise invalid_query("maxresults", text, "Not a number.")
        asked = int(text)
        if asked < 1:
            raise BlobError(
                "OutOfRangeQueryParameterValue",
                details={
                    "QueryParameterName": "maxresults",
                    "QueryParameterValue": text,
                    "MinimumAllowed": "1",
                    "MaximumAllowed": str(highest),
                },
            )
        return min(asked, highest)

    def _lease_id(self, name: str) -> str:
        return parse_lease_id(name, self.required(name))

    def _time(self, name: str) -> int | None:
        text = self.headers.get(name)
        if text is None:
            return None
        try:
            return parse_http_date(text)
        except ValueError:
            raise invalid_header(name, text) from None


def _etags(text: str | None) -> tuple[str, ...]:
    """ETags, quoted; the service also takes one without its quotes."""
    parts = [part.strip() for part in (text or "").split(",")]
    return tuple(part if part == "*" or part.startswith('"') else f'"{part}"' for part in parts if part)


def _md5(text: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BlobError("InvalidMd5") from None
    if len(raw) != _MD5_BYTES:
        raise BlobError("InvalidMd5")
    return raw
