"""`GET /health/ready`: each reason why not, by a code of its own, and well again when the reason is gone."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from scribewire.server.access.keys import KeyStore
from scribewire.server.jobs.store import JobStoreDiskFull, JobStoreUnavailable
from scribewire.server.observability import loops, readiness
from tests.fakes.running_server import RunningServer, assert_openai_error, script
from tests.fakes.waiting import run, wait_until, wait_until_async


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
    monkeypatch.setattr(readiness, "PROBE_SECONDS", 0.02)
    with RunningServer(tmp_path) as running:
        with monkeypatch.context() as full:
            full.setattr(running.context.uploads, "_free_bytes", lambda folder: 1000)
            wait_until(lambda: reason(running)[0] == "disk_full")
        wait_until(lambda: reason(running)[0] == "ready")


@pytest.mark.parametrize("error", [JobStoreUnavailable("no database"), JobStoreDiskFull("no room")])
def test_store_that_cannot_be_written_is_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: JobStoreUnavailable
):
    async def refuse() -> None:
        raise error

    monkeypatch.setattr(readiness, "PROBE_SECONDS", 0.02)
    with RunningServer(tmp_path) as running:
        assert reason(running)[0] == "ready"
        monkeypatch.setattr(running.context.jobs, "check", refuse)
        wait_until(lambda: reason(running) == (error.code, str(error)))


def test_answers_come_from_the_last_probe_without_a_key_and_without_a_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(readiness, "PROBE_SECONDS", 3600.0)
    KeyStore(tmp_path).create("phone")
    with RunningServer(tmp_path) as running:
        probes: list[int] = []
        monkeypatch.setattr(running.context.jobs, "check", lambda: probes.append(1))
        for _ in range(20):
            assert running.client.get("/health/ready").json()["status"] == "ready"
        assert probes == []
        for method in ("GET", "HEAD"):
            for path in ("/health", "/health/live"):
                answer = running.client.request(method, path, headers={"host": "elsewhere.example"})
                assert (answer.status_code, answer.content) == (200, b"")


def test_probe_leaves_no_row_and_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(readiness, "PROBE_SECONDS", 0.01)
    with RunningServer(tmp_path) as running:
        checks: list[int] = []
        check = running.context.jobs.check

        async def counted() -> None:
            await check()
            checks.append(1)

        monkeypatch.setattr(running.context.jobs, "check", counted)
        wait_until(lambda: len(checks) > 5)
        assert running.client.get("/jobs").json()["data"] == []
        assert 'scribewire_jobs{status="queued"} 0.0' in running.client.get("/metrics").text
        wait_until(lambda: running.leftovers() == [])


# ---- loops in the background ---------------------------------------------------------------------------------


def dying_once(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: BaseException) -> list[int]:
    """Let an asynchronous method raise once; returns the calls, as they come."""
    calls: list[int] = []
    sound = getattr(owner, name)

    async def dies(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise error
        return await sound(*arguments, **named)

    monkeypatch.setattr(owner, name, dies)
    return calls


@pytest.mark.parametrize("error", [KeyError("a bug"), asyncio.CancelledError()], ids=["error", "cancelled"])
def test_dispatcher_that_dies_is_told_and_works_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
):
    monkeypatch.setattr(loops, "PAUSES_SECONDS", (0.0,))
    with RunningServer(tmp_path, max_running_jobs=1) as running:
        monkeypatch.setattr(running.context.runner._loops, "_steady_seconds", 0.2)
        dying_once(monkeypatch, running.context.jobs, "claim", error)
        codes: list[str] = []
        for _ in range(3):  # one place: a death must not keep it
            job = running.client.post("/transcribe", files={"file": script(text="Hello.")}).json()
            codes.append(reason(running)[0])
            wait_until(
                lambda job=job: running.client.get(f"/jobs/{job['job_id']}").json()["status"] == "completed"
            )
        wait_until(lambda: reason(running)[0] == "ready")


def test_every_loop_that_dies_makes_readiness_say_so_until_it_has_run_again():
    async def story():
        supervised = loops.BackgroundLoops(pauses_seconds=(0.0,), steady_seconds=0.05)
        runs: list[dict[str, str]] = []
        gate = asyncio.Event()

        async def work() -> None:
            runs.append(dict(supervised.broken))
            if len(runs) == 1:
                raise KeyError("a bug")
            if len(runs) > 2:
                await gate.wait()

        task = supervised.start("a loop", work)
        await wait_until_async(lambda: len(runs) == 3 and supervised.broken == {})
        assert runs == [{}, {"a loop": "KeyError"}, {"a loop": "it returned"}]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        assert len(runs) == 3

    run(story())


# ---- folders that go away ------------------------------------------------------------------------------------


def test_uploads_folder_that_was_removed_is_made_again(tmp_path: Path):
    with RunningServer(tmp_path) as running:
        shutil.rmtree(tmp_path / "uploads")
        assert running.transcribe(script(text="Hello.")).json()["text"] == "Hello."
        assert running.client.post("/transcribe", files={"file": script(text="x")}).status_code == 202


@pytest.mark.parametrize("gone", [".", "jobs", "jobs/jobs.db"])
def test_data_that_went_away_is_told_and_never_replaced_by_an_empty_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str
):
    monkeypatch.setattr(readiness, "PROBE_SECONDS", 0.02)
    data = tmp_path / "data"
    with RunningServer(data) as running:
        kept = running.client.post("/transcribe", files={"file": script(text="kept")}).json()["job_id"]
        place, away = data / gone, tmp_path / "away"
        place.rename(away)
        wait_until(lambda: reason(running)[0] == "data_folder_gone")
        for answer in (
            running.client.post("/transcribe", files={"file": script(text="x")}),
            running.client.get(f"/jobs/{kept}"),
        ):
            assert_openai_error(answer, 503, "data_folder_gone")
        assert not (data / "jobs" / "jobs.db").exists()
        away.rename(place)
        wait_until(lambda: reason(running)[0] == "ready")
        wait_until(lambda: running.client.get(f"/jobs/{kept}").json()["status"] == "completed")
