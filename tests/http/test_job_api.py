"""The addresses of jobs: listed, followed, fetched in every format, cancelled, erased, retried, never sent twice."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import httpx
import pytest

from scribewire.server.access.keys import KeyStore
from scribewire.server.routes.documents import MODEL_HEADER
from tests.fakes.running_server import RunningServer, assert_openai_error, script
from tests.fakes.waiting import PATIENCE_SECONDS, join, wait_until
from tests.http.test_jobs import ended, state, submit

JOBS = "/v1/audio/transcriptions/jobs"
SPEECH = script(text="Hello there.", partials=["Hello", "there."], duration_seconds=2.5)
SLOW = script(text="x", delay_seconds=60)


def events_of(text: str) -> list[dict[str, Any]]:
    """Server-sent events, taken apart as a client does it."""
    events = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if lines:
            events.append({"id": int(lines["id"]), "event": lines["event"], **json.loads(lines["data"])})
    return events


def followed(server: RunningServer, job_id: str, **headers: str) -> list[dict[str, Any]]:
    response = server.client.get(f"/jobs/{job_id}/events", headers=headers)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    return events_of(response.text)


@contextlib.contextmanager
def deleted_meanwhile(server: RunningServer, job_id: str) -> Iterator[None]:
    """Another client deletes the job; its answer may come as late as the block's end."""
    with httpx.Client(base_url=server.url, timeout=PATIENCE_SECONDS) as other:
        deleting = threading.Thread(target=lambda: other.delete(f"/jobs/{job_id}"))
        deleting.start()
        try:
            yield
        finally:
            join(deleting)


# ---- submitting ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/transcribe", JOBS])
def test_both_addresses_take_the_fields_of_the_synchronous_one(server: RunningServer, path: str):
    recording = script(echo_options=True)
    fields = {
        "language": "es",
        "prompt": "Ünïcode",
        "temperature": "0.5",
        "response_format": "srt",
        "seed": "3",
    }
    accepted = server.client.post(path, files={"file": recording}, data=fields)
    assert accepted.status_code == 202
    job = ended(server, accepted.json()["job_id"])
    assert job["status"] == "completed"
    asked = json.loads(job["result"]["text"])
    assert (asked["language"], asked["prompt"], asked["temperature"], asked["seed"]) == (
        "es",
        "Ünïcode",
        0.5,
        3,
    )
    assert asked["logprobs"] is True
    result = server.client.get(f"{accepted.headers['location']}/result")
    assert result.headers["content-type"].startswith("application/x-subrip")


def test_job_that_shall_be_streamed_is_told_where_to_follow_it(server: RunningServer):
    response = server.client.post(JOBS, files={"file": SPEECH}, data={"stream": "true"})
    error = assert_openai_error(response, 400, "invalid_parameter", param="stream")
    assert "/events" in error["message"]


def test_same_idempotency_key_is_the_same_job_and_other_bytes_are_refused(tmp_path: Path):
    with RunningServer(tmp_path) as running:

        def sent(recording: bytes, key: str, path: str = "/transcribe", **fields: str) -> httpx.Response:
            return running.client.post(
                path, files={"file": recording}, data=fields, headers={"Idempotency-Key": key}
            )

        first = sent(SPEECH, "k1")
        again = sent(SPEECH, "k1", JOBS)
        assert (first.status_code, again.status_code) == (202, 202)
        assert first.json()["job_id"] == again.json()["job_id"]
        assert "x-scribewire-replayed" not in first.headers
        assert again.headers["x-scribewire-replayed"] == "true"
        for refused in (sent(script(text="other"), "k1"), sent(SPEECH, "k1", language="es")):
            assert_openai_error(refused, 409, "idempotency_conflict")
            assert refused.headers["x-should-retry"] == "false"
        assert sent(SPEECH, "k2").json()["job_id"] != first.json()["job_id"]
        for key in ("", "a b", "x" * 256):
            assert_openai_error(sent(SPEECH, key), 400, "invalid_parameter", param="idempotency-key")
        wait_until(lambda: running.leftovers() == [])


# ---- asking --------------------------------------------------------------------------------------------------


