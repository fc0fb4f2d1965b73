"""The engine of Blob Storage without sockets: content, conditions, time, and what outlives the process."""

import base64
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.blob import BlobEngine, blocks
from emulator.blob.blocks import BlockChoice
from emulator.blob.conditions import Conditions, Version, check_read, check_write
from emulator.blob.containers import Access
from emulator.blob.errors import BlobError
from emulator.blob.lease import Acquire, Break, Renew
from emulator.blob.listing import list_names
from emulator.blob.records import Blob, ContentHeaders
from emulator.blob.store import BlobKey, Upload
from emulator.clock import ManualClock
from emulator.journal import Change, JournalError, MemoryJournal, SqliteJournal

A = "11111111-1111-1111-1111-111111111111"
KEY = BlobKey("box", "folder/name")


def engine_of(journal: MemoryJournal | SqliteJournal | None = None, **limits: int) -> BlobEngine:
    engine = BlobEngine(clock=ManualClock(), journal=journal or MemoryJournal(), **limits)
    if "box" not in engine.containers._store.folders:
        engine.containers.create("box", {})
    return engine


def upload(engine: BlobEngine, *pieces: bytes) -> Upload:
    made = Upload()
    for piece in pieces:
        engine.add_piece(made, piece)
    return made


def put(engine: BlobEngine, *pieces: bytes, key: BlobKey = KEY, access: Access | None = None) -> Blob:
    content = upload(engine, *pieces)
    try:
        return engine.blobs.put(key, content, headers=ContentHeaders(), metadata={}, access=access or Access())
    finally:
        engine.discard(content)


def read(engine: BlobEngine, key: BlobKey = KEY) -> bytes:
    blob = engine.blobs.get(key)
    return b"".join(engine.blobs.content(blob, 0, blob.size_bytes - 1))


def block_id(number: int) -> str:
    return base64.b64encode(f"{number:04}".encode()).decode()


@given(
    blocks=st.lists(st.lists(st.binary(min_size=1, max_size=5), max_size=4), max_size=4),
    first=st.integers(0, 90),
    length=st.integers(1, 90),
)
def test_range_is_the_slice_of_the_content(blocks: list[list[bytes]], first: int, length: int) -> None:
    engine = engine_of()
    for number, pieces in enumerate(blocks):
        engine.blocks.stage(KEY, block_id(number), upload(engine, *pieces))
    choices = [BlockChoice("Latest", block_id(number)) for number in range(len(blocks))]
    blob = engine.blocks.commit(KEY, choices, headers=ContentHeaders(), metadata={})
    whole = b"".join(piece for pieces in blocks for piece in pieces)
    assert blob.size_bytes == len(whole)
    assert b"".join(engine.blobs.content(blob, first, first + length - 1)) == whole[first : first + length]


def test_content_that_was_read_outlives_an_overwrite() -> None:
    engine = engine_of()
    blob = put(engine, b"old")
    content = engine.blobs.content(blob, 0, 2)
    put(engine, b"new")
    assert content == [b"old"]


def test_content_nobody_refers_to_is_dropped() -> None:
    engine = engine_of()
    put(engine, b"12345")
    put(engine, b"123")
    assert engine.content_bytes == 3
    engine.blocks.stage(KEY, block_id(0), upload(engine, b"1234"))
    engine.blocks.stage(KEY, block_id(0), upload(engine, b"12"))
    assert engine.content_bytes == 5
    engine.blocks.commit(KEY, [BlockChoice("Latest", block_id(0))] * 3, headers=ContentHeaders(), metadata={})
    assert engine.content_bytes == 2
    engine.containers.delete("box")
    assert engine.content_bytes == 0


def test_refused_write_leaves_no_content_behind() -> None:
    engine = engine_of()
    put(engine, b"old")
    with pytest.raises(BlobError, match="409 BlobAlreadyExists"):
        put(engine, b"new content", access=Access(conditions=Conditions(if_none_match=("*",))))
    assert engine.content_bytes == 3
    assert read(engine) == b"old"


def test_capacity_is_a_clear_refusal_and_deleting_makes_room() -> None:
    engine = engine_of(capacity_bytes=10)
    put(engine, b"1234567")
    with pytest.raises(BlobError, match=r"409 EmulatorCapacityExceeded: .*Delete blobs"):
        put(engine, b"1234", key=BlobKey("box", "other"))
    engine.blobs.delete(KEY)
    put(engine, b"1234567890", key=BlobKey("box", "other"))


