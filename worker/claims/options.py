"""What is read of claims, and what becomes of their blobs."""

import msgspec


class ClaimOptions(msgspec.Struct, frozen=True, kw_only=True):
    """See the settings of the same names; `deletes` is `claim_cleanup`."""

    claim_bytes_max: int = 100_000_000
    claims_concurrency_max: int = 4
    deletes: bool = True
