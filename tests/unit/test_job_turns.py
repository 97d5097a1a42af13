"""The order of jobs and their places in the queue, tested for each store through its interface."""

from __future__ import annotations

from pathlib import Path

import pytest

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
