"""Requests about blobs, translated to the engine and back."""

import hashlib
from collections.abc import Callable

import msgspec

from emulator.blob import container_handlers as containers
from emulator.blob.call import Call
from emulator.blob.engine import BlobEngine
from emulator.blob.errors import BlobError, invalid_header, invalid_query, not_covered
from emulator.blob.records import Block
from emulator.blob.reply import (
    Reply,
    blob_headers,
    md5_text,
    metadata_headers,
    version_headers,
    xml_reply,
)
from emulator.blob.xml import element, parse_block_list

RANGE_MD5_BYTES_MAX = 4 * 1024**2
_ENCRYPTED = {"x-ms-request-server-encrypted": "true"}
Handler = Callable[[BlobEngine, Call], Reply]


def put_blob(engine: BlobEngine, call: Call) -> Reply:
    """PUT of a whole block blob."""
    call.check_md5("x-ms-blob-content-md5", "content-md5")
    headers = call.content_headers(content_type=call.headers.get("content-type") or "application/octet-stream")
    blob = engine.blobs.put(
        call.key,
        call.body.upload,
        headers=msgspec.structs.replace(headers, md5=call.body.md5),
        metadata=call.metadata(),
        tier=call.tier(),
        access=call.access(),
    )
    return Reply(
        status=201,
        headers={**version_headers(blob), **_ENCRYPTED, "Content-MD5": md5_text(call.body.md5)},
    )


def put_block(engine: BlobEngine, call: Call) -> Reply:
    """PUT ?comp=block&blockid=…."""
    block_id = call.query.get("blockid")
    if block_id is None:
        raise BlobError("MissingRequiredQueryParameter", details={"QueryParameterName": "blockid"})
    if call.body.upload.size_bytes == 0:
        raise invalid_header("Content-Length", "0")
    call.check_md5("content-md5")
    engine.blocks.stage(call.key, block_id, call.body.upload, call.access())
    return Reply(status=201, headers={**_ENCRYPTED, "Content-MD5": md5_text(call.body.md5)})


def put_block_list(engine: BlobEngine, call: Call) -> Reply:
    """PUT ?comp=blocklist. The MD5 that the caller gives for the blob is kept, not checked, as on Azure."""
    call.check_md5("content-md5")
    choices = parse_block_list(call.body.data)
    blob = engine.blocks.commit(
        call.key,
        choices,
        headers=call.content_headers(),
        metadata=call.metadata(),
        tier=call.tier(),
        access=call.access(),
    )
    return Reply(status=201, headers={**version_headers(blob), **_ENCRYPTED})


def get_block_list(engine: BlobEngine, call: Call) -> Reply:
    """GET ?comp=blocklist&blocklisttype=committed|uncommitted|all."""
    kind = call.query.get("blocklisttype", "committed").lower()
    if kind not in ("committed", "uncommitted", "all"):
        raise invalid_query("blocklisttype", kind, "Allowed are committed, uncommitted and all.")
    found = engine.blocks.list(call.key, call.access())
    parts = ["<BlockList>"]
    if kind != "uncommitted":
        parts += ["<CommittedBlocks>", *map(_block_element, found.committed), "</CommittedBlocks>"]
    if kind != "committed":
        parts += ["<UncommittedBlocks>", *map(_block_element, found.staged), "</UncommittedBlocks>"]
    headers = {"x-ms-blob-content-length": "0"}
    if found.blob is not None:
        headers = {**version_headers(found.blob), "x-ms-blob-content-length": str(found.blob.size_bytes)}
    return xml_reply([*parts, "</BlockList>"], headers)