def test_every_change_but_a_lease_gives_a_new_etag() -> None:
    engine = engine_of()
    seen = [put(engine, b"a").ticks, put(engine, b"a").ticks]
    seen.append(engine.blobs.set_metadata(KEY, {"a": "b"}).ticks)
    seen.append(engine.blobs.set_headers(KEY, ContentHeaders()).ticks)
    assert seen == sorted(set(seen))
    assert engine.blobs.lease(KEY, Acquire(15, A))[0].ticks == seen[-1]


def test_expired_lease_renews_until_a_write_happens() -> None:
    clock = ManualClock()
    engine = BlobEngine(clock=clock, journal=MemoryJournal())
    engine.containers.create("box", {})
    put(engine, b"a")
    engine.blobs.lease(KEY, Acquire(15, A))
    clock.jump_s(3600)
    engine.blobs.lease(KEY, Renew(A))
    clock.jump_s(15)
    put(engine, b"b")
    with pytest.raises(BlobError, match="409 LeaseIdMismatchWithLeaseOperation"):
        engine.blobs.lease(KEY, Renew(A))


def test_deleting_a_blob_ends_its_lease() -> None:
    engine = engine_of()
    put(engine, b"a")
    engine.blobs.lease(KEY, Acquire(-1, A))
    engine.blobs.delete(KEY, Access(lease_id=A))
    put(engine, b"b")
    assert engine.blobs.get(KEY).lease.held == "available"


def test_block_list_looks_where_it_is_told() -> None:
    engine = engine_of()
    engine.blocks.stage(KEY, block_id(0), upload(engine, b"old"))
    engine.blocks.commit(KEY, [BlockChoice("Latest", block_id(0))], headers=ContentHeaders(), metadata={})
    engine.blocks.stage(KEY, block_id(0), upload(engine, b"new"))
    with pytest.raises(BlobError, match="400 InvalidBlockList"):
        engine.blocks.commit(KEY, [BlockChoice("Uncommitted", block_id(1))], headers=ContentHeaders(), metadata={})
    choices = [BlockChoice("Committed", block_id(0)), BlockChoice("Uncommitted", block_id(0))]
    engine.blocks.commit(KEY, choices, headers=ContentHeaders(), metadata={})
    assert read(engine) == b"oldnew"


@pytest.mark.parametrize("block", ["", "not base64!", "AAA", base64.b64encode(b"x" * 65).decode()])
def test_bad_block_id_is_400(block: str) -> None:
    engine = engine_of()
    with pytest.raises(BlobError) as raised:
        engine.blocks.stage(KEY, block, upload(engine, b"a"))
    assert raised.value.status == 400


def test_blocks_are_limited_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of()
    monkeypatch.setattr(blocks, "STAGED_BLOCKS_MAX", 2)
    for number in (0, 1, 1):
        engine.blocks.stage(KEY, block_id(number), upload(engine, b"a"))
    with pytest.raises(BlobError, match="409 BlockCountExceedsLimit"):
        engine.blocks.stage(KEY, block_id(2), upload(engine, b"a"))
    most = [BlockChoice("Latest", block_id(0))] * blocks.COMMITTED_BLOCKS_MAX
    with pytest.raises(BlobError, match="400 BlockListTooLong"):
        engine.blocks.commit(KEY, [*most, most[0]], headers=ContentHeaders(), metadata={})
    assert engine.blocks.commit(KEY, most, headers=ContentHeaders(), metadata={}).size_bytes == 50_000


@pytest.mark.parametrize(
    ("metadata", "code"),
    [
        ({"": "v"}, "EmptyMetadataKey"),
        ({"a-b": "v"}, "InvalidMetadata"),
        ({"1a": "v"}, "InvalidMetadata"),
        ({"a": "ü"}, "InvalidMetadata"),
        ({"a": "v" * 8192}, "MetadataTooLarge"),
    ],
)
def test_bad_metadata_is_400_and_changes_nothing(metadata: dict[str, str], code: str) -> None:
    engine = engine_of()
    before = put(engine, b"a")
    with pytest.raises(BlobError, match=f"400 {code}"):
        engine.blobs.set_metadata(KEY, metadata)
    assert engine.blobs.get(KEY) == before


