"""Which operation a request is: the names that fault rules and counters use."""

from typing import Final, NamedTuple

from emulator.blob.call import Call
from emulator.blob.errors import BlobError, invalid_header, missing_header, not_covered

UNSUPPORTED: Final = "unsupported"
_LEASE_ACTIONS = ("acquire", "renew", "change", "release", "break")
_BLOB_TYPES_LEFT_OUT = ("PageBlob", "AppendBlob")


class Route(NamedTuple):
    """An operation by its name, or why there is none."""

    name: str
    refusal: BlobError | None = None


_SERVICE = {
    ("GET", "list", ""): "list-containers",
    ("GET", "properties", "service"): "get-service-properties",
    ("GET", "properties", "account"): "get-account-information",
    ("HEAD", "properties", "account"): "get-account-information",
}
_CONTAINER = {
    ("PUT", ""): "create-container",
    ("GET", ""): "get-container-properties",
    ("HEAD", ""): "get-container-properties",
    ("DELETE", ""): "delete-container",
    ("GET", "metadata"): "get-container-metadata",
    ("HEAD", "metadata"): "get-container-metadata",
    ("PUT", "metadata"): "set-container-metadata",
    ("GET", "list"): "list-blobs",
}
_BLOB = {
    ("PUT", ""): "put-blob",
    ("GET", ""): "get-blob",
    ("HEAD", ""): "get-blob-properties",
    ("DELETE", ""): "delete-blob",
    ("PUT", "properties"): "set-blob-properties",
    ("GET", "metadata"): "get-blob-metadata",
    ("HEAD", "metadata"): "get-blob-metadata",
    ("PUT", "metadata"): "set-blob-metadata",
    ("PUT", "block"): "put-block",
    ("PUT", "blocklist"): "put-block-list",
    ("GET", "blocklist"): "get-block-list",
}
OPERATIONS: Final = (
    *dict.fromkeys(_SERVICE.values()),
    *dict.fromkeys(_CONTAINER.values()),
    *dict.fromkeys(_BLOB.values()),
    *(f"{action}-lease" for action in _LEASE_ACTIONS),
    *(f"{action}-container-lease" for action in _LEASE_ACTIONS),
    UNSUPPORTED,
)


def route(call: Call) -> Route:
    """Name the operation of a request."""
    comp = call.query.get("comp", "").lower()
    restype = call.query.get("restype", "").lower()
    method, target = call.method, call.target
    if restype == "account" or not target.container:
        return _named(_SERVICE.get((method, comp, restype)), call)
    if restype == "container" and not target.blob:
        if (method, comp) == ("PUT", "lease"):
            return _lease(call, "-container-lease")
        return _named(_CONTAINER.get((method, comp)), call)
    if restype:
        return Route(UNSUPPORTED, BlobError("InvalidUri"))
    if (method, comp) == ("PUT", "lease"):
        return _lease(call, "-lease")
    if (method, comp) == ("PUT", ""):
        return _put_blob(call)
    return _named(_BLOB.get((method, comp)), call)


def _named(name: str | None, call: Call) -> Route:
    if name:
        return Route(name)
    if call.method not in ("GET", "HEAD", "PUT", "DELETE"):
        return Route(UNSUPPORTED, BlobError("UnsupportedHttpVerb"))
    asked = "&".join(f"{name}={value}" for name, value in call.query.items() if name in ("comp", "restype"))
    return Route(UNSUPPORTED, not_covered(f"{call.method} {asked}".strip()))


def _lease(call: Call, suffix: str) -> Route:
    action = call.headers.get("x-ms-lease-action")
    if action is None:
        return Route(UNSUPPORTED, missing_header("x-ms-lease-action"))
    if action.lower() not in _LEASE_ACTIONS:
        return Route(UNSUPPORTED, invalid_header("x-ms-lease-action", action))
    return Route(action.lower() + suffix)


def _put_blob(call: Call) -> Route:
    blob_type = call.headers.get("x-ms-blob-type")
    if "x-ms-copy-source" in call.headers:
        return Route(UNSUPPORTED, not_covered("copies from a URL"))
    if blob_type in _BLOB_TYPES_LEFT_OUT:
        return Route(UNSUPPORTED, not_covered(f"blobs of the type {blob_type}"))
    if blob_type is None:
        return Route("put-blob", missing_header("x-ms-blob-type"))
    if blob_type != "BlockBlob":
        return Route("put-blob", invalid_header("x-ms-blob-type", blob_type))
    return Route("put-blob")