def test_list_is_ones_own_newest_first_page_by_page(tmp_path: Path):
    keys = KeyStore(tmp_path)
    ann, bob = ({"authorization": f"Bearer {keys.create(name)[1]}"} for name in ("ann", "bob"))
    with RunningServer(tmp_path) as running:
        mine = [submit(running, SPEECH, headers=ann).json()["job_id"] for _ in range(5)]
        theirs = submit(running, SPEECH, headers=bob).json()["job_id"]
        seen: list[str] = []
        cursor = None
        while True:
            params = {"limit": 2, **({"cursor": cursor} if cursor else {})}
            page = running.client.get("/jobs", params=params, headers=ann).json()
            assert page["object"] == "list"
            seen += [job["job_id"] for job in page["data"]]
            cursor = page["next_cursor"]
            assert page["has_more"] is (cursor is not None)
            if cursor is None:
                break
        assert seen == mine[::-1]
        wait_until(lambda: state(running, theirs, bob)["status"] == "completed")
        listed = running.client.get("/jobs", params={"status": "completed"}, headers=bob).json()["data"]
        assert [job["job_id"] for job in listed] == [theirs]
        assert "result" not in listed[0]
        assert running.client.get("/jobs", params={"status": "queued"}, headers=bob).json()["data"] == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("limit", "0"), ("limit", "101"), ("limit", "x"), ("cursor", "nonsense!"), ("status", "lost")],
)
def test_list_refuses_what_makes_no_sense(server: RunningServer, name: str, value: str):
    response = server.client.get("/jobs", params={name: value})
    code = "cursor_invalid" if name == "cursor" else "invalid_parameter"
    assert_openai_error(response, 400, code, param=name)


def test_waiting_jobs_tell_their_place_and_running_ones_their_text(tmp_path: Path):
    gate = tmp_path / "gate"
    with RunningServer(tmp_path, max_queued_requests=1) as running:
        slow = script(deltas=["one", " two", " three"], gate=str(gate), duration_seconds=9)
        first = submit(running, slow).json()["job_id"]
        wait_until(lambda: state(running, first)["status"] == "processing")
        waiting = [submit(running, SPEECH).json()["job_id"] for _ in range(2)]
        assert wait_until(lambda: state(running, waiting[1])["queue_position"] == 2)
        job = wait_until(lambda: (job := state(running, first))["partial_text"] and job)
        assert "one two three".startswith(job["partial_text"].strip())
        assert (job["attempts"], job["queue_position"], job["has_audio"]) == (1, None, True)
        gate.touch()
        assert ended(running, first)["partial_text"] == ""


@pytest.mark.parametrize(
    ("wanted", "kind", "text"),
    [
        ("text", "text/plain", "Hello there.\n"),
        ("srt", "application/x-subrip", "-->"),
        ("vtt", "text/vtt", "WEBVTT"),
        ("tsv", "text/tab-separated-values", "start\tend\ttext\n"),
        ("json", "application/json", '"usage"'),
        ("verbose_json", "application/json", '"segments"'),
    ],
)
def test_result_is_given_in_every_format(server: RunningServer, wanted: str, kind: str, text: str):
    job_id = submit(server, SPEECH).json()["job_id"]
    ended(server, job_id)
    response = server.client.get(f"/jobs/{job_id}/result", params={"format": wanted})
    assert response.status_code == 200
    assert response.headers["content-type"].startswith(kind)
    assert response.headers[MODEL_HEADER] == "fake"
    assert text in response.text
    synchronous = server.transcribe(SPEECH, response_format=wanted)
    if wanted != "verbose_json":
        assert response.text == synchronous.text


def test_result_with_log_probabilities_is_what_was_asked_for(server: RunningServer):
    accepted = server.client.post(JOBS, files={"file": SPEECH}, data={"include[]": "logprobs"})
    job_id = accepted.json()["job_id"]
    ended(server, job_id)
    assert server.client.get(f"/jobs/{job_id}/result").json()["logprobs"]
    plain = submit(server, SPEECH).json()["job_id"]
    ended(server, plain)
    assert "logprobs" not in server.client.get(f"/jobs/{plain}/result").json()


def test_result_of_a_job_that_is_not_completed_is_a_conflict(tmp_path: Path):
    with RunningServer(tmp_path) as running:
        running_job = submit(running, SLOW).json()["job_id"]
        failed = submit(running, script(fail="audio_undecodable")).json()["job_id"]
        ended(running, failed)
        for job_id in (running_job, failed):
            response = running.client.get(f"/jobs/{job_id}/result")
            assert_openai_error(response, 409, "job_not_completed", param="job_id")
        response = running.client.get(f"/jobs/{failed}/result", params={"format": "docx"})
        assert_openai_error(response, 400, "invalid_parameter", param="format")


# ---- following -----------------------------------------------------------------------------------------------


