import hashlib

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from schemas.ids import utf16_length
from schemas.keys import (
    BROOK_KEY_BYTES_MAX,
    BrookKey,
    InvalidBrookKeyError,
    partition_key,
    reply_message_id,
    session_id_for,
)
from schemas.types import CommandId

PARTS = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="|"), min_size=1, max_size=200)
KEYS = st.builds(BrookKey, PARTS, PARTS).filter(lambda key: not key.problems())


def dotnet_length(text: str) -> int:
    """The length of the string in .NET, independently of the code under test."""
    return sum(2 if ord(character) > 0xFFFF else 1 for character in text)


@given(KEYS)
def test_a_valid_key_is_read_back_from_its_text(key: BrookKey) -> None:
    assert BrookKey.parse(str(key)) == key == BrookKey.checked(key.name, key.entity_id)


@given(st.lists(KEYS, min_size=2, max_size=10, unique=True))
def test_no_two_keys_share_a_partition_or_a_session(keys: list[BrookKey]) -> None:
    assert len({partition_key(key) for key in keys}) == len(keys)
    assert len({session_id_for(key) for key in keys}) == len(keys)


@given(KEYS)
def test_a_session_id_is_the_key_itself_while_it_fits(key: BrookKey) -> None:
    session_id = session_id_for(key)
    assert dotnet_length(session_id) <= 128
    assert (session_id == str(key)) is (dotnet_length(str(key)) <= 128)


def test_writers_and_readers_find_the_partition_by_the_key_as_it_is_written() -> None:
    """Fixed: another text would hide every brook that is stored already."""
    assert partition_key(BrookKey("orders", "42")) == "orders|42"
    assert partition_key(BrookKey("Bestellung", "ä€😀")) == "Bestellung|ä€😀"


def test_a_session_id_holds_128_utf_16_units_and_not_one_more() -> None:
    longest = BrookKey("n", "x" * 126)
    assert session_id_for(longest) == f"n|{'x' * 126}"
    over = BrookKey("n", "x" * 127)
    assert session_id_for(over) == "sha256:" + hashlib.sha256(str(over).encode()).hexdigest()
    wide = BrookKey("n", "😀" * 63)
    assert session_id_for(wide) == str(wide)
    assert session_id_for(BrookKey("n", "😀" * 63 + "x")).startswith("sha256:")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (BrookKey("", "1"), "brook.name: is empty; give at least one character"),
        (BrookKey("a", ""), "brook.entityId: is empty; give at least one character"),
        (BrookKey("a|b", "1"), "brook.name: contains '|'; leave it out: it separates the two parts"),
        (BrookKey("a", "1|2"), "brook.entityId: contains '|'; leave it out: it separates the two parts"),
        (
            BrookKey("a\n", "1"),
            "brook.name: contains a control character or a lone surrogate; use printable characters",
        ),
        (BrookKey("a", "\x7f"), "brook.entityId: contains a control character or a lone surrogate; use printable "),
        (BrookKey("a", "\x85"), "brook.entityId: contains a control character or a lone surrogate; use printable "),
        (BrookKey("a", "\ud800"), "brook.entityId: contains a control character or a lone surrogate; use printable "),
        (BrookKey("a", "x" * 1024), "brook: is 1,025 bytes long; use at most 1,024 bytes of UTF-8 for both parts"),
        (BrookKey("ä" * 512, "1"), "brook: is 1,025 bytes long; use at most 1,024 bytes of UTF-8 for both parts"),
    ],
)
def test_what_is_no_key_says_which_part_what_is_wrong_and_what_to_change(key: BrookKey, message: str) -> None:
    assert str(key.problems()[0]).startswith(message)
    with pytest.raises(InvalidBrookKeyError) as caught:
        BrookKey.checked(key.name, key.entity_id)
    assert str(caught.value).startswith(message)


def test_both_parts_are_told_when_both_are_wrong() -> None:
    assert [problem.field for problem in BrookKey("", "a|b").problems("key")] == ["key.name", "key.entityId"]


def test_the_longest_key_is_valid_and_any_unicode_is() -> None:
    assert BrookKey("ä" * 256, "x" * (BROOK_KEY_BYTES_MAX - 512)).problems() == ()
    assert BrookKey("naïve ☃", "a/b\\c?d#e%").problems() == ()


def test_text_without_a_separator_is_no_key() -> None:
    with pytest.raises(InvalidBrookKeyError, match=r"brook: no '\|' in 'orders'; write it as name\|entityId"):
        BrookKey.parse("orders")
    with pytest.raises(InvalidBrookKeyError, match="entityId: contains"):
        BrookKey.parse("a|b|c")


def test_keys_are_in_order_of_their_parts() -> None:
    assert sorted([BrookKey("b", "1"), BrookKey("a", "2"), BrookKey("a", "1")]) == [
        BrookKey("a", "1"),
        BrookKey("a", "2"),
        BrookKey("b", "1"),
    ]


@given(st.lists(st.text(max_size=200).map(CommandId), min_size=2, max_size=10, unique=True))
def test_each_command_has_a_reply_id_of_its_own_always_the_same(ids: list[CommandId]) -> None:
    assert len({reply_message_id(command_id) for command_id in ids}) == len(ids)
    assert [reply_message_id(command_id) for command_id in ids] == [reply_message_id(command_id) for command_id in ids]
    assert all(dotnet_length(reply_message_id(command_id)) <= 128 for command_id in ids)


def test_reply_ids_are_fixed() -> None:
    """Another form would let a resent reply pass duplicate detection."""
    assert reply_message_id(CommandId("c1")) == "r:c1"
    assert reply_message_id(CommandId("c1"), "mine") == "s:" + hashlib.sha256(b"c1\0mine").hexdigest()
    rejected = "x:" + hashlib.sha256(b"c1\0mine\0" + b"no".hex().encode()).hexdigest()
    assert reply_message_id(CommandId("c1"), "mine", rejection=b"no") == rejected
    assert reply_message_id(CommandId("x" * 126)) == "r:" + "x" * 126
    assert reply_message_id(CommandId("x" * 127)) == "h:" + hashlib.sha256(b"x" * 127).hexdigest()


@given(st.text())
def test_lengths_are_counted_as_dotnet_counts_them(text: str) -> None:
    assume("\ud800" not in text)
    assert utf16_length(text) == dotnet_length(text)
