"""The description at /openapi.json: complete, guarded, and what the server really answers."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute

import scribewire.server.routes
from scribewire.engine.protocol.config import ModelInfo, TranscribeOptions
from scribewire.server.access.keys import KeyStore
from scribewire.server.intake.formats import FORMATS
from scribewire.server.routes import jobs, openai, ops
from scribewire.server.routes.jobs import EVENTS_EXAMPLE
from scribewire.server.routes.openai import EVENT_EXAMPLE
from scribewire.server.routes.openapi import custom_openapi
from scribewire.server.transcription.sharing import RETRY_HEADER
from tests.fakes.running_server import RunningServer, script
from tests.fakes.waiting import wait_until
from tests.http.schema_check import resolve, violations

SPEECH = script(text="Hello there.", partials=["Hello", "there."], duration_seconds=2.5)
TRANSCRIPTIONS = "/v1/audio/transcriptions"
ROUTERS = (openai.router, jobs.router, ops.router)
METHODS = {"get", "post", "put", "patch", "delete", "head", "options", "trace"}


@pytest.fixture(scope="module")
def document(server: RunningServer) -> dict[str, Any]:
    return server.client.get("/openapi.json").json()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def described(document: dict[str, Any], path: str, method: str, status: int) -> dict[str, Any]:
    response = document["paths"][path][method]["responses"][str(status)]
    return resolve(response["$ref"], document) if "$ref" in response else response


def check_answer(document: dict[str, Any], response: httpx.Response, path: str, method: str = "get") -> None:
    """The status, the media type, the body and the headers of ours are as described."""
    answer = described(document, path, method, response.status_code)
    if "content" in answer:
        kind = response.headers["content-type"].partition(";")[0]
        assert kind in answer["content"]
        schema = answer["content"][kind]["schema"]
        if kind == "application/json":
            assert violations(response.json(), schema, document) == []
        elif kind == "text/event-stream":
            for event in events_of(response.text):
                assert violations(event, schema, document) == []
        else:
            assert violations(response.text, schema, document) == []
    else:
        assert response.content == b""
    headers = {name.lower(): header for name, header in answer["headers"].items()}
    own = {name for name in response.headers if name.startswith("x-") and name != "x-accel-buffering"}
    own |= set(response.headers) & {"location", "retry-after", "retry-after-ms", "www-authenticate"}
    assert own <= set(headers)
    for name, header in headers.items():
        header = resolve(header["$ref"], document) if "$ref" in header else header
        if name not in response.headers:
            assert not header.get("required"), f"{name} is missing"
            continue
        text = response.headers[name]
        value = int(text) if header["schema"].get("type") == "integer" else text
        assert violations(value, header["schema"], document, name) == []


def events_of(stream: str) -> list[dict[str, str]]:
    blocks = [
        dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        for block in stream.split("\n\n")
    ]
    return [block for block in blocks if block]


def routes_of_the_package() -> set[tuple[str, str]]:
    """Every route of every router that stands in a module of scribewire.server.routes."""
    modules = pkgutil.walk_packages(scribewire.server.routes.__path__, "scribewire.server.routes.")
    values = [value for module in modules for value in vars(importlib.import_module(module.name)).values()]
    routers = {id(value): value for value in values if isinstance(value, APIRouter)}
    assert len(routers) >= len(ROUTERS)
    return {
        (route.path.replace(":path}", "}"), method.lower())
        for router in routers.values()
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in route.methods - {"HEAD"}
    }


def test_every_route_is_described_and_every_description_is_a_route():
    written = custom_openapi(ROUTERS, None, has_callbacks=False)
    assert {(path, method) for path, method, _ in operations(written)} == routes_of_the_package()


def test_application_serves_no_other_routes(tmp_path: Path):
    with RunningServer(tmp_path) as running:
        written = running.client.get("/openapi.json").json()
        for path, method, _ in operations(written):
            example = path.replace("{model_id}", "fake").replace("{job_id}", "job_0")
            methods = set(written["paths"][path])
            for other in sorted(METHODS - methods - ({"head"} if "get" in methods else set())):
                assert running.client.request(other, example).status_code == 405, (other, path)
            assert running.client.request(method, example).status_code != 405
        assert written["openapi"].startswith("3.1.")


def test_description_is_behind_the_key_and_says_so(tmp_path: Path):
    _, secret = KeyStore(tmp_path).create("ann")
    with RunningServer(tmp_path) as running:
        refused = running.client.get("/openapi.json")
        assert refused.status_code == 401
        answer = running.client.get("/openapi.json", headers={"authorization": f"Bearer {secret}"})
        written = answer.json()
        check_answer(written, answer, "/openapi.json")
        check_answer(written, refused, "/openapi.json")
        assert written["security"] == [{"bearer": []}]
        assert written["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
        open_to_all = {path for path, _, operation in operations(written) if operation.get("security") == []}
        assert open_to_all == {"/health", "/health/live", "/health/ready"}


def test_no_key_is_described_where_none_is_asked_for(document: dict[str, Any]):
    assert document["security"] == []


def test_description_is_there_before_the_model_is(tmp_path: Path):
    with RunningServer(tmp_path, model="fake:load_seconds=600", wait_ready=False) as running:
        answer = running.client.get("/openapi.json")
        assert answer.status_code == 200
        assert "enum" not in form_of(answer.json())["properties"]["model"]
        check_answer(answer.json(), running.client.get("/health/ready"), "/health/ready")


def form_of(document: dict[str, Any], path: str = TRANSCRIPTIONS) -> dict[str, Any]:
    return body_of(document, "multipart/form-data", path)


def body_of(document: dict[str, Any], kind: str, path: str = TRANSCRIPTIONS) -> dict[str, Any]:
    schema = document["paths"][path]["post"]["requestBody"]["content"][kind]["schema"]
    return resolve(schema["$ref"], document)


def test_references_lead_somewhere_and_operation_ids_are_unique(document: dict[str, Any]):
    waiting: list[Any] = [document]
    count = 0
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if isinstance(one.get("$ref"), str):
                resolve(one["$ref"], document)
                count += 1
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
    assert count > 50
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(ids) == len(set(ids))


def test_every_refusal_is_described_with_the_error_shape(document: dict[str, Any]):
    for path, method, operation in operations(document):
        refusals = {int(status) for status in operation["responses"] if int(status) >= 400}
        assert {400, 401, 403, 500, 503} - refusals <= ({401, 403} if path.startswith("/health") else set())
        for status in refusals:
            answer = described(document, path, method, status)
            assert answer["content"] == {
                "application/json": {"schema": {"$ref": "#/components/schemas/Error"}}
            }
            assert "x-request-id" in answer["headers"]


def test_names_and_languages_of_the_model_are_listed(document: dict[str, Any]):
    properties = form_of(document)["properties"]
    assert {"fake", "whisper-1", "gpt-4o-transcribe"} <= set(properties["model"]["enum"])
    for language in ("en", "Spanish", "en-US", "es_MX"):
        assert violations(language, properties["language"], document) == []
    assert violations("de", properties["language"], document)


def test_every_option_of_the_engine_can_be_asked_for_in_both_bodies(document: dict[str, Any]):
    # These follow from response_format, include, timestamp_granularities, chunking_strategy and the known speakers.
    computed = {"logprobs", "token_logprobs", "words", "words_optional", "chunking", "speakers"}
    form = {name.removesuffix("[]") for name in form_of(document)["properties"]}
    body = set(body_of(document, "application/json")["properties"])
    wanted = set(TranscribeOptions.__dataclass_fields__) - computed
    assert wanted <= form
    assert wanted <= body
    assert {name for name in form if "[" not in name} - {"file"} == body - {"input_audio", "file_path"}


@pytest.mark.parametrize("response_format", list(FORMATS))
def test_every_format_is_answered_as_described(
    server: RunningServer, document: dict[str, Any], response_format: str
):
    response = server.transcribe(SPEECH, response_format=response_format)
    assert response.status_code == 200
    check_answer(document, response, TRANSCRIPTIONS, "post")


def test_words_are_described_as_they_are_sent(server: RunningServer, document: dict[str, Any]):
    asked = {"response_format": "verbose_json", "timestamp_granularities[]": "word"}
    response = server.transcribe(SPEECH, **asked)
    assert response.json()["words"]
    check_answer(document, response, TRANSCRIPTIONS, "post")
    form = form_of(document)
    valid = {"file": "...", "response_format": "verbose_json", "timestamp_granularities[]": ["word"]}
    assert violations(valid, form, document) == []
    assert violations({**valid, "response_format": "json"}, form, document)


def test_every_media_type_described_is_sent(server: RunningServer, document: dict[str, Any]):
    answers = [server.transcribe(SPEECH, response_format=one) for one in list(FORMATS)]
    answers.append(server.transcribe(SPEECH, stream="true"))
    sent = {answer.headers["content-type"].partition(";")[0] for answer in answers}
    assert sent == set(described(document, TRANSCRIPTIONS, "post", 200)["content"])


@pytest.mark.parametrize(
    "fields",
    [
        {"include[]": "logprobs"},
        {"stream": "true"},
        {"stream": "true", "include[]": "logprobs"},
        {"response_format": "text", "stream": "true"},
    ],
    ids=str,
)
def test_log_probabilities_and_streams_are_as_described(
    server: RunningServer, document: dict[str, Any], fields: dict[str, str]
):
    response = server.transcribe(script(deltas=["Hello", " there."], warnings=["cut off"]), **fields)
    assert response.status_code == 200
    check_answer(document, response, TRANSCRIPTIONS, "post")
    assert ("logprobs" in response.text) == ("include[]" in fields)


def test_stream_that_fails_is_as_described(server: RunningServer, document: dict[str, Any]):
    failing = script(deltas=["Hello", " there."], delta_delay_seconds=0.05, fail="engine_fault")
    response = server.transcribe(failing, stream="true")
    assert '"error"' in response.text
    check_answer(document, response, TRANSCRIPTIONS, "post")


def test_event_example_is_a_stream(document: dict[str, Any]):
    schema = {"$ref": "#/components/schemas/StreamEvent"}
    *events, end = events_of(EVENT_EXAMPLE)
    assert end == {"data": "[DONE]"}
    for event in events:
        assert event["event"] == json.loads(event["data"])["type"]
        assert violations(json.loads(event["data"]), schema, document) == []


def test_retry_header_is_described(server: RunningServer, document: dict[str, Any]):
    recording = script(text="twice")
    answers = [server.transcribe(recording) for _ in range(2)]
    assert answers[1].headers[RETRY_HEADER] == "finished"
    check_answer(document, answers[1], TRANSCRIPTIONS, "post")


def test_silence_and_warnings_are_as_described(server: RunningServer, document: dict[str, Any]):
    for recording in (script(text="", language=None), script(text="x", warnings=["the file is cut off"])):
        for response_format in ("json", "verbose_json"):
            check_answer(
                document,
                server.transcribe(recording, response_format=response_format),
                TRANSCRIPTIONS,
                "post",
            )


@pytest.mark.parametrize(
    ("fields", "status"),
    [({"temperature": "2"}, 400), ({"model": "other"}, 404), ({"response_format": "xml"}, 400)],
)
def test_refusals_are_as_described(
    server: RunningServer, document: dict[str, Any], fields: dict[str, str], status: int
):
    response = server.transcribe(SPEECH, **fields)
    assert response.status_code == status
    check_answer(document, response, TRANSCRIPTIONS, "post")
    properties = form_of(document)["properties"]
    ((name, value),) = fields.items()
    assert violations(float(value) if name == "temperature" else value, properties[name], document)


def test_jobs_are_as_described_in_every_state(server: RunningServer, document: dict[str, Any]):
    slow = script(partials=["a", "b"], partial_delay_seconds=0.3, duration_seconds=4)
    for recording, last in (
        (slow, "completed"),
        (script(fail="audio_undecodable"), "failed"),
        (script(text="x", warnings=["cut off"]), "completed"),
    ):
        accepted = server.client.post("/transcribe", files={"audio": recording})
        check_answer(document, accepted, "/transcribe", "post")

        def status(location: str = accepted.headers["location"]) -> str:
            answer = server.client.get(location)
            check_answer(document, answer, "/jobs/{job_id}")
            return str(answer.json()["status"])

        wait_until(lambda last=last, status=status: status() == last)
        check_job_addresses(server, document, accepted.headers["location"])
    check_answer(document, server.client.get("/jobs/job_0"), "/jobs/{job_id}")
    wait_until(lambda: server.leftovers() == [])


def check_job_addresses(server: RunningServer, document: dict[str, Any], location: str) -> None:
    """Check a finished job's answer on each of its addresses, and that it is gone afterwards."""
    client = server.client
    check_answer(document, client.get("/jobs"), "/jobs")
    for one in list(FORMATS):
        result = client.get(f"{location}/result", params={"format": one})
        check_answer(document, result, "/jobs/{job_id}/result")
    check_answer(document, client.get(f"{location}/events"), "/jobs/{job_id}/events")
    for method, path in (
        ("post", "/cancel"),
        ("post", "/retry"),
        ("delete", ""),
        ("post", "/cancel"),
        ("delete", ""),
    ):
        answer = client.request(method, location + path)
        if answer.status_code == 202:
            wait_until(lambda: client.get(location).json()["status"] == "failed")
        check_answer(document, answer, "/jobs/{job_id}" + path, method)


