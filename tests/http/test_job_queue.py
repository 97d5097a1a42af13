"""A job is queued until it is decoded, and says how many come before; long ones keep no short one waiting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scribewire.engine.protocol.messages import AudioSource
from scribewire.server.jobs.job import LONG_SECONDS
from scribewire.server.transcode.process import TranscodedRecording
from tests.fakes.pass_through import PassThrough
from tests.fakes.running_server import RunningServer, script
from tests.fakes.waiting import wait_until, wait_until_async
from tests.http.test_client_commands import typed
from tests.http.test_job_api import SPEECH, events_of
from tests.http.test_jobs import ended, state, submit
from tests.http.test_metrics import scrape, value


class Measuring(PassThrough):
    """Tells the length that a script says; while `gate` is a file that is not there, nothing is transcoded."""

    def __init__(self, gate: Path | None = None) -> None:
        self.asked = 0
        self._gate = gate

    async def transcode(
        self, upload_path: Path, *, is_interactive: bool, owner: str = ""
    ) -> TranscodedRecording:
        self.asked += 1
        if self._gate is not None:
            await wait_until_async(self._gate.exists)
        seconds = json.loads(upload_path.read_bytes())["duration_seconds"]
        return TranscodedRecording(AudioSource(str(upload_path), expected_seconds=seconds))


def seen(server: RunningServer, job_id: str) -> tuple[str, int | None]:
    job = state(server, job_id)
    return job["status"], job["queue_position"]


def test_job_that_waits_to_be_transcoded_is_queued_wherever_it_is_shown(tmp_path: Path):
    transcoder = Measuring(tmp_path / "gate")
    with RunningServer(tmp_path, max_running_jobs=1, transcoder=transcoder) as running:
        answers = [submit(running, SPEECH).json() for _ in range(2)]
        ids = [answer["job_id"] for answer in answers]
        assert [(one["status"], one["queue_position"]) for one in answers][1] == ("queued", 2)
        wait_until(lambda: transcoder.asked == 1)
        assert [seen(running, job_id) for job_id in ids] == [("queued", 1), ("queued", 2)]
        listed = running.client.get("/jobs", params={"status": "queued"}).json()["data"]
        assert [(one["job_id"], one["queue_position"]) for one in listed] == [(ids[1], 2), (ids[0], 1)]
        assert running.client.get("/jobs", params={"status": "processing"}).json()["data"] == []
        table = typed(running, "jobs", "list")[1].splitlines()
        assert ["queued, 1." in table[2], "queued, 2." in table[1]] == [True, True]
        with running.client.stream("GET", f"/jobs/{ids[0]}/events") as response:
            first = events_of(next(response.iter_text()))[0]
        assert (first["event"], first["queue_position"]) == ("queued", 1)
        wait_until(lambda: value(scrape(running), "jobs", status="queued") == 2)
        assert value(scrape(running), "jobs", status="processing") == 0
        (tmp_path / "gate").touch()
        job = ended(running, ids[0])
        assert (job["status"], job["queue_position"], job["started_at"] is not None) == (
            "completed",
            None,
            True,
        )
        assert ended(running, ids[1])["status"] == "completed"


def test_queued_job_that_is_claimed_can_be_cancelled(tmp_path: Path):
    transcoder = Measuring(tmp_path / "gate")
    with RunningServer(tmp_path, max_running_jobs=1, transcoder=transcoder) as running:
        job_id = submit(running, SPEECH).json()["job_id"]
        wait_until(lambda: transcoder.asked == 1)
        assert running.client.post(f"/jobs/{job_id}/cancel").json()["status"] == "cancelled"
        assert (state(running, job_id)["status"], state(running, job_id)["started_at"]) == ("cancelled", None)
        (tmp_path / "gate").touch()
        assert ended(running, submit(running, SPEECH).json()["job_id"])["status"] == "completed"


def test_short_job_is_begun_beside_as_many_long_ones_as_may_run(tmp_path: Path):
    gate = tmp_path / "gate"

    def long(number: int) -> bytes:
        keys: dict[str, Any] = {"gate": str(gate), "duration_seconds": LONG_SECONDS + 1}
        return script(text=f"long {number}", **keys)

    def tried(job_id: str) -> tuple[float | None, int]:
        job = state(running, job_id)
        return job["progress"]["audio_seconds_total"], job["attempts"]

    with RunningServer(tmp_path, max_running_jobs=3, transcoder=Measuring()) as running:
        ids = [submit(running, long(number)).json()["job_id"] for number in range(5)]
        wait_until(lambda: [seen(running, one)[0] for one in ids] == ["processing"] * 2 + ["queued"] * 3)
        assert ended(running, submit(running, SPEECH).json()["job_id"])["status"] == "completed"
        # Each of the others was tried, found to be long, and put back.
        wait_until(lambda: [tried(one) for one in ids[2:]] == [(LONG_SECONDS + 1, 0)] * 3)
        assert [seen(running, one) for one in ids[2:]] == [("queued", 1), ("queued", 2), ("queued", 3)]
        gate.touch()
        texts = [ended(running, one)["result"]["text"] for one in ids]
        assert texts == [f"long {number}" for number in range(5)]


def test_only_place_is_for_long_jobs_too(tmp_path: Path):
    recording = script(text="all of it", duration_seconds=LONG_SECONDS + 1)
    with RunningServer(tmp_path, max_running_jobs=1, transcoder=Measuring()) as running:
        assert ended(running, submit(running, recording).json()["job_id"])["result"]["text"] == "all of it"
