"""SQLite databases with the tables of `migrations/`, in a file or in memory: connections and transactions only.

Both forms guarantee the same: one transaction writes at a time, and a reader sees what was committed before it began,
never what is uncommitted or was rolled back.
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
from scribewire.server.jobs.store import DataFolderGone

PAGE_CACHE_KIB = 512


class Database(Protocol):
    """A database whose methods block, raise sqlite3.Error, and may be called from any thread."""

    def open(self) -> None:
        """Make the database if there is none, and migrate it to the newest schema. raises: DatabaseTooNew, OSError"""

    def writing(self) -> AbstractContextManager[sqlite3.Connection]:
        """A transaction that is committed at the end, and rolled back on an error; one at a time."""

    def reading(self) -> AbstractContextManager[sqlite3.Connection]:
        """A consistent snapshot of what was committed."""

    def close(self) -> None:
        """Close every connection, once no thread uses one any more."""


class FileDatabase:
    """A file in WAL mode, synchronous=FULL: what was committed survives a power failure.

    The writer and each reading thread have their own connections, so that they never wait for each other.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity = (0, 0)
        self._writer: sqlite3.Connection | None = None
        self._reading = threading.local()
        self._connections: list[sqlite3.Connection] = []

    def open(self) -> None:
        """See Database."""
        # Made here with its mode, which SQLite copies to the log and the shared memory.
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._identity = _identity(os.fstat(descriptor))
        os.close(descriptor)
        self._writer = self._connect(is_reader=False)
        migrate(self._writer)

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """See Database."""
        assert self._writer is not None
        with _committed(self._writer) as connection:
            yield connection
            # Before the commit: what is written to a file that has no name any more is lost, and must be refused.
            self._check_place()

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """See Database."""
        self._check_place()
        if not hasattr(self._reading, "connection"):
            self._reading.connection = self._connect(is_reader=True)
        with _undone(self._reading.connection) as connection:
            yield connection

    def _check_place(self) -> None:
        try:
            is_same = _identity(os.stat(self._path)) == self._identity
        except OSError:
            is_same = False
        if not is_same:
            raise DataFolderGone()

    def close(self) -> None:
        """See Database; closing the last connection writes the log back into the database."""
        while self._connections:
            self._connections.pop().close()

    def _connect(self, *, is_reader: bool) -> sqlite3.Connection:
        # Opened only if it is there: SQLite would make an empty one.
        connection = _connected(f"{self._path.absolute().as_uri()}?mode=rw", is_uri=True)
        self._connections.append(connection)
        # KiB, negative by SQLite's rule. The system caches the file too; SQLite's default of 2 MB for each connection
        # fills up over hours, which looks like a leak.
        connection.execute(f"PRAGMA cache_size = -{PAGE_CACHE_KIB}")
        if is_reader:
            connection.execute("PRAGMA query_only = 1")
            return connection
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        # macOS: a plain fsync leaves the bytes in the drive's cache. Other systems ignore these.
        connection.execute("PRAGMA fullfsync = 1")
        connection.execute("PRAGMA checkpoint_fullfsync = 1")
        connection.execute("PRAGMA foreign_keys = 1")
        # Erased content is overwritten, not only unlinked.
        connection.execute("PRAGMA secure_delete = 1")
        connection.execute(f"PRAGMA journal_size_limit = {64 << 20}")
        return connection


class MemoryDatabase:
    """A database in this process's memory, with nothing on disk.

    One connection behind one lock, which each transaction and each reader holds to its end: SQLite isolates
    connections, but not the users of one. Two connections on a shared cache would not work: a reader either fails
    while the writer writes or, with read_uncommitted, sees rows that are rolled back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def open(self) -> None:
        """See Database."""
        self._connection = _connected(":memory:")
        # Sorts and journals that outgrow SQLite's cache would be written to files.
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
        """See Database; the content is lost."""
        if self._connection is not None:
            self._connection.close()

    def _opened(self) -> sqlite3.Connection:
        assert self._connection is not None
        return self._connection


def _connected(path: str, *, is_uri: bool = False) -> sqlite3.Connection:
    # A reader's connection is closed by another thread than its own, once that has ended.
    connection = sqlite3.connect(
        path, isolation_level=None, timeout=10.0, check_same_thread=False, uri=is_uri
    )
    connection.row_factory = sqlite3.Row
    connection.text_factory = _text
    return connection


def _text(data: bytes) -> str | bytes:
    """A text, or its bytes where they are none: sqlite3 would fail the whole statement, whichever row is to blame."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


@contextlib.contextmanager
def _committed(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        # SQLite may have rolled everything back itself: no room, or no disk.
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
