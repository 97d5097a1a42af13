"""Every spelling of an address: whole URLs, trailing slashes, HEAD, and the paths of Groq's and Azure's clients."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from scribewire.server.access.keys import KeyStore
from tests.fakes.raw_http import Answer, ask, post_request, request
from tests.fakes.running_server import RunningServer, assert_openai_error, script
from tests.http.json_bodies import encoded
from tests.http.test_jobs import submit

SPEECH = script(text="Hello.")
TRANSCRIPTIONS = "/v1/audio/transcriptions"


def get(server: RunningServer, target: str, *, host: str = "") -> Answer:
    """GET with the target as it is written, which an HTTP client would change."""
    lines = request(server.port, "Connection: close", method="GET", path=target)
    answer = ask(server.port, lines.replace(b"Host: 127.0.0.1", f"Host: {host}".encode()) if host else lines)
    assert answer is not None
    return answer


def uploaded(server: RunningServer, path: str, **fields: str) -> httpx.Response:
    return server.client.post(path, files={"file": ("a.wav", SPEECH)}, data=fields)


# ---- slashes and HEAD ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/models/fake", "/health", "/health/ready", "/jobs", "/openapi.json"]
)
def test_trailing_slash_is_the_same_address(server: RunningServer, path: str):
    plain, slashed = server.client.get(path), server.client.get(f"{path}/")
    assert (plain.status_code, slashed.status_code) == (200, 200)
    assert slashed.content == plain.content


def test_trailing_slash_is_no_redirect_where_a_body_is_sent(server: RunningServer):
    assert uploaded(server, f"{TRANSCRIPTIONS}/").json()["text"] == "Hello."
    assert_openai_error(server.client.get("/nope/"), 404, "not_found")
    assert_openai_error(server.client.get(f"{TRANSCRIPTIONS}/"), 405, "method_not_allowed")


@pytest.mark.parametrize(
    "path",
    ["/v1/models", "/v1/models/fake", "/health", "/health/ready", "/jobs", "/metrics", "/openapi.json"],
)
def test_head_is_answered_where_get_is(server: RunningServer, path: str):
    bare, whole = server.client.head(path), server.client.get(path)
    assert (bare.status_code, bare.content) == (200, b"")
    assert bare.headers["content-type" if whole.content else "x-request-id"]


def test_head_of_a_job_and_of_its_events_ends_at_once(server: RunningServer):
    job_id = submit(server, script(text="x", delay_seconds=3600)).json()["job_id"]
    for path in (f"/jobs/{job_id}", f"/jobs/{job_id}/events"):
        bare = server.client.head(path)
        assert (bare.status_code, bare.content) == (200, b"")
    assert server.client.post(f"/jobs/{job_id}/cancel").status_code == 200
    assert_openai_error(server.client.get("/jobs/job_x"), 404, "job_not_found", param="job_id")
    assert server.client.head("/jobs/job_x").status_code == 404


# ---- whole URLs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["http", "https", "HTTP"])
def test_target_that_is_a_whole_url_is_taken(server: RunningServer, scheme: str):
    for path in ("/v1/models", "/v1/models/fake/", "/v1/models?x=http://elsewhere.example"):
        assert get(server, f"{scheme}://127.0.0.1:{server.port}{path}").status == 200
    assert get(server, f"http://localhost:{server.port}/health").status == 200
    assert get(server, f"http://127.0.0.1:{server.port}").status == 404
    posted = ask(
        server.port, post_request(server.port, SPEECH, path=f"http://localhost:{server.port}{TRANSCRIPTIONS}")
    )
    assert posted is not None
    assert json.loads(posted.body)["text"] == "Hello."


def test_host_of_a_whole_url_is_checked_as_the_header_is(server: RunningServer):
    foreign = f"http://evil.example:{server.port}/v1/models"
    own = f"http://127.0.0.1:{server.port}/v1/models"
    for answer in (
        get(server, foreign),
        get(server, own, host="evil.example"),
        get(server, f"http://user@127.0.0.1:{server.port}/v1/models"),
        get(server, "http:///v1/models"),
    ):
        assert answer.status == 403
        assert json.loads(answer.body)["error"]["code"] == "host_not_allowed"
    assert get(server, "/http://127.0.0.1/v1/models").status == 404
    assert get(server, "http%3A%2F%2F127.0.0.1%2Fv1%2Fmodels").status == 404


def test_whole_url_does_not_lead_around_the_key(tmp_path: Path):
    KeyStore(tmp_path).create("ann")
    with RunningServer(tmp_path) as running:
        assert get(running, f"http://127.0.0.1:{running.port}/v1/models").status == 401
        assert get(running, f"http://127.0.0.1:{running.port}/health").status == 200
        for path in ("/openai/v1/models", "/v1/models/", "/health/../v1/models", "/openai/v1/../../health"):
            assert get(running, path).status in (401, 404), path


# ---- addresses of other services -------------------------------------------------------------------------------------


def test_addresses_of_groq_lead_to_the_same_places(server: RunningServer):
    assert uploaded(server, f"/openai{TRANSCRIPTIONS}", model="whisper-large-v3").json()["text"] == "Hello."
    assert server.client.get("/openai/v1/models").json() == server.client.get("/v1/models").json()
    assert server.client.get("/openai/v1/models/fake").json()["id"] == "fake"
    assert_openai_error(uploaded(server, "/openai/v1/audio/translations"), 400, "unsupported_endpoint")
    assert_openai_error(server.client.get("/openai"), 404, "not_found")


def test_azure_names_the_model_in_the_path(tmp_path: Path):
    with RunningServer(tmp_path, model_alias=("our-whisper",)) as running:
        for name in ("our-whisper", "whisper-1", "fake"):
            path = f"/openai/deployments/{name}/audio/transcriptions?api-version=2025-04-01-preview"
            assert uploaded(running, path).json()["text"] == "Hello."
        seconds = uploaded(running, "/openai/deployments/whisper-1/audio/transcriptions").json()["usage"]
        assert seconds["type"] == "duration"
        # Azure goes by the path alone.
        path = "/openai/deployments/other/audio/transcriptions"
        refused = uploaded(running, path, model="whisper-1")
        assert_openai_error(refused, 404, "model_not_found", param="model")
        body = {"input_audio": encoded(), "model": "whisper-1"}
        json_refused = running.client.post(path, json=body)
        assert_openai_error(json_refused, 404, "model_not_found", param="model")
        translation = uploaded(running, "/openai/deployments/whisper-1/audio/translations")
        assert_openai_error(translation, 400, "unsupported_endpoint")
        assert_openai_error(running.client.get("/openai/deployments/whisper-1"), 404, "not_found")
