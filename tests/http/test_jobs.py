"""Jobs: submitted, watched, owned, bounded, and each with exactly one end."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from scribewire.server.access.keys import KeyStore
from scribewire.server.routes.documents import MODEL_HEADER
from tests.fakes.running_server import RunningServer, assert_openai_error, script
from tests.fakes.waiting import wait_until


def submit(
    server: RunningServer, recording: bytes, *, field: str = "audio", **options: Any
) -> httpx.Response:
    headers = options.pop("headers", None)
    return server.client.post("/transcribe", files={field: recording}, data=options, headers=headers)


def state(server: RunningServer, job_id: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
    return server.client.get(f"/jobs/{job_id}", headers=headers).json()


def ended(server: RunningServer, job_id: str) -> dict[str, Any]:
    def job() -> dict[str, Any] | None:
        body = state(server, job_id)
        return body if body["status"] in ("completed", "failed") else None

    return wait_until(job)


@pytest.mark.parametrize("field", ["audio", "file"])
def test_job_is_accepted_at_once_and_completes(server: RunningServer, field: str):
    response = submit(server, script(text="Hola.", language="Spanish", duration_seconds=3), field=field)
    assert response.status_code == 202
    body = response.json()
    assert set(body) == {"job_id", "status", "queue_position", "created_at", "demo"}
    assert (body["status"], body["queue_position"]) == ("queued", 1)
    assert isinstance(body["created_at"], int)
    assert response.headers["location"] == f"/jobs/{body['job_id']}"
    job = ended(server, body["job_id"])
    assert job["status"] == "completed"
    assert job["error"] is None
    assert job["result"]["text"] == "Hola."
    assert job["result"]["language"] == "spanish"
    assert job["progress"] == {"audio_seconds_done": 3.0, "audio_seconds_total": 3.0, "fraction": 1.0}
    assert job["created_at"] <= job["started_at"] <= job["finished_at"]
    assert wait_until(lambda: server.leftovers() == [])


def test_job_has_words_where_they_are_asked_for_whatever_its_format(server: RunningServer):
    speech = script(text="Hello there.", duration_seconds=2)
    words = [
        {"word": "Hello", "start": 0.0, "end": 0.909091},
        {"word": "there.", "start": 0.909091, "end": 2.0},
    ]
    asked = submit(server, speech, response_format="srt", **{"timestamp_granularities[]": "word"})
    job = ended(server, asked.json()["job_id"])
    assert job["result"]["words"] == words
    for wanted in ("verbose_json", "srt"):
        result = server.client.get(f"/jobs/{job['job_id']}/result", params={"format": wanted})
        assert result.status_code == 200
        assert wanted != "verbose_json" or result.json()["words"] == words
    plain = ended(server, submit(server, speech).json()["job_id"])
    assert "words" not in plain["result"]


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"language": "Klingon"}, "language_unknown", "language"),
        ({"language": "de"}, "language_unsupported", "language"),
        ({"languages": "es,xx"}, "language_unknown", "languages"),
        ({"languages": "es,de"}, "language_unsupported", "languages"),
        ({"timestamps": "perhaps"}, "invalid_parameter", "timestamps"),
    ],
)
def test_job_that_could_only_fail_is_refused_before_it_is_one(
    server: RunningServer, fields: dict[str, str], code: str, param: str
):
    before = server.client.get("/jobs").json()["data"]
    assert_openai_error(submit(server, script(text="x"), **fields), 400, code, param=param)
    assert server.client.get("/jobs").json()["data"] == before
    assert wait_until(lambda: server.leftovers() == [])


def test_language_of_a_job_is_checked_before_the_first_load_too(tmp_path: Path):
    with RunningServer(tmp_path, wait_ready=False, model="fake:load_seconds=60", drain_seconds=0) as running:
        assert_openai_error(
            submit(running, script(text="x"), language="Klingon"), 400, "language_unknown", param="language"
        )
        assert submit(running, script(text="x"), language="de").status_code == 202


def test_result_as_subtitles_goes_by_words_whatever_the_job_was_submitted_for(server: RunningServer):
    speech = script(text="One two three four. " * 12, duration_seconds=24)
    job_id = ended(server, submit(server, speech).json()["job_id"])["job_id"]
    later = server.client.get(f"/jobs/{job_id}/result", params={"format": "srt"}).text
    assert later == server.transcribe(speech, response_format="srt").text
    assert later.count("-->") > 1


def test_direct_peers_fields_and_names_are_understood(server: RunningServer):
    asked = submit(server, script(echo_options=True), timestamps="yes", context=" Kohlrausch ")
    options = json.loads(ended(server, asked.json()["job_id"])["result"]["text"])
    assert (options["words"], options["words_optional"], options["prompt"]) == (True, False, " Kohlrausch ")
    speech = script(text="Hola.", language="Spanish", duration_seconds=3)
    body = submit(server, speech, timestamps="true").json()
    job = ended(server, body["job_id"])
    finished = datetime.strptime(job["completed_at"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert int(finished.timestamp()) == job["finished_at"]
    chunk = {"text": "Hola.", "start": 0.0, "end": 3.0, "chunk_index": 0, "language": "Spanish"}
    assert job["result"]["chunks"] == [chunk]
    assert [word["word"] for word in job["result"]["words"]] == ["Hola."]


def test_unfinished_job_says_that_the_demo_model_answers_it(tmp_path: Path):
    gate = tmp_path / "gate"
    with RunningServer(tmp_path, model="demo") as running:
        accepted = submit(running, script(text="x", gate=str(gate))).json()
        assert accepted["demo"] is True
        assert state(running, accepted["job_id"])["demo"] is True
        assert running.client.get("/jobs").json()["data"][0]["demo"] is True
        gate.touch()
        assert ended(running, accepted["job_id"])["demo"] is True


def test_job_shows_its_progress(server: RunningServer):
    slow = script(partials=["a", "b", "c", "d"], partial_delay_seconds=0.15, duration_seconds=8)
    job_id = submit(server, slow).json()["job_id"]
    half_way = wait_until(
        lambda: (job := state(server, job_id))["progress"]["fraction"] in (0.25, 0.5, 0.75) and job
    )
    assert half_way["status"] == "processing"
    assert half_way["result"] is None
    assert ended(server, job_id)["result"]["text"] == "a b c d"


@pytest.mark.parametrize(
    ("recording", "options", "code", "kind", "param"),
    [
        (script(fail="audio_undecodable"), {}, "audio_undecodable", "invalid_request_error", None),
        (b"", {}, "audio_empty", "invalid_request_error", "file"),
        (script(fail="engine_fault"), {}, "engine_fault", "server_error", None),
    ],
)
def test_job_that_fails_says_why(
    server: RunningServer, recording: bytes, options: dict[str, str], code: str, kind: str, param: str | None
):
    job = ended(server, submit(server, recording, **options).json()["job_id"])
    assert job["status"] == "failed"
    assert job["result"] is None
    assert (job["error"]["code"], job["error"]["type"], job["error"]["param"]) == (code, kind, param)
    assert job["attempts"] == (3 if code == "engine_fault" else 1)
    assert len(server.leftovers()) == 1, "a failed job's recording stays, so that it can be retried"
    assert server.client.delete(f"/jobs/{job['job_id']}").json()["erased"] is True
    assert server.leftovers() == []


def test_bad_submissions_are_refused_at_once(server: RunningServer):
    no_file = server.client.post("/transcribe", files={"other": b"x"})
    assert_openai_error(no_file, 400, "file_missing", param="audio")
    bad_temperature = submit(server, script(text="x"), temperature="NaN")
    assert_openai_error(bad_temperature, 400, "invalid_parameter", param="temperature")
    other_model = submit(server, script(text="x"), model="other")
    assert_openai_error(other_model, 404, "model_not_found", param="model")
    assert server.leftovers() == []


@pytest.mark.parametrize("job_id", ["job_0", "x" * 3000, "%00", "job_%0a"])
def test_unknown_job_is_not_found(server: RunningServer, job_id: str):
    assert_openai_error(server.client.get(f"/jobs/{job_id}"), 404, "job_not_found", param="job_id")


def test_job_is_seen_by_its_owner_only(tmp_path: Path):
    keys = KeyStore(tmp_path)
    ann, bob = ({"authorization": f"Bearer {keys.create(name)[1]}"} for name in ("ann", "bob"))
    with RunningServer(tmp_path) as running:
        job_id = submit(running, script(text="mine"), headers=ann).json()["job_id"]
        wait_until(lambda: state(running, job_id, ann)["status"] == "completed")
        assert state(running, job_id, ann)["result"]["text"] == "mine"
        response = running.client.get(f"/jobs/{job_id}", headers=bob)
        assert_openai_error(response, 404, "job_not_found", param="job_id")


def test_demo_jobs_say_so(tmp_path: Path):
    with RunningServer(tmp_path, model="demo") as running:
        job_id = submit(running, script(text="x")).json()["job_id"]
        assert ended(running, job_id)["demo"] is True
        assert ended(running, job_id)["result"]["model"] == "demo"
        assert running.client.get(f"/jobs/{job_id}").headers[MODEL_HEADER] == "demo"


def test_too_many_unfinished_jobs_are_429_with_retry_after(tmp_path: Path):
    with RunningServer(tmp_path, max_jobs=2) as running:
        slow = script(text="x", delay_seconds=60)
        assert [submit(running, slow).status_code for _ in range(2)] == [202, 202]
        response = submit(running, slow)
        assert_openai_error(response, 429, "too_many_jobs")
        assert int(response.headers["retry-after"]) > 0
        assert len(running.leftovers()) == 2
    assert list((tmp_path / "uploads").glob("server-*")) == []


def test_engine_queue_is_bounded_for_requests_and_patient_for_jobs(tmp_path: Path):
    gate = tmp_path / "gate"
    with RunningServer(tmp_path / "data", max_queued_requests=1) as running:
        # A job is in process before the engine has it; its progress is the engine's.
        held = script(text="first", partials=["first"], gate=str(gate))
        first = submit(running, held).json()["job_id"]
        wait_until(lambda: state(running, first)["progress"]["fraction"] > 0)
        response = running.transcribe(script(text="x"))
        assert_openai_error(response, 429, "engine_busy")
        assert int(response.headers["retry-after"]) > 0
        second = submit(running, script(text="second")).json()["job_id"]
        # It may be taken up for a moment, and is given back when the engine has no room.
        wait_until(lambda: state(running, second)["status"] == "queued")
        gate.touch()
        assert ended(running, first)["status"] == "completed"
        job = ended(running, second)
        assert (job["result"]["text"], job["attempts"]) == ("second", 1)
