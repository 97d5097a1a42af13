"""Promises of every job store on what it keeps: logs, ends, owners, ages, and its own opening and closing."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from scribewire.server.jobs.job import Job, JobEvent
from scribewire.server.jobs.store import (
    DAY_SECONDS,
    CursorInvalid,
    DataFolderInUse,
    JobNotRetryable,
    JobStoreUnavailable,
)
from tests.fakes.stores_under_test import CRASH, ENGINES, REFUSED, StoreUnderTest, transcript
from tests.fakes.waiting import run, wait_until_async, waits_for_event


@pytest.fixture(params=list(ENGINES))
def under(request: pytest.FixtureRequest, tmp_path: Path) -> StoreUnderTest:
    """A store of each engine."""
    return StoreUnderTest(request.param, tmp_path)


def kinds(events: list[JobEvent]) -> list[str]:
    return [event.kind for event in events]


# ---- progress and the log ------------------------------------------------------------------------------------


def test_heartbeat_tells_progress_and_text(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            job = await under.submit()
            claim = await under.claim()
            assert await store.heartbeat(claim, audio_seconds_done=1.0, audio_seconds_total=9.0)
            assert await store.heartbeat(claim, new_text="Good ")
            assert await store.heartbeat(claim, audio_seconds_done=5.0, new_text="morning")
            state = await store.get(job.job_id, "ann")
            assert (state.audio_seconds_done, state.audio_seconds_total) == (5.0, 9.0)
            assert state.partial_text == "Good morning"

    run(story())


def test_log_tells_the_whole_story_and_resumes_anywhere(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            job = await under.submit()
            claim = await under.claim()
            await store.heartbeat(claim, audio_seconds_done=1.0, audio_seconds_total=2.5, new_text="Good ")
            await store.fail(claim, CRASH, retryable=True)
            claim = await under.claim()
            await store.heartbeat(claim, new_text="Good morning.")
            await store.complete(claim, transcript(), is_demo=False)
            events = await under.log(job)
            assert kinds(events) == [
                "queued", "progress", "progress", "partial", "queued", "progress", "partial", "done",
            ]  # fmt: skip
            assert [event.event_id for event in events] == list(range(1, 9))
            assert [event.attempt for event in events] == [0, 1, 1, 1, 1, 2, 2, 2]
            assert (events[2].audio_seconds_done, events[2].audio_seconds_total) == (1.0, 2.5)
            assert [event.text for event in events if event.kind == "partial"] == ["Good ", "Good morning."]
            assert events[-1].audio_seconds_done == 2.5
            for after_id in range(10):
                assert await under.log(job, after_id=after_id) == events[after_id:]

    run(story())


def test_log_is_followed_live_by_many_and_ends_with_the_job(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            job = await under.submit()
            listeners = [asyncio.create_task(under.log(job, after_id=start)) for start in (0, 0, 1, 3)]
            claim = await under.claim()
            for word in ("a ", "b ", "c "):
                await asyncio.sleep(0)
                await store.heartbeat(claim, new_text=word)
            await store.fail(claim, REFUSED, retryable=False)
            whole = await under.log(job)
            assert kinds(whole) == ["queued", "progress", "partial", "partial", "partial", "failed"]
            assert whole[-1].failure == REFUSED
            assert whole[-1].is_last
            heard = await asyncio.gather(*listeners)
            assert heard == [whole, whole, whole[1:], whole[3:]]

    run(story())


async def listen(under: StoreUnderTest, job: Job, heard: list[JobEvent]) -> None:
    """Follow a job's log to its end."""
    async for event in under.store.events(job.job_id, job.owner):
        heard.append(event)


