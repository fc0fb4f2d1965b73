import re

from hypothesis import given
from hypothesis import strategies as st

from worker.locking.names import BLOB_NAME_LENGTH_MAX, blob_name

KEYS = st.text(st.characters(exclude_categories=[]), max_size=200)


def test_a_name_is_readable_and_tells_plain_characters_from_encoded_ones() -> None:
    assert blob_name("orders|user_1-A") == "key-orders~7Cuser_1-A"
    assert blob_name("a/b.c~d%e ä") == "key-a~2Fb~2Ec~7Ed~25e~20~C3~A4"
    assert blob_name("") == "key-"


def test_the_longest_readable_name_and_the_first_hashed_one() -> None:
    longest = "a" * (BLOB_NAME_LENGTH_MAX - len("key-"))
    assert blob_name(longest) == f"key-{longest}"
    assert re.fullmatch(r"sha256-[0-9a-f]{64}", blob_name(f"{longest}a"))


@given(st.lists(KEYS, min_size=2, max_size=20, unique=True))
def test_no_two_keys_share_a_name(keys: list[str]) -> None:
    assert len({blob_name(key) for key in keys}) == len(keys)


@given(KEYS)
def test_a_name_is_bounded_and_holds_nothing_that_a_url_would_change(key: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9~_-]{4,256}", blob_name(key))


@given(KEYS)
def test_a_readable_name_gives_back_its_key(key: str) -> None:
    name = blob_name(key)
    if name.startswith("key-"):
        raw = re.sub(rb"~([0-9A-F]{2})", lambda match: bytes([int(match[1], 16)]), name.removeprefix("key-").encode())
        assert raw.decode("utf-8", "surrogatepass") == key
