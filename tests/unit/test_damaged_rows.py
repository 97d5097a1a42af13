"""A row that cannot be read ends its own job, which its owner sees, can list and erase, and no other job."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from scribewire.server.jobs.job import Job
from scribewire.server.jobs.store import JobNotRetryable, JobStore
from tests.fakes.stores_under_test import CALLBACK_URL, CRASH, ENGINES, StoreUnderTest, transcript
from tests.fakes.waiting import run

NO_UTF8 = "CAST(x'ff41' AS TEXT)"
DAMAGES = {
    "JSON that ends early": "options = '{'",
    "JSON of another kind": "options = '[]'",
    "an option of another type": """options = '{"temperature":"hot"}'""",
    "a file name that is a number": """options = '{"filename":5}'""",
    "an option out of its range": """options = '{"temperature":9}'""",
    "bytes that are no text": f"options = {NO_UTF8}",
    "a recording's name that is a path": "audio_id = '../../keys.json'",
    "a record of deaths that is none": "deaths = '[1]'",
    "a failure without its fields": "failure = '{}'",
    "a time that is a word": "created_at = 'soon'",
    "a number that is a word": "audio_seconds_done = 'many'",
    "a blob for a text": "result_format = x'00'",
}
Reader = Callable[[JobStore, Job], Awaitable[Any]]


async def events(store: JobStore, job: Job) -> None:
    async for _ in store.events(job.job_id, job.owner):
        pass


READERS: dict[str, Reader | None] = {
    "get": lambda store, job: store.get(job.job_id, job.owner),
    "list": lambda store, job: store.list(job.owner),
    "events": events,
    "cancel": lambda store, job: store.cancel(job.job_id, job.owner),
    "claim": None,
    "sweep": lambda store, job: store.sweep(),
}


@pytest.fixture(params=list(ENGINES))
def under(request: pytest.FixtureRequest, tmp_path: Path) -> StoreUnderTest:
    """A store of each engine."""
    return StoreUnderTest(request.param, tmp_path)


def damage(under: StoreUnderTest, job: Job, change: str, table: str = "jobs") -> None:
    """Write what no version of the program would."""
    with under.store._database.writing() as connection:
        connection.execute("PRAGMA ignore_check_constraints = 1")
        connection.execute(
            f"UPDATE {table} SET {change} WHERE seq = (SELECT seq FROM jobs WHERE job_id = ?)", (job.job_id,)
        )


async def assert_failed(under: StoreUnderTest, job: Job) -> None:
    """The job is failed wherever its owner looks, and can be erased."""
    store = under.store
    state = await store.get(job.job_id, job.owner)
    assert state is not None
    assert (state.status, state.failure.code) == ("failed", "job_unreadable")
    assert "damaged" in state.failure.message
    assert job.job_id in [one.job_id for one in (await store.list(job.owner, status="failed")).jobs]
    assert (await under.log(job))[-1].kind == "failed"
    assert await store.erase(job.job_id, job.owner)
    assert await store.get(job.job_id, job.owner) is None


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.parametrize("change", DAMAGES)
def test_damaged_row_fails_its_own_job_whoever_reads_it(
    under: StoreUnderTest, change: str, reader: Reader | None
):
    async def story():
        async with under.opened() as store:
            told: list[Job] = []
            store.on_unreadable = told.append
            damaged, others, bobs = await under.submit(), await under.submit(), await under.submit("bob")
            damage(under, damaged, DAMAGES[change])
            if reader is not None:
                await reader(store, damaged)
            claims = [claim for _ in range(3) for claim in await store.claim("w1")]
            assert {claim.job.job_id for claim in claims} == {others.job_id, bobs.job_id}
            if (await store.get(damaged.job_id, "ann")).status != "cancelled":
                await assert_failed(under, damaged)
                assert [one.job_id for one in told] == [damaged.job_id]
            assert (await store.stats()).jobs["queued"] == 2

    run(story())


def test_status_that_is_none_fails_the_job_and_the_next_start_counts_anew(tmp_path: Path):
    under = StoreUnderTest("file", tmp_path)

    async def story():
        async with under.opened():
            damaged = await under.submit()
            await under.submit()
            damage(under, damaged, "status = 'asleep'")
            with under.store._database.writing() as connection:
                connection.execute("DELETE FROM counts WHERE status = 'failed'")
                connection.execute("UPDATE counts SET jobs = 50")
                connection.execute("INSERT INTO queues VALUES ('nobody', 3)")
            assert await under.store.claim("w1")
        async with under.opened(max_unfinished=3) as store:
            await under.submit()
            assert (await store.stats()).jobs["queued"] == 2
            assert len([await under.claim() for _ in range(2)]) == 2
            assert await store.claim("w1") == ()
            await assert_failed(under, damaged)

    run(story())


@pytest.mark.parametrize("text", ["{", "'", '{"text":1}', "null", NO_UTF8])
def test_result_that_cannot_be_read_is_a_failure_and_its_neighbours_are_read(
    under: StoreUnderTest, text: str
):
    async def story():
        async with under.opened() as store:
            damaged, sound = await under.submit(), await under.submit()
            for _ in range(2):
                await store.complete(await under.claim(), transcript(), is_demo=False)
            value = text if text == NO_UTF8 else "'" + text.replace("'", "''") + "'"
            damage(under, damaged, f"transcript = {value}", "texts")
            assert (await store.get(sound.job_id, "ann")).transcript == transcript()
            await assert_failed(under, damaged)

    run(story())


def test_job_whose_options_are_lost_keeps_no_claim_on_its_recording_and_others_can_be_retried(tmp_path: Path):
    under = StoreUnderTest("file", tmp_path)

    async def story():
        async with under.opened(keep_failed_audio_seconds=100) as store:
            lost, sound = await under.submit(data=b"lost"), await under.submit(data=b"sound")
            damage(under, lost, DAMAGES["JSON that ends early"])
            damage(under, sound, DAMAGES["a record of deaths that is none"])
            assert await store.claim("w1") == ()
            with pytest.raises(JobNotRetryable):
                await store.retry(lost.job_id, "ann")
            assert (await store.retry(sound.job_id, "ann")).status == "queued"
            orphans = under.folder / "data" / "jobs" / "orphans"
            assert [path.read_bytes() for path in orphans.iterdir()] == [b"lost"]
            under.clocks.pass_time(101)
            assert (await store.sweep()).recordings == 1
            assert list(orphans.iterdir()) == []
            assert (await store.audio(sound.job_id, "ann")).read_bytes() == b"sound"

    run(story())


def test_damage_met_by_a_report_ends_the_job_and_the_claim(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            for _ in range(3):
                await under.submit(callback_url=CALLBACK_URL)
            jobs = [await under.claim() for _ in range(3)]
            for claim in jobs[:2]:
                damage(under, claim.job, "deaths = 'x', created_at = 'y'")
            assert await store.fail(jobs[0], CRASH, retryable=True) is None
            assert not await store.complete(jobs[1], transcript(), is_demo=False)
            assert await store.complete(jobs[2], transcript(), is_demo=False)
            assert len(await store.take_callbacks(limit=9)) == 3
            for claim in jobs[:2]:
                await assert_failed(under, claim.job)

    run(story())


def test_webhook_that_cannot_be_read_is_given_up_and_others_are_delivered(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            damaged, sound = [await under.submit(callback_url=CALLBACK_URL) for _ in range(2)]
            for _ in range(2):
                await store.complete(await under.claim(), transcript(), is_demo=False)
            damage(under, damaged, "body = x'00', attempts = 'x'", "callbacks")
            assert [one.job_id for one in await store.take_callbacks(limit=9)] == [sound.job_id]
            state = (await store.get(damaged.job_id, "ann")).callback
            assert (state.status, state.last_error) == ("given_up", "unreadable")
            damage(under, damaged, "due_on_clock = 'soon', status = 'due'", "callbacks")
            assert await store.take_callbacks() == ()

    run(story())


def test_events_that_cannot_be_read_cost_a_log_their_content_alone(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            job = await under.submit()
            await store.complete(await under.claim(), transcript(), is_demo=False)
            damage(under, job, "kind = 'x'", "events")
            assert [event.kind for event in await under.log(job)] == ["progress", "progress", "done"]
            assert (await store.get(job.job_id, "ann")).transcript == transcript()

    run(story())


def test_retention_clock_that_cannot_be_read_makes_nothing_older(tmp_path: Path):
    under = StoreUnderTest("file", tmp_path)

    async def story():
        async with under.opened() as store:
            under.clocks.pass_time(1000.0)
            job = await under.submit()
            await store.complete(await under.claim(), transcript(), is_demo=False)
            damage(under, job, "ended_on_clock = 'x'")
        with contextlib.closing(sqlite3.connect(under.folder / "data" / "jobs" / "jobs.db")) as connection:
            connection.execute("UPDATE clock SET seconds = 'x'")
            connection.commit()
        async with under.opened(keep_results_seconds=100) as store:
            assert (await store.get(job.job_id, "ann")).status == "completed"
            under.clocks.pass_time(101.0)
            assert (await store.sweep()).results == 1

    run(story())
