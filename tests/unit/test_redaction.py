import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.redaction import Redactor, Secret, redact


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("AccountName=a;AccountKey=abc==;B=c", "AccountName=a;AccountKey=***;B=c"),
        ("SharedAccessKeyName=n;SharedAccessKey=abc", "SharedAccessKeyName=n;SharedAccessKey=***"),
        ("?sv=1&sig=abc%3D&se=2", "?sv=1&sig=***&se=2"),
        ("type%3dmaster%26sig%3dabc", "type%3dmaster%26sig%3d***"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("SharedKey account:abc=", "SharedKey ***"),
        ("no token eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJhIn0.c2lnbmF0dXJl here", "no token *** here"),
        ("accountkey = abc", "accountkey = ***"),
        ('AccountKey = "abc=="', 'AccountKey = "***"'),
        ("{'SharedAccessKey': 'abc='}", "{'SharedAccessKey': '***'}"),
        ('{"password":"abc"}', '{"password":"***"}'),
        ("POST https://me:abc@collector:4318/v1", "POST https://***@collector:4318/v1"),
        ("sb://ns/queue, me@example.com", "sb://ns/queue, me@example.com"),
        ("SharedAccessKey: is missing", "SharedAccessKey: is missing"),
        ("the design of brook orders|1", "the design of brook orders|1"),
    ],
)
def test_what_looks_like_a_key_is_replaced_and_nothing_else(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_a_key_inside_a_connection_string_is_found_on_its_own() -> None:
    hide = Redactor([Secret("AccountName=account;AccountKey=bG9uZ2tleQ==;X=y")])
    assert hide("signed with bG9uZ2tleQ== by account") == "signed with *** by account"


def test_a_very_short_secret_does_not_blank_ordinary_words() -> None:
    assert Redactor([Secret("key")])("the key of a brook") == "the key of a brook"


@given(st.text(min_size=6), st.text(), st.text())
def test_a_known_secret_is_found_wherever_it_stands(secret: str, before: str, after: str) -> None:
    assert secret not in Redactor([Secret(secret)])(f"{before} {secret} {after}").replace("***", "")


def test_secrets_are_equal_by_text_and_never_show_it() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a")}) == 1
    assert f"{Secret('hidden')} {Secret('hidden')!r}".count("hidden") == 0
