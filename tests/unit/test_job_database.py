"""The databases of job stores and the thread that writes to them: groups, refusals, and what readers see meanwhile."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scribewire.server.jobs.sqlite.columns import RowDamaged
from scribewire.server.jobs.sqlite.database import Database, FileDatabase, MemoryDatabase
from scribewire.server.jobs.sqlite.writer import Effects, GroupCommitWriter, Transaction
from scribewire.server.jobs.store import JobStoreDiskFull, JobStoreFull, JobStoreUnavailable
from tests.fakes.waiting import PATIENCE_SECONDS, run


class Written:
    """A writer over a small table, with what it did."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.flushes = 0
        self.broken: OSError | None = None
        self.writer = GroupCommitWriter(
            database.writing,
            mend=self._mend,
            before_commit=self._flush,
            after_commit=lambda _: None,
            on_loop=lambda _: None,
        )
        database.open()
        with database.writing() as connection:
            connection.execute("CREATE TABLE numbers (number INTEGER UNIQUE)")

    def _flush(self, _: Effects) -> None:
        self.flushes += 1
        if self.broken is not None:
            raise self.broken

    def _mend(self, damage: RowDamaged, tx: Transaction) -> None:
        tx.execute("DELETE FROM numbers WHERE number = ?", (damage.seq,))

    def adding(self, number: int) -> Callable[[Transaction], int]:
        def add(tx: Transaction) -> int:
            tx.execute("INSERT INTO numbers VALUES (?)", (number,))
            tx.effects.new_audio.add(str(number))
            if number < 0:
                raise JobStoreFull("a refusal")
            return number

        return add

    def numbers(self) -> list[int]:
        with self.database.reading() as connection:
            return [row[0] for row in connection.execute("SELECT number FROM numbers ORDER BY number")]


@pytest.fixture(params=["file", "memory"])
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Written]:
    """A writer over a database of each form."""
    database = FileDatabase(tmp_path / "numbers.db") if request.param == "file" else MemoryDatabase()
    yield Written(database)
    database.close()


def test_waiting_operations_share_one_commit_and_each_refusal_stands_alone(written: Written):
    async def story():
        # All wait before the thread begins, so that they are one group.
        written.writer._loop = asyncio.get_running_loop()
        cleared: list[int] = []
        calls = [
            written.writer.call(
                written.adding(number), if_failed=lambda number=number: cleared.append(number)
            )
            for number in (1, -2, 3, 3, *range(10, 100))
        ]
        written.writer.start()
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert written.flushes == 1
        assert isinstance(ends[1], JobStoreFull)
        assert isinstance(ends[3], JobStoreUnavailable)  # not unique
        assert cleared == [-2, 3]
        assert ends[4:] == list(range(10, 100))
        assert written.numbers() == [1, 3, *range(10, 100)]
        await written.writer.stop()
        with pytest.raises(JobStoreUnavailable):
            written.writer.call(written.adding(5))

    run(story())


def test_commit_that_fails_fails_all_of_its_operations_and_the_next_one_works(written: Written):
    async def story():
        written.writer.start()
        written.broken = OSError(errno.ENOSPC, "No space left on device")
        for _ in range(2):
            with pytest.raises(JobStoreDiskFull):
                await written.writer.call(written.adding(1))
        assert written.numbers() == []
        written.broken = None
        assert await written.writer.call(written.adding(1)) == 1
        await written.writer.stop()
        assert written.numbers() == [1]

    run(story())


class WatchedLock:
    """A lock that says when a thread has to wait for it."""

    def __init__(self, waiting: threading.Event) -> None:
        self._lock = threading.Lock()
        self._waiting = waiting

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            self._waiting.set()
            assert self._lock.acquire(timeout=PATIENCE_SECONDS), "nobody gave the lock back"

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_reader_never_sees_what_a_failed_operation_undid(written: Written):
    # In memory a reader waits for the transaction, in a file it need not: either ends the operation's own waiting.
    has_looked_or_waits = threading.Event()
    if isinstance(written.database, MemoryDatabase):
        written.database._lock = WatchedLock(has_looked_or_waits)
    seen: list[list[int]] = []

    def read() -> None:
        try:
            seen.append(written.numbers())
        finally:
            has_looked_or_waits.set()

    reader = threading.Thread(target=read)

    def add_and_fail(tx: Transaction) -> None:
        tx.execute("INSERT INTO numbers VALUES (2)")
        reader.start()
        assert has_looked_or_waits.wait(PATIENCE_SECONDS)
        raise JobStoreFull("a refusal")

    async def story():
        written.writer.start()
        await written.writer.call(written.adding(1))
        with pytest.raises(JobStoreFull):
            await written.writer.call(add_and_fail)
        await asyncio.to_thread(reader.join)
        await written.writer.stop()
        assert seen == [[1]]

    run(story())
