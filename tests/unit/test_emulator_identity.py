"""Bearer tokens at the embedded services: taken where all about them is right, refused where one thing is not."""

import base64
import time
from typing import Any

import msgspec
import pytest

from emulator.blob.errors import BlobError
from emulator.blob.sharedkey import SharedKey
from emulator.cosmos.auth import KeyCheck
from emulator.cosmos.errors import CosmosError
from emulator.identity import Principal, TokenAuthority, TokenRefused
from emulator.servicebus.front.auth import Claim, Denied, Verifier

NOW_S = 1_700_000_000.0
BUS = "https://servicebus.azure.net"
KEY = base64.b64encode(b"key").decode()


@pytest.fixture
def authority() -> TokenAuthority:
    return TokenAuthority(key=b"k" * 32)


def forged(token: str, *, header: dict[str, Any] | None = None, **claims: Any) -> str:
    """`token` with other contents under the signature that it had."""
    parts = token.split(".")

    def changed(part: str, changes: dict[str, Any]) -> str:
        held = msgspec.json.decode(base64.urlsafe_b64decode(part + "=="))
        return base64.urlsafe_b64encode(msgspec.json.encode(held | changes)).rstrip(b"=").decode()

    return f"{changed(parts[0], header or {})}.{changed(parts[1], claims)}.{parts[2]}"


def test_a_token_says_who_it_was_issued_to(authority: TokenAuthority) -> None:
    token = authority.issue(BUS, now_s=NOW_S, object_id="me", lifetime_s=60)
    assert authority.check(token, [f"{BUS}/"], now_s=NOW_S + 59) == Principal("me", NOW_S + 60)


def test_a_token_is_refused_when_one_thing_about_it_is_wrong(authority: TokenAuthority) -> None:
    good = authority.issue(BUS, now_s=NOW_S, lifetime_s=60)
    refusals = {
        "signature": [
            forged(good, aud="https://other"),
            forged(good, exp=NOW_S + 10_000),
            forged(good, header={"alg": "none"}),
            good[:-2],
            good.rpartition(".")[0] + ".",
            TokenAuthority(key=b"x" * 32).issue(BUS, now_s=NOW_S),
        ],
        "issuer": [TokenAuthority(tenant_id="other", key=b"k" * 32).issue(BUS, now_s=NOW_S)],
        "audience": [authority.issue("https://storage.azure.com", now_s=NOW_S)],
        "not yet valid": [authority.issue(BUS, now_s=NOW_S + 3_600)],
        "expired": [authority.issue(BUS, now_s=NOW_S - 60, lifetime_s=60)],
        "no JSON web token": ["", "a.b", "a.b.c", "é.é.é", good + ".x", "x" * 20_000, forged(good, oid=None)],
    }
    for told, tokens in refusals.items():
        for token in tokens:
            with pytest.raises(TokenRefused, match=told) as caught:
                authority.check(token, [BUS], now_s=NOW_S)
            assert len(token) < 6 or token not in str(caught.value)


def test_service_bus_takes_a_token_put_as_jwt_only(authority: TokenAuthority) -> None:
    tokens = Verifier({"name": "key"}, authority)
    token = authority.issue(f"{BUS}/", now_s=NOW_S, lifetime_s=60)
    assert tokens.put_token(token, "jwt", "sb://127.0.0.1:5672/Orders", NOW_S) == Claim("orders", NOW_S + 60)
    for kind in ("servicebus.windows.net:sastoken", None, b"jwt"):
        with pytest.raises(Denied, match="must be put as type jwt"):
            tokens.put_token(token, kind, "sb://127.0.0.1:5672/orders", NOW_S)
    with pytest.raises(Denied, match="audience is another"):
        tokens.put_token(authority.issue("https://x", now_s=NOW_S), "jwt", "sb://127.0.0.1/orders", NOW_S)
    with pytest.raises(Denied, match="InvalidSignature"):
        tokens.put_token("SharedAccessSignature sr=a&sig=b&se=1&skn=name", "jwt", "sb://a/", NOW_S)


def test_service_bus_without_an_authority_takes_signatures_only(authority: TokenAuthority) -> None:
    with pytest.raises(Denied, match="only shared access signatures"):
        Verifier({}).put_token(authority.issue(BUS, now_s=NOW_S), "jwt", "sb://127.0.0.1/orders", NOW_S)


def cosmos(check: KeyCheck, token: str, method: str = "POST", resource_type: str = "docs") -> None:
    authorization = f"type=aad&ver=1.0&sig={token}"
    check.check(authorization, method=method, resource_type=resource_type, link="dbs/d", x_date="now", date="")


def test_cosmos_db_takes_a_token_for_items_but_not_to_make_containers(authority: TokenAuthority) -> None:
    check = KeyCheck(KEY, authority)
    token = authority.issue("https://cosmos.azure.com", now_s=time.time())
    cosmos(check, token)
    cosmos(check, token, "GET", "colls")
    for kind in ("dbs", "colls", "offers"):
        with pytest.raises(CosmosError) as caught:
            cosmos(check, token, "POST", kind)
        assert (caught.value.status, caught.value.sub_status) == (403, 5300)
    for wrong in (token[:-1], authority.issue(BUS, now_s=time.time()), ""):
        with pytest.raises(CosmosError) as caught:
            cosmos(check, wrong)
        assert caught.value.status == 401
    with pytest.raises(CosmosError, match="master key token is needed"):
        cosmos(KeyCheck(KEY), token)


def test_blob_storage_takes_a_token_over_https_only(authority: TokenAuthority) -> None:
    token = authority.issue("https://storage.azure.com/", now_s=NOW_S)

    def check(service: SharedKey, given: str = token, version: str = "2021-12-02") -> None:
        headers = {"authorization": f"Bearer {given}", "x-ms-version": version}
        service.check("GET", "/a/c", [], headers, now_s=NOW_S)

    secure = SharedKey("a", KEY, authority, secure=True)
    check(secure)
    check(secure, authority.issue("https://a.blob.core.windows.net", now_s=NOW_S))
    with pytest.raises(BlobError) as caught:
        check(secure, token[:-1])
    assert caught.value.status == 401
    assert "authorization_uri=" in caught.value.headers["WWW-Authenticate"]
    for service, version in ((SharedKey("a", KEY, authority), "2021-12-02"), (secure, "2016-05-31")):
        with pytest.raises(BlobError) as caught:
            check(service, version=version)
        assert caught.value.status == 403
    with pytest.raises(BlobError) as caught:
        check(SharedKey("a", KEY, secure=True))
    assert caught.value.status == 400
