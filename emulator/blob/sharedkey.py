"""Shared Key authorization and tokens of Microsoft Entra ID, as the service verifies them.

Sources: https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key (version 2015-02-21 and later),
https://learn.microsoft.com/rest/api/storageservices/authorize-with-azure-active-directory.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence

from emulator.blob.errors import BlobError
from emulator.blob.records import parse_http_date
from emulator.identity import TokenAuthority, TokenRefused

DATE_TOLERANCE_S = 15 * 60
_SIGNED_HEADERS = (
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
)
_IGNORED_AT_FIRST = "-'"


_BEARER_VERSION_MIN = "2017-11-09"


class SharedKey:
    """One account and its key; with an authority, its tokens too, over https (`secure`) only."""

    def __init__(
        self, account_name: str, account_key: str, authority: TokenAuthority | None = None, *, secure: bool = False
    ) -> None:
        self.account_name = account_name
        self._authority = authority
        self._secure = secure
        try:
            self._key = base64.b64decode(account_key, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("account_key must be base64, as in the AccountKey of a connection string") from None

    def check(
        self,
        method: str,
        raw_path: str,
        query: Sequence[tuple[str, str]],
        headers: Mapping[str, str],
        *,
        now_s: float,
    ) -> None:
        """Raise what Azure answers where the request is not signed with the account's key at about this time.

        `headers` has lower-case names; `query` is decoded; `raw_path` is as it was sent, with the account.
        """
        authorization = headers.get("authorization")
        if authorization is None:
            raise BlobError("NoAuthenticationInformation", headers={"WWW-Authenticate": "SharedKey"})
        scheme, _, credentials = authorization.partition(" ")
        if scheme == "Bearer" and self._authority is not None:
            self._check_token(self._authority, credentials.strip(), headers, now_s)
            return
        account, separator, signature = credentials.strip().partition(":")
        if scheme != "SharedKey" or not separator or not signature:
            raise BlobError("InvalidAuthenticationInfo")
        if account != self.account_name:
            raise _failed(f"The account {account} is not the one of this service, {self.account_name}.")
        _check_date(headers, now_s)
        to_sign = string_to_sign(self.account_name, method, raw_path, query, headers)
        expected = base64.b64encode(hmac.digest(self._key, _as_sent(to_sign), hashlib.sha256))
        if not hmac.compare_digest(expected, _as_sent(signature)):
            raise _failed(f"The MAC signature is not the one computed over: '{to_sign}'.")

    def _check_token(self, authority: TokenAuthority, token: str, headers: Mapping[str, str], now_s: float) -> None:
        if not self._secure:
            raise _failed("Authentication scheme Bearer is not allowed with HTTP.")
        if headers.get("x-ms-version", "") < _BEARER_VERSION_MIN:
            raise _failed(f"Authentication scheme Bearer needs x-ms-version {_BEARER_VERSION_MIN} or later.")
        audiences = ("https://storage.azure.com", f"https://{self.account_name}.blob.core.windows.net")
        try:
            authority.check(token, audiences, now_s=now_s)
        except TokenRefused as refused:
            challenge = f"Bearer authorization_uri={authority.issuer}oauth2/authorize resource_id={audiences[0]}"
            raise BlobError(
                "InvalidAuthenticationInfo",
                status=401,
                headers={"WWW-Authenticate": challenge},
                details={"AuthenticationErrorDetail": f"The token is not accepted: {refused}."},
            ) from refused


def string_to_sign(
    account: str,
    method: str,
    raw_path: str,
    query: Sequence[tuple[str, str]],
    headers: Mapping[str, str],
) -> str:
    """The text that both sides sign."""
    lines = [method.upper()]
    for name in _SIGNED_HEADERS:
        value = headers.get(name, "")
        lines.append("" if name == "content-length" and value == "0" else value)
    service_headers = sorted((name for name in headers if name.startswith("x-ms-")), key=_header_order)
    lines.extend(f"{name}:{headers[name].strip()}" for name in service_headers)
    lines.append(f"/{account}{raw_path}")
    lines.extend(_canonical_query(query))
    return "\n".join(lines)


def _canonical_query(query: Iterable[tuple[str, str]]) -> list[str]:
    values: dict[str, list[str]] = {}
    for name, value in query:
        values.setdefault(name.lower(), []).append(value)
    return [f"{name}:{','.join(sorted(values[name]))}" for name in sorted(values)]


def _header_order(name: str) -> tuple[list[tuple[int, str]], list[bool]]:
    """The service's word order: hyphens count only between names that are equal without them.

    Among the rest, punctuation comes before digits and digits before letters; the SDKs sort alike.
    """
    weights = [
        (2 if character.isalpha() else 1 if character.isdigit() else 0, character)
        for character in name
        if character not in _IGNORED_AT_FIRST
    ]
    return weights, [character in _IGNORED_AT_FIRST for character in name]


def _check_date(headers: Mapping[str, str], now_s: float) -> None:
    text = headers.get("x-ms-date") or headers.get("date")
    if not text:
        raise _failed("Neither x-ms-date nor Date is given.")
    try:
        at_s = parse_http_date(text)
    except ValueError:
        raise _failed(f"The date {text!r} is not in RFC 1123 format.") from None
    if abs(at_s - now_s) > DATE_TOLERANCE_S:
        raise _failed(f"Request date header too old: '{text}'.")


def _as_sent(text: str) -> bytes:
    """The bytes of a header: what is not UTF-8 came in as surrogates."""
    return text.encode(errors="surrogateescape")


def _failed(detail: str) -> BlobError:
    return BlobError("AuthenticationFailed", details={"AuthenticationErrorDetail": detail})
