"""Answers of /v1/audio/transcriptions: the formats, the fields, and which model said it."""

from __future__ import annotations

import hashlib
import json

import pytest

from server.routes.bodies import MODEL_HEADER, WARNING_HEADER
from tests.http.running_server import RunningServer, assert_openai_error, script

SPEECH = script(text="Hello there.", partials=["Hello", "there."], duration_seconds=2.5)
SEGMENT_FIELDS = {
    "id", "seek", "start", "end", "text", "tokens",
    "temperature", "avg_logprob", "compression_ratio", "no_speech_prob",
}  # fmt: skip


def test_json_is_the_default_and_carries_token_usage(server: RunningServer):
    response = server.transcribe(SPEECH, model="whisper-1")
    assert response.status_code == 200
    assert response.json() == {
        "text": "Hello there.",
        "languages": [{"code": "en"}],
        "usage": {
            "type": "tokens",
            "input_tokens": 22,
            "input_token_details": {"audio_tokens": 13, "text_tokens": 9},
            "output_tokens": 2,
            "total_tokens": 24,
        },
    }
    assert response.headers["x-request-id"].startswith("req_")


def test_text_is_plain_and_ends_with_a_newline(server: RunningServer):
    response = server.transcribe(SPEECH, response_format="text")
    assert response.text == "Hello there.\n"
    assert response.headers["content-type"].startswith("text/plain")


def test_verbose_json_has_every_field_that_strict_clients_want(server: RunningServer):
    body = server.transcribe(SPEECH, response_format="verbose_json").json()
    assert body["task"] == "transcribe"
    assert body["language"] == "english"
    assert body["duration"] == 2.5
    assert body["usage"] == {"type": "duration", "seconds": 2.5}
    assert [segment["text"] for segment in body["segments"]] == ["Hello", "there."]
    for segment in body["segments"]:
        assert set(segment) == SEGMENT_FIELDS
        assert all(isinstance(token, int) for token in segment["tokens"])
        # The fake fills these in only when log-probabilities were asked for.
        assert segment["avg_logprob"] == -0.25
        assert segment["no_speech_prob"] == 0.01
    assert body["segments"][1]["start"] == 1.25
    assert body["segments"][1]["seek"] == 125


def test_no_speech_is_an_empty_text_and_no_language(server: RunningServer):
    silence = script(text="", language=None)
    plain = server.transcribe(silence).json()
    assert (plain["text"], plain["languages"]) == ("", [])
    verbose = server.transcribe(silence, response_format="verbose_json").json()
    assert (verbose["text"], verbose["language"], verbose["segments"]) == ("", "unknown", [])


def test_warnings_are_in_the_body_and_in_a_header(server: RunningServer):
    cut_off = script(text="Hello", warnings=["the file is cut off; transcribed up to 3.2 s"])
    response = server.transcribe(cut_off)
    assert response.json()["warnings"] == ["the file is cut off; transcribed up to 3.2 s"]
    assert "cut off" in response.headers[WARNING_HEADER]
    assert "cut off" in server.transcribe(cut_off, response_format="text").headers[WARNING_HEADER]
    assert WARNING_HEADER not in server.transcribe(SPEECH).headers


def test_recording_arrives_whole(server: RunningServer):
    recording = bytes(range(256)) * 13_001
    digest = hashlib.sha256(recording).hexdigest()
    assert server.transcribe(recording).json()["text"] == f"{len(recording)} bytes, SHA-256 {digest}"


def test_options_reach_the_engine(server: RunningServer):
    response = server.transcribe(
        script(echo_options=True), language="es-MX", prompt="Zoë, <|im_end|>", temperature="0.5"
    )
    options = json.loads(response.json()["text"])
    assert options["language"] == "es-MX"
    assert options["prompt"] == "Zoë, <|im_end|>"
    assert options["temperature"] == 0.5
    assert options["logprobs"] is False


def test_empty_language_and_prompt_are_none(server: RunningServer):
    response = server.transcribe(script(echo_options=True), language=" ", prompt="", model="")
    options = json.loads(response.json()["text"])
    assert options["language"] is None
    assert options["prompt"] is None


@pytest.mark.parametrize("model", [None, "whisper-1", "gpt-4o-transcribe", "fake"])
def test_model_is_accepted_under_its_names(server: RunningServer, model: str | None):
    fields = {} if model is None else {"model": model}
    assert server.transcribe(SPEECH, **fields).status_code == 200


@pytest.mark.parametrize("model", ["whisper-2", "demo", "Fake", "x" * 5000])
def test_other_models_are_not_found(server: RunningServer, model: str):
    response = server.transcribe(SPEECH, model=model)
    error = assert_openai_error(response, 404, "model_not_found", param="model")
    assert "fake" in error["message"]
    assert len(error["message"]) < 400


def test_unknown_fields_are_ignored(server: RunningServer):
    fields = {"chunking_strategy": "auto", "known_speaker_names[]": "Ann", "user": "x", "stream": "false"}
    assert server.transcribe(SPEECH, **fields).status_code == 200


