"""Pages of allowed Origins in a browser: preflights without a key, and answers, errors and streams to read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from scribewire.server.access.keys import KeyStore
from tests.fakes.running_server import RunningServer, assert_openai_error, script
from tests.http.openai_shapes import check_stream, parse_events

PAGE = "https://page.example"
FOREIGN = "https://evil.example"
TRANSCRIPTIONS = "/v1/audio/transcriptions"
SPEECH = script(text="Hello.")


def preflight(server: RunningServer, origin: str = PAGE, path: str = TRANSCRIPTIONS, method: str = "POST"):
    headers = {
        "origin": origin,
        "access-control-request-method": method,
        "access-control-request-headers": "authorization,x-stainless-lang",
    }
    return server.client.options(path, headers=headers)


def is_readable(response: httpx.Response, origin: str = PAGE) -> bool:
    """True where a browser would show the answer, and its request id and retry headers, to a page of this Origin."""
    exposed = response.headers.get("access-control-expose-headers", "").lower().split(", ")
    return (
        response.headers.get("access-control-allow-origin") in (origin, "*")
        and "access-control-allow-credentials" not in response.headers
        and {"x-request-id", "retry-after", "retry-after-ms", "x-should-retry"} <= set(exposed)
    )


@pytest.fixture(scope="module", params=["with keys", "without keys"])
def open_to_a_page(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RunningServer, dict[str, str]]]:
    """A server that allows one Origin, and the headers of its page."""
    data = tmp_path_factory.mktemp("data")
    headers = {"origin": PAGE}
    if request.param == "with keys":
        headers["authorization"] = f"Bearer {KeyStore(data).create('page')[1]}"
    with RunningServer(
        data, allow_origin=(PAGE, "http://localhost:3000"), max_json_body_bytes=1024
    ) as running:
        yield running, headers


@pytest.mark.parametrize(
    ("path", "method"),
    [(TRANSCRIPTIONS, "POST"), ("/v1/models", "GET"), ("/jobs/job_x", "DELETE"), ("/nope", "POST")],
)
def test_preflight_is_answered_before_the_key_is_asked_for(open_to_a_page, path: str, method: str):
    running, _ = open_to_a_page
    response = preflight(running, path=path, method=method)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == PAGE
    assert method in response.headers["access-control-allow-methods"]
    allowed = response.headers["access-control-allow-headers"]
    assert {"authorization", "x-stainless-lang"} <= set(allowed.split(","))


def test_preflight_of_a_public_page_for_this_network_is_answered(open_to_a_page):
    running, _ = open_to_a_page
    headers = {
        "origin": PAGE,
        "access-control-request-method": "POST",
        "access-control-request-private-network": "true",
    }
    response = running.client.options(TRANSCRIPTIONS, headers=headers)
    assert response.headers["access-control-allow-private-network"] == "true"


def test_preflight_of_another_page_is_refused(open_to_a_page):
    running, _ = open_to_a_page
    response = preflight(running, FOREIGN)
    assert response.json()["error"]["code"] == "origin_not_allowed"
    assert response.status_code == 403
    assert "access-control-allow-origin" not in response.headers


def test_answers_errors_and_streams_may_be_read(open_to_a_page):
    running, headers = open_to_a_page
    answered = running.transcribe(SPEECH, headers=headers)
    assert answered.status_code == 200
    failed = running.transcribe(script(fail="engine_fault"), headers=headers)
    missing = running.client.get("/nope", headers=headers)
    wrong_method = running.client.put("/v1/models", headers=headers)
    too_large = running.client.post(TRANSCRIPTIONS, headers=headers, json={"prompt": "x" * 2048})
    assert [one.status_code for one in (failed, missing, wrong_method, too_large)] == [500, 404, 405, 413]
    streamed = running.transcribe(script(deltas=["Hel", "lo."]), headers=headers, stream="true")
    check_stream(parse_events(streamed.content)[0])
    for one in (answered, failed, missing, wrong_method, too_large, streamed):
        assert is_readable(one), one.headers
        assert "origin" in one.headers["vary"].lower()


def test_failure_inside_may_be_read_too(open_to_a_page, monkeypatch: pytest.MonkeyPatch):
    running, headers = open_to_a_page
    monkeypatch.setattr(type(running.engine), "names_of", lambda *_: 1 / 0)
    response = running.client.get("/v1/models", headers=headers)
    assert_openai_error(response, 500, "internal_error")
    assert is_readable(response)


def test_another_page_may_read_nothing(open_to_a_page):
    running, headers = open_to_a_page
    response = running.transcribe(SPEECH, headers={**headers, "origin": FOREIGN})
    # A key decides alone; without one the Origin does.
    assert response.status_code == (200 if "authorization" in headers else 403)
    assert not is_readable(response, FOREIGN)


def test_missing_key_may_be_read(tmp_path: Path):
    KeyStore(tmp_path).create("ann")
    with RunningServer(tmp_path, allow_origin=(PAGE,)) as running:
        assert preflight(running).status_code == 200
        refused = running.transcribe(SPEECH, headers={"origin": PAGE})
        assert_openai_error(refused, 401, "invalid_api_key")
        assert is_readable(refused)


def test_any_origin_may_be_allowed(tmp_path: Path):
    with RunningServer(tmp_path, allow_origin=("*",)) as running:
        for origin in (PAGE, FOREIGN, "null"):
            assert preflight(running, origin).headers["access-control-allow-origin"] == "*"
            response = running.transcribe(SPEECH, headers={"origin": origin})
            assert response.status_code == 200
            assert is_readable(response, origin)


def test_nothing_is_said_where_no_origin_is_allowed(server: RunningServer):
    assert_openai_error(preflight(server), 403, "origin_not_allowed")
    own = f"http://localhost:{server.port}"
    for response in (preflight(server, own), server.transcribe(SPEECH, headers={"origin": own})):
        assert not [name for name in response.headers if name.startswith("access-control-")]
