"""Answers of /v1/audio/transcriptions in every format, checked as strictly as a typed client would."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from scribewire.server.routes.documents import LEAST_LOGPROB, WARNING_HEADER
from scribewire.server.routes.openai import WORDS_LEFT_OUT
from tests.fakes.running_server import RunningServer, assert_openai_error, script
from tests.http.openai_shapes import (
    check_done,
    check_transcription,
    check_verbose_transcription,
    parse_events,
)
from tests.unit.test_subtitles import parse_srt, parse_vtt

SPEECH = script(text="Hello there.", partials=["Hello", "there."], duration_seconds=2.5)


def test_json_is_the_default_and_carries_token_usage(server: RunningServer):
    response = server.transcribe(SPEECH, model="gpt-4o-transcribe")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"].startswith("req_")
    check_transcription(response.json())
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


def test_text_is_plain_and_ends_with_a_newline(server: RunningServer):
    response = server.transcribe(script(text="Zoë said 你好."), response_format="text")
    assert response.content.decode("utf-8") == "Zoë said 你好.\n"
    assert response.headers["content-type"] == "text/plain; charset=utf-8"


def test_verbose_json_has_every_field_that_strict_clients_want(server: RunningServer):
    body = server.transcribe(SPEECH, response_format="verbose_json").json()
    check_verbose_transcription(body)
    assert body["language"] == "english"
    assert body["duration"] == 2.5
    assert body["usage"] == {"type": "duration", "seconds": 2.5}
    assert [segment["text"] for segment in body["segments"]] == ["Hello", "there."]
    for segment in body["segments"]:
        # The fake fills these in only when log-probabilities were asked for.
        assert segment["avg_logprob"] == -0.25
        assert segment["no_speech_prob"] == 0.01
    assert body["segments"][1]["start"] == 1.25
    assert body["segments"][1]["seek"] == 125


@pytest.mark.parametrize(
    "granularities",
    [
        {"timestamp_granularities[]": ["word", "segment"]},
        {"timestamp_granularities": "segment,word"},
    ],
    ids=str,
)
def test_verbose_json_has_words_where_they_are_asked_for(server: RunningServer, granularities: dict):
    body = server.transcribe(SPEECH, response_format="verbose_json", **granularities).json()
    check_verbose_transcription(body, has_words=True)
    assert body["words"] == [
        {"word": "Hello", "start": 0.0, "end": 1.25},
        {"word": "there.", "start": 1.25, "end": 2.5},
    ]
    assert len(body["segments"]) == 2


@pytest.mark.parametrize("name", ["timestamp_granularities[]", "timestamp_granularities"])
def test_verbose_json_has_no_segments_where_words_alone_are_asked_for(server: RunningServer, name: str):
    body = server.transcribe(SPEECH, response_format="verbose_json", **{name: "word"}).json()
    check_verbose_transcription(body, has_words=True, has_segments=False)
    assert [word["word"] for word in body["words"]] == ["Hello", "there."]


def test_whisper_1_is_told_its_usage_in_seconds(server: RunningServer):
    body = server.transcribe(SPEECH, model="whisper-1").json()
    assert body.pop("usage") == {"type": "duration", "seconds": 2.5}
    other = server.transcribe(SPEECH, model="gpt-4o-transcribe").json()
    check_transcription(other)
    assert {**body, "usage": other["usage"]} == other
    done = parse_events(server.transcribe(SPEECH, model="whisper-1", stream="true").content)[0][-1]
    check_done(done)


def as_subtitle_edit(server: RunningServer, **fields: Any) -> httpx.Response:
    form = {"model": "whisper-1", "timestamp_granularities[]": ["segment", "word"], **fields}
    request = server.client.build_request(
        "POST", "/v1/audio/transcriptions", files={"file": ("a.wav", SPEECH, "audio/wav")}, data=form
    )
    del request.headers["user-agent"]
    return server.client.send(request)


def test_subtitle_edit_asks_for_words_of_json_and_is_answered_without_them(server: RunningServer):
    answer = as_subtitle_edit(server, response_format="json")
    assert answer.json()["text"] == "Hello there."
    assert answer.json()["warnings"] == [WORDS_LEFT_OUT]
    assert answer.headers[WARNING_HEADER] == WORDS_LEFT_OUT
    streamed = as_subtitle_edit(server, response_format="json", stream="true")
    assert streamed.headers[WARNING_HEADER] == WORDS_LEFT_OUT
    assert parse_events(streamed.content)[0][-1]["warnings"] == [WORDS_LEFT_OUT]
    whole = as_subtitle_edit(server, response_format="verbose_json").json()
    check_verbose_transcription(whole, has_words=True)
    for fields in (
        {"response_format": "text"},
        {},
        {"response_format": "json", "timestamp_granularities[]": "word"},
    ):
        answer = as_subtitle_edit(server, **fields)
        assert_openai_error(answer, 400, "invalid_parameter", param="timestamp_granularities")


def test_words_that_nobody_could_time_are_missing_and_the_warnings_say_so(server: RunningServer):
    speech = script(text="Hello.", words=False, warnings=["no word times: the aligner does not know Thai"])
    response = server.transcribe(
        speech, response_format="verbose_json", **{"timestamp_granularities[]": "word"}
    )
    check_verbose_transcription(response.json(), has_words=True, has_segments=False)
    assert response.json()["words"] == []
    assert response.json()["warnings"] == ["no word times: the aligner does not know Thai"]
    assert "does not know Thai" in response.headers[WARNING_HEADER]


def test_an_aligner_that_is_not_there_is_a_503_that_no_sdk_repeats(server: RunningServer):
    response = server.transcribe(
        script(fail="aligner_missing", message="word times need a forced aligner"),
        response_format="verbose_json",
        **{"timestamp_granularities[]": "word"},
    )
    assert_openai_error(response, 503, "aligner_missing")
    assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("response_format", "content_type", "parse"),
    [
        ("srt", "application/x-subrip; charset=utf-8", parse_srt),
        ("vtt", "text/vtt; charset=utf-8", parse_vtt),
    ],
)
def test_subtitles_have_their_own_content_type_and_say_what_was_said(
    server: RunningServer, response_format: str, content_type: str, parse
):
    speech = script(partials=["Hallo Zoë,", "a --> b & <c>"], duration_seconds=2.5)
    response = server.transcribe(speech, response_format=response_format)
    assert response.status_code == 200
    assert response.headers["content-type"] == content_type
    cues = parse(response.content.decode("utf-8"))
    assert [cue[:2] for cue in cues] == [(0, 1250), (1250, 2500)]
    assert cues[0][2] == "Hallo Zoë,"
    assert cues[1][2].replace("--›", "-->") == "a --> b & <c>"


def test_tsv_has_whispers_columns_and_a_tab_ends_no_column(server: RunningServer):
    speech = script(partials=["Hallo\tZoë,", "wie geht's?"], duration_seconds=2.5)
    response = server.transcribe(speech, response_format="tsv")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/tab-separated-values; charset=utf-8"
    assert response.content.decode("utf-8") == (
        "start\tend\ttext\n0\t1250\tHallo Zoë,\n1250\t2500\twie geht's?\n"
    )


def test_long_segments_become_several_cues_of_two_short_lines(server: RunningServer):
    words = [f"word{number}" for number in range(60)]
    speech = script(text=" ".join(words), duration_seconds=30)
    for parse, response_format in ((parse_srt, "srt"), (parse_vtt, "vtt")):
        cues = parse(server.transcribe(speech, response_format=response_format).text)
        assert len(cues) > 4
        assert all(len(line) <= 42 for _, _, text in cues for line in text.split("\n"))
        assert all(text.count("\n") <= 1 for _, _, text in cues)
        assert " ".join(text for _, _, text in cues).split() == words
        assert (cues[0][0], cues[-1][1]) == (0, 30_000)
        assert [cue[0] for cue in cues[1:]] == [cue[1] for cue in cues[:-1]]


def test_no_speech_is_an_empty_text_and_no_language_in_every_format(server: RunningServer):
    silence = script(text="", language=None)
    plain = server.transcribe(silence).json()
    check_transcription(plain)
    assert (plain["text"], plain["languages"]) == ("", [])
    verbose = server.transcribe(silence, response_format="verbose_json").json()
    check_verbose_transcription(verbose)
    assert (verbose["text"], verbose["language"], verbose["segments"]) == ("", "unknown", [])
    assert server.transcribe(silence, response_format="text").text == "\n"
    assert server.transcribe(silence, response_format="srt").text == ""
    assert server.transcribe(silence, response_format="vtt").text == "WEBVTT\n"
    assert server.transcribe(silence, response_format="tsv").text == "start\tend\ttext\n"


def test_logprobs_are_in_json_when_included(server: RunningServer):
    speech = script(text="Ein Bär", token_logprobs=[-0.5, -1.25])
    body = server.transcribe(speech, **{"include[]": "logprobs"}).json()
    check_transcription(body, has_logprobs=True)
    assert body["logprobs"] == [
        {"token": "Ein", "bytes": [69, 105, 110], "logprob": -0.5},
        {"token": " Bär", "bytes": [32, 66, 195, 164, 114], "logprob": -1.25},
    ]
    assert "logprobs" not in server.transcribe(speech).json()


def test_logprob_of_the_impossible_is_a_number(server: RunningServer):
    speech = b'{"text": "never", "token_logprobs": [-Infinity]}'
    body = server.transcribe(speech, **{"include[]": "logprobs"}).json()
    check_transcription(body, has_logprobs=True)
    assert body["logprobs"][0]["logprob"] == LEAST_LOGPROB


@pytest.mark.parametrize("response_format", ["text", "srt", "vtt", "tsv", "verbose_json"])
def test_logprobs_are_for_json_only(server: RunningServer, response_format: str):
    fields = {"include[]": "logprobs", "response_format": response_format}
    assert_openai_error(server.transcribe(SPEECH, **fields), 400, "invalid_parameter", param="include")


@pytest.mark.parametrize("response_format", ["json", "verbose_json", "text", "srt", "vtt", "tsv"])
def test_warnings_are_in_a_header_and_where_there_is_a_body_for_them(
    server: RunningServer, response_format: str
):
    warning = "the file is cut off; transcribed up to 3.2 s"
    response = server.transcribe(script(text="Hello", warnings=[warning]), response_format=response_format)
    assert response.headers[WARNING_HEADER] == warning
    if response_format.endswith("json"):
        assert response.json()["warnings"] == [warning]
    assert WARNING_HEADER not in server.transcribe(SPEECH, response_format=response_format).headers
