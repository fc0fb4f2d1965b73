"""Commands whose events are in a blob, for tests."""

import hashlib
from typing import Any

import msgspec

from schemas.claim_content import encoded
from schemas.claims import Claim, Encoding
from schemas.commands import AppendCommand, ClaimedCommand
from schemas.digests import payload_digest


def claimed(
    command: AppendCommand, encoding: Encoding = Encoding.JSON_LINES, **changes: Any
) -> tuple[ClaimedCommand, bytes]:
    """`command` with a claim in the place of its events, and the blob's content. `changes` are to the claim."""
    content = b"".join(encoded(command.events, encoding))
    return with_claim(command, claim_to(content, len(command.events), encoding, **changes)), content


def claim_to(content: bytes, events: int, encoding: Encoding = Encoding.JSON_LINES, **changes: Any) -> Claim:
    """A claim to content of any kind."""
    claim = Claim(
        blob="blob-1",
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        event_count=events,
        encoding=encoding,
    )
    return msgspec.structs.replace(claim, **changes)


def with_claim(command: AppendCommand, claim: Claim) -> ClaimedCommand:
    """`command` with this claim in the place of its events."""
    return ClaimedCommand(
        command_id=command.command_id,
        brook=command.brook,
        expected=command.expected,
        claim=claim,
        correlation_id=command.correlation_id,
        causation_id=command.causation_id,
    )


def with_digest(command: AppendCommand, claim: Claim) -> Claim:
    """`claim` with the payload digest of `command`, as the client gives it."""
    return msgspec.structs.replace(claim, payload_digest=payload_digest(command))
