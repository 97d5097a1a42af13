"""Parameters of /v1/audio/transcriptions: what reaches the engine, what is ignored, what is refused by its name."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from typing import Any

import pytest

from scribewire.engine.protocol.config import Chunking
from tests.fakes.running_server import RunningServer, assert_openai_error, script

SPEECH = script(text="Hello there.")
DEFAULT_CHUNKING = dataclasses.asdict(Chunking())
REFERENCE = "data:audio/wav;base64," + base64.b64encode(b"RIFF0000WAVE").decode()


def options_of(server: RunningServer, **fields: Any) -> dict[str, Any]:
    """The options that the engine received."""
    response = server.transcribe(script(echo_options=True), **fields)
    assert response.status_code == 200, response.text
    options: dict[str, Any] = json.loads(response.json()["text"])
    return options


def test_options_reach_the_engine(server: RunningServer):
    options = options_of(
        server,
        **{
            "language": "es-MX",
            "prompt": "Zoë, <|im_end|>",
            "temperature": "0.5",
            "languages[]": ["en", "Spanish"],
            "keywords[]": ["Kubernetes", "Anna Schäfer", "<asr_text>"],
            "repetition_penalty": "1.3",
            "min_p": "0.05",
            "max_tokens": "77",
            "seed": "9223372036854775807",
        },
    )
    assert options == {
        "language": "es-MX",
        "prompt": "Zoë, <|im_end|>",
        "temperature": 0.5,
        "languages": ["en", "Spanish"],
        "keywords": ["Kubernetes", "Anna Schäfer", "<asr_text>"],
        "repetition_penalty": 1.3,
        "min_p": 0.05,
        "max_tokens": 77,
        "seed": 9223372036854775807,
        "logprobs": False,
        "token_logprobs": False,
        "words": False,
        "words_optional": False,
        "speakers": None,
        "chunking": DEFAULT_CHUNKING,
        "model": None,
    }


@pytest.mark.parametrize("response_format", ["srt", "vtt", "tsv"])
def test_subtitles_ask_for_word_times_and_do_without_an_aligner(server: RunningServer, response_format: str):
    response = server.transcribe(script(echo_options=True), response_format=response_format)
    shown = "".join(re.sub(r"\n\n.*\n?.* --> .*\n", "", response.text).split())
    assert '"words":true' in shown
    assert '"words_optional":true' in shown


def test_options_that_are_left_out_change_nothing(server: RunningServer):
    nothing = options_of(server)
    assert nothing == {
        "language": None,
        "prompt": None,
        "temperature": 0.0,
        "languages": [],
        "keywords": [],
        "repetition_penalty": 1.0,
        "min_p": 0.0,
        "max_tokens": None,
        "seed": None,
        "logprobs": False,
        "token_logprobs": False,
        "words": False,
        "words_optional": False,
        "speakers": None,
        "chunking": DEFAULT_CHUNKING,
        "model": None,
    }
    empty = {
        "language": " ",
        "prompt": "",
        "model": "",
        "temperature": "0",
        "seed": "",
        "max_tokens": "null",
        "keywords[]": "",
        "languages[]": "",
        "response_format": "",
        "stream": "",
        "chunking_strategy": "",
    }
    assert options_of(server, **empty) == nothing


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"chunking_strategy": "auto"}, Chunking("voice")),
        ({"chunking_strategy": "null"}, Chunking("quietest")),
        ({"chunking_strategy[type]": "server_vad"}, Chunking("voice", 0.5, 300, 200)),
        (
            {
                "chunking_strategy[type]": "server_vad",
                "chunking_strategy[prefix_padding_ms]": "0",
                "chunking_strategy[silence_duration_ms]": "700",
                "chunking_strategy[threshold]": "0",
            },
            Chunking("voice", 0.0, 0, 700),
        ),
        (
            {"chunking_strategy": '{"type": "server_vad", "threshold": 0.4, "silence_duration_ms": null}'},
            Chunking("voice", 0.4),
        ),
        ({"chunking_strategy": '{"type": "auto"}'}, Chunking("voice")),
    ],
)
def test_chunking_strategy_reaches_the_engine(
    server: RunningServer, fields: dict[str, str], expected: Chunking
):
    assert options_of(server, **fields)["chunking"] == dataclasses.asdict(expected)


@pytest.mark.parametrize("name", ["keywords[]", "keywords"])
def test_lists_are_taken_with_and_without_brackets_and_comma_joined(server: RunningServer, name: str):
    assert options_of(server, **{name: ["one", "two,three", "one"]})["keywords"] == ["one", "two", "three"]


@pytest.mark.parametrize("language", ["en", "EN", "english", "English", "en-US", "en_GB.UTF-8", "eng"])
def test_language_is_taken_by_every_name_it_has(server: RunningServer, language: str):
    response = server.transcribe(script(text="Hello."), language=language, response_format="verbose_json")
    assert response.json()["language"] == "english"


@pytest.mark.parametrize("language", ["de-DE", "German", "de", "Deutsch"])
def test_language_the_model_does_not_speak_is_refused_with_those_it_does(
    server: RunningServer, language: str
):
    response = server.transcribe(SPEECH, language=language)
    error = assert_openai_error(response, 400, "language_unsupported", param="language")
    assert "English, Spanish" in error["message"]


def test_unknown_languages_are_refused_by_the_field_that_names_them(server: RunningServer):
    response = server.transcribe(SPEECH, language="Klingon")
    assert_openai_error(response, 400, "language_unknown", param="language")
    response = server.transcribe(SPEECH, **{"languages[]": ["en", "Klingon"]})
    assert_openai_error(response, 400, "language_unknown", param="languages")


def test_logprobs_are_computed_only_for_those_who_see_them(server: RunningServer):
    asked = options_of(server, **{"include[]": "logprobs"})
    assert (asked["logprobs"], asked["token_logprobs"]) == (True, True)
    verbose = script(text="Hello.", partials=["Hello."])
    segment = server.transcribe(verbose, response_format="verbose_json").json()["segments"][0]
    assert segment["avg_logprob"] == -0.25


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "x", "extra[nested][deep]": "y", "metadata": '{"a": 1}', "\u0301": "z"},
        {"stream": "false"},
        {"stream": "False"},
        {"chunking_strategy": "auto"},
        {"chunking_strategy": "null"},
        {"chunking_strategy[type]": "server_vad"},
        {
            "chunking_strategy[type]": "server_vad",
            "chunking_strategy[prefix_padding_ms]": "300",
            "chunking_strategy[silence_duration_ms]": "200",
            "chunking_strategy[threshold]": "0.5",
        },
        {"chunking_strategy": '{"type": "server_vad", "threshold": 0.4, "silence_duration_ms": null}'},
        {"known_speaker_names[]": ["Ann", "Bob"]},
        {"known_speaker_names[]": ["Ann", "Bob"], "known_speaker_references[]": [REFERENCE, REFERENCE]},
        {"timestamp_granularities[]": "segment"},
        {"timestamp_granularities[]": "segment", "response_format": "verbose_json"},
        {"timestamp_granularities": "segment", "response_format": "verbose_json"},
        {"timestamp_granularities[]": ["segment", "segment"], "response_format": "verbose_json"},
        {"timestamp_granularities[]": ["word", "segment"], "response_format": "verbose_json"},
        {"timestamp_granularities": "word,segment", "response_format": "verbose_json"},
        {"temperature": "0.0"},
        {"temperature": "1"},
        {"repetition_penalty": "1"},
        {"repetition_penalty": "2.0"},
        {"min_p": "0"},
        {"min_p": "1"},
        {"max_tokens": "65536"},
        {"seed": "0"},
        {"keywords[]": [f"{number:0200}" for number in range(90)]},
        {"keywords": ",".join(f"word {number}" for number in range(500))},
        {"languages[]": ["en", "es-MX", "auto"]},
    ],
)
def test_parameter_is_accepted(server: RunningServer, fields: dict[str, Any]):
    response = server.transcribe(SPEECH, **fields)
    assert response.status_code == 200, response.text
    assert response.json()["text"] == "Hello there."


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"response_format": "xml"}, "invalid_parameter", "response_format"),
        ({"response_format": "JSON"}, "invalid_parameter", "response_format"),
        ({"temperature": "NaN"}, "invalid_parameter", "temperature"),
        ({"temperature": "inf"}, "invalid_parameter", "temperature"),
        ({"temperature": "-inf"}, "invalid_parameter", "temperature"),
        ({"temperature": "-0.1"}, "invalid_parameter", "temperature"),
        ({"temperature": "1.01"}, "invalid_parameter", "temperature"),
        ({"temperature": "warm"}, "invalid_parameter", "temperature"),
        ({"repetition_penalty": "0.99"}, "invalid_parameter", "repetition_penalty"),
        ({"repetition_penalty": "2.01"}, "invalid_parameter", "repetition_penalty"),
        ({"repetition_penalty": "nan"}, "invalid_parameter", "repetition_penalty"),
        ({"min_p": "-0.01"}, "invalid_parameter", "min_p"),
        ({"min_p": "1.01"}, "invalid_parameter", "min_p"),
        ({"min_p": "nan"}, "invalid_parameter", "min_p"),
        ({"max_tokens": "0"}, "invalid_parameter", "max_tokens"),
        ({"max_tokens": "65537"}, "invalid_parameter", "max_tokens"),
        ({"max_tokens": "1.5"}, "invalid_parameter", "max_tokens"),
        ({"seed": "-1"}, "invalid_parameter", "seed"),
        ({"seed": "9223372036854775808"}, "invalid_parameter", "seed"),
        ({"seed": "9" * 5000}, "invalid_parameter", "seed"),
        ({"seed": "٣"}, "invalid_parameter", "seed"),
        ({"stream": "maybe"}, "invalid_parameter", "stream"),
        ({"stream": "true", "response_format": "srt"}, "invalid_parameter", "stream"),
        ({"stream": "true", "response_format": "vtt"}, "invalid_parameter", "stream"),
        ({"stream": "true", "response_format": "verbose_json"}, "invalid_parameter", "stream"),
        ({"include[]": "item"}, "invalid_parameter", "include"),
        ({"include[]": ["logprobs", "segments"]}, "invalid_parameter", "include"),
        ({"response_format": "srt", "timestamp_granularities": "segment,word"},
         "invalid_parameter", "timestamp_granularities"),
        ({"response_format": "verbose_json", "timestamp_granularities[]": "minute"},
         "invalid_parameter", "timestamp_granularities"),
        ({"timestamp_granularities[]": "word"}, "invalid_parameter", "timestamp_granularities"),
        ({"language": "x" * 65}, "language_unknown", "language"),
        ({"languages[]": ["en", "x" * 65]}, "language_unknown", "languages"),
        ({"languages": ",".join(f"l{number}" for number in range(65))}, "invalid_parameter", "languages"),
        ({"languages[]": ["en", "de"]}, "language_unsupported", "languages"),
        ({"keywords": ",".join(map(str, range(501)))}, "invalid_parameter", "keywords"),
        ({"keywords[]": ["fine", "x" * 201]}, "invalid_parameter", "keywords"),
        ({"chunking_strategy": "manual"}, "invalid_parameter", "chunking_strategy"),
        ({"chunking_strategy": '{"type": '}, "invalid_parameter", "chunking_strategy"),
        ({"chunking_strategy": '{"type": ["server_vad"]}'}, "invalid_parameter", "chunking_strategy"),
        ({"chunking_strategy": '{"type": "client_vad"}'}, "invalid_parameter", "chunking_strategy[type]"),
        ({"chunking_strategy": '{"threshold": 0.5}'}, "invalid_parameter", "chunking_strategy[type]"),
        (
            {"chunking_strategy": '{"type": "server_vad", "threshold": NaN}'},
            "invalid_parameter",
            "chunking_strategy[threshold]",
        ),
        ({"chunking_strategy[type]": "client_vad"}, "invalid_parameter", "chunking_strategy[type]"),
        ({"chunking_strategy": '{"type": "server_vad"}', "chunking_strategy[type]": "AAA"},
         "duplicate_field", "chunking_strategy[type]"),
        ({"chunking_strategy": '{"type": "server_vad"}', "chunking_strategy[threshold]": "x"},
         "invalid_parameter", "chunking_strategy[threshold]"),
        ({"chunking_strategy[threshold]": "0.5"}, "invalid_parameter", "chunking_strategy[type]"),
        ({"chunking_strategy[type]": "server_vad", "chunking_strategy[threshold]": "1.5"},
         "invalid_parameter", "chunking_strategy[threshold]"),
        ({"chunking_strategy[type]": "server_vad", "chunking_strategy[prefix_padding_ms]": "-1"},
         "invalid_parameter", "chunking_strategy[prefix_padding_ms]"),
        ({"chunking_strategy[type]": "server_vad", "chunking_strategy[silence_duration_ms]": "long"},
         "invalid_parameter", "chunking_strategy[silence_duration_ms]"),
        ({"known_speaker_names[]": [f"n{number}" for number in range(17)]},
         "invalid_parameter", "known_speaker_names"),
        ({"known_speaker_names[]": "x" * 201}, "invalid_parameter", "known_speaker_names"),
        ({"known_speaker_names[]": "Ann", "known_speaker_references[]": "https://x.example/a.wav"},
         "invalid_parameter", "known_speaker_references"),
        ({"known_speaker_names[]": "Ann", "known_speaker_references[]": "data:audio/wav;base64,??"},
         "invalid_parameter", "known_speaker_references"),
        ({"known_speaker_names[]": "Ann", "known_speaker_references[]": [REFERENCE, REFERENCE]},
         "invalid_parameter", "known_speaker_references"),
        ({"model": ["whisper-1", "fake"]}, "duplicate_field", "model"),
        ({"seed": ["1", "2"]}, "duplicate_field", "seed"),
    ],
)  # fmt: skip
def test_parameter_is_refused_by_name(server: RunningServer, fields: dict[str, Any], code: str, param: str):
    error = assert_openai_error(server.transcribe(SPEECH, **fields), 400, code, param=param)
    assert error["type"] == "invalid_request_error"
    assert len(error["message"]) < 400


def test_refused_parameters_are_refused_before_a_stream_begins(server: RunningServer):
    response = server.transcribe(SPEECH, stream="true", temperature="NaN")
    assert_openai_error(response, 400, "invalid_parameter", param="temperature")
