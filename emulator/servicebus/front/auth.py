"""Shared access signatures, checked as the service checks them: known key, right signature, not expired, in scope."""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, unquote_plus

_SCHEME = "SharedAccessSignature "


class Denied(Exception):  # noqa: N818 - an answer to the client, not a failure of the server
    """The token gives no right; the text goes to the client."""


class Claim(NamedTuple):
    """A right to everything at and below `path` (case-folded, without slashes at its ends), until `expires_s`."""

    path: str
    expires_s: float

    def covers(self, path: str) -> bool:
        """Whether `path` (case-folded) is within the claim."""
        return not self.path or path == self.path or path.startswith(self.path + "/")


def path_of(address: str) -> str:
    """The entity path of an address: a URL of any scheme, or the bare path itself."""
    _, has_scheme, rest = address.partition("://")
    path = rest.partition("/")[2] if has_scheme else address
    return path.partition("?")[0].strip("/")


def verify(token: str, audience: str, keys: Mapping[str, str], now_s: float) -> Claim:
    """The claim that a token makes for `audience`.

    `now_s` is wall time, not the emulator's clock: clients sign with theirs, and a test that moves the emulator's
    clock must not lock everybody out.

    Raises:
        Denied: the token is no shared access signature, or a wrong one.
    """
    if not token.startswith(_SCHEME):
        raise Denied("MalformedToken: only shared access signatures are accepted here.")
    fields = dict(parse_qsl(token.removeprefix(_SCHEME), keep_blank_values=True))
    missing = [name for name in ("sr", "sig", "se", "skn") if not fields.get(name)]
    if missing:
        raise Denied(f"MalformedToken: the token lacks {', '.join(missing)}.")
    key = keys.get(fields["skn"]) or keys.get(unquote_plus(fields["skn"]))  # one widely used client quotes it twice
    if key is None:
        raise Denied("InvalidSignature: the token names a key that does not exist.")
    if not fields["se"].isdecimal():
        raise Denied("MalformedToken: the expiry is no number.")
    raw = token.removeprefix(_SCHEME)
    signed = next(part[3:] for part in raw.split("&") if part.startswith("sr="))
    digest = hmac.digest(key.encode(), f"{signed}\n{fields['se']}".encode(), hashlib.sha256)
    if not hmac.compare_digest(base64.b64encode(digest), fields["sig"].replace(" ", "+").encode()):
        raise Denied("InvalidSignature: the token has an invalid signature.")
    expires_s = float(fields["se"])
    if expires_s <= now_s:
        raise Denied("ExpiredToken: the token has expired.")
    claim = Claim(path_of(unquote(signed)).casefold(), expires_s)
    wanted = path_of(audience).casefold()
    if not claim.covers(wanted):
        raise Denied("InvalidAudience: the token was made for another entity.")
    return Claim(wanted, expires_s)
