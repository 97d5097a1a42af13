"""diarized_json over HTTP, streamed and as a job, with the engine and the pipeline played by stand-ins."""

from __future__ import annotations

import base64
import itertools
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from scribewire.engine.protocol.transcript import Segment, Transcript
from scribewire.server.routes.streaming import by_segment
from tests.fakes.running_server import RunningServer, assert_openai_error, script
from tests.fakes.waiting import join, wait_until
from tests.http.openai_shapes import parse_events
from tests.http.test_openapi import check_answer

# By their letters the words of the fake take a second each.
TALK = {"text": "aaaa bbbb cccc dddd", "duration_seconds": 4.0, "language": "English"}
TURNS = [[0.0, 2.1, "SPEAKER_01"], [2.1, 4.0, "SPEAKER_00"]]
VOICES = {"SPEAKER_00": [1.0, 0.0], "SPEAKER_01": [0.0, 1.0]}
SEGMENTS = [
    {
        "type": "transcript.text.segment",
        "id": "seg_001",
        "start": 0.0,
        "end": 2.0,
        "text": "aaaa bbbb",
        "speaker": "A",
    },
    {
        "type": "transcript.text.segment",
        "id": "seg_002",
        "start": 2.0,
        "end": 4.0,
        "text": "cccc dddd",
        "speaker": "B",
    },
]

_numbers = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with RunningServer(tmp_path_factory.mktemp("data")) as running:
        yield running
        assert running.leftovers() == []


def talk(**more: Any) -> bytes:
    """A recording unlike every other, or it would take the result of one before."""
    return script(**TALK, turns=TURNS, voices=VOICES, number=next(_numbers), **more)


def diarized(server: RunningServer, recording: bytes, **fields: Any) -> httpx.Response:
    return server.transcribe(recording, response_format="diarized_json", **fields)


def data_url(**reference: Any) -> str:
    return "data:audio/wav;base64," + base64.b64encode(json.dumps(reference).encode()).decode()


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    return parse_events(response.content)[0]


def submit(server: RunningServer, recording: bytes, **fields: Any) -> str:
    response = server.client.post("/transcribe", files={"audio": ("a.wav", recording)}, data=fields)
    assert response.status_code == 202, response.text
    return str(response.json()["job_id"])


def finished(server: RunningServer, job_id: str) -> dict[str, Any]:
    def job() -> dict[str, Any] | None:
        body: dict[str, Any] = server.client.get(f"/jobs/{job_id}").json()
        return body if body["status"] in ("completed", "failed", "cancelled") else None

    body: dict[str, Any] = wait_until(job)
    return body


def test_a_diarized_answer_has_openais_shape_and_nothing_else(server: RunningServer):
    response = diarized(server, talk(), model="gpt-4o-transcribe-diarize", chunking_strategy="auto")
    assert response.status_code == 200, response.text
    assert response.json() == {
        "task": "transcribe",
        "duration": 4.0,
        "text": "aaaa bbbb cccc dddd",
        "segments": SEGMENTS,
        "usage": {"type": "duration", "seconds": 4.0},
    }
    document = server.client.get("/openapi.json").json()
    check_answer(document, response, "/v1/audio/transcriptions", "post")


def test_known_speakers_are_named_and_the_others_lettered(server: RunningServer):
    fields = {
        "known_speaker_names[]": ["Ann", "Cam"],
        "known_speaker_references[]": [data_url(voice=[0.9, 0.1]), data_url(voice=[-1.0, -1.0])],
    }
    segments = diarized(server, talk(), **fields).json()["segments"]
    assert [segment["speaker"] for segment in segments] == ["A", "Ann"]


def test_known_speakers_of_a_pipeline_without_embeddings_are_a_warning(server: RunningServer):
    recording = script(**TALK, turns=TURNS)
    fields = {"known_speaker_names[]": "Ann", "known_speaker_references[]": data_url(voice=[1.0, 0.0])}
    body = diarized(server, recording, **fields).json()
    assert "embeddings" in body["warnings"][0]
    assert [segment["speaker"] for segment in body["segments"]] == ["A", "B"]


def test_a_reference_that_is_no_base64_is_a_400(server: RunningServer):
    fields = {"known_speaker_names[]": "Ann", "known_speaker_references[]": "data:audio/wav;base64,AAAAA"}
    assert_openai_error(
        diarized(server, talk(), **fields), 400, "invalid_parameter", param="known_speaker_references"
    )