def test_refusals_of_jobs_are_as_described(server: RunningServer, document: dict[str, Any]):
    path = "/v1/audio/transcriptions/jobs"
    key = {"idempotency-key": "openapi"}
    for text, status in (("a", 202), ("a", 202), ("b", 409)):
        answer = server.client.post(path, files={"file": script(text=text)}, headers=key)
        assert answer.status_code == status
        check_answer(document, answer, path, "post")
    streamed = server.client.post(path, files={"file": SPEECH}, data={"stream": "true"})
    assert streamed.status_code == 400
    check_answer(document, streamed, path, "post")
    assert violations("true", form_of(document, path)["properties"]["stream"], document)
    for query in ({"cursor": "nonsense!"}, {"limit": "0"}, {"status": "lost"}):
        answer = server.client.get("/jobs", params=query)
        assert answer.status_code == 400
        check_answer(document, answer, "/jobs")


def test_example_of_job_events_is_a_stream(document: dict[str, Any]):
    schema = document["paths"]["/jobs/{job_id}/events"]["get"]["responses"]["200"]["content"]
    for event in events_of(EVENTS_EXAMPLE):
        assert violations(event, schema["text/event-stream"]["schema"], document) == []


@pytest.mark.parametrize(
    ("path", "example"),
    [
        ("/v1/models", "/v1/models"),
        ("/v1/models/{model_id}", "/v1/models/whisper-1"),
        ("/v1/models/{model_id}", "/v1/models/not/there"),
        ("/health/live", "/health/live"),
        ("/health/ready", "/health/ready"),
        ("/openapi.json", "/openapi.json"),
    ],
)
def test_other_answers_are_as_described(
    server: RunningServer, document: dict[str, Any], path: str, example: str
):
    check_answer(document, server.client.get(example), path)