# Conditions


VERSION = Version('"0x1"', 100)


@pytest.mark.parametrize(
    ("conditions", "read_code", "write_code"),
    [
        (Conditions(), "", ""),
        (Conditions(if_match=('"0x1"',)), "", ""),
        (Conditions(if_match=("*",)), "", ""),
        (Conditions(if_match=('"0x2"',)), "412 ConditionNotMet", "412 ConditionNotMet"),
        (Conditions(if_none_match=('"0x2"',)), "", ""),
        (Conditions(if_none_match=('"0x1"',)), "304 ConditionNotMet", "412 ConditionNotMet"),
        (Conditions(if_none_match=("*",)), "400 UnsatisfiableCondition", "412 ConditionNotMet"),
        (Conditions(if_modified_since_s=99), "", ""),
        (Conditions(if_modified_since_s=100), "304 ConditionNotMet", "412 ConditionNotMet"),
        (Conditions(if_unmodified_since_s=100), "", ""),
        (Conditions(if_unmodified_since_s=99), "412 ConditionNotMet", "412 ConditionNotMet"),
        # The ETag decides where both are given.
        (Conditions(if_match=('"0x1"',), if_unmodified_since_s=99), "", ""),
        (Conditions(if_none_match=('"0x2"',), if_modified_since_s=100), "", ""),
        # Several ETags are for reads only, and so is asking for both equal and different.
        (Conditions(if_match=('"0x1"', '"0x2"')), "", "400 MultipleConditionHeadersNotSupported"),
        (
            Conditions(if_match=('"0x1"',), if_modified_since_s=99),
            "",
            "400 MultipleConditionHeadersNotSupported",
        ),
    ],
)
def test_conditions_on_what_exists(conditions: Conditions, read_code: str, write_code: str) -> None:
    assert verdict(lambda: check_read(conditions, VERSION)) == read_code
    assert verdict(lambda: check_write(conditions, VERSION)) == write_code


@pytest.mark.parametrize(
    ("conditions", "delete_code", "create_code"),
    [
        (Conditions(if_match=('"0x1"',)), "412 ConditionNotMet", "412 ConditionNotMet"),
        (Conditions(if_match=("*",)), "", "412 ConditionNotMet"),
        (Conditions(if_none_match=("*",)), "", ""),
        (Conditions(if_unmodified_since_s=1), "", ""),
    ],
)
def test_conditions_on_nothing(conditions: Conditions, delete_code: str, create_code: str) -> None:
    assert verdict(lambda: check_write(conditions, None)) == delete_code
    assert verdict(lambda: check_write(conditions, None, creates=True)) == create_code


def verdict(check: object) -> str:
    assert callable(check)
    try:
        check()
    except BlobError as error:
        return f"{error.status} {error.code}"
    return ""


# Listing


def fold(names: Sequence[str], prefix: str, delimiter: str) -> list[tuple[str, bool]]:
    """What a listing shows, said in the simplest way."""
    shown: dict[tuple[str, bool], None] = {}
    for name in sorted(names):
        if name.startswith(prefix):
            cut = name.find(delimiter, len(prefix)) if delimiter else -1
            shown[(name, False) if cut < 0 else (name[: cut + len(delimiter)], True)] = None
    return list(shown)


@given(
    names=st.lists(st.text("ab/\U0010ffff", min_size=1, max_size=6), unique=True, max_size=30),
    prefix=st.text("ab/\U0010ffff", max_size=2),
    delimiter=st.sampled_from(["", "/", "b", "//", "\U0010ffff"]),
    limit=st.integers(1, 5),
)
def test_pages_of_a_listing_together_are_the_listing(names: list[str], prefix: str, delimiter: str, limit: int) -> None:
    ordered = sorted(names)
    found: list[tuple[str, bool]] = []
    start = ""
    for _ in range(len(names) + 1):
        page = list_names(ordered, prefix=prefix, delimiter=delimiter, start=start, limit=limit)
        assert len(page.entries) <= limit
        found += [(entry.name, entry.is_prefix) for entry in page.entries]
        start = page.next_name
        if not start:
            break
    assert found == fold(names, prefix, delimiter)


# The journal


def reopened(path: Path) -> BlobEngine:
    return BlobEngine(clock=ManualClock(), journal=SqliteJournal(path))


