"""The store on disk: what survives which death, what a full disk does, how its layout grows."""

from __future__ import annotations

import errno
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scribewire.server.jobs.fairness import Fairness
from scribewire.server.jobs.retention import ClockReading, RetentionClock
from scribewire.server.jobs.sqlite import migrations
from scribewire.server.jobs.sqlite.recordings import AudioFolder, store_error
from scribewire.server.jobs.sqlite.rows import page
from scribewire.server.jobs.sqlite.store import SqliteJobStore
from scribewire.server.jobs.store import DAY_SECONDS, JobStoreDiskFull, JobStoreUnavailable
from tests.fakes.stores_under_test import REFUSED, StoreUnderTest, transcript
from tests.fakes.waiting import in_time, run

PROJECT = Path(__file__).resolve().parent.parent.parent
KILLS = 5
ACKNOWLEDGED_BEFORE_EACH_KILL = 40


@pytest.fixture
def under(tmp_path: Path) -> StoreUnderTest:
    """An SQLite store."""
    return StoreUnderTest("file", tmp_path)


def program(folder: Path, mode: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.unit.submitting_program", str(folder), mode],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        text=True,
    )


# ---- deaths of the server ------------------------------------------------------------------------------------


def test_every_acknowledged_job_survives_kills_and_no_recording_is_left_over(under: StoreUnderTest):
    acknowledged: dict[str, str] = {}
    for _ in range(KILLS):
        child = program(under.folder, "for-ever")
        assert child.stdout is not None
        lines = [in_time(child.stdout.readline) for _ in range(ACKNOWLEDGED_BEFORE_EACH_KILL)]
        child.send_signal(signal.SIGKILL)
        rest = in_time(child.stdout.read)
        child.wait(60)
        child.stdout.close()
        whole = [line for line in [*lines, *rest.splitlines(keepends=True)] if line.endswith("\n")]
        acknowledged |= dict(json.loads(line) for line in whole)

    async def story():
        async with under.opened() as store:
            for job_id, data in acknowledged.items():
                job = await store.get(job_id, "ann")
                assert (job.status, job.attempts, job.deaths) == ("queued", 0, ())
                assert (await store.audio(job_id, "ann")).read_text() == data
            stats = await store.stats()
            assert stats.jobs["queued"] >= len(acknowledged)
            assert stats.jobs["processing"] == 0
            assert len(under.files()) == stats.audio_count == stats.jobs["queued"]

    assert len(acknowledged) >= KILLS * ACKNOWLEDGED_BEFORE_EACH_KILL
    run(story())


def test_what_a_dead_server_held_is_queued_again_and_what_it_never_accepted_is_removed(under: StoreUnderTest):
    async def dies():
        async with under.opened() as store:
            job = await under.submit()
            claim = await under.claim()
            await store.heartbeat(claim, audio_seconds_done=1.0, new_text="half")
            await under.put(b"never submitted")
            # As a killed server leaves it: the database as it is, claims and all.
            for path in (under.folder / "data").rglob("*"):
                if path.is_file() and path.name != "lock":
                    copy = under.folder / "killed" / "data" / path.relative_to(under.folder / "data")
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    copy.write_bytes(path.read_bytes())
            (under.folder / "killed" / "data" / "jobs" / "audio" / "samples-1.f32").write_bytes(b"x")
            return job, claim

    async def story():
        job, claim = await dies()
        under.folder = under.folder / "killed"
        store = SqliteJobStore(under.folder / "data")
        swept = await store.open()
        assert (swept.requeued, swept.leftovers, swept.orphans) == (1, 2, 0)
        assert len(under.files()) == 1
        state = await store.get(job.job_id, "ann")
        assert (state.status, state.attempts, state.partial_text) == ("queued", 0, "")
        assert not await store.complete(claim, transcript(), is_demo=False)
        (again,) = await store.claim("w1")
        assert again.job.attempts == 1
        assert not await store.heartbeat(claim)
        await store.close()

    run(story())


def test_finished_jobs_their_logs_and_their_ages_survive_restarts(under: StoreUnderTest):
    async def first():
        async with under.opened() as store:
            job = await under.submit()
            await store.complete(await under.claim(), transcript(), is_demo=True)
            under.clocks.pass_time(20 * DAY_SECONDS)
            failed = await under.submit(idempotency_key="k")
            await store.fail(await under.claim(), REFUSED, retryable=False)
            return job, failed

    async def story():
        done, failed = await first()
        # Two days pass while no server runs; the monotonic clock begins anew, as after a reboot.
        under.clocks.wall += 2 * DAY_SECONDS
        under.clocks.monotonic = 5.0
        async with under.opened() as store:
            state = await store.get(done.job_id, "ann")
            assert (state.transcript, state.is_demo) == (transcript(), True)
            assert (await store.get(failed.job_id, "ann")).failure == REFUSED
            assert [event.kind for event in await under.log(done)] == ["queued", "progress", "done"]
            assert (await under.submit(idempotency_key="k")).job_id == failed.job_id
            under.clocks.pass_time(5 * DAY_SECONDS + 1)
            assert (await store.sweep()).recordings == 1
        under.clocks.wall -= (
            100 * DAY_SECONDS
        )  # a clock that went backwards expires nothing, and delays nothing
        async with under.opened() as store:
            assert await store.get(done.job_id, "ann") is not None
            under.clocks.pass_time(3 * DAY_SECONDS + 1)
            assert (await store.sweep()).results == 1

    run(story())