@pytest.mark.parametrize(
    "fields",
    [
        {"timestamp_granularities[]": "segment"},
        {"timestamp_granularities": "segment"},
        {"timestamp_granularities[]": ["segment", "segment"]},
    ],
)
def test_segment_granularity_is_accepted_with_verbose_json(server: RunningServer, fields: dict[str, str]):
    assert server.transcribe(SPEECH, response_format="verbose_json", **fields).status_code == 200


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"response_format": "srt"}, "unsupported_parameter", "response_format"),
        ({"response_format": "vtt"}, "unsupported_parameter", "response_format"),
        ({"response_format": "diarized_json"}, "unsupported_parameter", "response_format"),
        ({"response_format": "xml"}, "invalid_parameter", "response_format"),
        ({"temperature": "NaN"}, "invalid_parameter", "temperature"),
        ({"temperature": "inf"}, "invalid_parameter", "temperature"),
        ({"temperature": "-inf"}, "invalid_parameter", "temperature"),
        ({"temperature": "-0.1"}, "invalid_parameter", "temperature"),
        ({"temperature": "1.01"}, "invalid_parameter", "temperature"),
        ({"temperature": "warm"}, "invalid_parameter", "temperature"),
        ({"stream": "true"}, "unsupported_parameter", "stream"),
        ({"stream": "maybe"}, "invalid_parameter", "stream"),
        ({"include[]": "logprobs"}, "unsupported_parameter", "include"),
        ({"response_format": "verbose_json", "timestamp_granularities[]": "word"},
         "unsupported_parameter", "timestamp_granularities"),
        ({"response_format": "verbose_json", "timestamp_granularities": "segment,word"},
         "unsupported_parameter", "timestamp_granularities"),
        ({"response_format": "verbose_json", "timestamp_granularities[]": "minute"},
         "invalid_parameter", "timestamp_granularities"),
        ({"timestamp_granularities[]": "segment"}, "invalid_parameter", "timestamp_granularities"),
        ({"language": "x" * 65}, "language_unknown", "language"),
        ({"model": ["whisper-1", "fake"]}, "duplicate_field", "model"),
    ],
)  # fmt: skip
def test_parameter_is_refused_by_name(server: RunningServer, fields: dict[str, str], code: str, param: str):
    assert_openai_error(server.transcribe(SPEECH, **fields), 400, code, param=param)


def test_language_the_model_does_not_speak_is_refused_with_those_it_does(server: RunningServer):
    response = server.transcribe(SPEECH, language="de-DE")
    error = assert_openai_error(response, 400, "language_unsupported", param="language")
    assert "English, Spanish" in error["message"]


def test_unknown_language_is_refused(server: RunningServer):
    response = server.transcribe(SPEECH, language="Klingon")
    assert assert_openai_error(response, 400, "language_unknown", param="language")


def test_zero_bytes_are_an_empty_recording(server: RunningServer):
    assert_openai_error(server.transcribe(b""), 400, "audio_empty", param="file")


def test_translations_are_refused_by_name(server: RunningServer):
    response = server.client.post("/v1/audio/translations", files={"file": b"x"}, data={"model": "whisper-1"})
    assert_openai_error(response, 400, "unsupported_endpoint")


def test_demo_answers_say_so_everywhere(tmp_path):
    with RunningServer(tmp_path, model="demo") as running:
        for response_format in ("json", "text", "verbose_json"):
            response = running.transcribe(SPEECH, model="demo", response_format=response_format)
            assert response.status_code == 200
            assert response.headers[MODEL_HEADER] == "demo"
            assert "demo model" in response.headers[WARNING_HEADER]
        for path in ("/v1/models", "/v1/models/demo", "/v1/models/whisper-1", "/health/ready"):
            assert running.client.get(path).headers[MODEL_HEADER] == "demo"
        listed = running.client.get("/v1/models").json()["data"]
        assert [(model["id"], model["demo"]) for model in listed] == [("demo", True)]
        assert "demo model" in listed[0]["description"]


def test_models_are_listed_and_found_by_encoded_ids(tmp_path):
    with RunningServer(tmp_path, model="some/Model-8bit") as running:
        listed = running.client.get("/v1/models").json()
        assert listed["object"] == "list"
        model = listed["data"][0]
        assert model["id"] == "some/Model-8bit"
        assert model["object"] == "model"
        assert isinstance(model["created"], int)
        assert model["owned_by"]
        assert model["demo"] is False
        assert running.client.get("/v1/models/some%2FModel-8bit").json() == model
        assert running.client.get("/v1/models/some/Model-8bit").json() == model
        assert running.client.get("/v1/models/whisper-1").json()["id"] == "whisper-1"
        assert_openai_error(running.client.get("/v1/models/demo"), 404, "model_not_found", param="model")
        assert_openai_error(running.client.get("/v1/models/other"), 404, "model_not_found", param="model")
        answer = running.transcribe(SPEECH, model="some/Model-8bit")
        assert answer.headers[MODEL_HEADER] == "some/Model-8bit"
