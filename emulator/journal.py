"""Where an engine keeps what must outlive its process.

An engine decides on a mutation, hands every row that it changes to `Journal.commit` in one call, and only then
changes its memory and answers. So an acknowledged write is on disk, and a write that failed changed nothing.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol


class JournalError(Exception):
    """What was to be kept could not be written: nothing of it is on disk. The text says why, and holds no data."""


class Change(NamedTuple):
    """One row: `value` None deletes it. `space` groups rows of one kind (say, `items`)."""

    space: str
    key: str
    value: bytes | None


class Journal(Protocol):
    """Rows that survive the process.

    Guarantee: `commit` applies all of its changes or none, and they survive a `kill -9` once it has returned.
    Not guaranteed: survival of a power failure.
    """

    def load(self, space: str) -> Iterable[tuple[str, bytes]]:
        """All rows of a space as (key, value), ordered by key."""
        ...

    def commit(self, changes: Sequence[Change]) -> None:
        """Apply `changes` in order as one transaction.

        Raises:
            JournalError: none of them was applied; the journal goes on once there is room again.
        """
        ...

    def close(self) -> None:
        """Release the file. Idempotent."""
        ...


class MemoryJournal:
    """Keeps nothing: what an engine holds in memory is all there is."""

    def load(self, space: str) -> Iterable[tuple[str, bytes]]:
        """Nothing."""
        del space
        return ()

    def commit(self, changes: Sequence[Change]) -> None:
        """Forget `changes`."""

    def close(self) -> None:
        """Nothing to release."""


class SqliteJournal:
    """One SQLite file in WAL mode. One process at a time: a second one gets a clear error at its start.

    `synchronous=NORMAL` survives a killed process (the operating system holds the pages) and costs tens of
    microseconds a commit instead of a disk flush: https://www.sqlite.org/pragma.html#pragma_synchronous.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        try:
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS rows (space TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL,"
                " PRIMARY KEY (space, key)) WITHOUT ROWID"
            )
        except sqlite3.OperationalError as error:
            self._connection.close()
            raise RuntimeError(
                f"cannot open {path}: {error}; another emulator is using this data folder: stop it or choose"
                " another --data folder"
            ) from error
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise RuntimeError(
                f"cannot read {path}: {error}; it is damaged, or was not written by the emulator: choose another"
                " --data folder"
            ) from error

    def load(self, space: str) -> Iterable[tuple[str, bytes]]:
        """All rows of a space as (key, value), ordered by key."""
        rows = self._connection.execute("SELECT key, value FROM rows WHERE space = ? ORDER BY key", (space,))
        for key, value in rows:
            yield key, bytes(value)

    def commit(self, changes: Sequence[Change]) -> None:
        """Apply `changes` in order as one transaction."""
        if not changes:
            return
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for space, key, value in changes:
                if value is None:
                    self._connection.execute("DELETE FROM rows WHERE space = ? AND key = ?", (space, key))
                else:
                    self._connection.execute("INSERT OR REPLACE INTO rows VALUES (?, ?, ?)", (space, key, value))
            self._connection.execute("COMMIT")
        except BaseException as error:
            # Where the disk is full SQLite has rolled back by itself, and another ROLLBACK would hide the reason.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise JournalError(f"cannot write to {self._path}: {error}") from error
            raise

    def close(self) -> None:
        """Release the file. Idempotent."""
        self._connection.close()