def test_events_tell_the_whole_story_and_resume_where_they_broke_off(server: RunningServer):
    slow = script(deltas=["Hello", " there", " again."], delta_delay_seconds=0.3, duration_seconds=6)
    job_id = submit(server, slow).json()["job_id"]
    events = followed(server, job_id)
    kinds = [event["event"] for event in events]
    assert kinds[0] == "queued"
    assert kinds[-1] == "done"
    assert kinds.count("done") == 1
    assert set(kinds) == {"queued", "progress", "partial", "done"}
    assert [event["id"] for event in events] == list(range(1, len(events) + 1))
    assert "".join(event["text"] for event in events if event["event"] == "partial") == "Hello there again."
    assert events[-1]["audio_seconds_total"] == 6.0
    for last in (1, 3, len(events) - 1):
        assert followed(server, job_id, **{"Last-Event-ID": str(last)}) == events[last:]
    assert followed(server, job_id, **{"Last-Event-ID": str(len(events))}) == []
    response = server.client.get(f"/jobs/{job_id}/events", headers={"Last-Event-ID": "x"})
    assert_openai_error(response, 400, "invalid_parameter", param="last-event-id")


def test_events_of_a_job_that_fails_say_why(server: RunningServer):
    job_id = submit(server, script(fail="audio_undecodable")).json()["job_id"]
    last = followed(server, job_id)[-1]
    assert (last["event"], last["error"]["code"]) == ("failed", "audio_undecodable")
    server.client.delete(f"/jobs/{job_id}")


def test_follower_hears_of_a_cancellation_at_once(tmp_path: Path):
    with RunningServer(tmp_path) as running:
        job_id = submit(running, SLOW).json()["job_id"]
        with running.client.stream("GET", f"/jobs/{job_id}/events") as response:
            lines = response.iter_lines()
            assert "event: queued" in takewhile(lambda line: line != "event: progress", lines)
            with deleted_meanwhile(running, job_id):
                assert "event: cancelled" in list(lines)
        assert state(running, job_id)["status"] == "cancelled"


def test_follower_is_let_go_at_once_when_the_server_stops_and_misses_nothing(tmp_path: Path):
    gate = tmp_path / "gate"
    with RunningServer(tmp_path, drain_seconds=30) as running:
        job_id = submit(running, script(text="at last", gate=str(gate))).json()["job_id"]
        with running.client.stream("GET", f"/jobs/{job_id}/events") as response:
            lines = response.iter_lines()
            assert "event: queued" in takewhile(lambda line: line != "event: progress", lines)
            running.stop()
            rest = list(lines)
        gate.touch()
        assert "retry: 3000" in rest
        assert "event: done" not in rest, "the stream went on until the job was over"
    with RunningServer(tmp_path) as running:
        later = followed(running, job_id, **{"Last-Event-ID": "2"})
        assert (later[0]["id"], later[-1]["event"]) == (3, "done")
        assert state(running, job_id)["attempts"] == 1


# ---- ending --------------------------------------------------------------------------------------------------


def test_delete_cancels_what_runs_or_waits_and_frees_its_place(tmp_path: Path):
    with RunningServer(tmp_path, max_queued_requests=1, key_queued_recordings=2) as running:
        first, second = (submit(running, SLOW).json()["job_id"] for _ in range(2))
        wait_until(lambda: state(running, first)["status"] == "processing")
        assert_openai_error(submit(running, SPEECH), 429, "key_queue_full")
        for job_id in (second, first):
            response = running.client.delete(f"/jobs/{job_id}")
            assert response.json() == {"job_id": job_id, "status": "cancelled", "erased": False}
            assert state(running, job_id)["status"] == "cancelled"
            assert state(running, job_id)["error"] is None
        assert running.leftovers() == []
        third = submit(running, SPEECH).json()["job_id"]
        assert ended(running, third)["status"] == "completed"


def test_cancel_never_erases_however_often_it_is_asked(tmp_path: Path):
    with RunningServer(tmp_path) as running:
        running_one, done = submit(running, SLOW).json()["job_id"], submit(running, SPEECH).json()["job_id"]
        wait_until(lambda: state(running, running_one)["status"] == "processing")
        for _ in range(2):
            response = running.client.post(f"/jobs/{running_one}/cancel")
            assert response.status_code == 200
            assert response.json() == {"job_id": running_one, "status": "cancelled", "erased": False}
        text = ended(running, done)["result"]["text"]
        response = running.client.post(f"/jobs/{done}/cancel")
        assert response.json() == {"job_id": done, "status": "completed", "erased": False}
        assert state(running, done)["result"]["text"] == text


