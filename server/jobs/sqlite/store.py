"""Jobs in an SQLite database beside their recordings: a JobStore for one machine.

    jobs/lock            held by the one server that uses this folder
    jobs/jobs.db         every job, its text and its log
    jobs/audio/          the recordings, one file each
    jobs/incoming/       recordings on disk before their jobs are, and after; removed by the next start
    jobs/orphans/        accepted recordings that the database does not know (a lost database); kept as failed ones are
    jobs/retention-waits a sentence, while the wall clock may be wrong and something would be removed if it is right
    jobs/passing-audio/  instead of all but the lock where the database is in memory (`--no-store`); removed when the
                         store is closed, and after a killed server when the next one opens this folder

One thread writes, in groups, and others read, so that the event loop never blocks. Everything is 0600.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from scribewire.engine.protocol.transcript import Transcript
from scribewire.server.access.keys import make_private_folder
from scribewire.server.jobs.delivery import Busy, Delivery
from scribewire.server.jobs.job import (
    FINISHED,
    Claim,
    Job,
    JobEvent,
    JobFailure,
    JobPage,
    JobStatus,
    StoredAudio,
    StoreStats,
    Submission,
    Swept,
)
from scribewire.server.jobs.notifications import CALLBACKS, WORK, Notifications, claim_topic, log_topic
from scribewire.server.jobs.sqlite import rows as sqlite_rows
from scribewire.server.jobs.sqlite.columns import RowDamaged
from scribewire.server.jobs.sqlite.database import Database, FileDatabase, MemoryDatabase
from scribewire.server.jobs.sqlite.migrations import DatabaseTooNew
from scribewire.server.jobs.sqlite.operations import JobOperations
from scribewire.server.jobs.sqlite.recordings import ORPHANS_FOLDER, AudioFolder, FolderLock, store_error
from scribewire.server.jobs.sqlite.writer import Effects, GroupCommitWriter, database_error
from scribewire.server.jobs.store import (
    DAY_SECONDS,
    JobStoreError,
    JobStoreUnavailable,
    RecordingLost,
    StoreRules,
    Submitted,
)
from scribewire.server.observability.logs import log_event

JOBS_FOLDER = "jobs"
WAITING_NOTICE = "retention-waits"
"""File with a sentence for `scribewire doctor`."""

READERS = 2
FILE_THREADS = 4

logger = logging.getLogger("scribewire.jobs")

_Value = TypeVar("_Value")


class SqliteJobStore:
    """A JobStore over one folder; lives on one event loop."""

    def __init__(
        self,
        data_folder: Path,
        rules: StoreRules | None = None,
        *,
        in_memory: bool = False,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """in_memory: keep nothing after `close`. wall, monotonic: clocks, replaced by tests."""
        self._rules = rules or StoreRules()
        self._folder = data_folder / JOBS_FOLDER
        self._lock = FolderLock(self._folder / "lock")
        # Separate from the kept recordings, which are needed when the database on disk is used again.
        self._passing_audio = AudioFolder(self._folder / "passing-audio", is_durable=False)
        self._audio = self._passing_audio if in_memory else AudioFolder(self._folder / "audio")
        self._database: Database = MemoryDatabase() if in_memory else FileDatabase(self._folder / "jobs.db")
        self._notifications = Notifications()
        self._operations = JobOperations(self._rules, wall=wall, monotonic=monotonic)
        self._writer = GroupCommitWriter(
            self._database.writing,
            mend=self._operations.end_damaged,
            before_commit=lambda done: self._audio.before_commit(done.new_audio, done.removed_audio),
            after_commit=lambda done: self._audio.after_commit(
                done.new_audio, done.removed_audio, done.orphaned_audio
            ),
            on_loop=self._notify,
        )
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="job-reader")
        self._file_threads = ThreadPoolExecutor(FILE_THREADS, thread_name_prefix="job-files")
        self._is_open = False
        self._told_waiting: int | None = None
        self.on_unreadable: Callable[[Job], None] = lambda job: None

    # ---- lifecycle -------------------------------------------------------------------------------------------

    async def open(self) -> Swept:
        """See JobStore; also raises JobStoreUnavailable (a damaged or newer database)."""
        await asyncio.to_thread(self._prepare)
        try:
            self._writer.start()
            requeued = await self._write(self._operations.begin)
            known = await self._writer.call(lambda tx: sqlite_rows.audio_ids(tx.connection))
            leftovers, orphans = await asyncio.to_thread(self._audio.sort_out, known)
            await self._writer.call(lambda tx: self._operations.retained.note_orphans(tx, orphans))
            swept = await self.sweep()
        except BaseException:
            await self._writer.stop()
            self._database.close()
            self._lock.release()
            raise
        self._is_open = True
        if requeued or leftovers:
            log_event(logger, logging.WARNING, "jobs_recovered", requeued=requeued, orphans_removed=leftovers)
        if orphans:
            log_event(
                logger, logging.WARNING, "recordings_set_aside", count=len(orphans), folder=ORPHANS_FOLDER
            )
        return dataclasses.replace(swept, requeued=requeued, leftovers=leftovers, orphans=len(orphans))

    async def close(self) -> None:
        """See JobStore."""
        if not self._is_open:
            return
        with contextlib.suppress(JobStoreError):  # a full disk, or a folder that is gone, ends nothing else
            await self.drain()
            await self._writer.call(lambda tx: self._operations.retained.save_clock(tx))
        self._is_open = False
        self._notifications.notify_all()
        await asyncio.to_thread(self._readers.shutdown)
        await asyncio.to_thread(self._file_threads.shutdown)
        await self._writer.stop()
        try:
            await asyncio.to_thread(self._database.close)
            await asyncio.to_thread(self._passing_audio.erase)
        finally:
            self._lock.release()

    def _prepare(self) -> None:
        try:
            make_private_folder(self._folder.parent)
            make_private_folder(self._folder)
            self._lock.take()
        except OSError as error:
            raise store_error(error) from None
        try:
            self._passing_audio.erase()
            self._audio.make()
            self._database.open()
        except BaseException as error:
            self._database.close()
            self._lock.release()
            if isinstance(error, sqlite3.Error):
                raise database_error(error) from None
            if isinstance(error, OSError):
                raise store_error(error) from None
            if isinstance(error, DatabaseTooNew):
                raise JobStoreUnavailable(str(error)) from None
            raise

    def _notify(self, effects: Effects) -> None:
        for topic in effects.notified:
            self._notifications.notify(topic)
        for job in effects.unreadable:
            self.on_unreadable(job)

    # ---- submitting ------------------------------------------------------------------------------------------

    async def put_audio(self, source: Path, *, sha256: str) -> StoredAudio:
        """See JobStore."""
        taking = self._in(self._file_threads, partial(self._audio.take, source, sha256))
        try:
            return await asyncio.shield(asyncio.wrap_future(taking))
        except asyncio.CancelledError:
            taking.add_done_callback(self._discard_taken)
            raise

    def _discard_taken(self, taking: Future[StoredAudio]) -> None:
        if not taking.cancelled() and taking.exception() is None:
            self._audio.remove([taking.result().audio_id])

    async def discard_audio(self, audio: StoredAudio) -> None:
        """See JobStore."""
        await asyncio.wrap_future(self._in(self._file_threads, partial(self._audio.remove, [audio.audio_id])))

    async def submit(self, submission: Submission) -> Submitted:
        """See JobStore."""
        answer = self._writer.call(
            partial(self._operations.insert, submission=submission),
            if_failed=partial(self._audio.remove, [submission.audio.audio_id]),
        )
        # A cancelled caller does not revoke a job that may be on disk already.
        return await asyncio.shield(answer)

    # ---- working ---------------------------------------------------------------------------------------------

    async def claim(
        self, worker: str, *, wait_seconds: float = 0.0, limit: int = 1, takes_long: bool = True
    ) -> tuple[Claim, ...]:
        """See JobStore."""
        deadline = time.monotonic() + wait_seconds
        with self._notifications.subscribed(WORK) as notified:
            while True:
                notified.clear()
                claims = await self._claim_now(worker, limit, takes_long)
                remaining = deadline - time.monotonic()
                if claims or remaining <= 0 or self._operations.is_draining:
                    return claims
                # Checked in between, because an expiring lease sends no notification.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(remaining, self._rules.lease_seconds / 2)):
                        await notified.wait()

    async def _claim_now(self, worker: str, limit: int, takes_long: bool) -> tuple[Claim, ...]:
        claim = partial(self._operations.claim, worker=worker, limit=limit, takes_long=takes_long)
        answer = self._writer.call(claim)
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            answer.add_done_callback(self._give_back)
            raise

    def _give_back(self, answer: asyncio.Future[tuple[Claim, ...]]) -> None:
        if answer.exception() is None:
            for claim in answer.result():
                given = self._writer.call(partial(self._operations.release, claim=claim))
                given.add_done_callback(lambda one: one.exception())

    async def claimed_audio(self, claim: Claim) -> Path:
        """See JobStore."""
        path = await self.audio(claim.job.job_id, claim.job.owner)
        if path is None:
            raise RecordingLost("The recording of this job is gone.")
        return path

    async def heartbeat(
        self,
        claim: Claim,
        *,
        audio_seconds_done: float | None = None,
        audio_seconds_total: float | None = None,
        new_text: str = "",
        has_begun: bool = False,
    ) -> bool:
        """See JobStore."""
        news = {"seconds": (audio_seconds_done, audio_seconds_total), "new_text": new_text}
        return await self._write(self._operations.heartbeat, claim=claim, has_begun=has_begun, **news)

    async def wait_until_lost(self, claim: Claim) -> None:
        """See JobStore."""
        with self._notifications.subscribed(claim_topic(claim.job.job_id)) as notified:
            while self._is_open:
                notified.clear()
                if not await self._read(partial(self._operations.is_held, claim=claim)):
                    return
                await notified.wait()

    async def complete(self, claim: Claim, transcript: Transcript, *, is_demo: bool) -> bool:
        """See JobStore."""
        return await self._write(
            self._operations.complete, claim=claim, transcript=transcript, is_demo=is_demo
        )

    async def fail(self, claim: Claim, failure: JobFailure, *, retryable: bool) -> JobStatus | None:
        """See JobStore."""
        return await self._write(self._operations.fail, claim=claim, failure=failure, retryable=retryable)

    async def release(self, claim: Claim) -> bool:
        """See JobStore."""
        return await self._write(self._operations.release, claim=claim)

    async def drain(self) -> int:
        """See JobStore."""
        self._operations.is_draining = True
        return await self._write(self._operations.drain)

    # ---- reading ---------------------------------------------------------------------------------------------

    async def get(self, job_id: str, owner: str) -> Job | None:
        """See JobStore."""
        return await self._read(
            sqlite_rows.whole_job, job_id=job_id, owner=owner, fairness=self._operations.fairness
        )

    async def list(
        self, owner: str, *, status: JobStatus | None = None, cursor: str | None = None, limit: int = 20
    ) -> JobPage:
        """See JobStore."""
        wanted = {"owner": owner, "status": status, "cursor": cursor, "limit": limit}
        return await self._read(sqlite_rows.page, **wanted, fairness=self._operations.fairness)

    async def events(self, job_id: str, owner: str, *, after_id: int = 0) -> AsyncIterator[JobEvent]:
        """See JobStore."""
        with self._notifications.subscribed(log_topic(job_id)) as notified:
            while self._is_open:
                notified.clear()
                read = partial(sqlite_rows.log, fairness=self._operations.fairness)
                found = await self._read(read, job_id=job_id, owner=owner, after_id=after_id)
                if found is None:
                    return
                status, events = found
                for event in events:
                    yield event
                    after_id = event.event_id
                if status in FINISHED:
                    return
                await notified.wait()

    async def audio(self, job_id: str, owner: str) -> Path | None:
        """See JobStore."""
        row = await self._read(sqlite_rows.find, job_id=job_id, owner=owner)
        if row is None or row["audio_id"] is None:
            return None
        return await asyncio.wrap_future(
            self._in(self._file_threads, partial(self._audio.path, row["audio_id"]))
        )

    async def stats(self) -> StoreStats:
        """See JobStore."""
        return await self._read(sqlite_rows.stats)

    async def check(self) -> None:
        """See JobStore."""
        await self._write(self._operations.rehearse)
        await asyncio.wrap_future(self._in(self._file_threads, self._audio.check))

    async def unfinished(self) -> tuple[tuple[str, str], ...]:
        """See JobStore."""
        return await self._read(sqlite_rows.unfinished)

    # ---- webhooks --------------------------------------------------------------------------------------------

    async def take_callbacks(
        self, *, wait_seconds: float = 0.0, limit: int = 1, busy: Callable[[], Busy] = Busy
    ) -> tuple[Delivery, ...]:
        """See JobStore."""
        deadline = time.monotonic() + wait_seconds
        with self._notifications.subscribed(CALLBACKS) as notified:
            while True:
                notified.clear()
                taken, next_seconds = await asyncio.shield(
                    self._writer.call(partial(self._operations.take_callbacks, limit=limit, busy=busy()))
                )
                remaining = deadline - time.monotonic()
                if taken or remaining <= 0:
                    return taken
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(remaining, next_seconds or remaining)):
                        await notified.wait()

    async def note_callback(
        self, delivery: Delivery, *, error: str | None, retry_seconds: float | None = None
    ) -> None:
        """See JobStore."""
        await self._write(
            self._operations.note_callback, delivery=delivery, error=error, retry_seconds=retry_seconds
        )

    # ---- ending ----------------------------------------------------------------------------------------------

    async def cancel(self, job_id: str, owner: str) -> Job | None:
        """See JobStore."""
        await self._write(self._operations.cancel, job_id=job_id, owner=owner)
        return await self.get(job_id, owner)

    async def erase(self, job_id: str, owner: str) -> bool:
        """See JobStore."""
        return await self._write(self._operations.erase, job_id=job_id, owner=owner)

    async def retry(self, job_id: str, owner: str) -> Job | None:
        """See JobStore."""
        await self._write(self._operations.retry, job_id=job_id, owner=owner)
        return await self.get(job_id, owner)

    async def sweep(self) -> Swept:
        """See JobStore."""
        swept = await self._write(self._operations.sweep)
        if swept.waiting != self._told_waiting:
            await asyncio.to_thread(self._tell_of_waiting, swept.waiting)
        return swept

    def _tell_of_waiting(self, count: int) -> None:
        clock = self._operations.retained.clock
        days, hours = clock.doubted_seconds / DAY_SECONDS, clock.grace_seconds_left / 3600
        if count or self._told_waiting:
            level = logging.WARNING if count else logging.INFO
            log_event(
                logger, level, "retention_waits", count=count, days_ahead=round(days), hours=round(hours)
            )
        self._told_waiting = count
        notice = self._folder / WAITING_NOTICE
        with contextlib.suppress(OSError):
            notice.unlink(missing_ok=True)
            if count:
                notice.touch(0o600)
                notice.write_text(
                    f"{count} results and recordings are kept past their time, because the clock is {days:.0f} days "
                    f"ahead of the latest time seen here. They are removed after {hours:.0f} more hours of running, "
                    "unless the clock is set back.\n"
                )

    # ---- threads ---------------------------------------------------------------------------------------------

    def _in(self, executor: Executor, work: Callable[[], _Value]) -> Future[_Value]:
        if not self._is_open:
            raise JobStoreUnavailable("The job store is not open.")
        return executor.submit(work)

    async def _write(self, operation: Callable[..., _Value], **values: Any) -> _Value:
        return await self._writer.call(partial(operation, **values))

    async def _read(self, query: Callable[..., _Value], **values: Any) -> _Value:
        mended: set[int] = set()
        while True:
            try:
                return await asyncio.wrap_future(
                    self._in(self._readers, partial(self._query, partial(query, **values)))
                )
            except RowDamaged as damage:
                if damage.seq in mended:
                    raise JobStoreUnavailable("A damaged row of the database cannot be mended.") from None
                mended.add(damage.seq)
                await self._writer.call(partial(self._operations.end_damaged, damage))

    def _query(self, query: Callable[[sqlite3.Connection], _Value]) -> _Value:
        try:
            with self._database.reading() as connection:
                return query(connection)
        except sqlite3.Error as error:
            raise database_error(error) from None
