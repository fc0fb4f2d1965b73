"""The journal where its disk does not let it write: what it says, and that nothing is lost or half there."""

from pathlib import Path

import pytest

from emulator.journal import Change, JournalError, SqliteJournal


def full_journal(path: Path) -> SqliteJournal:
    """A journal whose file may not grow, which is how SQLite sees a full disk."""
    journal = SqliteJournal(path)
    journal.commit([Change("kept", "a", b"1")])
    journal._connection.execute("PRAGMA max_page_count = 1")  # raised by SQLite to the size that the file has
    return journal


def test_a_full_disk_is_named_and_leaves_what_was_there(tmp_path: Path) -> None:
    journal = full_journal(tmp_path / "data.sqlite")
    for _ in range(3):
        with pytest.raises(JournalError, match=r"cannot write to .*data.sqlite: database or disk is full"):
            journal.commit([Change("kept", "a", b"2"), Change("new", "b", bytes(1_000_000))])
    assert list(journal.load("kept")) == [("a", b"1")]
    assert list(journal.load("new")) == []
    journal.close()


def test_once_there_is_room_again_the_journal_goes_on(tmp_path: Path) -> None:
    journal = full_journal(tmp_path / "data.sqlite")
    with pytest.raises(JournalError, match=r"cannot write to .*data.sqlite: database or disk is full"):
        journal.commit([Change("new", "b", bytes(1_000_000))])
    journal._connection.execute("PRAGMA max_page_count = 100000")
    journal.commit([Change("new", "b", bytes(1_000_000))])
    journal.close()
    again = SqliteJournal(tmp_path / "data.sqlite")
    assert [key for key, _ in again.load("new")] == ["b"]
    again.close()


def test_a_commit_that_cannot_end_is_rolled_back_and_the_next_one_begins(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "data.sqlite")
    journal._connection.executescript(
        "CREATE TABLE parent (id INTEGER PRIMARY KEY);"
        "CREATE TABLE child (id INTEGER REFERENCES parent DEFERRABLE INITIALLY DEFERRED);"
        "PRAGMA foreign_keys = ON;"
        "CREATE TRIGGER refuses AFTER INSERT ON rows WHEN NEW.key = 'bad' BEGIN INSERT INTO child VALUES (1); END;"
    )
    with pytest.raises(JournalError, match="FOREIGN KEY"):
        journal.commit([Change("s", "good", b"1"), Change("s", "bad", b"2")])  # noticed at COMMIT, still within it
    journal.commit([Change("s", "next", b"3")])
    assert list(journal.load("s")) == [("next", b"3")]
    journal.close()
