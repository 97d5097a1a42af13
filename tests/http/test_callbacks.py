"""Webhooks of ended jobs: a signed POST to an allowed target, whatever the end, and nowhere else."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path

import pytest

from scribewire.server.webhooks.signing import WebhookSecret
from tests.fakes.receiver import Receiver
from tests.fakes.running_server import RunningServer, assert_openai_error, script
from tests.fakes.waiting import wait_until
from tests.http.test_jobs import ended, state, submit
from tests.http.test_metrics import scrape, value
from tests.unit.test_callback_signing import documented

SPEECH = script(text="secret words")


@pytest.mark.parametrize("path", ["/transcribe", "/v1/audio/transcriptions/jobs"])
@pytest.mark.parametrize("as_json", [False, True])
def test_end_of_a_job_is_told_once_signed_and_without_its_text(tmp_path: Path, path: str, as_json: bool):
    with Receiver() as receiver, RunningServer(tmp_path, allow_callback=(receiver.url,)) as running:
        url = f"{receiver.url}/done?for=me"
        if as_json:
            audio = {"data": base64.b64encode(SPEECH).decode(), "format": "wav"}
            response = running.client.post(path, json={"input_audio": audio, "callback_url": url})
        else:
            response = running.client.post(path, files={"file": SPEECH}, data={"callback_url": url})
        assert response.status_code == 202, response.text
        job_id = response.json()["job_id"]
        delivered = wait_until(lambda: receiver.received and receiver.received[0])
        assert delivered.path == "/done?for=me"
        assert delivered.headers["host"] == f"127.0.0.1:{receiver.port}"
        assert delivered.headers["content-type"] == "application/json"
        assert documented()(WebhookSecret(tmp_path).text(), delivered.headers, delivered.body)
        body = json.loads(delivered.body)
        assert (body["type"], body["data"]["job_id"]) == ("job.completed", job_id)
        assert b"secret words" not in delivered.body
        callback = wait_until(
            lambda: (one := state(running, job_id)["callback"])["status"] == "delivered" and one
        )
        assert (callback["url"], callback["attempts"], callback["last_error"]) == (url, 1, None)
        assert abs(callback["last_attempt_at"] - time.time()) < 60
        wait_until(lambda: value(scrape(running), "webhooks_total", outcome="delivered") == 1)
        assert value(scrape(running), "webhooks_due") == 0
    assert len(receiver.received) == 1


def test_failed_and_cancelled_ends_are_told_too(tmp_path: Path):
    with Receiver() as receiver, RunningServer(tmp_path, allow_callback=(receiver.url,)) as running:
        failed = submit(running, script(fail="audio_undecodable"), callback_url=f"{receiver.url}/a")
        slow = submit(running, script(text="x", delay_seconds=60), callback_url=f"{receiver.url}/b")
        assert state(running, slow.json()["job_id"])["callback"]["status"] == "waiting"
        running.client.delete(f"/jobs/{slow.json()['job_id']}")
        wait_until(lambda: len(receiver.received) == 2)
        by_path = {one.path: json.loads(one.body) for one in receiver.received}
        assert by_path["/a"]["type"] == "job.failed"
        assert by_path["/a"]["data"]["job_id"] == failed.json()["job_id"]
        assert by_path["/a"]["data"]["error"]["code"] == "audio_undecodable"
        assert by_path["/b"]["type"] == "job.cancelled"


def test_target_that_nobody_allowed_is_refused_with_the_way_to_allow_it(server: RunningServer):
    for url in ("https://example.org/", "http://127.0.0.1:1/", "http://169.254.169.254/latest/meta-data"):
        error = assert_openai_error(
            submit(server, SPEECH, callback_url=url), 400, "callback_not_allowed", param="callback_url"
        )
        assert "--allow-callback" in error["message"]
    response = submit(server, SPEECH, callback_url="file:///etc/passwd")
    assert_openai_error(response, 400, "callback_invalid", param="callback_url")
    assert server.leftovers() == []


def test_attempt_that_fails_is_shown_and_never_holds_up_the_end_of_the_server(tmp_path: Path):
    redirecting = Receiver(lambda _: (302, {"location": "http://127.0.0.1:1/"}))
    with redirecting as receiver, RunningServer(tmp_path, allow_callback=(receiver.url,)) as running:
        job_id = submit(running, SPEECH, callback_url=receiver.url).json()["job_id"]
        callback = wait_until(lambda: (one := state(running, job_id)["callback"])["last_error"] and one)
        assert callback["status"] == "due"
        assert "redirects are not followed" in callback["last_error"]
        receiver.hold.clear()
        slow = submit(running, SPEECH + b" ", callback_url=receiver.url).json()["job_id"]
        wait_until(lambda: len(receiver.received) == 2)
        ended(running, slow)
        began = time.monotonic()
        running.stop()
        running.wait_ended()
        assert time.monotonic() - began < 10
        receiver.hold.set()


def test_document_says_whether_a_callback_may_be_asked_for(tmp_path: Path, server: RunningServer):
    def field(one: RunningServer) -> dict[str, object]:
        schemas = one.client.get("/openapi.json").json()["components"]["schemas"]
        schema: dict[str, object] = schemas["JobForm"]["properties"]["callback_url"]
        return schema

    assert field(server)["enum"] == [""]
    with RunningServer(tmp_path, allow_callback=("example.org",)) as running:
        assert field(running)["format"] == "uri"
