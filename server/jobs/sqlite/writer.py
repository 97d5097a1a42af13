"""Group commit: one thread writes to an SQLite database, all waiting operations in one transaction with one fsync.

An operation that refuses (raises a JobStoreError) or fails is rolled back alone; one that met a damaged row is run
again once that row was mended. When the transaction cannot be committed, all of its operations fail. Effects outside
the database happen only after the commit. The thread blocks, so that the event loop never does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

from scribewire.server.jobs.job import Job
from scribewire.server.jobs.sqlite.columns import RowDamaged
from scribewire.server.jobs.sqlite.recordings import store_error
from scribewire.server.jobs.store import JobStoreDiskFull, JobStoreError, JobStoreUnavailable

MAX_GROUP = 1024
# SQLite's errors for a full disk, of the database, its log, or the log's shared memory.
_FULL = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_SHMSIZE,
    sqlite3.SQLITE_IOERR_TRUNCATE,
}

logger = logging.getLogger("scribewire.jobs")

_Value = TypeVar("_Value")


@dataclass(slots=True)
class Effects:
    """Effects of an operation outside the database, once it is committed.

    notified: topics to notify. removed_audio: recordings that belong to no job any more. orphaned_audio: those whose
    jobs are not known any more. new_audio: those of new jobs, which must survive a power failure.
    unreadable: jobs that were ended because their rows are damaged.
    """

    notified: set[str] = field(default_factory=set)
    removed_audio: set[str] = field(default_factory=set)
    orphaned_audio: set[str] = field(default_factory=set)
    new_audio: set[str] = field(default_factory=set)
    unreadable: list[Job] = field(default_factory=list)

    def add(self, other: Effects) -> None:
        """Merge another operation's effects."""
        self.notified |= other.notified
        self.removed_audio |= other.removed_audio
        self.orphaned_audio |= other.orphaned_audio
        self.new_audio |= other.new_audio
        self.unreadable += other.unreadable


@dataclass(slots=True)
class Transaction:
    """An operation's view of the transaction that it runs in, and its effects."""

    connection: sqlite3.Connection
    effects: Effects = field(default_factory=Effects)

    def execute(self, statement: str, values: Any = ()) -> sqlite3.Cursor:
        """Execute a statement."""
        return self.connection.execute(statement, values)


Operation = Callable[[Transaction], _Value]


@dataclass(slots=True)
class _Call(Generic[_Value]):
    operation: Operation[_Value]
    answer: asyncio.Future[_Value]
    if_failed: Callable[[], None] | None = None
    value: Any = None
    error: BaseException | None = None


def database_error(error: sqlite3.Error) -> JobStoreError:
    """The store's error for a failed statement."""
    code = getattr(error, "sqlite_errorcode", None)
    if code in _FULL:
        return JobStoreDiskFull("The server has no room on its disk for this job.")
    return JobStoreUnavailable(f"The job store's database cannot be used: {error}.")


class GroupCommitWriter:
    """Runs operations one after another in the transactions of a database."""

    def __init__(
        self,
        transaction: Callable[[], AbstractContextManager[sqlite3.Connection]],
        *,
        mend: Callable[[RowDamaged, Transaction], None],
        before_commit: Callable[[Effects], None],
        after_commit: Callable[[Effects], None],
        on_loop: Callable[[Effects], None],
    ) -> None:
        """mend: an operation that makes a damaged row readable. on_loop: called on the loop after the commit.

        before_commit, after_commit: called in the thread; both may raise OSError, which fails the group or is logged.
        """
        self._transaction = transaction
        self._mend = mend
        self._before_commit = before_commit
        self._after_commit = after_commit
        self._on_loop = on_loop
        self._calls: queue.SimpleQueue[_Call[Any] | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="job-writer", daemon=True)

    def start(self) -> None:
        """Start the thread; answers arrive on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """Finish the waiting operations and end the thread."""
        self._is_stopping = True
        if self._thread.is_alive():
            self._calls.put(None)
            await asyncio.to_thread(self._thread.join)

    def call(
        self, operation: Operation[_Value], *, if_failed: Callable[[], None] | None = None
    ) -> asyncio.Future[_Value]:
        """Run an operation in the next group; its result or error arrives after the commit.

        It runs even when its caller is cancelled. if_failed: cleans up, in the thread, before the error arrives.
        raises: JobStoreError
        """
        if self._loop is None or self._is_stopping:
            raise JobStoreUnavailable("The job store is not open.")
        answer: asyncio.Future[_Value] = self._loop.create_future()
        self._calls.put(_Call(operation, answer, if_failed))
        return answer

    def _run(self) -> None:
        is_stopping = False
        while not is_stopping:
            group: list[_Call[Any]] = []
            call = self._calls.get()
            try:
                while call is not None:
                    group.append(call)
                    if len(group) == MAX_GROUP:
                        break
                    call = self._calls.get_nowait()
                is_stopping = call is None
            except queue.Empty:
                pass
            if group:
                self._commit(group)

    def _commit(self, group: list[_Call[Any]]) -> None:
        effects = Effects()
        try:
            with self._transaction() as connection:
                for call in group:
                    self._execute(connection, call, effects)
                self._before_commit(effects)
        except BaseException as error:
            for call in group:
                # A refusal stands, even though the data it was decided on was rolled back.
                call.error = call.error if isinstance(call.error, JobStoreError) else _known(error)
            effects = Effects()
        try:
            self._after_commit(effects)
            for call in group:
                if call.error is not None and call.if_failed is not None:
                    call.if_failed()
        except Exception:
            # What is committed stands, the next start finds the files, and this thread serves all.
            logger.exception("job_files_not_moved")
        assert self._loop is not None
        # A loop that was closed without stop() takes no answers any more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._answer, group, effects)

    def _execute(self, connection: sqlite3.Connection, call: _Call[Any], effects: Effects) -> None:
        mended: set[int] = set()
        while (damage := self._attempt(connection, call, effects)) is not None:
            mending = _Call(partial(self._mend, damage), call.answer)
            if damage.seq in mended or self._attempt(connection, mending, effects) or mending.error:
                call.error = mending.error or JobStoreUnavailable("A damaged row cannot be mended.")
                return
            mended.add(damage.seq)

    def _attempt(
        self, connection: sqlite3.Connection, call: _Call[Any], effects: Effects
    ) -> RowDamaged | None:
        """Run an operation in a savepoint; returns the damage that it met, and has undone it then."""
        tx = Transaction(connection)
        damage = None
        tx.execute("SAVEPOINT one_call")
        try:
            call.value = call.operation(tx)
        except RowDamaged as error:
            tx.execute("ROLLBACK TO one_call")
            damage = error
        except Exception as error:
            if not connection.in_transaction:
                raise  # SQLite rolled everything back: no room, or no disk
            tx.execute("ROLLBACK TO one_call")
            if isinstance(error, sqlite3.OperationalError):
                raise
            call.error = _known(error)
        else:
            effects.add(tx.effects)
        tx.execute("RELEASE one_call")
        return damage

    def _answer(self, group: list[_Call[Any]], effects: Effects) -> None:
        self._on_loop(effects)
        for call in group:
            if call.answer.done():
                continue  # cancelled by its caller
            if call.error is not None:
                call.answer.set_exception(call.error)
            else:
                call.answer.set_result(call.value)


def _known(error: BaseException) -> BaseException:
    if isinstance(error, sqlite3.Error):
        return database_error(error)
    return store_error(error) if isinstance(error, OSError) else error
