"""Embedded Blob Storage: containers, block blobs and leases over the REST protocol.

`engine` says what Azure does; `server` and what it imports say how that looks on the wire.
"""

from emulator.blob.engine import BlobEngine
from emulator.blob.server import DEVELOPMENT_ACCOUNT, DEVELOPMENT_KEY, BlobServer

__all__ = ["DEVELOPMENT_ACCOUNT", "DEVELOPMENT_KEY", "BlobEngine", "BlobServer"]
