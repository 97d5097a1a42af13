"""/v1/audio/transcriptions and /v1/models: the model's names, whole recordings, refused clients."""

from __future__ import annotations

import hashlib
from pathlib import Path
from urllib.parse import quote

import pytest

from scribewire.server.routes.documents import MODEL_HEADER, WARNING_HEADER
from tests.fakes.running_server import RunningServer, assert_openai_error, script
from tests.http.openai_shapes import check_model

ALIASES = [
    "whisper-1", "gpt-transcribe", "gpt-4o-transcribe", "gpt-4o-mini-transcribe", "gpt-4o-mini-transcribe-2025-12-15",
    "gpt-4o-transcribe-diarize", "gpt-live-transcribe", "gpt-realtime-whisper", "whisper-large-v3",
    "whisper-large-v3-turbo", "Systran/faster-whisper-large-v3", "Systran/faster-whisper-large-v3-turbo",
]  # fmt: skip
SPEECH = script(text="Hello there.", partials=["Hello", "there."], duration_seconds=2.5)


def test_recording_arrives_whole(server: RunningServer):
    recording = bytes(range(256)) * 13_001
    digest = hashlib.sha256(recording).hexdigest()
    assert server.transcribe(recording).json()["text"] == f"{len(recording)} bytes, SHA-256 {digest}"


@pytest.mark.parametrize("model", [None, *ALIASES, "fake"])
def test_model_is_accepted_under_its_names(server: RunningServer, model: str | None):
    fields = {} if model is None else {"model": model}
    assert server.transcribe(SPEECH, **fields).status_code == 200


@pytest.mark.parametrize("model", ["whisper-2", "demo", "Fake", "x" * 5000])
def test_other_models_are_not_found(server: RunningServer, model: str):
    response = server.transcribe(SPEECH, model=model)
    error = assert_openai_error(response, 404, "model_not_found", param="model")
    assert "fake" in error["message"]
    assert len(error["message"]) < 600


def test_operator_adds_names_which_are_listed_and_described(tmp_path: Path):
    with RunningServer(tmp_path, model_alias=("parakeet", "whisper-1")) as running:
        assert running.transcribe(SPEECH, model="parakeet").status_code == 200
        listed = [one["id"] for one in running.client.get("/v1/models").json()["data"]]
        assert listed == ["fake", *ALIASES, "parakeet"]
        assert running.client.get("/v1/models/parakeet").json()["resident_model"] == "fake"
        assert_openai_error(running.transcribe(SPEECH, model="other"), 404, "model_not_found", param="model")
        schemas = running.client.get("/openapi.json").json()["components"]["schemas"]
        assert schemas["TranscriptionForm"]["properties"]["model"]["enum"] == [*listed, ""]


def test_every_name_is_taken_where_the_operator_says_so(tmp_path: Path):
    with RunningServer(tmp_path, any_model=True) as running:
        assert running.transcribe(SPEECH, model="whisper-99").status_code == 200
        submitted = running.client.post("/transcribe", files={"audio": SPEECH}, data={"model": "whisper-99"})
        assert submitted.status_code == 202
        assert running.client.get("/v1/models/whisper-99").json()["id"] == "whisper-99"
        schemas = running.client.get("/openapi.json").json()["components"]["schemas"]
        assert "enum" not in schemas["TranscriptionForm"]["properties"]["model"]


def test_zero_bytes_are_an_empty_recording(server: RunningServer):
    assert_openai_error(server.transcribe(b""), 400, "audio_empty", param="file")


def test_translations_are_refused_by_name(server: RunningServer):
    response = server.client.post("/v1/audio/translations", files={"file": b"x"}, data={"model": "whisper-1"})
    error = assert_openai_error(response, 400, "unsupported_endpoint")
    assert "cannot translate" in error["message"]
    assert_openai_error(server.client.post("/v1/audio/translations"), 400, "unsupported_endpoint")


def test_demo_answers_say_so_everywhere(tmp_path):
    with RunningServer(tmp_path, model="demo") as running:
        for response_format in ("json", "text", "verbose_json", "srt", "vtt"):
            response = running.transcribe(SPEECH, model="demo", response_format=response_format)
            assert response.status_code == 200
            assert response.headers[MODEL_HEADER] == "demo"
            assert "demo model" in response.headers[WARNING_HEADER]
        for path in ("/v1/models", "/v1/models/demo", "/v1/models/whisper-1", "/health/ready"):
            assert running.client.get(path).headers[MODEL_HEADER] == "demo"
        listed = running.client.get("/v1/models").json()["data"]
        assert [model["id"] for model in listed] == ["demo", *ALIASES]
        assert all(model["demo"] and "demo model" in model["description"] for model in listed)
        streamed = running.transcribe(SPEECH, stream="true")
        assert streamed.headers[MODEL_HEADER] == "demo"
        assert "demo model" in streamed.headers[WARNING_HEADER]


def test_models_are_listed_and_found_by_encoded_ids(tmp_path):
    with RunningServer(tmp_path, model="some/Model-8bit") as running:
        listed = running.client.get("/v1/models").json()
        assert set(listed) == {"object", "data"}
        assert listed["object"] == "list"
        assert [model["id"] for model in listed["data"]] == ["some/Model-8bit", *ALIASES]
        for model in listed["data"]:
            check_model(model)
            assert (model["resident_model"], model["demo"]) == ("some/Model-8bit", False)
            for spelled in (quote(model["id"], safe=""), model["id"]):
                assert running.client.get(f"/v1/models/{spelled}").json() == model
        for unknown in ("demo", "other", "some", "some/Model-8bit/x"):
            response = running.client.get(f"/v1/models/{unknown}")
            assert_openai_error(response, 404, "model_not_found", param="model")
        answer = running.transcribe(SPEECH, model="some/Model-8bit")
        assert answer.headers[MODEL_HEADER] == "some/Model-8bit"


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/audio/transcriptions", "POST"),
        ("/v1/audio/translations", "POST"),
        ("/v1/models", "GET, HEAD"),
        ("/v1/models/whisper-1", "GET, HEAD"),
    ],
)
def test_other_methods_are_405_with_the_allowed_ones(server: RunningServer, path: str, allowed: str):
    for method in {"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"} - set(allowed.split(", ")):
        response = server.client.request(method, path)
        assert_openai_error(response, 405, "method_not_allowed")
        assert response.headers["allow"] == allowed
    bare = server.client.head(path)
    assert (bare.status_code, bare.content) == (200 if "HEAD" in allowed else 405, b"")
    assert bare.headers.get("allow", allowed) == allowed
    assert bare.headers["x-request-id"]
