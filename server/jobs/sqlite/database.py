"""Where the tables of `migrations/` are kept, in a file or in memory: connections, transactions, and nothing of jobs.

Both forms promise the same: one transaction writes at a time, and a reader sees what was committed before it began,
never what is being written or was undone.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from scribewire.server.jobs.sqlite.migrations import migrate

PAGE_CACHE_KIB = 512


class Database(Protocol):
    """Its methods block, raise sqlite3.Error, and may be called from any thread."""

    def open(self) -> None:
        """Make the database if there is none, and bring its layout up to date. raises: DatabaseTooNew, OSError"""

    def writing(self) -> AbstractContextManager[sqlite3.Connection]:
        """A transaction that is committed at the end, and undone when that raises; one at a time."""

    def reading(self) -> AbstractContextManager[sqlite3.Connection]:
        """One moment of what was committed."""

    def close(self) -> None:
        """Close every connection; no thread uses one any more."""


class FileDatabase:
    """A file in WAL mode, synchronous=FULL: what was committed survives a power failure.

    The writer has a connection of its own, and each thread that reads another, so that they never wait for each other.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: sqlite3.Connection | None = None
        self._reading = threading.local()
        self._connections: list[sqlite3.Connection] = []

    def open(self) -> None:
        """See Database."""
        # Made here with its mode; the log and the shared memory beside it take that mode from it.
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._writer = self._connect(is_reader=False)
        migrate(self._writer)

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """See Database."""
        assert self._writer is not None
        with _committed(self._writer) as connection:
            yield connection

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """See Database."""
        if not hasattr(self._reading, "connection"):
            self._reading.connection = self._connect(is_reader=True)
        with _undone(self._reading.connection) as connection:
            yield connection

    def close(self) -> None:
        """See Database; the last connection to be closed writes the log back into the database."""
        while self._connections:
            self._connections.pop().close()

    def _connect(self, *, is_reader: bool) -> sqlite3.Connection:
        connection = _connected(str(self._path))
        self._connections.append(connection)
        # KiB, negative by SQLite's rule. The system caches the file too; SQLite's own 2 MB for each connection fills up
        # over hours, and looks like a leak while it does.
        connection.execute(f"PRAGMA cache_size = -{PAGE_CACHE_KIB}")
        if is_reader:
            connection.execute("PRAGMA query_only = 1")
            return connection
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        # macOS: a plain fsync leaves the bytes in the drive's cache. No other system heeds these.
        connection.execute("PRAGMA fullfsync = 1")
        connection.execute("PRAGMA checkpoint_fullfsync = 1")
        connection.execute("PRAGMA foreign_keys = 1")
        # What was erased is overwritten, not only forgotten.
        connection.execute("PRAGMA secure_delete = 1")
        connection.execute(f"PRAGMA journal_size_limit = {64 << 20}")
        return connection


class MemoryDatabase:
    """Memory of this process, and nothing of it on disk.

    One connection behind one lock, which each transaction and each reader holds to its end: SQLite keeps connections
    apart, and never the users of one. Two connections on a shared cache would not do: a reader either fails while the
    writer writes or, with read_uncommitted, sees rows that are rolled back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def open(self) -> None:
        """See Database."""
        self._connection = _connected(":memory:")
        # Sorts and journals that outgrow SQLite's cache would go to files of their own.
        self._connection.execute("PRAGMA temp_store = MEMORY")
        self._connection.execute("PRAGMA foreign_keys = 1")
        migrate(self._connection)

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """See Database."""
        with self._lock, _committed(self._opened()) as connection:
            yield connection

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """See Database."""
        with self._lock, _undone(self._opened()) as connection:
            yield connection

    def close(self) -> None:
        """See Database; everything is gone."""
        if self._connection is not None:
            self._connection.close()

    def _opened(self) -> sqlite3.Connection:
        assert self._connection is not None
        return self._connection


def _connected(path: str) -> sqlite3.Connection:
    # Closed by another thread than the one that used it, once that has ended.
    connection = sqlite3.connect(path, isolation_level=None, timeout=10.0, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    return connection


@contextlib.contextmanager
def _committed(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        # SQLite may have rolled all of it back by itself: no room, or no disk.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def _undone(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    connection.execute("BEGIN")
    try:
        yield connection
    finally:
        connection.execute("ROLLBACK")
