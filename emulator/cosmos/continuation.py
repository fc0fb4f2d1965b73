"""Continuation tokens: where the next page of a query or feed begins, told by the last row and not by a count.

So a token stays right while items come and go between the pages.
"""

import base64
import binascii
from typing import Any, Final

import msgspec

from emulator.cosmos.errors import bad_request

_VERSION: Final = 1
TOKEN_CHARACTERS_MAX: Final = 7 * 1024
"""Clients take no header line of more than 8 KB."""


class Resume(msgspec.Struct, frozen=True, array_like=True):
    """The last row that was handed out, and how many were handed out or skipped before."""

    emitted: int = 0
    skipped: int = 0
    order: tuple[tuple[int, Any], ...] = ()
    """Order keys of the last row; empty for a scan."""
    epk: str = ""
    number: int = -1
    version: int = _VERSION


START: Final = Resume()

_decoder = msgspec.msgpack.Decoder(Resume)


def to_token(resume: Resume) -> str:
    """The token for a header.

    Raises:
        CosmosError: 400 where ORDER BY values are too long for a token.
    """
    token = base64.urlsafe_b64encode(msgspec.msgpack.encode(resume)).decode()
    if len(token) > TOKEN_CHARACTERS_MAX:
        raise bad_request("The ORDER BY values are too long to page through; raise the page size or order otherwise.")
    return token


def from_token(token: str | None) -> Resume:
    """What a token stands for; the start where there is none.

    Raises:
        CosmosError: 400 for text that this server never handed out.
    """
    if not token:
        return START
    try:
        resume = _decoder.decode(base64.urlsafe_b64decode(token.encode()))
    except (msgspec.DecodeError, binascii.Error, ValueError) as error:
        raise bad_request("Invalid Continuation Token.") from error
    if resume.version != _VERSION or resume.emitted < 0 or resume.skipped < 0:
        raise bad_request("Invalid Continuation Token.")
    return resume
