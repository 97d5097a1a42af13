"""Recordings without speech: empty text and a warning, and no word of a prompt, by name of the sound."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

import numpy as np
import pytest

from scribewire import Transcriber
from scribewire.engine.demo import sample_recordings
from scribewire.engine.protocol.config import SAMPLE_RATE_HZ, Chunking, EngineConfig
from scribewire.engine.recording.work import NO_SPEECH_WARNING
from scribewire.engine.transcriber import TranscribeItem
from tests.fakes.sounds import Samples, hum, music, noise

SOUNDS: dict[str, Samples] = {
    "silence": np.zeros(5 * SAMPLE_RATE_HZ, dtype=np.float32),
    "hum of 50 Hz": hum(5.0, 50.0),
    "hum of 60 Hz": hum(5.0, 60.0),
    "short hum of 50 Hz": hum(1.2, 50.0),
    "noise": noise(5.0, 0.05),
    "soft noise": noise(5.0, 0.002),
    "short noise": noise(1.2, 0.05),
}
PROMPTS: dict[str, dict[str, object]] = {
    "prompt": {"prompt": "The red train leaves the station at nine, a organ on Monday, the or are and un."},
    "keywords": {"keywords": ("train", "station", "organ", "Monday", "the", "are", "un")},
}


@pytest.fixture(scope="module")
def transcriber() -> Iterator[Transcriber]:
    with Transcriber(config=EngineConfig(model="demo", device="cpu")) as opened:
        yield opened


def said(transcriber: Transcriber, samples: Samples, **options: object) -> str:
    (transcript,) = transcriber.transcribe_many([TranscribeItem(samples, **options)])  # type: ignore[arg-type]  # by name
    assert (NO_SPEECH_WARNING in transcript.warnings) is (not transcript.text)
    return transcript.text


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("sound", SOUNDS)
def test_a_prompt_is_not_heard_where_nobody_speaks(transcriber: Transcriber, sound: str, prompt: str) -> None:
    assert said(transcriber, SOUNDS[sound], **PROMPTS[prompt]) == ""


@pytest.mark.parametrize("rule", ["pauses", "voice", "quietest"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_prompt_is_not_heard_in_music(transcriber: Transcriber, prompt: str, rule: str) -> None:
    """The demo model takes music for words now and then; what it takes it for is not the prompt's doing."""
    chunking = Chunking(rule)  # type: ignore[arg-type]  # one of its rules
    plain = said(transcriber, music(5.0), chunking=chunking)
    assert said(transcriber, music(5.0), chunking=chunking, **PROMPTS[prompt]) == plain
    named = {"train", "station", "organ", "monday", "leaves", "nine", "red"}
    assert not named & set(re.findall(r"\w+", plain.lower()))


@pytest.mark.parametrize("prompt", [{}, *PROMPTS.values()])
def test_speech_is_found_with_and_without_a_prompt(
    transcriber: Transcriber, prompt: dict[str, object]
) -> None:
    for sample in sample_recordings():
        (transcript,) = transcriber.transcribe_many(
            [TranscribeItem(io.BytesIO(sample.path.read_bytes()), **prompt)]  # type: ignore[arg-type]  # by name
        )
        assert len(transcript.text.split()) > 8
        assert transcript.warnings == ()