def test_segments_without_words_belong_to_whoever_speaks_most(server: RunningServer):
    recording = script(
        partials=["one", "two"], duration_seconds=4.0, words=False, turns=[[0, 1.9, "x"], [1.9, 4, "y"]]
    )
    segments = diarized(server, recording).json()["segments"]
    assert [(segment["text"], segment["speaker"]) for segment in segments] == [("one", "A"), ("two", "B")]


def test_silence_has_no_segments(server: RunningServer):
    body = diarized(server, script(text="", language=None)).json()
    assert (body["text"], body["segments"]) == ("", [])


def test_a_stream_has_the_text_of_each_segment_before_who_said_it_and_then_its_end(server: RunningServer):
    response = diarized(server, talk(deltas=["aaaa bb", "bb cccc dddd"]), stream="true")
    assert response.status_code == 200, response.text
    events = events_of(response)
    kinds = [event["type"].removeprefix("transcript.text.") for event in events]
    assert kinds == ["delta", "segment", "delta", "segment", "done"]
    assert events[1:4:2] == SEGMENTS
    for delta, segment in (events[:2], events[2:4]):
        assert delta["segment_id"] == segment["id"]
        assert delta["delta"].strip() == segment["text"]
    assert events[0]["delta"] + events[2]["delta"] == events[-1]["text"]


def test_a_stream_of_silence_and_one_without_segments_have_all_of_their_text(server: RunningServer):
    silent = diarized(server, script(text="", language=None), stream="true")
    assert [event["type"] for event in events_of(silent)] == ["transcript.text.done"]


@pytest.mark.parametrize(
    ("text", "said", "parts"),
    [
        ("One. Two.", ["One.", "Two."], ["One.", " Two."]),
        ("  One.  Two.  ", [" One. ", "Two."], ["  One.", "  Two.  "]),
        ("a a a", ["a", "a", "a"], ["a", " a", " a"]),
        ("One. Two.", ["Other.", "Two."], ["", "One. Two."]),
        ("One. Two.", ["One.", "Other."], ["One.", " Two."]),
        ("One.", ["", "One."], ["", "One."]),
        ("", [], []),
    ],
)
def test_parts_of_segments_are_the_text_joined(text: str, said: list[str], parts: list[str]):
    segments = tuple(Segment(number, 0.0, 1.0, one, None) for number, one in enumerate(said))
    found = list(by_segment(Transcript(text, None, (), 1.0, segments, "fake")))
    assert [part for part, _ in found] == parts
    assert "".join(parts) == text


def assert_missing(response: httpx.Response, words: str) -> None:
    error = assert_openai_error(response, 400, "speakers_unavailable", param="response_format")
    assert words in error["message"]


@pytest.mark.parametrize(
    ("model", "words"),
    [("no-extra", ".venv/bin/pip install -e '.[speakers]'"), ("no-terms", "accepted terms and a token")],
)
def test_what_is_missing_is_a_400_that_says_what_to_do(tmp_path: Path, model: str, words: str):
    with RunningServer(tmp_path, diarization_model=model) as server:
        for stream in ("false", "true"):
            response = diarized(server, talk(), stream=stream)
            assert (
                words
                in assert_openai_error(response, 400, "speakers_unavailable", param="response_format")[
                    "message"
                ]
            )
        job = server.client.post(
            "/transcribe", files={"audio": ("a.wav", talk())}, data={"response_format": "diarized_json"}
        )
        assert (
            words in assert_openai_error(job, 400, "speakers_unavailable", param="response_format")["message"]
        )
        assert server.transcribe(talk()).status_code == 200
        assert server.leftovers() == []


def test_a_child_that_dies_is_a_503_and_the_next_recording_has_another(server: RunningServer):
    assert diarized(server, talk()).status_code == 200
    first = server.speakers.process_id
    response = diarized(server, talk(speakers="dies", gate="/nowhere"))
    assert "died" in assert_openai_error(response, 503, "speakers_failed")["message"]
    assert response.headers["x-should-retry"] == "false"
    assert diarized(server, talk()).json()["segments"] == SEGMENTS
    assert server.speakers.process_id not in (None, first)


