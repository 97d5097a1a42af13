"""Engines that die, hang and stand still, for real: what was asked of them is answered once all the same."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from scribewire.engine.protocol.config import EngineConfig, TranscribeOptions
from scribewire.engine.protocol.errors import EngineCrashed, EngineUnavailable
from scribewire.engine.protocol.messages import Progress, SegmentDone, Started, TextDelta, Transcribe
from scribewire.engine.protocol.transcript import Transcript
from scribewire.server.engine.client import EngineClient
from scribewire.server.engine.requests import EngineRequest, InFlight
from scribewire.server.engine.restarts import RestartPolicy
from scribewire.server.engine.supervisor import EngineSupervisor
from scribewire.server.http.errors import EngineResting
from tests.fakes.fake_worker import FAKE_WORKER_MODULE
from tests.fakes.streams import transcript_of
from tests.fakes.waiting import is_gone, run, wait_until_async
from tests.process.engines import (
    IMPATIENT,
    broken,
    died_event,
    engine,
    recording,
    stuck_event,
    transcribe,
)

pytestmark = pytest.mark.process

DEATHS = [{"exit": 75}, {"abort": True}, {"half_message": True}]
DEATH_NAMES = ["exit 75", "abort", "in mid-message"]


# ---- handed out again ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("death", DEATHS, ids=DEATH_NAMES)
def test_request_caught_by_one_death_is_answered_by_the_next_worker(tmp_path: Path, death: dict[str, Any]):
    async def story() -> None:
        heard: list[Any] = []
        async with engine() as client:
            first_worker = client.worker_process_id
            neighbor = asyncio.create_task(
                transcribe(client, recording(tmp_path, delay_seconds=0.5, text="neighbor"))
            )
            transcript = await transcribe(client, broken(tmp_path, text="answer", **death), heard=heard)
            assert transcript.text == "answer"
            assert (await neighbor).text == "neighbor"
            assert [type(event) for event in heard].count(Started) == 1
            assert client.worker_deaths == 1
            assert is_gone(first_worker)

    run(story())


def test_request_that_waits_is_not_handed_out_a_third_time(tmp_path: Path):
    async def story() -> None:
        async with engine() as client:
            with pytest.raises(EngineCrashed, match="exit code 5"):
                await transcribe(client, recording(tmp_path, exit=5))
            assert client.worker_deaths == 2
            await client.wait_ready()
            assert (await transcribe(client, recording(tmp_path, text="next"))).text == "next"

    run(story())


def test_background_work_is_left_to_those_who_count_its_deaths(tmp_path: Path):
    async def story() -> None:
        async with engine() as client:
            with pytest.raises(EngineCrashed):
                await transcribe(client, recording(tmp_path, exit=5), priority="background")
            assert client.worker_deaths == 1

    run(story())


def test_nothing_is_told_twice_when_a_second_worker_goes_on(tmp_path: Path):
    async def story() -> None:
        heard: list[Any] = []
        source = broken(tmp_path, deltas=["Hel", "lo", " there."], token_logprobs=[-1, -2, -3], abort=True)
        async with engine() as client:
            options = TranscribeOptions(logprobs=True, token_logprobs=True)
            transcript = await transcribe(client, source, options, wants_deltas=True, heard=heard)
            assert client.worker_deaths == 1
        assert transcript.text == "Hello there."
        assert [type(event) for event in heard].count(Started) == 1
        deltas = [event for event in heard if isinstance(event, TextDelta)]
        told = [(delta.delta, [one.logprob for one in delta.logprobs]) for delta in deltas]
        assert told == [("Hel", [-1.0]), ("lo", [-2.0]), (" there.", [-3.0])]

    run(story())


def test_segments_and_progress_go_on_where_they_were(tmp_path: Path):
    async def story() -> None:
        heard: list[Any] = []
        source = broken(tmp_path, partials=["a", "b"], duration_seconds=4, exit=1)
        async with engine() as client:
            await transcribe(client, source, wants_segments=True, heard=heard)
        told = [
            event.segment.text if isinstance(event, SegmentDone) else event.audio_seconds_done
            for event in heard
            if isinstance(event, SegmentDone | Progress)
        ]
        assert told == ["a", 2.0, "b", 4.0, 4.0]

    run(story())


def test_request_that_is_cancelled_between_two_workers_is_not_handed_out_again(tmp_path: Path):
    async def story() -> None:
        async with engine(restarts=RestartPolicy(backoff_seconds=(0.3,))) as client:
            source = broken(tmp_path, exit=1, delay_seconds=0.0, text="x")
            task = asyncio.create_task(transcribe(client, source))
            await wait_until_async(lambda: client.worker_deaths == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await client.wait_ready()
            assert client._in_flight.held_count == 0
            assert client._in_flight.waiting == ()

    run(story())


def test_stop_between_two_workers_ends_what_waits_for_the_next(tmp_path: Path):
    async def story() -> None:
        async with engine(restarts=RestartPolicy(backoff_seconds=(60.0,))) as client:
            task = asyncio.create_task(transcribe(client, recording(tmp_path, exit=1)))
            await wait_until_async(lambda: client.worker_deaths == 1)
            await client.stop(0.0)
            with pytest.raises(EngineUnavailable, match="stopping"):
                await task

    run(story())


def test_closed_admission_refuses_the_new_and_finishes_the_old(tmp_path: Path):
    async def story() -> None:
        async with engine() as client, client.admission() as info:
            client.close_admission()
            with pytest.raises(EngineUnavailable, match="stopping"):
                await transcribe(client, recording(tmp_path, text="late"))
            early = client.transcribe(recording(tmp_path, text="early"), TranscribeOptions(), owner="ann")
            assert (await transcript_of(early)).text == "early"
            assert info == client.info

    run(story())


# ---- poison --------------------------------------------------------------------------------------------------


class NotedInFlight(InFlight):
    """Notes of each request that is handed over how many deaths it has seen and how many are held with it."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[tuple[str, int, int]] = []

    def take_next(self) -> EngineRequest | None:
        request = super().take_next()
        if request is not None:
            self.notes.append((request.message.owner, request.deaths, self.held_count))
        return request


