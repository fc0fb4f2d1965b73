"""An answer before it meets a socket, and the headers and bodies that answers share."""

import base64
import datetime as dt
from collections.abc import Iterable

import msgspec

from emulator.blob.errors import BlobError
from emulator.blob.lease import INFINITE_S, Lease, LeaseState
from emulator.blob.records import Blob, Container, http_date
from emulator.blob.xml import XML_TYPE, element

STATUS_NOT_MODIFIED = 304


class Reply(msgspec.Struct, kw_only=True):
    """Status, headers and content. For HEAD the content's length is told in `headers` and `content` stays empty."""

    status: int = 200
    headers: dict[str, str] = {}
    content: list[bytes] = []


def version_headers(record: Blob | Container) -> dict[str, str]:
    """What every answer about a container or blob says."""
    return {"ETag": record.version.etag, "Last-Modified": http_date(record.modified_s)}


def lease_headers(lease: Lease, state: LeaseState) -> dict[str, str]:
    """State, status and, while it is leased, the kind of duration."""
    headers = {
        "x-ms-lease-state": state,
        "x-ms-lease-status": "locked" if state in ("leased", "breaking") else "unlocked",
    }
    if state == "leased":
        headers["x-ms-lease-duration"] = "infinite" if lease.duration_s == INFINITE_S else "fixed"
    return headers


def metadata_headers(metadata: dict[str, str]) -> dict[str, str]:
    """One header for each entry."""
    return {f"x-ms-meta-{name}": value for name, value in metadata.items()}


def blob_headers(blob: Blob, state: LeaseState) -> dict[str, str]:
    """Everything that Get Blob and Get Blob Properties tell, but for length, range and MD5 of the content."""
    headers = blob.headers
    optional = {
        "Content-Encoding": headers.encoding,
        "Content-Language": headers.language,
        "Content-Disposition": headers.disposition,
        "Cache-Control": headers.cache_control,
    }
    return {
        **version_headers(blob),
        **{name: value for name, value in optional.items() if value},
        **({"x-ms-access-tier": blob.tier} if blob.tier else _INFERRED_TIER),
        **lease_headers(blob.lease, state),
        **metadata_headers(blob.metadata),
        "Content-Type": headers.content_type,
        "Accept-Ranges": "bytes",
        "x-ms-blob-type": "BlockBlob",
        "x-ms-creation-time": http_date(blob.created_s),
        "x-ms-server-encrypted": "true",
    }


_INFERRED_TIER = {"x-ms-access-tier": "Hot", "x-ms-access-tier-inferred": "true"}


def md5_text(md5: bytes) -> str:
    """An MD5 as headers and listings show it."""
    return base64.b64encode(md5).decode()


def xml_reply(parts: Iterable[str], headers: dict[str, str] | None = None) -> Reply:
    """200 with an XML document."""
    content = '<?xml version="1.0" encoding="utf-8"?>' + "".join(parts)
    return Reply(headers={**(headers or {}), "Content-Type": XML_TYPE}, content=[content.encode()])


def error_reply(error: BlobError, *, method: str, request_id: str, now_s: float) -> Reply:
    """The XML body and x-ms-error-code of a refusal; no body for HEAD and 304."""
    headers = {**error.headers, "x-ms-error-code": error.code}
    if method == "HEAD" or error.status == STATUS_NOT_MODIFIED:
        return Reply(status=error.status, headers=headers)
    at = dt.datetime.fromtimestamp(now_s, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    message = f"{error.message}\nRequestId:{request_id}\nTime:{at}"
    fields = {"Code": error.code, "Message": message, **error.details}
    reply = xml_reply(["<Error>", *(element(name, text) for name, text in fields.items()), "</Error>"], headers)
    reply.status = error.status
    return reply