def test_translations_are_described_as_refused(server: RunningServer, document: dict[str, Any]):
    response = server.client.post("/v1/audio/translations", files={"file": SPEECH})
    check_answer(document, response, "/v1/audio/translations", "post")
    statuses = document["paths"]["/v1/audio/translations"]["post"]["responses"]
    assert all(int(status) >= 400 for status in statuses)


def test_demo_is_described_with_its_own_names():
    info = ModelInfo("demo", True, ("English",), "cpu", "float32", 16, 1, 1, 0.1, ("en",))
    written = custom_openapi(ROUTERS, info, ("demo", "whisper-1"), has_callbacks=False)
    assert "demo" in form_of(written)["properties"]["model"]["enum"]


def test_the_check_itself_finds_what_is_wrong(document: dict[str, Any]):
    schema = {"$ref": "#/components/schemas/Transcription"}
    right = {
        "text": "x",
        "languages": [{"code": "en"}],
        "usage": {
            "type": "tokens", "input_tokens": 1, "input_token_details": {"audio_tokens": 1, "text_tokens": 0},
            "output_tokens": 1, "total_tokens": 2,
        },
    }  # fmt: skip
    assert violations(right, schema, document) == []
    for wrong in (
        {**right, "text": 1},
        {**right, "more": 1},
        {key: value for key, value in right.items() if key != "usage"},
        {**right, "languages": [{"code": "en", "name": "English"}]},
        {**right, "usage": {**right["usage"], "total_tokens": -1}},
        {**right, "usage": {**right["usage"], "total_tokens": True}},
        {**right, "usage": {**right["usage"], "type": "duration"}},
    ):
        assert violations(wrong, schema, document)
    assert violations(1, {"multipleOf": 2}, document), "an unknown keyword must not pass"
