"""Bearer tokens as Microsoft Entra ID issues them, for one tenant that exists only here.

A token is a JWT with the claims that the services look at, signed with a key of this authority (HS256; the real
service signs with RS256 and publishes its keys, which nothing here would notice). Whoever may issue tokens in a test
holds the `TokenAuthority` that the servers were given; without one they take no token at all.

Sources: https://learn.microsoft.com/entra/identity-platform/access-token-claims-reference and, for what each service
wants as audience, its page on Microsoft Entra ID in docs/emulator.md.
"""

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Collection
from typing import Final

import msgspec

DEFAULT_LIFETIME_S: Final = 3600.0
_CLOCK_SKEW_S: Final = 300.0
_TOKEN_LENGTH_MAX: Final = 16_384
_KEY_BYTES: Final = 32


class TokenRefused(Exception):  # noqa: N818 - an answer to the client, not a failure of the server
    """The token gives no right; the text goes to the client and does not quote it."""


class Principal(msgspec.Struct, frozen=True):
    """Who a token was issued to, and until when it is good (wall time)."""

    object_id: str
    expires_s: float


class _Header(msgspec.Struct):
    alg: str
    typ: str = "JWT"


class _Claims(msgspec.Struct):
    iss: str
    aud: str
    oid: str
    nbf: float
    exp: float


class TokenAuthority:
    """Issues tokens and checks them. Two authorities never take each other's, unless they are given the same key."""

    def __init__(self, *, tenant_id: str = "00000000-0000-4000-8000-000000000000", key: bytes | None = None) -> None:
        self.issuer = f"https://sts.windows.net/{tenant_id}/"
        self._key = os.urandom(_KEY_BYTES) if key is None else key

    def issue(
        self,
        audience: str,
        *,
        now_s: float,
        object_id: str = "11111111-1111-4111-8111-111111111111",
        lifetime_s: float = DEFAULT_LIFETIME_S,
    ) -> str:
        """A token for `audience` that is good from `now_s` (wall time) for `lifetime_s`."""
        claims = _Claims(self.issuer, audience, object_id, now_s, now_s + lifetime_s)
        signed = f"{_encoded(msgspec.json.encode(_Header('HS256')))}.{_encoded(msgspec.json.encode(claims))}"
        return f"{signed}.{self._signature(signed)}"

    def check(self, token: str, audiences: Collection[str], *, now_s: float) -> Principal:
        """Who the token was issued to: by this authority, for one of `audiences`, good at `now_s` (wall time).

        A slash at the end of an audience makes no difference.

        Raises:
            TokenRefused: it is no such token.
        """
        parts = token.split(".")
        if len(token) > _TOKEN_LENGTH_MAX or len(parts) != 3:  # noqa: PLR2004 - header, claims, signature
            raise TokenRefused("it is no JSON web token")
        try:
            header = msgspec.json.decode(_decoded(parts[0]), type=_Header)
            claims = msgspec.json.decode(_decoded(parts[1]), type=_Claims)
        except (ValueError, binascii.Error) as error:
            raise TokenRefused("it is no JSON web token with the claims iss, aud, oid, nbf and exp") from error
        expected = self._signature(f"{parts[0]}.{parts[1]}")
        if header.alg != "HS256" or not hmac.compare_digest(expected.encode(), parts[2].encode(errors="replace")):
            raise TokenRefused("its signature is not valid")
        if claims.iss != self.issuer:
            raise TokenRefused("its issuer is not the one of this tenant")
        if claims.aud.rstrip("/") not in {audience.rstrip("/") for audience in audiences}:
            raise TokenRefused("its audience is another resource")
        if now_s < claims.nbf - _CLOCK_SKEW_S:
            raise TokenRefused("it is not yet valid")
        if now_s >= claims.exp:
            raise TokenRefused("it has expired")
        return Principal(claims.oid, claims.exp)

    def _signature(self, signed: str) -> str:
        return _encoded(hmac.digest(self._key, signed.encode(errors="replace"), hashlib.sha256))


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