def test_delete_erases_what_is_finished(server: RunningServer):
    job_id = submit(server, SPEECH).json()["job_id"]
    ended(server, job_id)
    assert server.client.delete(f"/jobs/{job_id}").json() == {
        "job_id": job_id, "status": "completed", "erased": True,
    }  # fmt: skip
    for path in ("", "/result", "/events"):
        assert_openai_error(server.client.get(f"/jobs/{job_id}{path}"), 404, "job_not_found", param="job_id")
    assert_openai_error(server.client.delete(f"/jobs/{job_id}"), 404, "job_not_found", param="job_id")
    for action in ("cancel", "retry"):
        response = server.client.post(f"/jobs/{job_id}/{action}")
        assert_openai_error(response, 404, "job_not_found", param="job_id")


def test_failed_job_is_retried_and_a_completed_one_is_not(server: RunningServer):
    failed = submit(server, script(fail="audio_undecodable")).json()["job_id"]
    ended(server, failed)
    again = server.client.post(f"/jobs/{failed}/retry")
    assert again.status_code == 202
    assert again.json()["job_id"] == failed
    assert ended(server, failed)["status"] == "failed"
    assert [event["event"] for event in followed(server, failed)].count("queued") == 2
    server.client.delete(f"/jobs/{failed}")
    done = submit(server, SPEECH).json()["job_id"]
    ended(server, done)
    refused = server.client.post(f"/jobs/{done}/retry")
    assert_openai_error(refused, 409, "job_not_retryable", param="job_id")


def test_nobody_can_follow_fetch_cancel_or_retry_the_job_of_another(tmp_path: Path):
    keys = KeyStore(tmp_path)
    ann, bob = ({"authorization": f"Bearer {keys.create(name)[1]}"} for name in ("ann", "bob"))
    with RunningServer(tmp_path) as running:
        job_id = submit(running, SPEECH, headers=ann).json()["job_id"]
        for method, path in (
            ("GET", ""), ("GET", "/result"), ("GET", "/events"), ("DELETE", ""), ("POST", "/retry"),
            ("POST", "/cancel"),
        ):  # fmt: skip
            response = running.client.request(method, f"/jobs/{job_id}{path}", headers=bob)
            assert_openai_error(response, 404, "job_not_found", param="job_id")
        wait_until(lambda: state(running, job_id, ann)["status"] == "completed")


# ---- keeping -------------------------------------------------------------------------------------------------


def test_server_that_stops_gives_its_jobs_to_the_next_one(tmp_path: Path):
    gate = tmp_path / "gate"
    with RunningServer(tmp_path, max_queued_requests=2, drain_seconds=0) as running:
        slow = script(text="done at last", gate=str(gate), duration_seconds=1)
        job_ids = [submit(running, slow).json()["job_id"] for _ in range(4)]
        wait_until(lambda: state(running, job_ids[0])["status"] == "processing")
    gate.touch()
    with RunningServer(tmp_path) as running:
        for job_id in job_ids:
            job = ended(running, job_id)
            assert (job["status"], job["attempts"], job["worker_deaths"]) == ("completed", 1, [])
            assert job["result"]["text"] == "done at last"
        listed = running.client.get("/jobs").json()["data"]
        assert [job["job_id"] for job in listed] == job_ids[::-1]
        assert running.leftovers() == []


def test_recording_of_a_completed_job_is_kept_only_where_wanted(tmp_path: Path):
    with RunningServer(tmp_path, keep_audio=True) as running:
        job_id = submit(running, SPEECH).json()["job_id"]
        assert ended(running, job_id)["has_audio"] is True
        assert len(running.leftovers()) == 1
        running.client.delete(f"/jobs/{job_id}")
        assert running.leftovers() == []


def test_no_store_keeps_nothing_after_the_server(tmp_path: Path):
    with RunningServer(tmp_path, store=False) as running:
        job_id = submit(running, SPEECH).json()["job_id"]
        failed = submit(running, script(fail="audio_undecodable")).json()["job_id"]
        assert ended(running, job_id)["result"]["text"] == "Hello there."
        assert ended(running, failed)["status"] == "failed"
        assert [event["event"] for event in followed(running, job_id)][-1] == "done"
    assert not (tmp_path / "jobs" / "jobs.db").exists()
    assert running.leftovers() == []
    with RunningServer(tmp_path, store=False) as running:
        assert running.client.get("/jobs").json()["data"] == []
