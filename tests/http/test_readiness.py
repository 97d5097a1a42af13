"""`GET /health/ready`: each reason why not, by a code of its own, and well again when the reason is gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from scribewire.server.jobs.store import JobStoreDiskFull, JobStoreUnavailable
from tests.fakes.running_server import RunningServer, assert_openai_error, script
from tests.fakes.waiting import wait_until


def reason(server: RunningServer) -> tuple[str, str]:
    response = server.client.get("/health/ready")
    if response.status_code == 200:
        return "ready", ""
    code = response.json()["error"]["code"]
    error = assert_openai_error(response, 503, code)
    assert int(response.headers["retry-after"]) > 0
    return code, error["message"]


def test_model_that_loads_or_is_downloaded_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with RunningServer(tmp_path, model="fake:load_seconds=600", wait_ready=False, drain_seconds=0) as running:
        assert reason(running) == ("model_loading", "The model is loading.")
        monkeypatch.setattr(running.engine, "stderr_lines", lambda: ["downloading model.safetensors: 3 %"])
        assert reason(running)[0] == "model_downloading"
        assert "safetensors" not in reason(running)[1]


def test_model_that_cannot_be_loaded_says_what_is_wrong(tmp_path: Path):
    with RunningServer(tmp_path, model="fake:refuse=model_missing") as running:
        assert reason(running)[0] == "model_missing"


def test_open_breaker_and_a_stall_are_told_apart(tmp_path: Path):
    with RunningServer(tmp_path, breaker_deaths=2, breaker_pause_seconds=600) as running:
        assert reason(running)[0] == "ready"
        running.transcribe(script(exit=7))
        code, message = reason(running)
        assert code == "engine_resting"
        assert "died 2 times" in message
    with RunningServer(
        # Long against its signs of life, or a busy machine makes it silent rather than stuck.
        tmp_path / "b",
        stall_seconds=4,
        restart_backoff_seconds=(600.0,),
        drain_seconds=0,
    ) as running:
        job = running.client.post("/transcribe", files={"file": script(hang=True)}).json()
        wait_until(lambda: reason(running)[0] == "engine_stalled", seconds=60)
        assert "no progress" in reason(running)[1]
        running.client.delete(f"/jobs/{job['job_id']}")


def test_server_that_stops_says_so_while_it_still_answers(tmp_path: Path):
    with RunningServer(tmp_path) as running:
        running.engine.close_admission()
        assert reason(running) == ("server_stopping", "The server is stopping.")


def test_full_disk_is_a_reason_until_there_is_room_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with RunningServer(tmp_path) as running:
        with monkeypatch.context() as full:
            full.setattr(running.context.uploads, "_free_bytes", lambda folder: 1000)
            assert reason(running)[0] == "disk_full"
        assert reason(running)[0] == "ready"


@pytest.mark.parametrize("error", [JobStoreUnavailable("no database"), JobStoreDiskFull("no room")])
def test_store_that_cannot_be_written_is_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: JobStoreUnavailable
):
    async def refuse() -> None:
        raise error

    with RunningServer(tmp_path) as running:
        monkeypatch.setattr(running.context.jobs, "check", refuse)
        assert reason(running) == (error.code, str(error))
