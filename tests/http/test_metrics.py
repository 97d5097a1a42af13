"""`GET /metrics`: Prometheus can read every figure; each moves as work is done; none names an owner or a recording."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from scribewire.server.access.keys import KeyStore
from scribewire.server.jobs.store import JobStoreUnavailable
from tests.fakes.running_server import RunningServer, assert_openai_error, script
from tests.fakes.waiting import wait_until
from tests.http.test_jobs import ended, submit

SPEECH = script(text="Hello there again.", partials=["Hello", "there", "again."], duration_seconds=10)

Figures = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(server: RunningServer, headers: dict[str, str] | None = None) -> Figures:
    response = server.client.get("/metrics", headers=headers)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")
    families = list(text_string_to_metric_families(response.text))
    assert all(family.documentation for family in families)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.mark.parametrize(
    "accept", ["text/plain;version=x", "application/openmetrics-text;version=1..0", "text/plain;version=;q=x"]
)
def test_accept_that_cannot_be_read_gets_the_text_format(server: RunningServer, accept: str):
    assert scrape(server, {"accept": accept})


def value(figures: Figures, name: str, **labels: str) -> float:
    return figures.get((f"scribewire_{name}", frozenset(labels.items())), 0.0)


def test_figures_move_as_work_is_done(tmp_path: Path):
    with RunningServer(tmp_path) as running:
        before = scrape(running)
        assert running.transcribe(SPEECH).status_code == 200
        ended(running, submit(running, SPEECH).json()["job_id"])
        failed = submit(running, script(fail="audio_undecodable")).json()["job_id"]
        ended(running, failed)
        running.client.delete(f"/jobs/{failed}")
        running.transcribe(SPEECH, temperature="9")
        running.client.post("/v1/audio/transcriptions", files={"other": b"x"})
        running.client.get("/nothing/here")
        # The worker's own figures come with its next heartbeat.
        after = wait_until(lambda: (now := scrape(running)) and value(now, "tokens_total") >= 6 and now)

    def grown(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    transcriptions = "/v1/audio/transcriptions"
    assert grown("requests_total", route=transcriptions, status="200") == 1
    assert grown("requests_total", route=transcriptions, status="400") == 2
    assert grown("requests_total", route="/transcribe", status="202") == 2
    assert grown("requests_total", route="/jobs/{job_id}", status="200") >= 3
    assert grown("requests_total", route="none", status="404") == 1
    assert grown("request_seconds_count", route=transcriptions) == 3
    assert 0 < grown("request_seconds_sum", route=transcriptions) < 30
    for kind in ("request", "job"):
        assert grown("recordings_total", kind=kind) == 1
        assert grown("audio_seconds_total", kind=kind) == 10
        assert grown("output_tokens_total", kind=kind) == 3
        assert grown("recording_seconds_count", kind=kind) == 1
        assert grown("real_time_factor_count", kind=kind) == 1
        assert grown("queue_wait_seconds_count", kind=kind) >= 1
    for change, times in {"submitted": 2, "processing": 2, "completed": 1, "failed": 1, "erased": 1}.items():
        assert grown("job_changes_total", change=change) == times, change
    assert grown("uploads_total") == 4
    assert grown("uploads_refused_total", code="file_missing") == 1
    assert grown("upload_bytes_total") > 3 * len(SPEECH)
    assert value(after, "jobs", status="completed") == 1
    assert value(after, "jobs", status="failed") == 0
    assert value(after, "requests_under_way") == 1, "the scrape itself"
    assert grown("chunks_total") == 2
    assert value(after, "engine_state", state="ready") == 1
    assert value(after, "engine_breaker", state="closed") == 1
    assert value(after, "engine_workers_started_total") == 1
    assert value(after, "resident_bytes", process="engine") > 0
    assert value(after, "resident_peak_bytes", process="front") > 1 << 20
    assert value(after, "device_bytes", state="cache") > 0
    assert value(after, "job_store_up") == 1


def test_engine_deaths_are_counted_and_its_counters_never_go_back(tmp_path: Path):
    with RunningServer(tmp_path) as running:
        running.transcribe(SPEECH)
        before = wait_until(lambda: (now := scrape(running)) and value(now, "tokens_total") == 3 and now)
        running.transcribe(script(exit=7))
        wait_until(lambda: running.engine.state == "ready")
        running.transcribe(SPEECH + b" ")
        after = wait_until(lambda: (now := scrape(running)) and value(now, "tokens_total") == 6 and now)
    # A request is handed to a second worker before it fails.
    assert value(after, "engine_worker_deaths_total") == 2
    assert value(after, "engine_workers_started_total") == 3
    assert value(after, "chunks_total") - value(before, "chunks_total") == 1


def test_what_waits_is_seen_in_the_depth_of_its_queue(tmp_path: Path):
    with RunningServer(tmp_path, max_running_jobs=1, drain_seconds=0) as running:
        jobs = [submit(running, script(text="x", delay_seconds=60)).json()["job_id"] for _ in range(3)]
        figures = wait_until(
            lambda: (now := scrape(running)) and value(now, "jobs", status="processing") == 1 and now
        )
        assert value(figures, "queue_depth", queue="jobs") == 2
        figures = wait_until(
            lambda: (now := scrape(running)) and value(now, "engine_recordings") == 1 and now
        )
        assert value(figures, "recordings_admitted") == 1
        for job_id in jobs:
            running.client.delete(f"/jobs/{job_id}")


def test_nothing_that_a_client_chose_becomes_part_of_it(tmp_path: Path):
    key_id, secret = KeyStore(tmp_path).create("ann")
    headers = {"authorization": f"Bearer {secret}"}
    with RunningServer(tmp_path) as running:
        assert_openai_error(running.client.get("/metrics"), 401, "invalid_api_key")
        running.client.get("/secret-path/secret-name.wav", headers=headers)
        running.client.request("SECRETVERB", "/jobs", headers=headers)
        running.transcribe(script(text="secret words"), prompt="secret prompt", headers=headers)
        job_id = submit(running, script(text="secret words"), headers=headers).json()["job_id"]
        running.client.get(f"/jobs/{job_id}", headers=headers)
        text = running.client.get("/metrics", headers=headers).text
    for private in ("secret", "SECRET", job_id, key_id, secret, str(tmp_path)):
        assert private not in text, private


def test_openmetrics_is_answered_where_it_is_asked_for(server: RunningServer):
    wanted = "application/openmetrics-text; version=1.0.0"
    response = server.client.get("/metrics", headers={"accept": wanted})
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert list(openmetrics.text_string_to_metric_families(response.text))


def test_store_that_cannot_be_asked_takes_no_other_figure_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async def broken() -> None:
        raise JobStoreUnavailable("gone")

    with RunningServer(tmp_path) as running:
        monkeypatch.setattr(running.context.jobs, "stats", broken)
        figures = scrape(running)
        assert value(figures, "job_store_up") == 0
        assert value(figures, "engine_state", state="ready") == 1


def test_two_servers_in_one_process_count_for_themselves(tmp_path: Path):
    with RunningServer(tmp_path / "a") as one, RunningServer(tmp_path / "b") as other:
        one.transcribe(SPEECH)
        assert value(scrape(one), "recordings_total", kind="request") == 1
        assert value(scrape(other), "recordings_total", kind="request") == 0
