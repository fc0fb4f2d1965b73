"""Blob names for lease keys: safe, readable where possible, bounded, and never the same for two keys."""

import hashlib
from typing import Final

BLOB_NAME_LENGTH_MAX: Final = 256
"""Well below the 1,024 characters of a blob name, so that the URL stays short whatever the key."""

_PLAIN: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def blob_name(key: str) -> str:
    """The name of the blob whose lease stands for `key`.

    `key-` and the key's UTF-8 bytes, those outside `A-Z a-z 0-9 - _` as `~` and two hex digits: percent-encoding
    with another sign, as a `%` in a name would be encoded once more on its way. `orders|42` becomes
    `key-orders~7C42`. A name that would exceed 256 characters is `sha256-` and the hash of those bytes instead.
    No two keys share a name, and no name holds a dot or a slash, which URLs treat as path steps.
    """
    raw = key.encode("utf-8", "surrogatepass")
    name = "key-" + "".join(chr(byte) if byte in _PLAIN else f"~{byte:02X}" for byte in raw)
    return name if len(name) <= BLOB_NAME_LENGTH_MAX else f"sha256-{hashlib.sha256(raw).hexdigest()}"
