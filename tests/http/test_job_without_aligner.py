"""A job whose words nobody can time ends, instead of being tried for ever."""

from __future__ import annotations

from pathlib import Path

from tests.fakes.running_server import RunningServer, script
from tests.fakes.waiting import wait_until


def test_job_whose_aligner_is_missing_fails_at_once_and_says_so(tmp_path: Path):
    recording = script(fail="aligner_missing", message="word times need a forced aligner")
    with RunningServer(tmp_path) as running:
        job_id = running.client.post("/transcribe", files={"audio": recording}).json()["job_id"]
        wait_until(lambda: running.client.get(f"/jobs/{job_id}").json()["status"] in ("failed", "completed"))
        job = running.client.get(f"/jobs/{job_id}").json()
        assert (job["status"], job["attempts"]) == ("failed", 1)
        assert job["error"]["code"] == "aligner_missing"
        assert "forced aligner" in job["error"]["message"]
