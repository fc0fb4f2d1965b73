"""Shared access signatures: what the embedded Service Bus takes and what it refuses."""

from urllib.parse import quote_plus

import pytest
from azure.servicebus._pyamqp.utils import generate_sas_token

from emulator.servicebus.front.auth import Claim, Denied, path_of, verify

KEYS = {"Root": "c2VjcmV0", "a name": "b3RoZXI="}
NOW_S = 1_700_000_000.0
QUEUE = "sb://127.0.0.1:5672/Orders"


def token(audience: str = QUEUE, name: str = "Root", key: str = "c2VjcmV0", expiry: int = int(NOW_S) + 60) -> str:
    """What the real client makes."""
    made: str = generate_sas_token(audience, name, key, expiry)  # type: ignore[no-untyped-call]  # it has no types
    return made


def test_token_of_the_real_client_is_a_claim_to_its_entity() -> None:
    assert verify(token(), QUEUE, KEYS, NOW_S) == Claim("orders", NOW_S + 60)
    assert verify(token(name="a name", key="b3RoZXI="), QUEUE, KEYS, NOW_S).path == "orders"


def test_token_of_the_namespace_covers_its_entities() -> None:
    claim = verify(token("sb://127.0.0.1:5672/"), QUEUE, KEYS, NOW_S)
    assert claim.path == "orders"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("Bearer eyJ0eXAi", "MalformedToken: only shared"),
        ("SharedAccessSignature sr=x", "MalformedToken: the token lacks sig, se, skn"),
        (token(name="Nobody"), "InvalidSignature: the token names a key"),
        (token(key="d3Jvbmc="), "InvalidSignature: the token has an invalid"),
        (token().replace("se=17", "se=18"), "InvalidSignature: the token has an invalid"),
        (token().replace("se=", "se=x"), "MalformedToken: the expiry"),
        (token().replace("sig=", "sig=%C3%A9"), "InvalidSignature: the token has an invalid"),
        (token(expiry=int(NOW_S)), "ExpiredToken"),
        (token("sb://127.0.0.1:5672/other"), "InvalidAudience"),
        (token("sb://127.0.0.1:5672/order"), "InvalidAudience"),
        (token().replace(quote_plus(QUEUE), quote_plus(QUEUE + "x")), "InvalidSignature"),
    ],
)
def test_wrong_token_is_refused(given: str, reason: str) -> None:
    with pytest.raises(Denied, match=reason):
        verify(given, QUEUE, KEYS, NOW_S)


@pytest.mark.parametrize(
    ("claimed", "asked", "covered"),
    [
        ("", "anything", True),
        ("q", "q", True),
        ("q", "q/$management", True),
        ("q", "qq", False),
        ("t/subscriptions/s", "t", False),
    ],
)
def test_claim_covers_what_lies_below_it(claimed: str, asked: str, *, covered: bool) -> None:
    assert Claim(claimed, 0.0).covers(asked) is covered


def test_path_of_an_address_leaves_scheme_and_host_out() -> None:
    assert path_of("amqps://h:1/t/Subscriptions/s") == "t/Subscriptions/s"
    assert path_of("q/$management") == "q/$management"
    assert path_of("amqps://[half an address/q/?x=/y") == "q"
    assert path_of("://") == ""