def test_everything_acknowledged_is_there_after_a_restart(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "blob.sqlite")
    engine = engine_of(journal)
    engine.containers.set_metadata("box", {"m": "1"})
    blob = put(engine, b"one", b"two")
    leased, _ = engine.blobs.lease(KEY, Acquire(60, A))
    broken = BlobKey("box", "broken")
    put(engine, b"", key=broken)
    engine.blobs.lease(broken, Acquire(-1, A))
    engine.blobs.lease(broken, Break(30))
    staged = BlobKey("box", "staged")
    engine.blocks.stage(staged, block_id(0), upload(engine, b"block"))
    engine.containers.create("gone", {})
    put(engine, b"gone", key=BlobKey("gone", "x"))
    engine.containers.delete("gone")
    journal.close()

    after = reopened(tmp_path / "blob.sqlite")
    assert [entry.name for entry in after.containers.list().entries] == ["box"]
    assert after.containers.get("box").metadata == {"m": "1"}
    assert after.blobs.get(KEY) == leased
    assert leased.ticks == blob.ticks
    assert read(after) == b"onetwo"
    assert after.blobs.lease_now(after.blobs.get(broken))[1] == "breaking"
    assert [block.block_id for block in after.blocks.list(staged).staged] == [block_id(0)]
    after.blocks.commit(staged, [BlockChoice("Latest", block_id(0))], headers=ContentHeaders(), metadata={})
    assert read(after, staged) == b"block"
    assert put(after, b"new", access=Access(lease_id=A)).ticks > blob.ticks
    assert after.content_bytes == len("block") + len("new")


def test_upload_that_never_became_a_blob_is_dropped_at_the_next_start(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "blob.sqlite")
    engine = engine_of(journal)
    put(engine, b"kept")
    upload(engine, b"half of something", b"more")
    journal.close()
    after = reopened(tmp_path / "blob.sqlite")
    assert after.content_bytes == 4
    assert read(after) == b"kept"
    put(after, b"other", key=BlobKey("box", "other"))
    assert read(after) == b"kept"


def test_etag_is_new_after_a_restart_with_the_clock_behind(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "blob.sqlite")
    engine = engine_of(journal)
    engine.containers._store._clock.jump_s(3600)
    before = put(engine, b"a").ticks
    journal.close()
    assert put(reopened(tmp_path / "blob.sqlite"), b"a").ticks > before


class FailingJournal(MemoryJournal):
    """Takes chunks, and refuses the next record once it is told to."""

    fails = False

    def commit(self, changes: Sequence[Change]) -> None:
        if self.fails and any(change.space != "chunks" for change in changes):
            raise OSError("disk full")


def test_write_that_the_journal_refused_changed_nothing() -> None:
    journal = FailingJournal()
    engine = engine_of(journal)
    before = put(engine, b"old")
    journal.fails = True
    for attempt in (
        lambda: put(engine, b"new"),
        lambda: engine.blobs.set_metadata(KEY, {"a": "b"}),
        lambda: engine.blobs.lease(KEY, Acquire(15, A)),
        lambda: engine.blobs.delete(KEY),
        lambda: engine.containers.delete("box"),
        lambda: engine.containers.create("other", {}),
    ):
        with pytest.raises(OSError, match="disk full"):
            attempt()
    assert engine.blobs.get(KEY) == before
    assert read(engine) == b"old"
    assert engine.content_bytes == 3
    assert [entry.name for entry in engine.containers.list().entries] == ["box"]


class ShrinkingFails(MemoryJournal):
    """A full disk on which even deleting finds no room."""

    def __init__(self) -> None:
        self.is_full = False

    def commit(self, changes: Sequence[Change]) -> None:
        if self.is_full and all(change.value is None for change in changes):
            raise JournalError("cannot write to the file: database or disk is full")


def test_a_change_has_taken_effect_even_where_what_it_replaced_cannot_be_dropped() -> None:
    journal = ShrinkingFails()
    engine = engine_of(journal)
    put(engine, b"before")
    journal.is_full = True
    put(engine, b"after")
    assert read(engine) == b"after"
    assert engine.content_bytes == len(b"before") + len(b"after"), "the old content waits for room"
    journal.is_full = False
    put(engine, b"last")
    assert read(engine) == b"last"
    assert engine.content_bytes == len(b"last")