def test_log_of_an_erased_job_ends(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            job = await under.submit()
            heard: list[JobEvent] = []
            subscribed = asyncio.create_task(listen(under, job, heard))
            await wait_until_async(lambda: heard)
            assert await store.erase(job.job_id, "ann")
            await subscribed
            assert kinds(heard) == ["queued"]
            assert await under.log(job) == []

    run(story())


# ---- ending --------------------------------------------------------------------------------------------------


def test_queued_and_running_jobs_are_cancelled_and_finished_ones_stay(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            running, queued, completed, failed = [await under.submit() for _ in range(4)]
            claim = await under.claim()
            assert (await store.cancel(queued.job_id, "ann")).status == "cancelled"
            await store.complete(await under.claim(), transcript(), is_demo=False)
            await store.fail(await under.claim(), REFUSED, retryable=False)
            state = await store.cancel(running.job_id, "ann")
            assert (state.status, state.finished_at) == ("cancelled", under.clocks.wall)
            assert not state.has_audio
            assert not await store.heartbeat(claim)
            assert not await store.complete(claim, transcript(), is_demo=False)
            assert (await store.cancel(running.job_id, "ann")).status == "cancelled"
            assert (await store.cancel(completed.job_id, "ann")).status == "completed"
            assert (await store.cancel(failed.job_id, "ann")).status == "failed"
            assert await store.cancel("job_0", "ann") is None
            assert kinds(await under.log(running)) == ["queued", "progress", "cancelled"]
            assert kinds(await under.log(queued)) == ["queued", "cancelled"]
            assert await store.claim("w9") == ()
            assert len(under.files()) == 1  # the failed one's, so that it can be retried

    run(story())


def test_erased_job_leaves_nothing_in_any_state(under: StoreUnderTest):
    async def story():
        async with under.opened(keep_audio=True) as store:
            jobs = [await under.submit() for _ in range(4)]
            claim = await under.claim()
            await store.complete(await under.claim(), transcript(), is_demo=False)
            await store.fail(await under.claim(), REFUSED, retryable=False)
            assert len(under.files()) == 4
            for job in jobs:
                assert not await store.erase(job.job_id, "bob")
                assert await store.erase(job.job_id, "ann")
                assert not await store.erase(job.job_id, "ann")
                assert await store.get(job.job_id, "ann") is None
            assert not await store.complete(claim, transcript(), is_demo=False)
            assert under.files() == []
            stats = await store.stats()
            assert (set(stats.jobs.values()), stats.audio_count) == ({0}, 0)

    run(story())


# ---- whose jobs ----------------------------------------------------------------------------------------------


def test_nobody_sees_or_touches_the_job_of_another(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            job = await under.submit("ann")
            assert await store.get(job.job_id, "bob") is None
            assert await store.cancel(job.job_id, "bob") is None
            assert await store.retry(job.job_id, "bob") is None
            assert await store.audio(job.job_id, "bob") is None
            assert not await store.erase(job.job_id, "bob")
            assert [event async for event in store.events(job.job_id, "bob")] == []
            assert (await store.list("bob")).jobs == ()
            assert (await store.get(job.job_id, "ann")).status == "queued"

    run(story())


def test_list_is_newest_first_and_its_cursor_stands_still_while_jobs_come_and_go(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            jobs = []
            for number in range(10):
                jobs.append((await under.submit()).job_id)
                await under.submit(f"other{number}")
                under.clocks.wall -= 100  # a clock set back does not change who is newest
            jobs.reverse()
            first = await store.list("ann", limit=4)
            assert [job.job_id for job in first.jobs] == jobs[:4]
            await under.submit()  # new ones stand before the first page
            await store.erase(jobs[3], "ann")  # the page's last one
            await store.erase(jobs[5], "ann")
            second = await store.list("ann", limit=4, cursor=first.cursor)
            assert [job.job_id for job in second.jobs] == [jobs[4], *jobs[6:9]]
            third = await store.list("ann", limit=4, cursor=second.cursor)
            assert [job.job_id for job in third.jobs] == jobs[9:]
            assert third.cursor is None
            exactly = await store.list("ann", limit=9)
            assert (len(exactly.jobs), exactly.cursor) == (9, None)

    run(story())


def test_list_can_be_narrowed_to_a_status_and_carries_no_texts(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            jobs = [await under.submit() for _ in range(3)]
            await store.complete(await under.claim(), transcript(), is_demo=False)
            (completed,) = (await store.list("ann", status="completed")).jobs
            assert (completed.job_id, completed.transcript) == (jobs[0].job_id, None)
            queued = (await store.list("ann", status="queued")).jobs
            assert [job.job_id for job in queued] == [jobs[2].job_id, jobs[1].job_id]

    run(story())


@pytest.mark.parametrize("cursor", ["", "x y", "-1", "' OR 1", "9" * 40, "١"])
def test_cursor_of_nobody_is_refused(under: StoreUnderTest, cursor: str):
    async def story():
        async with under.opened() as store:
            with pytest.raises(CursorInvalid):
                await store.list("ann", cursor=cursor)

    run(story())


# ---- keeping -------------------------------------------------------------------------------------------------


def test_recordings_go_with_completion_unless_they_are_kept(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            job = await under.submit()
            await store.complete(await under.claim(), transcript(), is_demo=False)
            assert under.files() == []
            assert await store.audio(job.job_id, "ann") is None
            assert not (await store.get(job.job_id, "ann")).has_audio

    async def kept():
        under.folder = under.folder / "kept"
        under.folder.mkdir()
        async with under.opened(keep_audio=True, keep_results_seconds=50) as store:
            job = await under.submit()
            await store.complete(await under.claim(), transcript(), is_demo=False)
            await store.sweep()
            assert (await store.audio(job.job_id, "ann")).read_bytes() == b"audio"
            under.clocks.pass_time(51)
            assert (await store.sweep()).results == 1
            assert under.files() == []

    run(story())
    run(kept())


def test_results_and_failed_recordings_stay_for_their_time(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            done, failed, waiting = [await under.submit() for _ in range(3)]
            await store.complete(await under.claim(), transcript(), is_demo=False)
            await store.fail(await under.claim(), REFUSED, retryable=False)
            under.clocks.pass_time(7 * DAY_SECONDS - 60)
            assert (await store.sweep()).recordings == 0
            assert len(under.files()) == 2
            under.clocks.pass_time(120)
            assert (await store.sweep()).recordings == 1
            assert len(under.files()) == 1
            with pytest.raises(JobNotRetryable):
                await store.retry(failed.job_id, "ann")
            under.clocks.pass_time(23 * DAY_SECONDS - 120)
            assert (await store.sweep()).results == 0
            assert (await store.get(done.job_id, "ann")).transcript == transcript()
            under.clocks.pass_time(120)
            assert (await store.sweep()).results == 2
            assert await store.get(done.job_id, "ann") is None
            assert await store.get(failed.job_id, "ann") is None
            assert (await store.get(waiting.job_id, "ann")).status == "queued"

    run(story())


@pytest.mark.parametrize("jump_seconds", [7200.0, -7200.0, 400 * DAY_SECONDS])
def test_wall_clock_that_jumps_loses_requeues_and_expires_nothing(under: StoreUnderTest, jump_seconds: float):
    async def story():
        async with under.opened(keep_results_seconds=3600, keep_failed_audio_seconds=1800) as store:
            done, failed, running = [await under.submit() for _ in range(3)]
            await store.complete(await under.claim(), transcript(), is_demo=False)
            await store.fail(await under.claim(), REFUSED, retryable=False)
            claim = await under.claim()
            under.clocks.wall += jump_seconds
            swept = await store.sweep()
            assert (swept.results, swept.recordings, swept.requeued) == (0, 0, 0)
            assert await store.claim("w2") == ()
            assert await store.heartbeat(claim)
            for job, status in ((done, "completed"), (failed, "failed"), (running, "processing")):
                assert (await store.get(job.job_id, "ann")).status == status
            assert len(under.files()) == 2
            under.clocks.monotonic += 3601
            under.clocks.wall -= jump_seconds
            assert (await store.sweep()).results == 2

    run(story())


def test_stats_count_jobs_and_recordings(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            for _ in range(4):
                await under.submit(data=b"12345")
            await store.complete(await under.claim(), transcript(), is_demo=False)
            await store.fail(await under.claim(), REFUSED, retryable=False)
            await under.claim()
            stats = await store.stats()
            assert stats.jobs == {
                "queued": 1, "processing": 1, "completed": 1, "failed": 1, "cancelled": 0,
            }  # fmt: skip
            assert (stats.audio_count, stats.audio_bytes) == (3, 15)

    run(story())


# ---- opening and closing -------------------------------------------------------------------------------------


def test_second_server_on_a_folder_is_refused_and_let_in_when_the_first_is_gone(under: StoreUnderTest):
    async def story():
        async with under.opened():
            for kind in ENGINES:
                second = ENGINES[kind](under.folder / "data")
                with pytest.raises(DataFolderInUse, match=r"process \d+.*--data"):
                    await second.open()
        async with under.opened() as store:
            await store.stats()

    run(story())


def test_store_in_memory_has_recordings_on_disk_while_it_is_open_and_nothing_else(tmp_path: Path):
    under = StoreUnderTest("memory", tmp_path)

    async def story():
        async with under.opened(keep_audio=True) as store:
            done = await under.submit(data=b"the recording", callback_url="https://example.org/a-secret")
            await store.complete(await under.claim(), transcript("a secret text"), is_demo=False)
            waiting = await under.submit(data=b"the recording")
            assert len(under.files()) == 2
            files = [path for path in (under.folder / "data").rglob("*") if path.is_file()]
            assert sorted({path.parent.name for path in files}) == ["jobs", "passing-audio"]
            assert b"secret" not in b"".join(path.read_bytes() for path in files)
        assert [path.name for path in (under.folder / "data" / "jobs").iterdir()] == ["lock"]
        async with under.opened() as store:
            assert await store.get(done.job_id, "ann") is None
            assert await store.get(waiting.job_id, "ann") is None

    run(story())


def test_recordings_of_a_killed_store_in_memory_go_at_the_next_start_and_never_those_of_a_live_one(
    under: StoreUnderTest,
):
    passing = StoreUnderTest("memory", under.folder)

    async def story():
        async with passing.opened() as live:
            job = await passing.submit(data=b"the recording")
            with pytest.raises(DataFolderInUse):
                async with under.opened():
                    pass
            assert (await live.audio(job.job_id, "ann")).read_bytes() == b"the recording"
            # As a killed server leaves it: the folder as it is, its lock held by no process.
            shutil.copytree(under.folder / "data", under.folder / "killed" / "data")
        under.folder = under.folder / "killed"
        assert len(under.files()) == 1
        async with under.opened():
            assert under.files() == []

    run(story())


def test_recordings_kept_on_disk_outlive_a_store_in_memory(tmp_path: Path):
    on_disk, in_memory = StoreUnderTest("file", tmp_path), StoreUnderTest("memory", tmp_path)

    async def story():
        async with on_disk.opened():
            job = await on_disk.submit(data=b"kept")
        async with in_memory.opened():
            await in_memory.submit(data=b"passing")
            assert len(in_memory.files()) == 2
        async with on_disk.opened() as store:
            assert (await store.audio(job.job_id, "ann")).read_bytes() == b"kept"
            assert len(on_disk.files()) == 1

    run(story())


def test_closed_store_says_so_and_leaves_nobody_waiting(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            job = await under.submit()
            claim = await under.claim()
            heard: list[JobEvent] = []
            waiting = [
                asyncio.create_task(listen(under, job, heard)),
                asyncio.create_task(store.wait_until_lost(claim)),
                asyncio.create_task(store.claim("w2", wait_seconds=50)),
            ]
            await wait_until_async(lambda: heard and all(map(waits_for_event, waiting[1:])))
        ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(not isinstance(end, BaseException) or isinstance(end, JobStoreUnavailable) for end in ends)
        await store.close()
        for question in (store.stats(), store.get("job_0", "ann"), store.claim("w1"), store.list("ann")):
            with pytest.raises(JobStoreUnavailable):
                await question

    run(story())
