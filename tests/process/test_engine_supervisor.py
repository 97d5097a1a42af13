"""The engine's process: its handshake, its deaths, its replacement, and its end. The fake worker breaks on cue."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from contextlib import aclosing
from pathlib import Path
from typing import Any

import psutil
import pytest

from scribewire.engine.processes.child import OUTPUT_BYTES
from scribewire.engine.protocol.config import TranscribeOptions
from scribewire.engine.protocol.errors import (
    EngineBusy,
    EngineCrashed,
    EngineFault,
    EngineUnavailable,
    ModelIncomplete,
    RequestCancelled,
)
from scribewire.engine.protocol.messages import SegmentDone
from scribewire.server.engine.client import EngineClient
from scribewire.server.engine.restarts import RestartPolicy
from tests.fakes.waiting import PATIENCE_SECONDS, in_time, is_gone, run, wait_until, wait_until_async
from tests.process.engines import engine, recording, transcribe

pytestmark = pytest.mark.process

PROJECT = Path(__file__).resolve().parents[2]


def test_handshake_tells_the_model():
    async def story():
        async with engine() as client:
            assert client.info.model_id == "fake"
            assert client.info.languages == ("English", "Spanish")
            assert not is_gone(client.worker_process_id)

    run(story())


def test_progress_and_partial_results_arrive_in_order_before_the_end(tmp_path: Path):
    async def story():
        heard: list[Any] = []
        async with engine() as client:
            source = recording(tmp_path, partials=["a", "b"], duration_seconds=4)
            transcript = await transcribe(client, source, wants_segments=True, heard=heard)
        told = [
            event.segment.text
            if isinstance(event, SegmentDone)
            else getattr(event, "audio_seconds_done", "started")
            for event in heard
        ]
        assert told == ["started", "a", 2.0, "b", 4.0]
        assert transcript.text == "a b"

    run(story())


def test_caller_that_fails_while_it_takes_events_harms_no_other_request(tmp_path: Path):
    async def story():
        async with engine(max_queued_requests=1) as client:
            with pytest.raises(ValueError, match="a bug in the caller"):
                await fail_while_it_listens(client)
            await wait_until_async(lambda: client.held_count == 0)
            assert (await transcribe(client, recording(tmp_path, text="a"))).text == "a"

    async def fail_while_it_listens(client: EngineClient) -> None:
        source = recording(tmp_path, partials=["a"], delay_seconds=3600)
        events = client.transcribe(source, TranscribeOptions(), owner="ann", wants_segments=True)
        async with client.admission(), aclosing(events):
            async for _ in events:
                raise ValueError("a bug in the caller")

    run(story())


@pytest.mark.parametrize(
    "death",
    [{"exit": 3}, {"abort": True}, {"half_message": True}, {"exit": 0}],
    ids=["exit", "abort", "in mid-message", "exit 0"],
)
def test_worker_that_dies_fails_what_it_held_and_is_replaced(tmp_path: Path, death: dict[str, Any]):
    async def story():
        async with engine() as client:
            first_worker = client.worker_process_id
            heard: list[Any] = []
            source = recording(tmp_path, delay_seconds=60)
            neighbour = asyncio.create_task(transcribe(client, source, heard=heard, attempts=1))
            await wait_until_async(lambda: heard)
            with pytest.raises(EngineCrashed):
                await transcribe(client, recording(tmp_path, **death), attempts=1)
            with pytest.raises(EngineCrashed):
                await neighbour
            # Without waiting for anything: the request itself waits for the new worker.
            assert (await transcribe(client, recording(tmp_path, text="again"))).text == "again"
            assert client.worker_process_id != first_worker
            assert is_gone(first_worker)

    run(story())


def test_sigkill_in_mid_request_is_noticed_and_named(tmp_path: Path):
    async def story():
        async with engine() as client:
            heard: list[Any] = []
            task = asyncio.create_task(
                transcribe(client, recording(tmp_path, hang=True), heard=heard, attempts=1)
            )
            await wait_until_async(lambda: heard)
            os.kill(client.worker_process_id, signal.SIGKILL)
            with pytest.raises(EngineCrashed, match="signal 9"):
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await task

    run(story())


def test_many_deaths_in_a_row_are_survived_and_leak_nothing(tmp_path: Path):
    async def story():
        async with engine() as client:
            source = recording(tmp_path, exit=1)
            with pytest.raises(EngineCrashed):
                await transcribe(client, source)
            await client.wait_settled()
            descriptors = psutil.Process().num_fds()
            for _ in range(4):
                with pytest.raises(EngineCrashed):
                    await transcribe(client, source)
            await client.wait_settled()
            assert psutil.Process().num_fds() <= descriptors
            await wait_until_async(
                lambda: (
                    [one.name for one in threading.enumerate() if "engine-" in one.name]
                    == ["scribewire-engine-watch"]
                )
            )

    run(story())


def test_what_the_worker_said_before_it_died_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    async def story():
        async with engine() as client:
            words = "x" * (OUTPUT_BYTES * 2) + "\nMetal: out of memory"
            with pytest.raises(EngineCrashed):
                await transcribe(client, recording(tmp_path, stderr=words, exit=9), attempts=1)
            await client.wait_settled()

    with caplog.at_level("INFO", logger="scribewire.engine"):
        run(story())
    (death,) = [record for record in caplog.records if record.getMessage() == "engine_died"]
    details = death.scribewire_event
    assert details["exit_code"] == 9
    assert details["last_words"][-1] == "Metal: out of memory"


def test_worker_that_floods_its_standard_error_is_not_blocked(tmp_path: Path):
    async def story():
        async with engine() as client:
            source = recording(tmp_path, stderr="flood " * 100_000, text="done")
            assert (await transcribe(client, source)).text == "done"
            assert len("".join(client.stderr_lines())) < 2 * OUTPUT_BYTES

    run(story())


def test_cancelling_the_waiting_task_cancels_the_work(tmp_path: Path):
    async def story():
        async with engine(max_queued_requests=1) as client:
            heard: list[Any] = []
            source = recording(tmp_path, delay_seconds=60)
            task = asyncio.create_task(transcribe(client, source, heard=heard))
            await wait_until_async(lambda: heard)
            with pytest.raises(EngineBusy):
                await transcribe(client, source)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            # Were it still at work, a draining worker would keep the stop waiting for the whole drain time.
            async with asyncio.timeout(PATIENCE_SECONDS):
                await client.stop(drain_seconds=3600)

    run(story())


def test_request_waits_for_a_worker_that_is_starting_but_not_for_ever(tmp_path: Path):
    async def story():
        async with engine("fake:load_seconds=0.3", ready=False) as client:
            assert (await transcribe(client, recording(tmp_path, text="x"))).text == "x"
        async with engine("fake:load_seconds=60", ready=False, wait_seconds=0.05) as client:
            with pytest.raises(EngineUnavailable):
                await transcribe(client, recording(tmp_path, text="x"))

    run(story())


def test_model_that_cannot_be_loaded_is_not_tried_again(tmp_path: Path):
    async def story():
        async with engine("fake:refuse=model_incomplete", ready=False) as client:
            assert await client.wait_settled() == "failed"
            with pytest.raises(ModelIncomplete, match="refuses to load"):
                await transcribe(client, recording(tmp_path, text="x"))
            # The task that starts workers has ended: nothing is left that could try again.
            await wait_until_async(client.supervisor._task.done)
            assert client.supervisor.started_workers == 1

    run(story())


@pytest.mark.parametrize(("model", "load_timeout_seconds"), [("fake:exit=3", 30.0), ("fake:hang=1", 0.05)])
def test_worker_that_never_becomes_ready_is_given_up_on(model: str, load_timeout_seconds: float):
    async def story():
        async with engine(model, ready=False, load_timeout_seconds=load_timeout_seconds) as client:
            async with asyncio.timeout(PATIENCE_SECONDS):
                assert await client.wait_settled() == "failed"
            assert isinstance(client.failure, EngineFault)
            assert client.supervisor.started_workers == 3

    run(story())


def test_worker_of_another_protocol_version_is_refused():
    async def story():
        async with engine("fake:version=99", ready=False) as client:
            assert await client.wait_settled() == "failed"
            assert "protocol" in str(client.failure)

    run(story())


def test_restarts_back_off(tmp_path: Path):
    async def story():
        async with engine(restarts=RestartPolicy(backoff_seconds=(0.0, 60.0)), wait_seconds=0.1) as client:
            with pytest.raises(EngineCrashed):
                await transcribe(client, recording(tmp_path, exit=1), attempts=1)
            # The first restart is immediate; loading takes longer than this client's patience.
            await client.wait_settled()
            with pytest.raises(EngineCrashed):
                await transcribe(client, recording(tmp_path, exit=1), attempts=1)
            with pytest.raises(
                EngineUnavailable, match="being replaced, because its process ended: exit code 1"
            ):
                await transcribe(client, recording(tmp_path, text="x"))
            assert client.state == "restarting"

    run(story())


def test_stop_lets_work_in_hand_finish(tmp_path: Path):
    async def story():
        async with engine() as client:
            heard: list[Any] = []
            source = recording(tmp_path, delay_seconds=0.3, text="finished")
            task = asyncio.create_task(transcribe(client, source, heard=heard))
            await wait_until_async(lambda: heard)
            worker = client.worker_process_id
            await client.stop(drain_seconds=PATIENCE_SECONDS)
            assert (await task).text == "finished"
            assert is_gone(worker)
            with pytest.raises(EngineUnavailable):
                await transcribe(client, source)

    run(story())


@pytest.mark.parametrize("model", ["fake", "fake:deaf=1", "fake:load_seconds=60"])
def test_stop_ends_every_worker_and_every_request(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("scribewire.engine.processes.async_child.TERMINATE_SECONDS", 0.3)
    monkeypatch.setattr("scribewire.server.engine.supervisor._SHUTDOWN_SECONDS", 0.3)

    async def story():
        async with engine(model, ready="load" not in model) as client:
            await wait_until_async(lambda: client.worker_process_id)
            worker = client.worker_process_id
            task = asyncio.create_task(transcribe(client, recording(tmp_path, hang=True)))
            # Handed over, or waiting for a worker that loads.
            await wait_until_async(lambda: client.held_count if client.state == "ready" else client.admitted)
            async with asyncio.timeout(PATIENCE_SECONDS):
                await client.stop(0.0)
                with pytest.raises((EngineCrashed, EngineUnavailable, RequestCancelled)):
                    await task
            assert is_gone(worker)
            await client.stop(0.0)

    run(story())


PARENT = """
import sys, time
from scribewire.engine.protocol.config import EngineConfig
from scribewire.engine.processes.launch import start_worker
from tests.fakes.fake_worker import FAKE_WORKER_MODULE
if __name__ == "__main__":
    handle = start_worker(EngineConfig(model=sys.argv[1]), module=FAKE_WORKER_MODULE)
    if "load" not in sys.argv[1]:
        handle.pipe.recv()
    print(handle.process_id, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("model", ["fake", "fake:load_seconds=600"])
def test_worker_dies_with_its_front(tmp_path: Path, model: str):
    program = tmp_path / "front.py"
    program.write_text(PARENT)
    front = subprocess.Popen(
        [sys.executable, str(program), model],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )
    worker = int(in_time(front.stdout.readline))
    assert not is_gone(worker)
    front.kill()
    front.wait(PATIENCE_SECONDS)
    front.stdout.close()
    wait_until(lambda: is_gone(worker))
