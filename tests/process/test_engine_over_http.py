"""The real engine behind the real server, with a tiny random model: what bad recordings come to over HTTP."""

from __future__ import annotations

import io
import os
import signal
import wave
from collections.abc import Iterator

import numpy as np
import pytest

from scribewire.engine.demo import sample_recordings
from scribewire.engine.processes.launch import WORKER_MODULE
from scribewire.server.routes.documents import WARNING_HEADER
from tests.fakes.running_server import RunningServer, assert_openai_error
from tests.fakes.tiny_aligner import write_tiny_aligner
from tests.fakes.tiny_model import write_tiny_model
from tests.fakes.waiting import wait_until

pytestmark = pytest.mark.process

PNG = (
    b"\x89PNG\r\n\x1a\n" + b"\x00\x00\x00\rIHDR" + b"\x00\x00\x00\x01" * 2 + b"\x08\x02\x00\x00\x00\x90wS\xde"
)


def wav(sample_count: int, *, rate: int = 16_000) -> bytes:
    """Quiet noise as 16-bit mono."""
    samples = np.random.default_rng(0).normal(0, 500, sample_count).astype("<i2")
    stream = io.BytesIO()
    with wave.open(stream, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(samples.tobytes())
    return stream.getvalue()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    model = write_tiny_model(tmp_path_factory.mktemp("tiny"))
    data = tmp_path_factory.mktemp("data")
    with RunningServer(
        data, engine_module=WORKER_MODULE, model=str(model), aligner="someone/No-Aligner", device="cpu"
    ) as running:
        assert running.engine.state == "ready", running.engine.failure
        yield running


@pytest.mark.parametrize(
    ("recording", "code"),
    [
        (b"", "audio_empty"),
        (b"This is a letter, not a recording. " * 50, "audio_format_unsupported"),
        (PNG, "audio_format_unsupported"),
        (os.urandom(5000), "audio_format_unsupported"),
        (wav(100), "audio_too_short"),
        (wav(0), "audio_too_short"),
    ],
    ids=["nothing", "text", "image", "random", "under 201 samples", "zero length"],
)
def test_bad_recording_is_400_with_its_own_code_and_the_server_stays_up(
    server: RunningServer, recording: bytes, code: str
):
    response = server.transcribe(recording)
    error = response.json()["error"]
    assert_openai_error(response, 400, code, param=error["param"])
    assert server.leftovers() == []
    assert server.client.get("/health/ready").status_code == 200


def test_cut_off_recording_is_transcribed_with_a_warning(server: RunningServer):
    whole = wav(32_000)
    response = server.transcribe(whole[: len(whole) // 2], response_format="verbose_json")
    assert response.status_code == 200
    body = response.json()
    assert 0.9 < body["duration"] < 1.1
    assert body["warnings"]
    assert response.headers[WARNING_HEADER]


def test_recording_is_answered_in_every_format(server: RunningServer):
    verbose = server.transcribe(wav(16_000), response_format="verbose_json", language="en").json()
    assert verbose["duration"] == pytest.approx(1.0, abs=0.01)
    assert verbose["language"] in ("english", "unknown")
    plain = server.transcribe(wav(16_000), language="en")
    assert plain.json()["usage"]["input_token_details"]["audio_tokens"] > 0
    text = server.transcribe(wav(16_000), response_format="text", language="en").text
    assert text == plain.json()["text"] + "\n"


def test_unknown_language_is_400_naming_the_field(server: RunningServer):
    assert_openai_error(
        server.transcribe(wav(16_000), language="Klingon"), 400, "language_unknown", param="language"
    )


def test_killed_engine_is_replaced_and_answers_again(server: RunningServer):
    first = server.engine.worker_process_id
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: server.engine.worker_process_id not in (None, first))
    wait_until(lambda: server.engine.state == "ready")
    assert server.transcribe(wav(16_000)).status_code == 200


@pytest.fixture(scope="module")
def timing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The demo model, which speaks, with an aligner of random weights, which times words at random."""
    aligner = write_tiny_aligner(tmp_path_factory.mktemp("aligner"), languages=("English",))
    data = tmp_path_factory.mktemp("data")
    with RunningServer(
        data, engine_module=WORKER_MODULE, model="demo", aligner=str(aligner), device="cpu"
    ) as on:
        assert on.engine.state == "ready", on.engine.failure
        yield on


def test_words_come_with_verbose_json_and_are_the_text(timing: RunningServer):
    english, spanish = sample_recordings()
    asked = {"response_format": "verbose_json", "timestamp_granularities[]": ["word", "segment"]}
    body = timing.transcribe(english.path.read_bytes(), **asked).json()
    assert " ".join(word["word"] for word in body["words"]) == body["text"]
    before = 0.0
    for word in body["words"]:
        assert before <= word["start"] < word["end"] <= body["duration"] + 1e-3
        before = word["end"]
    assert "warnings" not in body
    # The aligner's folder names English only.
    other = timing.transcribe(spanish.path.read_bytes(), **asked).json()
    assert (other["words"], len(other["segments"])) == ([], 1)
    assert "does not know Spanish" in other["warnings"][0]
    plain = timing.transcribe(english.path.read_bytes(), response_format="verbose_json").json()
    assert "words" not in plain


def test_words_without_an_aligner_on_disk_are_refused_and_the_rest_is_answered(server: RunningServer):
    asked = {"response_format": "verbose_json", "timestamp_granularities[]": "word"}
    refused = server.transcribe(wav(16_000), **asked)
    assert "scribewire pull" in assert_openai_error(refused, 503, "aligner_missing")["message"]
    assert refused.headers["x-should-retry"] == "false"
    assert server.transcribe(wav(16_000)).status_code == 200
