"""Jobs and the death of the server that took them: nothing accepted is lost, nothing is done twice, nothing is left."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import httpx
import pytest

from tests.fakes.receiver import Receiver
from tests.fakes.running_server import script
from tests.fakes.waiting import PATIENCE_SECONDS, wait_until
from tests.process.test_serve import Served, plain_lines, served

pytestmark = pytest.mark.process

JOBS = 24


def submit(running: Served, recording: bytes) -> str:
    response = httpx.post(
        f"{running.address}/transcribe", files={"file": recording}, timeout=PATIENCE_SECONDS
    )
    assert response.status_code == 202, response.text
    job_id: str = response.json()["job_id"]
    return job_id


def job(running: Served, job_id: str) -> dict[str, object]:
    body: dict[str, object] = httpx.get(f"{running.address}/jobs/{job_id}", timeout=PATIENCE_SECONDS).json()
    return body


def recordings(data: Path) -> list[Path]:
    return list((data / "jobs" / "audio").iterdir())


def test_killed_server_loses_no_job_and_the_next_one_does_them_all(tmp_path: Path):
    data = tmp_path / "data"
    with served(data) as running:
        running.until_ready()
        job_ids = [submit(running, script(text=f"job {n}", delay_seconds=0.3)) for n in range(JOBS)]
        wait_until(lambda: any(job(running, job_id)["status"] == "completed" for job_id in job_ids))
        running.process.send_signal(signal.SIGKILL)
        running.process.wait(PATIENCE_SECONDS)
    with served(data) as again:
        again.until_ready()
        for number, job_id in enumerate(job_ids):
            done = wait_until(
                lambda job_id=job_id: (one := job(again, job_id))["status"] == "completed" and one
            )
            assert done["result"]["text"] == f"job {number}"
            assert (done["attempts"], done["worker_deaths"]) == (1, [])
            events = httpx.get(f"{again.address}/jobs/{job_id}/events", timeout=PATIENCE_SECONDS).text
            assert events.count("event: done") == 1
        assert recordings(data) == []
        assert not list((data / "uploads").glob("server-*/*/recording"))


@pytest.mark.parametrize("next_store", [False, True])
def test_killed_server_without_a_store_leaves_recordings_only_until_the_next_start(
    tmp_path: Path, next_store: bool
):
    data = tmp_path / "data"
    with served(data, store=False) as running:
        running.until_ready()
        submit(running, script(text="x", delay_seconds=600))
        assert len(list((data / "jobs" / "passing-audio").iterdir())) == 1
        assert not (data / "jobs" / "jobs.db").exists()
        running.process.send_signal(signal.SIGKILL)
        running.process.wait(PATIENCE_SECONDS)
    with served(data, store=next_store) as again:
        again.until_ready()
        assert httpx.get(f"{again.address}/jobs", timeout=PATIENCE_SECONDS).json()["data"] == []
        assert list((data / "jobs").glob("*audio/*")) == []


def test_job_of_a_dead_engine_worker_is_done_by_the_next_one(tmp_path: Path):
    with served(tmp_path / "data", restart_backoff_seconds=(0.0,)) as running:
        running.until_ready()
        # Two jobs in flight in one worker: one kills it each time, and the other is done all the same.
        poison = submit(running, script(delay_seconds=0.3, exit=7))
        neighbor = submit(running, script(text="unharmed", delay_seconds=1))
        failed = wait_until(lambda: (one := job(running, poison))["status"] == "failed" and one)
        assert len(failed["worker_deaths"]) == 3
        done = wait_until(lambda: (one := job(running, neighbor))["status"] == "completed" and one)
        assert done["result"]["text"] == "unharmed"
        assert len(done["worker_deaths"]) < 3


def test_second_server_on_the_folder_is_refused_in_one_line(tmp_path: Path):
    data = tmp_path / "data"
    with served(data) as running:
        running.until_ready()
        second = Served(data, data / "second.py", {})
        code, _, err = second.wait_ended()
        second.close()
        assert code == 1
        (line,) = plain_lines(err)
        assert line.startswith("scribewire: another server (process ")
        assert str(running.process.pid) in line
        assert "--data" in line
        assert job(running, submit(running, script(text="x")))["status"] in (
            "queued",
            "processing",
            "completed",
        )


def test_stopped_server_hands_its_jobs_back_and_ends_well(tmp_path: Path):
    data = tmp_path / "data"
    with served(data, drain_seconds=1) as running:
        running.until_ready()
        job_id = submit(running, script(text="x", delay_seconds=600))
        wait_until(lambda: job(running, job_id)["status"] == "processing")
        running.process.send_signal(signal.SIGTERM)
        code, _, _ = running.wait_ended()
        assert code == 0
    assert len(recordings(data)) == 1
    with served(data, drain_seconds=0) as again:
        again.until_ready()
        resumed = wait_until(lambda: (one := job(again, job_id))["status"] == "processing" and one)
        assert (resumed["attempts"], resumed["worker_deaths"]) == (1, [])
        assert httpx.delete(f"{again.address}/jobs/{job_id}").json()["status"] == "cancelled"
        assert recordings(data) == []


def test_end_that_could_not_be_told_is_told_by_the_next_server_after_a_kill(tmp_path: Path):
    data = tmp_path / "data"
    with Receiver() as first:
        port = first.port
    allowed = f"http://127.0.0.1:{port}/"
    with served(data, allow_callback=(allowed,)) as running:
        running.until_ready()
        response = httpx.post(
            f"{running.address}/transcribe",
            files={"file": script(text="x")},
            data={"callback_url": allowed},
            timeout=PATIENCE_SECONDS,
        )
        job_id = response.json()["job_id"]
        tried = wait_until(lambda: (one := job(running, job_id)["callback"])["last_error"] and one)
        assert (tried["status"], tried["attempts"]) == ("due", 1)
        running.process.send_signal(signal.SIGKILL)
        running.process.wait(PATIENCE_SECONDS)
    with Receiver(port=port) as receiver, served(data, allow_callback=(allowed,)) as again:
        again.until_ready()
        delivered = wait_until(lambda: receiver.received and receiver.received[0])
        assert json.loads(delivered.body)["data"]["job_id"] == job_id
        done = wait_until(lambda: (one := job(again, job_id)["callback"])["status"] == "delivered" and one)
        assert (done["attempts"], done["last_error"]) == (2, None)