def test_poison_runs_alone_the_third_time_and_fails_alone(tmp_path: Path):
    async def story() -> None:
        in_flight = NotedInFlight()
        async with engine(in_flight=in_flight) as client:

            async def submit(name: str, **keys: Any) -> Transcript:
                source = recording(tmp_path, **keys)
                return await transcribe(client, source, owner=name, priority="background", attempts=3)

            neighbors = [
                asyncio.create_task(submit("neighbor", delay_seconds=0.3, text=str(number)))
                for number in range(4)
            ]
            poison = asyncio.create_task(submit("poison", delay_seconds=0.1, exit=6))
            assert [(await one).text for one in neighbors] == ["0", "1", "2", "3"]
            with pytest.raises(EngineCrashed, match="exit code 6"):
                await poison
            assert client.worker_deaths == 3
            assert (await submit("after", text="fine")).text == "fine"
        third_times = [held for _, deaths, held in in_flight.notes if deaths == 2]
        assert len(third_times) == 5
        assert set(third_times) == {1}
        assert ("poison", 0, 5) in in_flight.notes

    run(story())


# ---- the watchdog --------------------------------------------------------------------------------------------


def test_worker_whose_work_does_not_move_is_replaced_and_its_stacks_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    async def story() -> None:
        async with engine(watch=IMPATIENT) as client:
            assert (await transcribe(client, broken(tmp_path, hang=True, text="at last"))).text == "at last"
            assert client.worker_deaths == 1

    with caplog.at_level("INFO", logger="scribewire.engine"):
        run(story())
    stuck = stuck_event(caplog)
    assert "no progress" in stuck["reason"]
    assert any("fake_worker.py" in line and "_break" in line for line in stuck["stacks"])
    assert died_event(caplog)["exit_code"] == -signal.SIGTERM


@pytest.mark.parametrize("model", ["fake", "fake:deaf=1"])
def test_worker_that_stands_still_altogether_is_killed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, model: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("scribewire.engine.processes.async_child.TERMINATE_SECONDS", 0.3)
    monkeypatch.setattr("scribewire.server.engine.supervisor._SHUTDOWN_SECONDS", 0.3)
    keys = {"freeze": True} if model == "fake" else {"hang": True}

    async def story() -> None:
        async with engine(model, watch=IMPATIENT) as client:
            assert (await transcribe(client, broken(tmp_path, text="at last", **keys))).text == "at last"

    with caplog.at_level("INFO", logger="scribewire.engine"):
        run(story())
    assert died_event(caplog)["exit_code"] == -signal.SIGKILL
    expected = "said nothing" if model == "fake" else "no progress"
    assert expected in stuck_event(caplog)["reason"]