def get_blob(engine: BlobEngine, call: Call) -> Reply:
    """GET: the whole content, or a range of it."""
    blob = engine.blobs.get(call.key, call.access())
    headers = blob_headers(blob, engine.blobs.lease_now(blob)[1])
    asked = call.range()
    wants_md5 = call.headers.get("x-ms-range-get-content-md5", "").lower() == "true"
    if asked is None:
        if wants_md5:
            raise invalid_header("x-ms-range-get-content-md5", "true")
        if blob.headers.md5:
            headers["Content-MD5"] = md5_text(blob.headers.md5)
        return Reply(headers=headers, content=engine.blobs.content(blob, 0, blob.size_bytes - 1))
    first, last = asked
    if first >= blob.size_bytes:
        raise BlobError("InvalidRange", headers={"Content-Range": f"bytes */{blob.size_bytes}"})
    last = blob.size_bytes - 1 if last is None else min(last, blob.size_bytes - 1)
    content = engine.blobs.content(blob, first, last)
    headers["Content-Range"] = f"bytes {first}-{last}/{blob.size_bytes}"
    if blob.headers.md5:
        headers["x-ms-blob-content-md5"] = md5_text(blob.headers.md5)
    if wants_md5:
        if last - first + 1 > RANGE_MD5_BYTES_MAX:
            raise BlobError("OutOfRangeInput", details={"HeaderName": "x-ms-range-get-content-md5"})
        headers["Content-MD5"] = md5_text(hashlib.md5(b"".join(content), usedforsecurity=False).digest())
    return Reply(status=206, headers=headers, content=content)


def get_blob_properties(engine: BlobEngine, call: Call) -> Reply:
    """HEAD."""
    blob = engine.blobs.get(call.key, call.access())
    headers = blob_headers(blob, engine.blobs.lease_now(blob)[1])
    headers["Content-Length"] = str(blob.size_bytes)
    if blob.headers.md5:
        headers["Content-MD5"] = md5_text(blob.headers.md5)
    return Reply(headers=headers)


def set_blob_properties(engine: BlobEngine, call: Call) -> Reply:
    """PUT ?comp=properties: the content headers."""
    if "x-ms-blob-content-length" in call.headers or "x-ms-sequence-number-action" in call.headers:
        raise not_covered("page blobs")
    blob = engine.blobs.set_headers(call.key, call.content_headers(), call.access())
    return Reply(headers=version_headers(blob))


def get_blob_metadata(engine: BlobEngine, call: Call) -> Reply:
    """GET or HEAD ?comp=metadata."""
    blob = engine.blobs.get(call.key, call.access())
    return Reply(headers={**version_headers(blob), **metadata_headers(blob.metadata)})


def set_blob_metadata(engine: BlobEngine, call: Call) -> Reply:
    """PUT ?comp=metadata."""
    blob = engine.blobs.set_metadata(call.key, call.metadata(), call.access())
    return Reply(headers={**version_headers(blob), **_ENCRYPTED})


def delete_blob(engine: BlobEngine, call: Call) -> Reply:
    """DELETE. There never are snapshots, so x-ms-delete-snapshots: include changes nothing."""
    if call.headers.get("x-ms-delete-snapshots", "include").lower() != "include":
        raise not_covered("snapshots and versions")
    engine.blobs.delete(call.key, call.access())
    return Reply(status=202, headers={"x-ms-delete-type-permanent": "true"})


def lease_blob(engine: BlobEngine, call: Call) -> Reply:
    """PUT ?comp=lease."""
    operation = call.lease_operation()
    access = msgspec.structs.replace(call.access(), lease_id=None)  # it is the operation's, not a guard
    blob, remaining_s = engine.blobs.lease(call.key, operation, access)
    return containers.lease_reply(call, version_headers(blob), blob.lease.lease_id, remaining_s)


def _block_element(block: Block) -> str:
    return f"<Block>{element('Name', block.block_id)}{element('Size', str(block.size_bytes))}</Block>"


_ACTIONS = ("acquire", "renew", "change", "release", "break")
HANDLERS: dict[str, Handler] = {
    "list-containers": containers.list_containers,
    "get-service-properties": containers.get_service_properties,
    "get-account-information": containers.get_account_information,
    "create-container": containers.create_container,
    "get-container-properties": containers.get_container_properties,
    "get-container-metadata": containers.get_container_properties,
    "set-container-metadata": containers.set_container_metadata,
    "delete-container": containers.delete_container,
    "list-blobs": containers.list_blobs,
    "put-blob": put_blob,
    "get-blob": get_blob,
    "get-blob-properties": get_blob_properties,
    "set-blob-properties": set_blob_properties,
    "get-blob-metadata": get_blob_metadata,
    "set-blob-metadata": set_blob_metadata,
    "delete-blob": delete_blob,
    "put-block": put_block,
    "put-block-list": put_block_list,
    "get-block-list": get_block_list,
    **{f"{action}-lease": lease_blob for action in _ACTIONS},
    **{f"{action}-container-lease": containers.lease_container for action in _ACTIONS},
}
