"""The order of jobs and their places in the queue, tested for each store through its interface."""

from __future__ import annotations

from pathlib import Path

import pytest

from scribewire.server.jobs.job import LONG_SECONDS, Job
from tests.fakes.stores_under_test import ENGINES, StoreUnderTest, transcript
from tests.fakes.waiting import run


@pytest.fixture(params=list(ENGINES))
def under(request: pytest.FixtureRequest, tmp_path: Path) -> StoreUnderTest:
    """A store of each engine."""
    return StoreUnderTest(request.param, tmp_path)


def test_owners_take_turns_and_each_ones_oldest_job_comes_first(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            jobs = [await under.submit(owner) for owner in ["ann"] * 5 + ["bob", "bob", "carol"]]
            names = {job.job_id: f"{job.owner}{number}" for number, job in enumerate(jobs)}
            places = [(await store.get(job.job_id, job.owner)).queue_position for job in jobs]
            order = []
            while claims := await store.claim("w1", limit=2):
                order += [names[claim.job.job_id] for claim in claims]
            assert order == ["ann0", "bob5", "carol7", "ann1", "bob6", "ann2", "ann3", "ann4"]
            assert [order.index(names[job.job_id]) + 1 for job in jobs] == places

    run(story())


def test_positions_told_are_the_order_of_claims_also_when_turns_were_taken_before(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            for owner in ("ann", "bob", "ann"):
                await under.submit(owner)
            first, second = await under.claim(), await under.claim()
            assert (first.job.owner, second.job.owner) == ("ann", "bob")
            for owner in ("bob", "carol", "carol", "bob"):
                await under.submit(owner)
            await store.release(second)
            owners = ("ann", "bob", "carol")
            queued = [
                (await store.get(job.job_id, owner))
                for owner in owners
                for job in (await store.list(owner, status="queued")).jobs
            ]
            places = {job.job_id: job.queue_position for job in queued}
            taken = [claim.job for claim in await store.claim("w1", limit=10)]
            assert [job.owner for job in taken] == ["carol", "ann", "bob", "carol", "bob", "bob"]
            assert [places[job.job_id] for job in taken] == [1, 2, 3, 4, 5, 6]

    run(story())


def test_newcomer_does_not_wait_for_somebodys_thousand_jobs(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            for _ in range(200):
                await under.submit("ann")
            await under.claim()
            bobs = await under.submit("bob")
            assert bobs.queue_position == 1
            assert (await under.claim()).job.job_id == bobs.job_id
            assert await store.cancel((await under.submit("bob")).job_id, "bob")
            assert (await under.claim()).job.owner == "ann"

    run(story())


def test_unfinished_jobs_are_told_with_their_owners(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            done, held, waiting = [await under.submit(owner) for owner in ("ann", "bob", "ann")]
            await store.complete(await under.claim(), transcript(), is_demo=False)
            await under.claim()
            assert sorted(await store.unfinished()) == sorted([(held.job_id, "bob"), (waiting.job_id, "ann")])
            assert (await store.get(done.job_id, "ann")).is_finished

    run(story())


def test_claimed_job_is_queued_with_its_position_until_it_has_begun(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            first, second, third = [await under.submit(owner) for owner in ("ann", "ann", "bob")]
            claims = await store.claim("w1", limit=2)
            assert {claim.job.job_id for claim in claims} == {first.job_id, third.job_id}

            async def seen(job: Job) -> tuple[str, int | None]:
                one = await store.get(job.job_id, job.owner)
                listed = {one.job_id: one for one in (await store.list(job.owner)).jobs}[job.job_id]
                assert (listed.status, listed.queue_position) == (one.status, one.queue_position)
                assert one in (await store.list(job.owner, status=one.status)).jobs
                return one.status, one.queue_position

            assert await store.heartbeat(claims[0], audio_seconds_done=0.0, audio_seconds_total=5.0)
            assert [await seen(job) for job in (first, third, second)] == [("queued", n) for n in (1, 2, 3)]
            assert (await store.stats()).jobs["queued"] == 3
            newest = await anext(store.events(third.job_id, "bob"))
            assert (newest.kind, newest.queue_position) == ("queued", 2)
            assert await store.heartbeat(claims[0], has_begun=True)
            assert [await seen(job) for job in (first, third, second)] == [
                ("processing", None), ("queued", 1), ("queued", 2)
            ]  # fmt: skip
            assert [(await store.stats()).jobs[status] for status in ("queued", "processing")] == [2, 1]
            assert (await store.cancel(third.job_id, "bob")).queue_position is None
            assert await seen(second) == ("queued", 1)
            log = await under.log(third)
            assert [(one.kind, one.queue_position) for one in log] == [("queued", None), ("cancelled", None)]

    run(story())


def test_same_submission_again_is_told_its_position(under: StoreUnderTest):
    async def story():
        async with under.opened():
            await under.submit()
            jobs = [await under.submit(idempotency_key="k") for _ in range(2)]
            assert [job.queue_position for job in jobs] == [2, 2]

    run(story())


def test_long_jobs_are_passed_over_and_keep_their_place(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            anns, bobs = [await under.submit() for _ in range(3)], await under.submit("bob")
            (claim,) = await store.claim("w1")
            await store.heartbeat(claim, audio_seconds_done=0.0, audio_seconds_total=LONG_SECONDS + 0.5)
            assert await store.release(claim)
            assert (await store.claim("w1", takes_long=False))[0].job.job_id == bobs.job_id
            assert await store.cancel(bobs.job_id, "bob")
            jobs = [await store.get(job.job_id, "ann") for job in anns]
            # Short ones come now, and a long one when its turn among all has come.
            assert [job.queue_position for job in jobs] == [1, 1, 2]
            assert (jobs[0].attempts, jobs[0].audio_seconds_total) == (0, LONG_SECONDS + 0.5)
            short = await store.claim("w1", limit=9, takes_long=False)
            assert [claim.job.job_id for claim in short] == [anns[1].job_id, anns[2].job_id]
            assert await store.claim("w1", takes_long=False) == ()
            assert [claim.job.job_id for claim in await store.claim("w1")] == [anns[0].job_id]

    run(story())
