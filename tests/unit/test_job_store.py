"""Promises of every job store to clients that submit and to the dispatcher, tested through its interface."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from scribewire.engine.protocol.config import TranscribeOptions
from scribewire.server.jobs.job import JobEvent, Submission
from scribewire.server.jobs.store import (
    LEASE_OVER,
    IdempotencyConflict,
    JobNotRetryable,
    JobStoreFull,
    JobStoreUnavailable,
)
from tests.fakes.stores_under_test import ALL_OPTIONS, CRASH, ENGINES, REFUSED, StoreUnderTest, transcript
from tests.fakes.waiting import run, wait_until_async, waits_for_event


@pytest.fixture(params=list(ENGINES))
def under(request: pytest.FixtureRequest, tmp_path: Path) -> StoreUnderTest:
    """A store of each engine."""
    return StoreUnderTest(request.param, tmp_path)


def kinds(events: list[JobEvent]) -> list[str]:
    return [event.kind for event in events]


# ---- submitting ----------------------------------------------------------------------------------------------


def test_job_comes_back_as_it_was_submitted(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            job = await under.submit(
                options=ALL_OPTIONS, result_format="srt", callback_url="https://example.org/done"
            )
            assert job.job_id.startswith("job_")
            assert len(job.job_id) == 36
            assert await store.get(job.job_id, "ann") == job
            assert (job.status, job.options, job.result_format) == ("queued", ALL_OPTIONS, "srt")
            assert (job.callback_url, job.attempts, job.queue_position) == ("https://example.org/done", 0, 1)
            assert job.created_at == under.clocks.wall
            path = await store.audio(job.job_id, "ann")
            assert path.read_bytes() == b"audio"
            assert path.stat().st_mode & 0o777 == 0o600
            assert path.parent.stat().st_mode & 0o777 == 0o700

    run(story())


def test_recording_is_taken_over_and_discarded_when_no_job_follows(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            audio = await under.put(b"12345")
            assert (audio.size_bytes, list(under.folder.glob("upload-*"))) == (5, [])
            assert under.files() == [audio.audio_id]
            await store.discard_audio(audio)
            assert under.files() == []
            with pytest.raises(JobStoreUnavailable):
                await store.put_audio(under.folder / "none", sha256="")

    run(story())


def test_unfinished_jobs_are_bounded_and_a_refused_one_leaves_no_recording(under: StoreUnderTest):
    async def story():
        async with under.opened(max_unfinished=2) as store:
            first = await under.submit()
            await under.claim()
            await under.submit()
            with pytest.raises(JobStoreFull):
                await under.submit()
            assert len(under.files()) == 2
            await store.cancel(first.job_id, "ann")
            await under.submit()
            with pytest.raises(JobStoreFull):
                await under.submit()

    run(story())


def test_same_idempotency_key_is_the_same_job_and_never_another_recordings(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            first = await under.submit(idempotency_key="k")
            again = await store.submit(Submission("ann", await under.put(), idempotency_key="k"))
            assert (again.job.job_id, again.is_new) == (first.job_id, False)
            with pytest.raises(IdempotencyConflict):
                await under.submit(idempotency_key="k", data=b"other")
            with pytest.raises(IdempotencyConflict):
                await under.submit(idempotency_key="k", options=TranscribeOptions(language="de"))
            bobs = await under.submit("bob", idempotency_key="k", data=b"other")
            assert bobs.job_id != first.job_id
            without = [(await under.submit()).job_id for _ in range(2)]
            assert len({first.job_id, bobs.job_id, *without}) == 4
            assert len(under.files()) == 4
            claim = await under.claim()
            await store.complete(claim, transcript(), is_demo=False)
            finished = await store.submit(Submission("ann", await under.put(), idempotency_key="k"))
            assert (finished.job.job_id, finished.job.status) == (first.job_id, "completed")
            assert await store.erase(first.job_id, "ann")
            assert (await under.submit(idempotency_key="k")).job_id != first.job_id

    run(story())


def test_racing_submissions_with_one_key_make_one_job(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            recordings = [await under.put() for _ in range(20)]
            answers = await asyncio.gather(
                *(store.submit(Submission("ann", one, idempotency_key="k")) for one in recordings)
            )
            assert len({answer.job.job_id for answer in answers}) == 1
            assert sum(answer.is_new for answer in answers) == 1
            assert len(under.files()) == 1

    run(story())


# ---- claiming ------------------------------------------------------------------------------------------------


def test_racing_claims_get_every_job_once_oldest_first(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            submitted = [(await under.submit()).job_id for _ in range(60)]
            taken: list[str] = []

            async def work(name: str) -> None:
                while claims := await store.claim(name, limit=3):
                    mine = [claim.job.job_id for claim in claims]
                    assert mine == sorted(mine, key=submitted.index)
                    taken.extend(mine)

            await asyncio.gather(*(work(f"w{i}") for i in range(8)))
            assert sorted(taken) == sorted(submitted)
            assert (await store.stats()).jobs["queued"] == 60  # none has begun

    run(story())


def test_claim_says_all_that_a_worker_needs(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            job = await under.submit(options=ALL_OPTIONS, data=b"the bytes")
            claim = await under.claim("w7")
            assert (claim.job.job_id, claim.job.status, claim.worker) == (job.job_id, "queued", "w7")
            assert (claim.job.attempts, claim.job.owner, claim.job.options) == (1, "ann", ALL_OPTIONS)
            assert (await store.claimed_audio(claim)).read_bytes() == b"the bytes"
            assert not claim.must_run_alone
            assert (await store.get(job.job_id, "ann")).started_at == under.clocks.wall
            assert await store.claim("w8") == ()

    run(story())


def test_waiting_claim_gets_a_job_as_soon_as_there_is_one(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            waiting = asyncio.create_task(store.claim("w1", wait_seconds=50))
            await wait_until_async(lambda: waits_for_event(waiting))
            job = await under.submit()
            (claim,) = await waiting
            assert claim.job.job_id == job.job_id
            assert await store.claim("w1", wait_seconds=0.01) == ()

    run(story())


def test_claim_that_nobody_waits_for_any_more_holds_no_job(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            await under.submit()
            for delay in range(8):
                task = asyncio.create_task(store.claim("gone"))
                for _ in range(delay):
                    await asyncio.sleep(0)
                task.cancel()
                (result,) = await asyncio.gather(task, return_exceptions=True)
                if not isinstance(result, BaseException):
                    for claim in result:  # none while the claim before is still being given back
                        await store.release(claim)
            (claim,) = await store.claim("w1", wait_seconds=50)
            assert claim.job.attempts == 1

    run(story())


def test_queue_position_counts_those_before(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            jobs = [await under.submit(owner) for owner in ("ann", "bob", "ann")]
            assert [job.queue_position for job in jobs] == [1, 2, 3]
            await under.claim()
            positions = [(await store.get(job.job_id, job.owner)).queue_position for job in jobs]
            assert positions == [None, 1, 2]

    run(story())


# ---- the fence -----------------------------------------------------------------------------------------------


def test_claim_that_was_taken_away_is_not_heard_any_more(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            job = await under.submit()
            old = await under.claim("w1")
            assert await store.release(old)
            new = await under.claim("w1")
            assert new.claim_number > old.claim_number
            assert not await store.heartbeat(old, audio_seconds_done=9.0, new_text="stale")
            assert not await store.complete(old, transcript("stale"), is_demo=False)
            assert await store.fail(old, REFUSED, retryable=False) is None
            assert not await store.release(old)
            assert not await store.complete(replace(new, worker="other"), transcript("x"), is_demo=False)
            state = await store.get(job.job_id, "ann")
            assert (state.status, state.partial_text, state.audio_seconds_done) == ("processing", "", 0.0)
            assert await store.complete(new, transcript(), is_demo=True)
            assert not await store.complete(new, transcript("twice"), is_demo=False)
            assert await store.fail(new, REFUSED, retryable=True) is None
            state = await store.get(job.job_id, "ann")
            assert (state.status, state.transcript, state.is_demo) == ("completed", transcript(), True)
            assert kinds(await under.log(job)).count("done") == 1

    run(story())


def test_silent_claim_is_taken_away_and_a_heartbeat_keeps_it(under: StoreUnderTest):
    async def story():
        async with under.opened(lease_seconds=30) as store:
            job = await under.submit()
            first = await under.claim("w1")
            under.clocks.pass_time(29)
            assert await store.heartbeat(first)
            under.clocks.pass_time(29)
            assert await store.claim("w2") == ()
            under.clocks.pass_time(2)
            second = await under.claim("w2")
            assert second.job.job_id == job.job_id
            assert not await store.heartbeat(first)
            (death,) = second.job.deaths
            assert (death.worker, death.attempt, death.code) == ("w1", 1, LEASE_OVER)
            assert second.job.attempts == 2

    run(story())


def test_lost_claim_is_noticed_at_once_however_it_is_lost(under: StoreUnderTest):
    async def story():
        async with under.opened(lease_seconds=30) as store:
            for way in ("cancel", "erase", "lease", "release", "complete", "drain"):
                job = await under.submit()
                claim = await under.claim()
                noticed = asyncio.create_task(store.wait_until_lost(claim))
                await store.heartbeat(claim, audio_seconds_done=1.0)
                await wait_until_async(lambda task=noticed: task.done() or waits_for_event(task))
                assert not noticed.done()
                match way:
                    case "cancel":
                        await store.cancel(job.job_id, "ann")
                    case "erase":
                        await store.erase(job.job_id, "ann")
                    case "lease":
                        under.clocks.pass_time(31)
                        await store.sweep()
                    case "release":
                        await store.release(claim)
                    case "complete":
                        await store.complete(claim, transcript(), is_demo=False)
                    case "drain":
                        await store.drain()
                await noticed
                await store.erase(job.job_id, "ann")
            await store.wait_until_lost(claim)

    run(story())


# ---- deaths, drains and retries ------------------------------------------------------------------------------


def test_job_fails_only_with_three_deaths_on_its_record(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            job = await under.submit()
            for attempt in (1, 2):
                claim = await under.claim(f"w{attempt}")
                assert not claim.must_run_alone
                assert await store.fail(claim, CRASH, retryable=True) == "queued"
            drained = await under.claim("w3")
            assert drained.must_run_alone
            assert await store.release(drained)
            assert (await store.get(job.job_id, "ann")).attempts == 2
            last = await under.claim("w4")
            assert last.must_run_alone
            assert await store.fail(last, CRASH, retryable=True) == "failed"
            state = await store.get(job.job_id, "ann")
            assert (state.status, state.failure, state.attempts) == ("failed", CRASH, 3)
            assert [(one.attempt, one.worker, one.code) for one in state.deaths] == [
                (1, "w1", "engine_crashed"), (2, "w2", "engine_crashed"), (3, "w4", "engine_crashed"),
            ]  # fmt: skip
            assert await store.claim("w5") == ()

    run(story())


def test_failure_that_a_retry_cannot_mend_is_final_at_once(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            job = await under.submit()
            assert await store.fail(await under.claim(), REFUSED, retryable=False) == "failed"
            state = await store.get(job.job_id, "ann")
            assert (state.status, state.failure, state.deaths) == ("failed", REFUSED, ())
            assert state.finished_at == under.clocks.wall

    run(story())


def test_job_that_was_given_back_keeps_its_place_and_begins_anew(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            first, second = await under.submit(), await under.submit()
            claim = await under.claim()
            await store.heartbeat(claim, audio_seconds_done=4.0, audio_seconds_total=8.0, new_text="half")
            assert await store.release(claim)
            state = await store.get(first.job_id, "ann")
            assert (state.status, state.attempts, state.queue_position) == ("queued", 0, 1)
            assert (state.partial_text, state.audio_seconds_done, state.started_at) == ("", 0.0, None)
            assert [(await under.claim()).job.job_id for _ in range(2)] == [first.job_id, second.job_id]

    run(story())


def test_racing_cancels_erasures_and_ends_leave_one_end_or_nothing(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            for turn in range(12):
                job = await under.submit(data=f"{turn}".encode())
                claim = await under.claim()
                moves = [
                    store.complete(claim, transcript(), is_demo=False),
                    store.cancel(job.job_id, "ann"),
                    store.fail(claim, REFUSED, retryable=False),
                    store.heartbeat(claim, new_text="late"),
                    store.erase(job.job_id, "ann"),
                    store.get(job.job_id, "ann"),
                ]
                await asyncio.gather(*moves[turn % 6 :], *moves[: turn % 6])
                if (state := await store.get(job.job_id, "ann")) is not None:
                    ends = [one for one in await under.log(job) if one.is_last]
                    assert (state.is_finished, len(ends)) == (True, 1)
                    await store.erase(job.job_id, "ann")
            stats = await store.stats()
            assert (set(stats.jobs.values()), stats.audio_count, under.files()) == ({0}, 0, [])

    run(story())


def test_drain_gives_everything_back_uncharged_and_hands_out_nothing(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            jobs = [await under.submit() for _ in range(3)]
            held = await store.claim("w1", limit=2)
            await under.claim("w2")
            waiting = asyncio.create_task(store.claim("w3", wait_seconds=50))
            await wait_until_async(lambda: waits_for_event(waiting))
            assert await store.drain() == 3
            assert await waiting == ()
            assert await store.claim("w1") == ()
            assert not await store.complete(held[0], transcript(), is_demo=False)
            for job in jobs:
                state = await store.get(job.job_id, "ann")
                assert (state.status, state.attempts, state.deaths) == ("queued", 0, ())

    run(story())


def test_failed_job_can_be_retried_with_a_clean_record(under: StoreUnderTest):
    async def story():
        async with under.opened(max_worker_deaths=1, max_unfinished=1) as store:
            job = await under.submit()
            with pytest.raises(JobNotRetryable):
                await store.retry(job.job_id, "ann")
            assert await store.fail(await under.claim(), CRASH, retryable=True) == "failed"
            assert await store.retry(job.job_id, "bob") is None
            again = await store.retry(job.job_id, "ann")
            assert (again.status, again.attempts, again.deaths, again.failure) == ("queued", 0, (), None)
            assert again.finished_at is None
            claim = await under.claim()
            assert claim.job.attempts == 1
            assert await store.fail(claim, REFUSED, retryable=False) == "failed"
            other = await under.submit()
            with pytest.raises(JobStoreFull):
                await store.retry(job.job_id, "ann")
            await store.cancel(other.job_id, "ann")
            await store.retry(job.job_id, "ann")
            assert await store.complete(await under.claim(), transcript(), is_demo=False)
            assert kinds(await under.log(job)) == [
                "queued", "progress", "failed", "queued", "progress", "failed", "queued", "progress", "done",
            ]  # fmt: skip
            with pytest.raises(JobNotRetryable):
                await store.retry(job.job_id, "ann")

    run(story())