def test_worker_stopped_while_it_has_nothing_to_do_is_replaced_too():
    async def story() -> None:
        async with engine(watch=IMPATIENT) as client:
            first_worker = client.worker_process_id
            os.kill(first_worker, signal.SIGSTOP)
            await wait_until_async(lambda: is_gone(first_worker))
            await wait_until_async(lambda: client.state == "ready")

    run(story())


def test_slow_work_that_moves_is_left_alone(tmp_path: Path):
    async def story() -> None:
        async with engine(watch=IMPATIENT) as client:
            source = recording(tmp_path, deltas=["slow", "ly", " it", " moves"], delta_delay_seconds=1)
            assert (await transcribe(client, source)).text == "slowly it moves"
            assert client.worker_deaths == 0

    run(story())


# ---- the breaker ---------------------------------------------------------------------------------------------


def test_breaker_opens_is_tried_and_closes(tmp_path: Path):
    policy = RestartPolicy(
        backoff_seconds=(0.0,), breaker_deaths=3, breaker_pause_seconds=1.0, steady_seconds=0.05
    )

    async def story() -> None:
        async with engine(restarts=policy, wait_seconds=60) as client:
            with pytest.raises(EngineCrashed):
                await transcribe(client, recording(tmp_path, exit=1), attempts=1)
            # The third death opens the breaker, and no worker is there to go on with this.
            with pytest.raises(EngineResting):
                await transcribe(client, recording(tmp_path, exit=1), attempts=3)
            assert client.state == "restarting"
            with pytest.raises(EngineResting, match="died 3 times within 600 s") as refusal:
                await transcribe(client, recording(tmp_path, text="x"))
            assert refusal.value.retry_after_seconds == 1
            client.check_admission(is_patient=True)  # what can wait may still be accepted
            await wait_until_async(lambda: client.state == "ready")
            assert client.supervisor.started_workers == 4
            assert (await transcribe(client, recording(tmp_path, text="back"))).text == "back"
            # It has stayed up for a while, so its death is the first of a new count. The supervisor measures that
            # while by the machine's clock, so the test has to let it pass.
            proven_at = time.monotonic() + policy.steady_seconds
            await wait_until_async(lambda: time.monotonic() > proven_at)
            assert (await transcribe(client, broken(tmp_path, exit=1, text="again"))).text == "again"

    run(story())


def test_worker_that_dies_on_trial_opens_the_breaker_again(tmp_path: Path):
    policy = RestartPolicy(backoff_seconds=(0.0,), breaker_deaths=2, breaker_pause_seconds=0.5)

    async def story() -> None:
        async with engine(restarts=policy, wait_seconds=60) as client:
            with pytest.raises(EngineCrashed):
                await transcribe(client, recording(tmp_path, exit=1))
            await wait_until_async(lambda: client.state == "ready")
            with pytest.raises(EngineResting):
                await transcribe(client, recording(tmp_path, exit=1))
            assert client.worker_deaths == 3
            await wait_until_async(lambda: client.state == "ready")

    run(story())


def test_worker_killed_from_outside_is_seen_at_once_and_named(tmp_path: Path):
    """The work in flight when it died is known without a single message from the worker."""

    async def story() -> None:
        deaths: list[tuple[float, str]] = []

        class Noting(EngineClient):
            def on_death(self, reason: str) -> None:
                deaths.append((time.monotonic(), reason))
                super().on_death(reason)

        sent: list[Transcribe] = []

        class Counting(EngineSupervisor):
            def send(self, message: Any) -> bool:
                if isinstance(message, Transcribe):
                    sent.append(message)
                return super().send(message)

        supervisor = Counting(EngineConfig(model="fake"), module=FAKE_WORKER_MODULE)
        client = Noting(supervisor)
        client.start()
        try:
            await client.wait_settled()
            task = asyncio.create_task(transcribe(client, recording(tmp_path, delay_seconds=1, text="done")))
            await wait_until_async(lambda: sent)
            os.kill(client.worker_process_id, signal.SIGKILL)
            assert (await task).text == "done"
            assert [message.request_id for message in sent] == [sent[0].request_id] * 2
            assert [reason for _, reason in deaths] == ["its process ended: killed by signal 9 (SIGKILL)"]
        finally:
            await client.stop()

    run(story())
