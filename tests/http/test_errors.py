"""Every failure has a status, one shape, and honest advice on retrying."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from scribewire.engine.protocol.errors import error_from_code, error_types
from scribewire.server.http.errors import (
    DEFAULT_RETRY_AFTER_SECONDS,
    ENGINE_ERROR_RULES,
    MAX_RETRY_AFTER_SECONDS,
    ApiError,
    as_api_error,
    error_response,
    install_error_handlers,
)
from scribewire.server.http.request_scope import RequestScope
from scribewire.server.observability.metrics import Metrics
from tests.fakes.running_server import RunningServer, assert_openai_error, script
from tests.fakes.waiting import run

SPEECH = script(text="Hello.")
RETRIED_STATUSES = {408, 409, 429} | set(range(500, 600))
TRANSIENT = {"engine_crashed", "engine_unavailable", "engine_busy", "cancelled"}


def test_every_engine_error_has_a_status_and_no_rule_is_left_over():
    assert set(ENGINE_ERROR_RULES) == set(error_types())


@pytest.mark.parametrize("code", sorted(error_types()))
def test_engine_error_crosses_the_wire_with_its_status(server: RunningServer, code: str):
    response = server.transcribe(script(fail=code, message=f"says {code}"))
    param = "file" if code.startswith("audio_") else None
    error = assert_openai_error(response, ENGINE_ERROR_RULES[code].status, code, param=param)
    assert error["message"] == f"says {code}"
    assert server.transcribe(SPEECH).status_code == 200


@pytest.mark.parametrize("code", sorted(error_types()))
def test_retry_advice_fits_the_error(code: str):
    error = as_api_error(error_from_code(code, "x"))
    headers = error_response(error).headers
    if code in TRANSIENT:
        assert 0 < int(headers["retry-after"]) <= MAX_RETRY_AFTER_SECONDS
        assert int(headers["retry-after-ms"]) == 1000 * int(headers["retry-after"])
        assert error.rule.status in (429, 503)
        assert "x-should-retry" not in headers
    elif code.startswith(("audio_", "language_", "option_", "prompt_")):
        assert error.rule.status == 400
    elif code != "engine_fault":
        assert error.rule.status not in RETRIED_STATUSES or headers["x-should-retry"] == "false"
    if error.rule.status in (429, 503):
        assert int(headers["retry-after"]) > 0


def test_unknown_path_and_wrong_method_have_the_shape(server: RunningServer):
    assert_openai_error(server.client.get("/nope"), 404, "not_found")
    assert_openai_error(server.client.get("/v1/"), 404, "not_found")
    assert_openai_error(server.client.get("/openai/v1/"), 404, "not_found")
    wrong_method = server.client.get("/v1/audio/transcriptions")
    assert_openai_error(wrong_method, 405, "method_not_allowed")
    assert "POST" in wrong_method.headers["allow"]


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/health", "GET, HEAD"),
        ("/health/live", "GET, HEAD"),
        ("/jobs/job_x", "DELETE, GET, HEAD"),
        ("/jobs", "GET, HEAD"),
        ("/transcribe", "POST"),
    ],
)
def test_wrong_method_names_those_of_every_route_of_the_address(
    server: RunningServer, path: str, allowed: str
):
    for method in ("PUT", "OPTIONS"):
        answer = server.client.request(method, path)
        assert_openai_error(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == allowed


def test_request_ids_differ(server: RunningServer):
    ids = {server.client.get("/v1/models").headers["x-request-id"] for _ in range(10)}
    assert len(ids) == 10


def through_request_scope(application) -> tuple[int, dict[str, str], dict]:
    sent: list[dict] = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": "GET", "path": "/x", "headers": []}
    run(RequestScope(application, metrics=Metrics())(scope, receive, send))
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, json.loads(b"".join(m.get("body", b"") for m in sent[1:]))


def test_an_exception_that_escapes_is_500_in_the_shape_and_tells_nothing():
    async def broken(scope, receive, send):
        raise KeyError("a secret of the inside")

    status, headers, body = through_request_scope(broken)
    assert status == 500
    assert body["error"]["code"] == "internal_error"
    assert headers["x-request-id"] in body["error"]["message"]
    assert "secret" not in json.dumps(body)


def test_a_request_cut_off_by_the_stop_is_503():
    async def cut_off(scope, receive, send):
        raise asyncio.CancelledError

    status, headers, body = through_request_scope(cut_off)
    assert (status, body["error"]["code"]) == (503, "server_stopping")
    assert headers["retry-after"]


def test_model_that_cannot_be_loaded_is_503_everywhere_and_not_retried(tmp_path: Path):
    with RunningServer(tmp_path, model="fake:refuse=model_missing") as running:
        for response in (
            running.transcribe(SPEECH),
            running.client.post("/transcribe", files={"audio": SPEECH}),
            running.client.get("/v1/models"),
            running.client.get("/health/ready"),
        ):
            error = assert_openai_error(response, 503, "model_missing")
            assert "refuses to load" in error["message"]
            assert response.headers["x-should-retry"] == "false"
        assert running.client.get("/health/live").status_code == 200
        assert running.leftovers() == []


def test_engine_that_still_loads_is_503_with_retry_after(tmp_path: Path):
    settings = {"model": "fake:load_seconds=20", "restart_wait_seconds": 0.1}
    with RunningServer(tmp_path, wait_ready=False, **settings) as running:
        for response in (
            running.transcribe(SPEECH),
            running.client.get("/v1/models"),
        ):
            assert_openai_error(response, 503, "engine_unavailable")
            assert int(response.headers["retry-after"]) > 0


def test_request_that_takes_too_long_is_504_and_not_retried(tmp_path: Path):
    with RunningServer(tmp_path, request_timeout_seconds=1) as running:
        response = running.transcribe(script(text="late", delay_seconds=60))
        assert_openai_error(response, 504, "request_timeout")
        assert response.headers["x-should-retry"] == "false"


def test_parameter_of_the_wrong_type_is_400_in_the_shape():
    app = FastAPI()
    app.add_middleware(RequestScope, metrics=Metrics())
    install_error_handlers(app)

    @app.get("/numbers/{number}")
    async def number_of(number: int) -> int:
        return number

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://testserver"
        ) as client:
            return await client.get("/numbers/seven")

    assert_openai_error(run(ask()), 400, "invalid_parameter", param="number")


def test_api_error_keeps_its_headers():
    response = error_response(ApiError(401, "x", "y", headers={"www-authenticate": "Bearer"}))
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("status", [429, 503])
def test_every_429_and_503_says_when_to_come_back(status: int):
    headers = error_response(ApiError(status, "x", "y")).headers
    assert headers["retry-after"] == str(DEFAULT_RETRY_AFTER_SECONDS)
    own = error_response(ApiError(status, "x", "y", headers={"Retry-After": "7"})).headers
    assert own["retry-after"] == "7"


def test_no_wait_is_longer_than_the_sdks_accept():
    headers = error_response(ApiError(429, "x", "y", retry_after_seconds=3600)).headers
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("120", "120000")
