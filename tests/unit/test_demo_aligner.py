"""The shipped aligner: whole, small, and right about when the words of the shipped recordings are said."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import numpy as np
import pytest

from scribewire.engine.align.aligner import Aligner, AlignmentPromptBuilder, AlignmentTask
from scribewire.engine.checkpoint.load import read_checkpoint
from scribewire.engine.demo import SampleRecording, demo_aligner_path, demo_model_path, sample_recordings
from scribewire.engine.protocol.transcript import Word
from tests.fakes.loading import cpu_profile

FOLDER = demo_aligner_path()
# What flite says of its own utterance: the English recording is its voice slt, 0.3 s of silence before it.
ENGLISH_TIMES = (
    *((0.437, 0.525), (0.525, 0.869), (0.869, 0.983), (0.983, 1.084), (1.084, 1.366), (1.366, 1.805)),
    *((1.805, 1.948), (1.948, 2.301), (2.301, 2.406), (2.406, 2.458), (2.458, 3.005), (3.112, 3.359)),
    *((3.359, 3.756), (3.756, 4.121), (4.121, 4.284), (4.284, 4.633), (4.633, 4.789), (4.789, 4.815)),
    *((4.815, 5.074), (5.074, 5.427)),
)
# Of the Spanish one it is known where it is silent: before, at the comma, and after.
SPANISH_SPEECH = ((0.30, 3.37), (3.55, 5.81))
WORDS_BEFORE_THE_COMMA = 12


def samples_of(path: Path) -> np.ndarray:
    with wave.open(str(path)) as sound:
        raw = sound.readframes(sound.getnframes())
    return np.frombuffer(raw, dtype="<i2").astype(np.float32) / 32768.0


@pytest.fixture(scope="module")
def planner() -> AlignmentPromptBuilder:
    return AlignmentPromptBuilder(FOLDER)


@pytest.fixture(scope="module")
def aligner(planner: AlignmentPromptBuilder) -> Aligner:
    return Aligner(read_checkpoint(FOLDER), planner, cpu_profile().placement)


def words_of(
    recording: SampleRecording, aligner: Aligner, planner: AlignmentPromptBuilder
) -> tuple[Word, ...]:
    samples = samples_of(recording.path)
    plan = planner.plan(recording.reference, recording.language, samples.size)
    return aligner.align([AlignmentTask(plan, samples, 0.0, samples.size / 16_000)])[0]


def test_english_words_are_found_where_the_synthesizer_put_them(
    aligner: Aligner, planner: AlignmentPromptBuilder
) -> None:
    words = words_of(sample_recordings()[0], aligner, planner)
    assert len(words) == len(ENGLISH_TIMES)
    found = np.array([(word.start_seconds, word.end_seconds) for word in words])
    distances = np.abs(found - np.array(ENGLISH_TIMES))
    assert np.median(distances) <= 0.04
    assert distances.max() <= 0.2


def test_spanish_words_lie_on_speech_and_the_comma_between_them(
    aligner: Aligner, planner: AlignmentPromptBuilder
) -> None:
    words = words_of(sample_recordings()[1], aligner, planner)
    assert [word.text for word in words][WORDS_BEFORE_THE_COMMA - 1] == "mañana,"
    (begin, pause), (after, end) = SPANISH_SPEECH
    assert words[0].start_seconds == pytest.approx(begin, abs=0.12)
    assert words[WORDS_BEFORE_THE_COMMA - 1].end_seconds == pytest.approx(pause, abs=0.12)
    assert words[WORDS_BEFORE_THE_COMMA].start_seconds == pytest.approx(after, abs=0.12)
    assert words[-1].end_seconds == pytest.approx(end, abs=0.12)


def test_folder_is_complete_and_small() -> None:
    names = {path.name for path in FOLDER.iterdir()}
    tokenizer_files = {"vocab.json", "merges.txt", "tokenizer_config.json", "tokenizer.json"}
    assert {"config.json", "model.safetensors", "preprocessor_config.json"} | tokenizer_files <= names
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 12_000_000


def test_config_is_a_published_aligners_with_both_languages() -> None:
    config = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))
    thinker = config["thinker_config"]
    assert thinker["model_type"] == "qwen3_forced_aligner"
    assert thinker["text_config"]["tie_word_embeddings"] is False
    assert config["timestamp_segment_time"] == 80
    assert thinker["classify_num"] * config["timestamp_segment_time"] >= 33_000
    speaks = json.loads((demo_model_path() / "config.json").read_text(encoding="utf-8"))["support_languages"]
    assert config["support_languages"] == speaks
