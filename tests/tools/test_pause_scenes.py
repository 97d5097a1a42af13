"""Scenes of known speech, and the figures that are taken from them."""

from __future__ import annotations

import numpy as np
import pytest

from scribewire.engine.audio.recording import OpenRecording
from scribewire.engine.demo import sample_recordings
from scribewire.engine.protocol.config import AudioLimits, Chunking
from tools.eval.evaluate_pauses import measure, targets
from tools.eval.pause_scenes import RATE_HZ, Phrase, Scene, make_scene, phrases_of, scene_names

pytestmark = pytest.mark.tools


@pytest.fixture(scope="module")
def phrases() -> list[Phrase]:
    found: list[Phrase] = []
    for sample in sample_recordings():
        recording = OpenRecording(sample.path, limits=AudioLimits(), chunking=Chunking("quietest"))
        found += phrases_of(
            np.concatenate([chunk.samples for chunk in recording.chunks() if chunk is not None])
        )
        recording.close()
    return found


@pytest.mark.parametrize("name", scene_names())
def test_long_silences_hold_no_speech_and_the_rest_does(phrases: list[Phrase], name: str) -> None:
    scene = make_scene(name, phrases, 60.0, seed=1)
    assert len(scene.samples) == len(scene.is_speech) >= 60 * RATE_HZ
    assert all(
        end - start >= 5 * RATE_HZ and not scene.is_speech[start:end].any() for start, end in scene.silences
    )
    assert 0.3 < scene.is_speech.mean() < 0.95
    again = make_scene(name, phrases, 60.0, seed=1)
    np.testing.assert_array_equal(again.samples, scene.samples)


@pytest.mark.parametrize(("name", "ratio"), [("white_20", 20.0), ("pink_10", 10.0), ("babble_5", 5.0)])
def test_noise_has_the_ratio_to_speech_that_its_name_says(
    phrases: list[Phrase], name: str, ratio: float
) -> None:
    scene = make_scene(name, phrases, 60.0, seed=1)
    start, end = scene.silences[0]
    speech = np.mean(np.square(scene.samples[scene.is_speech]))
    noise = np.mean(np.square(scene.samples[start:end]))
    assert 10.0 * np.log10(speech / noise - 1.0) == pytest.approx(ratio, abs=1.5)


def test_peaks_are_where_the_name_says(phrases: list[Phrase]) -> None:
    assert 20.0 * np.log10(np.abs(make_scene("peak_45", phrases, 20.0, 1).samples).max()) == pytest.approx(
        -45.0, abs=0.1
    )
    bump = make_scene("bump", phrases, 20.0, 1).samples
    assert 20.0 * np.log10(np.abs(bump).max()) == pytest.approx(-3.0, abs=0.5)


def test_lost_speech_and_cuts_in_it_are_counted() -> None:
    """Two chunks of 30 s tile a tone that is speech, with a pause that was in reach; silence is skipped."""
    tone = np.sin(np.arange(45 * RATE_HZ)).astype(np.float32) * np.float32(0.1)
    tone[22 * RATE_HZ : 22 * RATE_HZ + 1600] *= np.float32(0.9)
    is_speech = np.ones(len(tone), np.bool_)
    is_speech[25 * RATE_HZ : 26 * RATE_HZ] = False
    figures = measure(Scene("silence", tone, is_speech, ()), "quietest", 30.0)
    assert (figures.lost_samples, figures.cuts, figures.cuts_in_speech) == (0, 1, 1)
    silent = measure(Scene("silence", np.zeros_like(tone), is_speech, ((0, RATE_HZ),)), "pauses", 30.0)
    assert silent.lost_samples == silent.speech_samples
    assert silent.decoded_samples == 0
    assert not all(target["met"] for target in targets("pauses", {"silence": silent}))


@pytest.mark.parametrize(
    ("rule", "name"), [("pauses", "white_10"), ("pauses", "two_levels"), ("voice", "peak_60")]
)
def test_speech_of_the_demo_recordings_is_kept(phrases: list[Phrase], rule: str, name: str) -> None:
    figures = measure(make_scene(name, phrases, 60.0, seed=2), rule, 30.0)
    assert figures.lost_samples <= 0.001 * figures.speech_samples
    assert figures.decoded_samples <= 0.2 * figures.silence_samples
    assert figures.cuts_in_speech == 0
