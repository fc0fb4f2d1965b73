"""Tokens, checked as the service checks them: shared access signatures, and those of Microsoft Entra ID."""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, unquote_plus

from emulator.identity import TokenAuthority, TokenRefused

_SCHEME = "SharedAccessSignature "
_BEARER = "Bearer "
_JWT = "jwt"
_AUDIENCES = ("https://servicebus.azure.net",)
"""https://learn.microsoft.com/azure/service-bus-messaging/authenticate-application"""


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


class Verifier:
    """Checks what clients show: signatures against `keys`, tokens against `authority` (None: it takes none)."""

    def __init__(self, keys: Mapping[str, str], authority: TokenAuthority | None = None) -> None:
        self.keys = keys
        self._authority = authority

    def put_token(self, token: str, kind: object, audience: str, now_s: float) -> Claim:
        """The claim of a `put-token` of type `kind`, by wall time.

        The type does not tell a signature: Azure's own client sends its signatures as `jwt`.

        Raises:
            Denied: it gives no right to `audience`.
        """
        if token.startswith(_SCHEME) or self._authority is None:
            return verify(token, audience, self.keys, now_s)
        if kind != _JWT:
            raise Denied(f"MalformedToken: a token of Microsoft Entra ID must be put as type {_JWT}.")
        return self._of_identity(token, audience, now_s)

    def authorization(self, header: str, audience: str, now_s: float) -> Claim:
        """The claim of an HTTP request's Authorization header, by wall time. Raises Denied."""
        if header.startswith(_BEARER) and self._authority is not None:
            return self._of_identity(header.removeprefix(_BEARER), audience, now_s)
        return verify(header, audience, self.keys, now_s)

    def _of_identity(self, token: str, audience: str, now_s: float) -> Claim:
        assert self._authority is not None, "both callers looked"
        try:
            principal = self._authority.check(token, _AUDIENCES, now_s=now_s)
        except TokenRefused as refused:
            raise Denied(f"InvalidToken: the token is not accepted: {refused}.") from refused
        return Claim(path_of(audience).casefold(), principal.expires_s)


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
