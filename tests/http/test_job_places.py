"""A job holds one of its key's places until it is over, and not a moment longer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from scribewire.server.jobs.job import FINISHED
from scribewire.server.jobs.sqlite.store import SqliteJobStore
from tests.fakes.running_server import RunningServer, assert_openai_error, script
from tests.fakes.waiting import PATIENCE_SECONDS, wait_until
from tests.http.test_job_api import SLOW, SPEECH, deleted_meanwhile
from tests.http.test_jobs import ended, state, submit

ENDINGS: dict[str, dict[str, str]] = {
    "complete": {"text": "x"},
    "fail": {"fail": "audio_undecodable"},
    "cancel": {"text": "x"},
}
"""Ends of jobs by the store's method that writes them, and the fake worker's script."""


def test_jobs_of_an_earlier_start_take_their_keys_places(tmp_path: Path):
    with RunningServer(tmp_path, key_queued_recordings=2, drain_seconds=0) as running:
        first, second = (submit(running, SLOW).json()["job_id"] for _ in range(2))
        wait_until(lambda: state(running, first)["status"] == "processing")
    with RunningServer(tmp_path, key_queued_recordings=2, drain_seconds=0) as running:
        assert_openai_error(submit(running, SPEECH), 429, "key_queue_full")
        running.client.delete(f"/jobs/{second}")
        third = submit(running, SPEECH).json()["job_id"]
        assert ended(running, third)["status"] == "completed"
        running.client.delete(f"/jobs/{first}")


def test_retried_job_takes_a_place_again(tmp_path: Path):
    with RunningServer(tmp_path, key_queued_recordings=1, drain_seconds=0) as running:
        failed = submit(running, script(fail="audio_undecodable")).json()["job_id"]
        ended(running, failed)
        slow = submit(running, SLOW).json()["job_id"]
        assert_openai_error(running.client.post(f"/jobs/{failed}/retry"), 429, "key_queue_full")
        running.client.delete(f"/jobs/{slow}")
        assert running.client.post(f"/jobs/{failed}/retry").status_code == 202
        ended(running, failed)
        wait_until(lambda: submit(running, SPEECH).status_code == 202)


@pytest.mark.parametrize("ending", ENDINGS)
def test_whoever_sees_a_job_over_finds_its_place_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
):
    """However long the runner takes to hear that what it wrote is on disk."""
    write = getattr(SqliteJobStore, ending)
    may_be_heard_of = threading.Event()

    async def heard_of_late(*arguments: Any, **options: Any) -> Any:
        written = await write(*arguments, **options)
        await asyncio.to_thread(may_be_heard_of.wait, PATIENCE_SECONDS)
        return written

    async def not_heard_of(*_: Any) -> None:
        await asyncio.to_thread(may_be_heard_of.wait, PATIENCE_SECONDS)

    with RunningServer(tmp_path, key_queued_recordings=1, drain_seconds=0) as running:
        monkeypatch.setattr(SqliteJobStore, ending, heard_of_late)
        monkeypatch.setattr(SqliteJobStore, "wait_until_lost", not_heard_of)
        gate = tmp_path / "gate"
        job_id = submit(running, script(gate=str(gate), **ENDINGS[ending])).json()["job_id"]
        assert_openai_error(submit(running, SPEECH), 429, "key_queue_full")
        if ending != "cancel":
            gate.touch()
        with deleted_meanwhile(running, job_id) if ending == "cancel" else contextlib.nullcontext():
            wait_until(lambda: state(running, job_id)["status"] in FINISHED)
            assert submit(running, SLOW).status_code == 202
            assert_openai_error(submit(running, SPEECH), 429, "key_queue_full")
            may_be_heard_of.set()


def test_job_whose_worker_died_keeps_its_place(tmp_path: Path):
    with RunningServer(tmp_path, key_queued_recordings=1, drain_seconds=0) as running:
        begun = script(partials=["x", "y"], partial_delay_seconds=60, duration_seconds=2)
        job_id = submit(running, begun).json()["job_id"]
        wait_until(lambda: state(running, job_id)["progress"]["fraction"] == 0.5)
        worker = running.engine.worker_process_id
        assert worker is not None
        os.kill(worker, signal.SIGKILL)
        again = wait_until(lambda: (job := state(running, job_id))["attempts"] == 2 and job)
        assert len(again["worker_deaths"]) == 1
        assert_openai_error(submit(running, SPEECH), 429, "key_queue_full")
        running.client.delete(f"/jobs/{job_id}")
        assert submit(running, SPEECH).status_code == 202
