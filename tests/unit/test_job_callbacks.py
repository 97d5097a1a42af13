"""Webhooks that are due, tested for each store through its interface, and their dispatcher."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from scribewire.server.jobs.delivery import LEASE_SECONDS, AttemptResult, Busy, Delivery, host_of
from scribewire.server.jobs.job import CallbackState
from scribewire.server.jobs.store import IdempotencyConflict
from scribewire.server.observability.metrics import Metrics
from scribewire.server.webhooks.dispatcher import ATTEMPTS_PER_OWNER, RETRY_SECONDS, WebhookDispatcher
from tests.fakes.stores_under_test import CRASH, ENGINES, REFUSED, StoreUnderTest, transcript
from tests.fakes.waiting import run, wait_until_async, waits_for_event

URL = "https://hooks.example.org/done?token=1"


@pytest.fixture(params=list(ENGINES))
def under(request: pytest.FixtureRequest, tmp_path: Path) -> StoreUnderTest:
    """A store of each engine."""
    return StoreUnderTest(request.param, tmp_path)


def test_every_kind_of_end_is_due_at_once_and_says_what_happened(under: StoreUnderTest):
    async def story():
        async with under.opened(max_worker_deaths=1) as store:
            done, refused, crashed, cancelled = [
                await under.submit(callback_url=URL, filename="talk.mp3") for _ in range(4)
            ]
            assert (await store.get(done.job_id, "ann")).callback is None
            assert await store.take_callbacks() == ()
            assert await store.complete(await under.claim(), transcript("secret text"), is_demo=False)
            await store.fail(await under.claim(), REFUSED, retryable=False)
            await store.fail(await under.claim(), CRASH, retryable=True)
            await store.cancel(cancelled.job_id, "ann")
            assert (await store.stats()).callbacks_due == 4
            taken = await store.take_callbacks(limit=10)
            bodies = {one.job_id: json.loads(one.body) for one in taken}
            assert {one.url for one in taken} == {URL}
            assert {one.attempt for one in taken} == {1}
            assert len({one.delivery_id for one in taken}) == 4
            assert "secret text" not in str(taken)
            types = [bodies[job.job_id]["type"] for job in (done, refused, crashed, cancelled)]
            assert types == ["job.completed", "job.failed", "job.failed", "job.cancelled"]
            assert bodies[refused.job_id]["data"]["error"]["code"] == REFUSED.code
            assert bodies[done.job_id]["data"] == {
                "job_id": done.job_id,
                "status": "completed",
                "filename": "talk.mp3",
                "created_at": int(under.clocks.wall),
                "finished_at": int(under.clocks.wall),
                "error": None,
            }

    run(story())


def test_job_without_a_callback_is_told_to_nobody(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            await under.submit()
            await store.complete(await under.claim(), transcript(), is_demo=False)
            assert await store.take_callbacks() == ()

    run(story())


def test_attempt_that_is_never_heard_of_is_made_again_and_one_that_arrived_is_not(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            job = await under.submit(callback_url=URL)
            await store.complete(await under.claim(), transcript(), is_demo=False)
            (first,) = await store.take_callbacks()
            assert await store.take_callbacks() == ()
            under.clocks.pass_time(LEASE_SECONDS + 1)
            (again,) = await store.take_callbacks()
            assert (again.delivery_id, again.body, again.attempt) == (first.delivery_id, first.body, 2)
            await store.note_callback(first, error="too late")
            await store.note_callback(again, error=None)
            under.clocks.pass_time(1e6)
            assert await store.take_callbacks() == ()
            state = (await store.get(job.job_id, "ann")).callback
            assert (state.status, state.attempts, state.last_error) == ("delivered", 2, None)
            assert (await store.stats()).callbacks_due == 0

    run(story())


def test_attempt_that_failed_is_due_after_its_pause_whatever_the_wall_clock_does(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            job = await under.submit(callback_url=URL)
            await store.complete(await under.claim(), transcript(), is_demo=False)
            (one,) = await store.take_callbacks()
            await store.note_callback(one, error="HTTP 500", retry_seconds=3600)
            under.clocks.wall += 1e7
            assert await store.take_callbacks() == ()
            at = under.clocks.wall - 1e7
            assert (await store.get(job.job_id, "ann")).callback == CallbackState("due", 1, "HTTP 500", at)
            under.clocks.pass_time(3601)
            (one,) = await store.take_callbacks()
            await store.note_callback(one, error="HTTP 410")
            under.clocks.pass_time(1e6)
            assert await store.take_callbacks() == ()
            assert (await store.get(job.job_id, "ann")).callback.status == "given_up"

    run(story())


def test_waiting_for_something_to_tell_ends_when_a_job_does(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            job = await under.submit(callback_url=URL)
            waiting = asyncio.create_task(store.take_callbacks(wait_seconds=50))
            await wait_until_async(lambda: waits_for_event(waiting))
            await store.cancel(job.job_id, "ann")
            (one,) = await waiting
            assert one.job_id == job.job_id

    run(story())


def test_erased_job_is_told_to_nobody_and_a_retried_one_by_its_next_end(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            erased, retried = [await under.submit(callback_url=URL) for _ in range(2)]
            for _ in range(2):
                await store.fail(await under.claim(), REFUSED, retryable=False)
            await store.erase(erased.job_id, "ann")
            await store.retry(retried.job_id, "ann")
            await store.complete(await under.claim(), transcript(), is_demo=False)
            (one,) = await store.take_callbacks(limit=5)
            assert json.loads(one.body)["type"] == "job.completed"

    run(story())


def test_same_idempotency_key_with_another_callback_is_another_submission(under: StoreUnderTest):
    async def story():
        async with under.opened():
            first = await under.submit(idempotency_key="k", callback_url=URL)
            assert (await under.submit(idempotency_key="k", callback_url=URL)).job_id == first.job_id
            with pytest.raises(IdempotencyConflict):
                await under.submit(idempotency_key="k", callback_url=URL + "2")

    run(story())


def test_what_is_due_survives_the_death_of_the_server(tmp_path: Path):
    under = StoreUnderTest("file", tmp_path)

    async def first() -> Delivery:
        async with under.opened() as store:
            await under.submit(callback_url=URL)
            await store.complete(await under.claim(), transcript(), is_demo=False)
            (one,) = await store.take_callbacks()
            return one

    async def second(one: Delivery) -> None:
        under.clocks.pass_time(LEASE_SECONDS + 1)
        async with under.opened() as store:
            (again,) = await store.take_callbacks()
            assert (again.delivery_id, again.body, again.attempt) == (one.delivery_id, one.body, 2)

    run(second(run(first())))


def test_owners_take_turns_and_what_is_busy_is_passed_over(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            ann = await ended(under, 4, url="https://a{}.example.org/")
            bob = await ended(under, 2, owner="bob")
            taken = await store.take_callbacks(limit=3)
            assert [one.job_id for one in taken] == [ann[0], bob[0], ann[1]]
            assert await store.take_callbacks(limit=9, busy=lambda: Busy(owners=["ann", "bob"])) == ()
            busy = Busy(hosts=["a2.example.org:443", host_of(URL)])
            assert [one.job_id for one in await store.take_callbacks(limit=9, busy=lambda: busy)] == [ann[3]]
            taken = await store.take_callbacks(limit=9)
            assert {one.job_id for one in taken} == {ann[2], bob[1]}

    run(story())


def test_waiting_goes_on_with_what_is_no_longer_busy(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            _, second = await ended(under, 2)
            (running,) = await store.take_callbacks()
            hosts = [host_of(URL)]
            waiting = asyncio.create_task(
                store.take_callbacks(wait_seconds=50, busy=lambda: Busy(hosts=list(hosts)))
            )
            await wait_until_async(lambda: waits_for_event(waiting))
            hosts.clear()
            await store.note_callback(running, error=None)
            assert [one.job_id for one in await waiting] == [second]

    run(story())


@pytest.mark.parametrize(
    "url",
    ["https://Hooks.example.org", "http://hooks.example.org.:0443/x", "https://HOOKS.EXAMPLE.ORG.?x"],
)
def test_receiver_is_known_by_its_host_however_it_is_spelled(url: str):
    assert host_of(url) == "hooks.example.org:443"


# ---- the dispatcher -------------------------------------------------------------------------------------------


class ScriptedSender:
    """Answers attempts as scripted, then well; `hang` keeps every attempt for ever."""

    def __init__(self, *results: AttemptResult, hangs: bool = False) -> None:
        self.results = list(results)
        self.hangs = hangs
        self.made: list[Delivery] = []
        self.is_closed = False

    async def attempt(self, delivery: Delivery) -> AttemptResult:
        self.made.append(delivery)
        if self.hangs:
            await asyncio.Event().wait()
        return self.results.pop(0) if self.results else AttemptResult(status=200)

    async def close(self) -> None:
        self.is_closed = True


async def ended(under: StoreUnderTest, count: int = 1, *, url: str = URL, owner: str = "ann") -> list[str]:
    jobs = [await under.submit(callback_url=url.format(number), owner=owner) for number in range(count)]
    for job in jobs:
        await under.store.cancel(job.job_id, owner)
    return [job.job_id for job in jobs]


def test_attempts_go_on_for_hours_with_growing_pauses_and_then_end(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            (job_id,) = await ended(under)
            sender = ScriptedSender(*[AttemptResult("HTTP 500", status=500)] * 50)
            due_after: list[float] = []

            async def note(delivery: Delivery, *, error: str | None, retry_seconds: float | None = None):
                due_after.append(retry_seconds or 0.0)
                await noted(delivery, error=error, retry_seconds=retry_seconds)
                under.clocks.pass_time(retry_seconds or 0.0)

            noted, store.note_callback = store.note_callback, note
            dispatcher = WebhookDispatcher(store, sender, Metrics(), uniform=lambda low, high: 1.0)
            dispatcher.start()

            async def is_given_up() -> bool:
                return (await store.get(job_id, "ann")).callback.status == "given_up"

            await wait_until_async(is_given_up)
            await dispatcher.stop()
            assert due_after == [*RETRY_SECONDS, 0.0]
            assert len(sender.made) == 10
            assert 12 * 3600 < sum(RETRY_SECONDS) < 24 * 3600
            assert sender.is_closed

    run(story())


def test_receiver_decides_that_it_is_enough_or_how_long_to_wait(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            gone, later = await ended(under, 2)
            sender = ScriptedSender(
                AttemptResult("HTTP 410", is_final=True), AttemptResult("HTTP 503", retry_after_seconds=900)
            )
            dispatcher = WebhookDispatcher(store, sender, Metrics(), concurrent_attempts=1)
            dispatcher.start()

            async def are_noted() -> bool:
                states = [(await store.get(job_id, "ann")).callback for job_id in (gone, later)]
                return all(state.last_error for state in states)

            await wait_until_async(are_noted)
            under.clocks.pass_time(800)
            assert await store.take_callbacks() == ()
            await dispatcher.stop()
            assert (await store.get(gone, "ann")).callback.status == "given_up"
            under.clocks.pass_time(200)
            assert [one.job_id for one in await store.take_callbacks(limit=2)] == [later]

    run(story())


def test_receivers_that_hang_are_bounded_in_number_and_never_hold_up_a_stop(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            await ended(under, 12, url="https://hooks-{}.example.org/")
            sender = ScriptedSender(hangs=True)
            dispatcher = WebhookDispatcher(store, sender, Metrics(), concurrent_attempts=3)
            dispatcher.start()

            async def are_busy() -> bool:
                return len(sender.made) >= 3

            await wait_until_async(are_busy)
            for _ in range(50):
                await asyncio.sleep(0)
            assert len(sender.made) == 3
            async with asyncio.timeout(5):
                await dispatcher.stop()
            assert (await store.stats()).callbacks_due == 12

    run(story())


def test_silent_receiver_has_two_attempts_at_a_time_and_holds_up_nobody_elses(under: StoreUnderTest):
    async def story():
        async with under.opened() as store:
            silent = await ended(under, 48, url="https://silent.example.org/{}")
            release = asyncio.Event()
            sender = ScriptedSender()

            async def attempt(delivery: Delivery) -> AttemptResult:
                sender.made.append(delivery)
                if "silent" in delivery.url:
                    await release.wait()
                return AttemptResult(status=200)

            sender.attempt = attempt
            dispatcher = WebhookDispatcher(store, sender, Metrics())
            dispatcher.start()
            await wait_until_async(lambda: len(sender.made) == 2)
            (same_owner,) = await ended(under)
            (another,) = await ended(under, owner="bob", url="https://b.example.org/")

            async def are_delivered() -> bool:
                jobs = [await store.get(same_owner, "ann"), await store.get(another, "bob")]
                return all(job.callback.status == "delivered" for job in jobs)

            await wait_until_async(are_delivered)
            assert [one.job_id for one in sender.made[:2]] == silent[:2]
            assert len(sender.made) == 4
            release.set()
            await wait_until_async(lambda: len(sender.made) == 50)
            await dispatcher.stop()

    run(story())


def test_owner_of_many_silent_receivers_leaves_places_to_others(under: StoreUnderTest):
    async def story():
        async with under.opened():
            await ended(under, 20, url="https://silent-{}.example.org/")
            sender = ScriptedSender(hangs=True)
            dispatcher = WebhookDispatcher(under.store, sender, Metrics())
            dispatcher.start()
            await wait_until_async(lambda: len(sender.made) == ATTEMPTS_PER_OWNER)
            await ended(under, owner="bob")
            await wait_until_async(lambda: [one.owner for one in sender.made].count("bob") == 1)
            assert [one.owner for one in sender.made].count("ann") == ATTEMPTS_PER_OWNER
            await dispatcher.stop()

    run(story())
