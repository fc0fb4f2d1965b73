"""Who may do what: master key signatures and tokens of Microsoft Entra ID.

https://learn.microsoft.com/rest/api/cosmos-db/access-control-on-cosmosdb-resources
https://learn.microsoft.com/azure/cosmos-db/how-to-connect-role-based-access-control
"""

import base64
import hashlib
import hmac
import re
import time
from email.utils import formatdate, parsedate_to_datetime
from functools import lru_cache
from typing import Final
from urllib.parse import unquote

from emulator.cosmos.errors import CosmosError
from emulator.identity import TokenAuthority, TokenRefused

WELL_KNOWN_KEY: Final = "C2y6yDjf5/R+ob0N8A7Cgv30VRDJIWEHLM+4QDU5DE2nQ9nDuVTqobD4b8mGGyPMbIZnqyMsEcaGQy67XIw/Jw=="
"""The key that the official emulator publishes for everybody: no secret.

https://learn.microsoft.com/azure/cosmos-db/emulator#authentication
"""


_BY_RESOURCE_ID = re.compile(r"dbs/[A-Za-z0-9+-]{6}==(?:/|$)")


def _signed_forms(link: str) -> tuple[str, ...]:
    """What clients sign for a link: its names as they are, but of resource ids only the last, in lower case."""
    if _BY_RESOURCE_ID.match(link) is not None:
        return (link, link.rpartition("/")[2].lower())
    return (link,) if "/" in link else (link, link.lower())  # an offer has nothing but a resource id


DATE_TOLERANCE_S: Final = 15 * 60


def _check_date(text: str) -> None:
    """A signature holds for a quarter of an hour, by the wall clock: tests move the clock of the service."""
    try:
        signed_s = _parsed_date_s(text)
    except ValueError as error:
        raise CosmosError(
            401, "The input date header is invalid format. Please pass in RFC 1123 style date format."
        ) from error
    now_s = time.time()
    if abs(signed_s - now_s) > DATE_TOLERANCE_S:
        start, end, now = (
            formatdate(at_s, usegmt=True) for at_s in (signed_s - DATE_TOLERANCE_S, signed_s + DATE_TOLERANCE_S, now_s)
        )
        raise CosmosError(
            403,
            "The authorization token is not valid at the current time. Please create another token and retry"
            f" (token start time: {start}, token expiry time: {end}, current server time: {now}).",
        )


@lru_cache(maxsize=64)  # the requests of one second share one text
def _parsed_date_s(text: str) -> float:
    return parsedate_to_datetime(text).timestamp()


_BY_KEY_ONLY = frozenset({"dbs", "colls", "offers"})
_READING = frozenset({"GET", "HEAD"})
_BY_KEY_ONLY_SUB_STATUS = 5300


class KeyCheck:
    """Verifies the authorization header of each request: one account key, and an authority's tokens where it is given.

    A token gives the data-plane rights of the role *Built-in Data Contributor*: what makes, changes or deletes
    databases, containers and throughput needs the key, as with the service.
    """

    def __init__(self, account_key: str, authority: TokenAuthority | None = None) -> None:
        self._key = base64.b64decode(account_key, validate=True)
        self._authority = authority
        self.audiences: tuple[str, ...] = ("https://cosmos.azure.com",)
        """The account's own endpoint is one too, once it is known."""

    def _check_token(self, authority: TokenAuthority, token: str) -> None:
        try:
            # By the wall clock: tests move the clock of the service, and the token was not issued by that.
            authority.check(token, self.audiences, now_s=time.time())
        except TokenRefused as refused:
            raise CosmosError(401, f"The AAD token of the request is not valid: {refused}.") from refused

    def check(
        self, authorization: str | None, *, method: str, resource_type: str, link: str, x_date: str, date: str
    ) -> None:
        """Raise unless the header carries the signature of this request, made at about this time.

        Raises:
            CosmosError: 401, with the payload that the service expected to be signed; 403 where the date is off.
        """
        if not authorization:
            raise CosmosError(
                401, "Required Header authorization is missing. Ensure a valid Authorization token is passed."
            )
        if not x_date and not date:
            raise CosmosError(401, "Either the x-ms-date or the date header must be set on a signed request.")
        fields = dict(part.partition("=")[::2] for part in unquote(authorization).split("&", 2))
        if fields.get("type") == "aad" and fields.get("ver") == "1.0" and self._authority is not None:
            self._check_token(self._authority, fields.get("sig", ""))
            if resource_type in _BY_KEY_ONLY and method.upper() not in _READING:
                raise CosmosError(
                    403,
                    f"The given request [{method.upper()} /{link}] cannot be authorized by AAD token in data plane.",
                    sub_status=_BY_KEY_ONLY_SUB_STATUS,
                )
            return
        if fields.get("type") != "master" or fields.get("ver") != "1.0":
            raise CosmosError(
                401, "Authorization header doesn't confirm to the required format: a master key token is needed."
            )
        given = fields.get("sig", "")
        for candidate in _signed_forms(link):
            payload = f"{method.lower()}\n{resource_type}\n{candidate}\n{x_date.lower()}\n{date.lower()}\n"
            digest = hmac.digest(self._key, payload.encode("utf-8", "surrogatepass"), hashlib.sha256)
            if hmac.compare_digest(base64.b64encode(digest), given.encode("utf-8", "surrogatepass")):
                _check_date(x_date or date)
                return
        expected = f"{method.lower()}\n{resource_type}\n{link}\n{x_date.lower()}\n{date.lower()}\n"
        raise CosmosError(
            401,
            "The input authorization token can't serve the request. The wrong key is being used or the expected"
            f" payload is not built as per the protocol. Server used the following payload to sign: {expected!r}",
        )