def test_a_stream_whose_speakers_fail_ends_with_an_error(server: RunningServer):
    response = diarized(server, talk(speakers="fails"), stream="true")
    if response.status_code == 200:
        assert events_of(response)[-1]["error"]["code"] == "speakers_failed"
    else:
        assert_openai_error(response, 503, "speakers_failed")


def test_a_recording_that_cannot_be_transcribed_ends_its_speakers_too(server: RunningServer):
    response = diarized(server, talk(speakers="waits", fail="audio_undecodable"))
    assert_openai_error(response, 400, "audio_undecodable", param="file")
    assert diarized(server, talk()).json()["segments"] == SEGMENTS


def test_others_are_served_while_speakers_are_told_apart_and_a_client_that_leaves_frees_them(
    server: RunningServer,
):
    failed = threading.Event()

    def leave() -> None:
        with httpx.Client(base_url=server.url, timeout=1.5) as client:
            try:
                client.post(
                    "/v1/audio/transcriptions",
                    files={"file": ("a.wav", talk(speakers="waits"))},
                    data={"response_format": "diarized_json"},
                )
            except httpx.ReadTimeout:
                failed.set()

    leaving = threading.Thread(target=leave)
    leaving.start()
    assert server.transcribe(talk()).json()["text"] == TALK["text"]
    join(leaving)
    assert failed.is_set()
    child = server.speakers.process_id
    assert diarized(server, talk()).json()["segments"] == SEGMENTS
    assert server.speakers.process_id == child  # told to stop, not killed
    wait_until(lambda: server.leftovers() == [])


def test_the_child_ends_with_the_server(tmp_path: Path):
    with RunningServer(tmp_path) as server:
        assert diarized(server, talk()).status_code == 200
        child = psutil.Process(server.speakers.process_id)
        job = submit(server, talk(speakers="hangs"), response_format="diarized_json")
        wait_until(lambda: server.client.get(f"/jobs/{job}").json()["status"] == "processing")
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


# ---- jobs ----------------------------------------------------------------------------------------------------


def test_a_job_tells_its_speakers_in_every_format_that_has_room_for_them(server: RunningServer):
    job_id = submit(server, talk(), response_format="diarized_json")
    body = finished(server, job_id)
    assert [(one["text"], one["speaker"]) for one in body["result"]["segments"]] == [
        ("aaaa bbbb", "A"),
        ("cccc dddd", "B"),
    ]
    check_answer(
        server.client.get("/openapi.json").json(),
        server.client.get(f"/jobs/{job_id}"),
        "/jobs/{job_id}",
        "get",
    )
    result = server.client.get(f"/jobs/{job_id}/result")
    assert result.json()["segments"] == SEGMENTS
    assert "<v A>aaaa bbbb" in server.client.get(f"/jobs/{job_id}/result?format=vtt").text
    assert "B: cccc dddd" in server.client.get(f"/jobs/{job_id}/result?format=srt").text


def test_a_job_whose_speakers_fail_keeps_its_transcript_and_says_so(server: RunningServer):
    body = finished(server, submit(server, talk(speakers="dies"), response_format="diarized_json"))
    assert (body["status"], body["result"]["text"]) == ("completed", TALK["text"])
    assert "the speakers are not told apart" in body["result"]["warnings"][0]
    result = server.client.get(f"/jobs/{body['job_id']}/result").json()
    assert [segment["speaker"] for segment in result["segments"]] == ["unknown"]


def test_a_job_that_is_cancelled_while_its_speakers_are_told_apart_frees_them(server: RunningServer):
    job_id = submit(server, talk(speakers="waits"), response_format="diarized_json")
    wait_until(lambda: server.client.get(f"/jobs/{job_id}").json()["status"] == "processing")
    assert server.client.delete(f"/jobs/{job_id}").json()["status"] == "cancelled"
    assert diarized(server, talk()).json()["segments"] == SEGMENTS


def test_a_job_that_did_not_ask_for_speakers_has_no_diarized_result(server: RunningServer):
    job_id = finished(server, submit(server, talk()))["job_id"]
    response = server.client.get(f"/jobs/{job_id}/result?format=diarized_json")
    refused = assert_openai_error(response, 409, "job_not_diarized", param="format")
    assert "submit it with" in refused["message"]
