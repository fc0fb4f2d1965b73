"""Requests about the account and its containers, translated to the engine and back."""

import base64
import binascii
from collections.abc import Iterator

from emulator.blob.call import Call
from emulator.blob.engine import BlobEngine
from emulator.blob.errors import BlobError, invalid_query
from emulator.blob.listing import RESULTS_MAX, Entry
from emulator.blob.records import Blob, http_date
from emulator.blob.reply import (
    Reply,
    lease_headers,
    md5_text,
    metadata_headers,
    version_headers,
    xml_reply,
)
from emulator.blob.store import BlobKey
from emulator.blob.xml import element, name_element, optional_element

_LIST_BLOBS_INCLUDES = {
    "copy",
    "deleted",
    "deletedwithversions",
    "immutabilitypolicy",
    "legalhold",
    "metadata",
    "permissions",
    "snapshots",
    "tags",
    "uncommittedblobs",
    "versions",
}
_LIST_CONTAINERS_INCLUDES = {"metadata", "deleted", "system"}
_NO_RETENTION = "<RetentionPolicy><Enabled>false</Enabled></RetentionPolicy>"
_SERVICE_PROPERTIES = (
    "<StorageServiceProperties>"
    "<Logging><Version>1.0</Version><Delete>false</Delete><Read>false</Read><Write>false</Write>"
    f"{_NO_RETENTION}</Logging>"
    f"<HourMetrics><Version>1.0</Version><Enabled>false</Enabled>{_NO_RETENTION}</HourMetrics>"
    f"<MinuteMetrics><Version>1.0</Version><Enabled>false</Enabled>{_NO_RETENTION}</MinuteMetrics>"
    "<Cors/><DeleteRetentionPolicy><Enabled>false</Enabled></DeleteRetentionPolicy>"
    "<StaticWebsite><Enabled>false</Enabled></StaticWebsite></StorageServiceProperties>"
)


def list_containers(engine: BlobEngine, call: Call) -> Reply:
    """GET /?comp=list."""
    includes = _includes(call, _LIST_CONTAINERS_INCLUDES)
    limit = call.limit(RESULTS_MAX)
    prefix, marker = call.query.get("prefix", ""), call.query.get("marker", "")
    page = engine.containers.list(prefix=prefix, start=_marker_name(marker), limit=limit)
    parts = [f'<EnumerationResults ServiceEndpoint="{call.endpoint}/">']
    parts += [optional_element("Prefix", prefix), optional_element("Marker", marker)]
    parts += [element("MaxResults", str(limit)), "<Containers>"]
    for entry in page.entries:
        container = engine.containers.get(entry.name)
        headers = {**version_headers(container), **lease_headers(*engine.containers.lease_now(container))}
        parts += [
            "<Container>",
            element("Name", entry.name),
            "<Properties>",
            element("Last-Modified", headers["Last-Modified"]),
            element("Etag", headers["ETag"]),
            *_lease_elements(headers),
            "<HasImmutabilityPolicy>false</HasImmutabilityPolicy><HasLegalHold>false</HasLegalHold>",
            "</Properties>",
            _metadata_element(container.metadata) if "metadata" in includes else "",
            "</Container>",
        ]
    parts += ["</Containers>", element("NextMarker", _marker(page.next_name)), "</EnumerationResults>"]
    return xml_reply(parts)


def get_service_properties(engine: BlobEngine, call: Call) -> Reply:
    """GET /?restype=service&comp=properties: logging, metrics and retention are off, and cannot be set."""
    del engine, call
    return xml_reply([_SERVICE_PROPERTIES])


def get_account_information(engine: BlobEngine, call: Call) -> Reply:
    """GET or HEAD ?restype=account&comp=properties."""
    del engine, call
    return Reply(headers={"x-ms-sku-name": "Standard_LRS", "x-ms-account-kind": "StorageV2"})


def create_container(engine: BlobEngine, call: Call) -> Reply:
    """PUT ?restype=container."""
    if call.headers.get("x-ms-blob-public-access"):
        raise BlobError("PublicAccessNotPermitted")
    container = engine.containers.create(call.target.container, call.metadata())
    return Reply(status=201, headers=version_headers(container))


def get_container_properties(engine: BlobEngine, call: Call) -> Reply:
    """GET or HEAD ?restype=container, with comp=metadata as well."""
    container = engine.containers.get(call.target.container, call.access())
    headers = {**version_headers(container), **metadata_headers(container.metadata)}
    if "comp" not in call.query:
        headers |= lease_headers(*engine.containers.lease_now(container))
        headers |= {"x-ms-has-immutability-policy": "false", "x-ms-has-legal-hold": "false"}
    return Reply(headers=headers)


def set_container_metadata(engine: BlobEngine, call: Call) -> Reply:
    """PUT ?restype=container&comp=metadata."""
    container = engine.containers.set_metadata(call.target.container, call.metadata(), call.access())
    return Reply(headers=version_headers(container))