def test_keeping_clock_counts_the_time_between_runs_but_never_backwards():
    wall, monotonic = 1000.0, 50.0
    saved = ClockReading(10.0, 940.0)
    clock = RetentionClock(wall=lambda: wall, monotonic=lambda: monotonic, saved=saved)
    assert clock.now() == 70.0
    monotonic += 5
    wall += 9000
    saved = clock.reading()
    assert saved == ClockReading(75.0, 10_000.0)
    assert RetentionClock(wall=lambda: 0.0, monotonic=lambda: 0.0, saved=saved).now() == 75.0


def test_everything_on_disk_is_private(under: StoreUnderTest):
    async def story():
        async with under.opened():
            await under.submit()
            paths = [under.folder / "data", *(under.folder / "data").rglob("*")]
            names = {path.name for path in paths}
            assert {"jobs.db", "jobs.db-wal", "jobs.db-shm", "lock", "audio"} <= names
            for path in paths:
                assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path

    run(story())


def test_text_that_was_erased_is_nowhere_on_disk_after_a_restart(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            job = await under.submit()
            await store.complete(await under.claim(), transcript("a secret never to be found"), is_demo=False)
            await store.erase(job.job_id, "ann")
        folder = under.folder / "data" / "jobs"
        assert b"a secret never" not in b"".join(p.read_bytes() for p in folder.rglob("*") if p.is_file())

    run(story())


# ---- a disk that is full or broken ---------------------------------------------------------------------------


def test_full_disk_refuses_jobs_leaves_nothing_and_loses_nothing(under: StoreUnderTest):
    child = program(under.folder, "file-limit")
    output, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    acknowledged, refusals, recordings, still_answers, queued = json.loads(output)
    assert refusals == ["disk_full"] * 3
    assert acknowledged > 3
    assert recordings == acknowledged
    assert still_answers == 3
    assert queued == acknowledged + 1
    assert list(under.folder.glob("upload-*")) == []


def test_result_that_finds_no_room_is_refused_whole_and_can_be_committed_when_there_is_room(
    under: StoreUnderTest, monkeypatch: pytest.MonkeyPatch
):
    async def story():
        async with under.opened() as store:
            job = await under.submit(callback_url="https://example.org/done")
            claim = await under.claim()
            with monkeypatch.context() as full:
                full.setattr(
                    store._writer,
                    "_before_commit",
                    lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")),
                )
                with pytest.raises(JobStoreDiskFull):
                    await store.complete(claim, transcript("x" * 10_000_000), is_demo=False)
                assert (await store.get(job.job_id, "ann")).status == "processing"
            assert await store.complete(claim, transcript("x" * 10_000_000), is_demo=False)
            assert len((await store.get(job.job_id, "ann")).transcript.text) == 10_000_000
            assert (len(await store.take_callbacks()), under.files()) == (1, [])

    run(story())


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_room_is_told_from_a_broken_disk(code: int):
    assert isinstance(store_error(OSError(code, os.strerror(code))), JobStoreDiskFull)
    assert isinstance(store_error(OSError(errno.EIO, "Input/output error")), JobStoreUnavailable)


def test_recording_on_another_disk_is_copied_and_half_a_copy_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def other_disk(source: Any, target: Any) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "rename", other_disk)
    folder = AudioFolder(tmp_path / "audio")
    folder.make()
    source = tmp_path / "upload"
    source.write_bytes(b"audio")
    audio = folder.take(source, "")
    assert (folder.path(audio.audio_id).read_bytes(), source.exists()) == (b"audio", False)
    assert folder.path(audio.audio_id).stat().st_mode & 0o777 == 0o600
    source.write_bytes(b"audio")

    def no_room(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", no_room)
    with pytest.raises(JobStoreDiskFull):
        folder.take(source, "")
    assert source.exists()
    assert len(list((tmp_path / "incoming").iterdir())) == 1


def test_damaged_database_is_named_and_the_folder_is_free_again(under: StoreUnderTest):
    async def story():
        async with under.opened():
            pass
        database = under.folder / "data" / "jobs" / "jobs.db"
        content = database.read_bytes()
        database.write_bytes(b"not a database" * 1000)
        with pytest.raises(JobStoreUnavailable, match="database"):
            await SqliteJobStore(under.folder / "data").open()
        database.write_bytes(content)
        async with under.opened() as store:
            assert (await store.stats()).audio_count == 0

    run(story())


def test_check_finds_a_database_that_cannot_be_written(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            await store.check()
            other = sqlite3.connect(under.folder / "data" / "jobs" / "jobs.db")
            other.execute("ALTER TABLE clock RENAME TO away")
            with pytest.raises(JobStoreUnavailable):
                await store.check()
            other.execute("ALTER TABLE away RENAME TO clock")
            await store.check()
            other.close()

    run(story())


# ---- migrations ----------------------------------------------------------------------------------------------


def test_migrations_are_applied_in_order_once_and_later_ones_follow():
    connection = sqlite3.connect(":memory:", isolation_level=None)
    steps = [
        (1, "CREATE TABLE a (x);\nINSERT INTO a VALUES (1); -- ; no end\n"),
        (2, "INSERT INTO a VALUES (2);"),
    ]
    assert migrations.migrate(connection, steps[:1]) == 1
    assert migrations.migrate(connection, steps) == 2
    assert migrations.migrate(connection, steps) == 2
    assert connection.execute("SELECT x FROM a").fetchall() == [(1,), (2,)]


def test_migration_that_fails_changes_nothing():
    connection = sqlite3.connect(":memory:", isolation_level=None)
    steps = [(1, "CREATE TABLE a (x);"), (2, "INSERT INTO a VALUES (2); INSERT INTO none VALUES (1);")]
    with pytest.raises(sqlite3.OperationalError):
        migrations.migrate(connection, steps)
    assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    assert connection.execute("SELECT x FROM a").fetchall() == []


def test_database_of_a_later_version_is_refused(under: StoreUnderTest):
    async def story():
        async with under.opened():
            pass
        connection = sqlite3.connect(under.folder / "data" / "jobs" / "jobs.db")
        connection.execute("PRAGMA user_version = 99")
        connection.close()
        with pytest.raises(JobStoreUnavailable, match="version 99"):
            await SqliteJobStore(under.folder / "data").open()

    run(story())


def test_shipped_migrations_make_a_sound_database():
    connection = sqlite3.connect(":memory:", isolation_level=None)
    assert migrations.migrate(connection) == len(migrations.migrations()) >= 1
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    triggers = connection.execute("SELECT count(*) FROM sqlite_master WHERE type = 'trigger'").fetchone()
    assert triggers == (7,)


def test_jobs_queued_before_owners_took_turns_are_counted_when_the_layout_grows():
    connection = sqlite3.connect(":memory:", isolation_level=None)
    steps = migrations.migrations()
    migrations.migrate(connection, steps[:1])
    for number, (owner, status) in enumerate([("ann", "queued"), ("ann", "queued"), ("bob", "completed")]):
        connection.execute(
            "INSERT INTO jobs (job_id, owner, status, options, result_format, fingerprint, created_at, audio_bytes) "
            "VALUES (?, ?, ?, '{}', 'json', '', 0, 0)",
            (f"job_{number}", owner, status),
        )
    migrations.migrate(connection, steps)
    assert connection.execute("SELECT owner, jobs FROM queues").fetchall() == [("ann", 2)]
    connection.execute("UPDATE jobs SET status = 'processing'")
    assert connection.execute("SELECT owner, jobs FROM queues").fetchall() == []
    connection.execute("UPDATE jobs SET status = 'queued' WHERE owner = 'bob'")
    assert connection.execute("SELECT owner, jobs FROM queues").fetchall() == [("bob", 1)]
    connection.execute("DELETE FROM jobs WHERE owner = 'bob'")
    assert connection.execute("SELECT owner, jobs FROM queues").fetchall() == []


def steps_of_a_page(queued: int) -> int:
    """Hundreds of steps of SQLite's machine for the newest page of one owner's waiting jobs."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.row_factory = sqlite3.Row
    migrations.migrate(connection)
    connection.executemany(
        "INSERT INTO jobs (job_id, owner, status, options, result_format, fingerprint, created_at, audio_bytes) "
        "VALUES (?, 'ann', 'queued', '{}', 'json', '', 0, 0)",
        [(f"job_{number:032x}",) for number in range(queued)],
    )
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    connection.set_progress_handler(count, 100)
    found = page(connection, "ann", None, None, 20, Fairness())
    connection.set_progress_handler(None, 0)
    assert [job.queue_position for job in found.jobs] == list(range(queued, queued - 20, -1))
    return steps


def test_a_page_of_a_long_queue_takes_no_more_work_for_each_job_than_one_of_a_short_queue():
    assert steps_of_a_page(8000) < 3 * steps_of_a_page(1000)
