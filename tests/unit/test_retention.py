"""What outlives a lost database and a wrong clock: accepted recordings, and results, until a day of running."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from scribewire.server.jobs.job import Job
from scribewire.server.jobs.store import DAY_SECONDS
from tests.fakes.stores_under_test import REFUSED, StoreUnderTest, transcript
from tests.fakes.waiting import run


@pytest.fixture
def under(tmp_path: Path) -> StoreUnderTest:
    """An SQLite store."""
    return StoreUnderTest("file", tmp_path)


def jobs_folder(under: StoreUnderTest) -> Path:
    return under.folder / "data" / "jobs"


def orphans(under: StoreUnderTest) -> list[bytes]:
    folder = jobs_folder(under) / "orphans"
    return [path.read_bytes() for path in folder.iterdir()] if folder.is_dir() else []


# ---- a database that is not the one it was -------------------------------------------------------------------


def removed(folder: Path) -> None:
    for path in folder.glob("jobs.db*"):
        path.unlink()


def emptied(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "jobs.db")) as connection:
        connection.execute("DELETE FROM jobs")
        connection.commit()


def truncated(folder: Path) -> None:
    os.truncate(folder / "jobs.db", 0)


@pytest.mark.parametrize("lose", [removed, emptied, truncated])
def test_accepted_recordings_of_a_lost_database_are_set_aside_for_their_time_and_others_swept(
    under: StoreUnderTest, lose: Callable[[Path], None]
):
    async def story():
        async with under.opened():
            await under.submit(data=b"accepted")
            await under.put(b"never accepted")
        lose(jobs_folder(under))
        async with under.opened(keep_failed_audio_seconds=100) as store:
            assert (under.files(), orphans(under)) == ([], [b"accepted"])
            await under.submit(data=b"new")
            under.clocks.pass_time(99)
            await store.sweep()
            assert orphans(under) == [b"accepted"]
        under.clocks.pass_time(2)
        async with under.opened(keep_failed_audio_seconds=100):
            assert orphans(under) == []
            assert len(under.files()) == 1

    run(story())


def test_database_that_lost_its_log_beside_recordings_loses_none_of_them(under: StoreUnderTest):
    async def story():
        async with under.opened():
            known = await under.submit(data=b"in the database")
        async with under.opened():
            await under.submit(data=b"in the log")
            # As a killed server leaves it, but for the log.
            shutil.copytree(jobs_folder(under), under.folder / "copy" / "data" / "jobs")
        under.folder = under.folder / "copy"
        for path in jobs_folder(under).glob("jobs.db-*"):
            path.unlink()
        async with under.opened() as store:
            assert orphans(under) == [b"in the log"]
            assert (await store.audio(known.job_id, "ann")).read_bytes() == b"in the database"

    run(story())


def test_recording_that_was_erased_is_not_set_aside_when_the_server_dies_before_it_is_gone(
    under: StoreUnderTest, monkeypatch: pytest.MonkeyPatch
):
    async def story():
        async with under.opened() as store:
            job, other = await under.submit(data=b"erased"), await under.submit(data=b"kept")
            with monkeypatch.context() as killed:
                killed.setattr(store._audio, "remove", lambda audio_ids: None)
                assert await store.erase(job.job_id, "ann")
            assert len(under.files()) == 2
        async with under.opened() as store:
            assert (len(under.files()), orphans(under)) == (1, [])
            assert (await store.audio(other.job_id, "ann")).read_bytes() == b"kept"

    run(story())


# ---- a wrong clock -------------------------------------------------------------------------------------------


async def ended_jobs(under: StoreUnderTest) -> tuple[Job, Job]:
    async with under.opened() as store:
        done, failed = await under.submit(), await under.submit()
        await store.complete(await under.claim(), transcript(), is_demo=False)
        await store.fail(await under.claim(), REFUSED, retryable=False)
    return done, failed


async def assert_kept(under: StoreUnderTest, done: Job, failed: Job) -> None:
    await under.store.sweep()
    assert (await under.store.get(done.job_id, "ann")).transcript == transcript()
    assert (await under.store.get(failed.job_id, "ann")).has_audio


def notice(under: StoreUnderTest) -> str:
    path = jobs_folder(under) / "retention-waits"
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("first", [60, -60])
def test_one_start_under_a_wrong_clock_erases_nothing_and_the_right_one_forgets_it(
    under: StoreUnderTest, first: int, caplog: pytest.LogCaptureFixture
):
    async def story():
        jobs = await ended_jobs(under)
        under.clocks.wall += first * DAY_SECONDS
        for _ in range(40):  # a server that is started again and again
            async with under.opened():
                await assert_kept(under, *jobs)
                if first > 0:
                    assert "3 results and recordings" in notice(under)
                under.clocks.pass_time(60)
        under.clocks.wall -= first * DAY_SECONDS
        async with under.opened() as store:
            await assert_kept(under, *jobs)
            assert notice(under) == ""
            under.clocks.pass_time(7 * DAY_SECONDS)
            assert (await store.sweep()).recordings == 1
            under.clocks.pass_time(23 * DAY_SECONDS)
            assert (await store.sweep()).results == 2

    with caplog.at_level(logging.WARNING):
        run(story())
    told = [record for record in caplog.records if record.message == "retention_waits"]
    assert bool(told) == (first > 0)


def test_clock_that_is_set_right_while_the_server_runs_is_forgotten_at_once(under: StoreUnderTest):
    async def story():
        jobs = await ended_jobs(under)
        under.clocks.wall += 60 * DAY_SECONDS
        async with under.opened():
            await assert_kept(under, *jobs)
            under.clocks.wall -= 60 * DAY_SECONDS
            under.clocks.pass_time(60)
            await assert_kept(under, *jobs)
            assert notice(under) == ""
            under.clocks.pass_time(2 * DAY_SECONDS)
            await assert_kept(under, *jobs)

    run(story())


def test_months_that_really_passed_are_believed_after_a_day_of_running_over_any_number_of_starts(
    under: StoreUnderTest,
):
    async def story():
        jobs = await ended_jobs(under)
        under.clocks.wall += 60 * DAY_SECONDS
        for _ in range(4):
            async with under.opened():
                await assert_kept(under, *jobs)
                under.clocks.pass_time(DAY_SECONDS / 4)
            under.clocks.monotonic = 5.0
        async with under.opened() as store:
            assert await store.get(jobs[0].job_id, "ann") is None
            assert (under.files(), notice(under)) == ([], "")

    run(story())


def test_jump_of_a_running_server_is_not_taken_for_time_that_passed_at_the_next_start(under: StoreUnderTest):
    async def story():
        jobs = await ended_jobs(under)
        for jump in (-60, 120, -60):
            async with under.opened() as store:
                under.clocks.wall += jump * DAY_SECONDS
                await store.sweep()
            async with under.opened():
                await assert_kept(under, *jobs)

    run(story())


def test_notice_is_private_and_says_what_to_do(under: StoreUnderTest):
    async def story():
        await ended_jobs(under)
        under.clocks.wall += 60 * DAY_SECONDS
        async with under.opened():
            path = jobs_folder(under) / "retention-waits"
            assert path.stat().st_mode & 0o777 == 0o600
            assert "59 days ahead" in path.read_text()
            assert json.dumps(path.read_text()).isascii()

    run(story())