def delete_container(engine: BlobEngine, call: Call) -> Reply:
    """DELETE ?restype=container."""
    engine.containers.delete(call.target.container, call.access())
    return Reply(status=202)


def lease_container(engine: BlobEngine, call: Call) -> Reply:
    """PUT ?restype=container&comp=lease."""
    operation = call.lease_operation()
    container, remaining_s = engine.containers.lease(call.target.container, operation, call.access())
    return lease_reply(call, version_headers(container), container.lease.lease_id, remaining_s)


def lease_reply(call: Call, headers: dict[str, str], lease_id: str, remaining_s: int) -> Reply:
    """What an operation on a lease answers, of a container or of a blob."""
    action = call.headers["x-ms-lease-action"].lower()
    if action == "break":
        return Reply(status=202, headers={**headers, "x-ms-lease-time": str(remaining_s)})
    if action == "release":
        return Reply(headers=headers)
    return Reply(status=201 if action == "acquire" else 200, headers={**headers, "x-ms-lease-id": lease_id})


def list_blobs(engine: BlobEngine, call: Call) -> Reply:
    """GET ?restype=container&comp=list."""
    includes = _includes(call, _LIST_BLOBS_INCLUDES)
    limit = call.limit(RESULTS_MAX)
    query, container = call.query, call.target.container
    page = engine.blobs.list(
        container,
        prefix=query.get("prefix", ""),
        delimiter=query.get("delimiter", ""),
        start=_marker_name(query.get("marker", "")),
        limit=limit,
        uncommitted="uncommittedblobs" in includes,
        access=call.access(),
    )
    parts = [f'<EnumerationResults ServiceEndpoint="{call.endpoint}/" ContainerName="{container}">']
    parts += [optional_element(name, query.get(name.lower(), "")) for name in ("Prefix", "Marker")]
    parts += [element("MaxResults", str(limit)), optional_element("Delimiter", query.get("delimiter", ""))]
    parts.append("<Blobs>")
    for entry in page.entries:
        parts += _entry_elements(engine, container, entry, with_metadata="metadata" in includes)
    parts += ["</Blobs>", element("NextMarker", _marker(page.next_name)), "</EnumerationResults>"]
    return xml_reply(parts)


def _entry_elements(engine: BlobEngine, container: str, entry: Entry, *, with_metadata: bool) -> Iterator[str]:
    if entry.is_prefix:
        yield f"<BlobPrefix>{name_element(entry.name)}</BlobPrefix>"
        return
    yield f"<Blob>{name_element(entry.name)}<Properties>"
    blob = engine.blobs.find(BlobKey(container, entry.name))
    if blob is None:  # staged blocks only
        yield "<Content-Length>0</Content-Length><BlobType>BlockBlob</BlobType></Properties></Blob>"
        return
    yield from _property_elements(blob)
    yield from _lease_elements(lease_headers(*engine.blobs.lease_now(blob)))
    yield "<ServerEncrypted>true</ServerEncrypted></Properties>"
    if with_metadata:
        yield _metadata_element(blob.metadata)
    yield "</Blob>"


def _property_elements(blob: Blob) -> Iterator[str]:
    headers = blob.headers
    yield element("Creation-Time", http_date(blob.created_s))
    yield element("Last-Modified", http_date(blob.modified_s))
    yield element("Etag", blob.version.etag.strip('"'))
    yield element("Content-Length", str(blob.size_bytes))
    yield element("Content-Type", headers.content_type)
    yield optional_element("Content-Encoding", headers.encoding)
    yield optional_element("Content-Language", headers.language)
    yield optional_element("Content-MD5", md5_text(headers.md5))
    yield optional_element("Cache-Control", headers.cache_control)
    yield optional_element("Content-Disposition", headers.disposition)
    yield "<BlobType>BlockBlob</BlobType>"
    yield element("AccessTier", blob.tier or "Hot")
    yield "" if blob.tier else "<AccessTierInferred>true</AccessTierInferred>"


def _lease_elements(headers: dict[str, str]) -> Iterator[str]:
    yield element("LeaseStatus", headers["x-ms-lease-status"])
    yield element("LeaseState", headers["x-ms-lease-state"])
    yield optional_element("LeaseDuration", headers.get("x-ms-lease-duration", ""))


def _metadata_element(metadata: dict[str, str]) -> str:
    return "<Metadata>" + "".join(element(name, value) for name, value in metadata.items()) + "</Metadata>"


def _includes(call: Call, known: set[str]) -> set[str]:
    text = call.query.get("include", "")
    asked = {part.strip().lower() for part in text.split(",") if part.strip()}
    if not asked <= known:
        raise invalid_query("include", text, f"Allowed are {', '.join(sorted(known))}.")
    return asked


def _marker(name: str) -> str:
    """Where the next page starts, as text that a URL carries without escapes; empty at the end."""
    return base64.urlsafe_b64encode(name.encode()).decode() if name else ""


def _marker_name(marker: str) -> str:
    try:
        return base64.b64decode(marker, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise invalid_query("marker", marker, "Not a marker that this service gave out.") from None
