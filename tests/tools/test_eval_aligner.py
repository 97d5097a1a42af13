"""The aligner's evaluation judges what it says it judges: without synthesizers and without the model."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from tools.demo_model import speech
from tools.demo_model.alignment.timed_speech import TimedSpeech, TimedWord, spoken_form
from tools.eval import evaluate_aligner
from tools.eval.borders import TimedOutcome, distance_figures, language_targets, set_figures, table
from tools.eval.clips import read_sentences
from tools.eval.report import fill_model_card
from tools.eval.timed_clips import LONGEST_SECONDS, TimedStudio

SENTENCES = read_sentences(evaluate_aligner.HERE)
SIZES = {"words-short-en": 4, "words-long-es": 2, "words-held-out-es": 3}
WORD_SECONDS = 0.33


def speak(text: str, voice: speech.Voice) -> TimedSpeech:
    """A third of a second for each word."""
    words = [spoken_form(token) for token in text.split()]
    samples = np.full(round(len(words) * WORD_SECONDS * speech.SAMPLE_RATE), 1000, dtype=np.int16)
    return TimedSpeech(
        samples,
        tuple(TimedWord(w, i * WORD_SECONDS, (i + 1) * WORD_SECONDS) for i, w in enumerate(words)),
    )


@pytest.fixture
def studio() -> TimedStudio:
    return TimedStudio(SENTENCES, speech.training_voice, speech.held_out_voice, speak, seed=3)


def truths(studio: TimedStudio) -> dict[tuple[bytes, str], list[tuple[float, float]]]:
    found = {}
    for name, count in SIZES.items():
        for clip in studio.clips(name, count):
            times = [(w.start_seconds, w.end_seconds) for w in clip.sound.words]
            found[clip.sound.samples.astype(np.float32).tobytes(), clip.text] = times
    return found


def outcome(wanted: list[float], found: list[float], **changes: str) -> TimedOutcome:
    pairs = [tuple(zip(edges[::2], edges[1::2], strict=True)) for edges in (wanted, found)]
    facts = {"set_name": "words-short-en", "language": "English", "voice": "flite:slt", **changes}
    return TimedOutcome(**facts, wanted=pairs[0], found=pairs[1], audio_seconds=2.0, wall_seconds=0.1)


def test_an_aligner_that_is_late_by_thirty_milliseconds_is_judged_so(studio: TimedStudio) -> None:
    known = truths(studio)

    def late(waveform: np.ndarray, text: str, language: str) -> list[tuple[float, float]]:
        times = known[(waveform * 32768).astype(np.float32).tobytes(), text]
        return [(start + 0.03, end + 0.03) for start, end in times]

    report = evaluate_aligner.evaluate(studio, late, SIZES, show_progress=False)
    for figures in report["sets"].values():
        assert figures["median_ms"] == figures["p95_ms"] == pytest.approx(30.0, abs=0.1)
        assert figures["unknown_borders"] == figures["far"] == 0
    assert {target["name"].rpartition(", ")[2] for target in report["targets"]} == {
        "short and long",
        "kept-out voice",
    }
    assert all(target["met"] for target in report["targets"])
    assert report["complete"] is False
    assert set(report["sets"]["words-held-out-es"]["by_engine"]) == {"espeak"}


def test_clips_are_the_same_for_the_same_seed_and_never_over_thirty_seconds(studio: TimedStudio) -> None:
    once, again = (list(studio.clips("words-long-en", 6)) for _ in range(2))
    assert [(c.text, c.voice) for c in once] == [(c.text, c.voice) for c in again]
    assert all(np.array_equal(a.sound.samples, b.sound.samples) for a, b in zip(once, again, strict=True))
    assert all(clip.seconds <= LONGEST_SECONDS for clip in once)
    assert all(len(clip.text.split()) == len(clip.sound.words) for clip in once)


def test_kept_out_voice_speaks_only_in_its_own_set(studio: TimedStudio) -> None:
    variant = f"+{speech.HELD_OUT_VARIANTS['English']}"
    assert all(clip.voice.endswith(variant) for clip in studio.clips("words-held-out-en", 5))
    assert not any(clip.voice.endswith(variant) for clip in studio.clips("words-short-en", 40))


def test_a_voice_that_cannot_be_timed_is_counted_and_another_drawn() -> None:
    calls = []

    def fails_twice(text: str, voice: speech.Voice) -> TimedSpeech:
        calls.append(voice)
        if len(calls) <= 2:
            raise speech.SynthesisFailed("no times")
        return speak(text, voice)

    studio = TimedStudio(SENTENCES, speech.training_voice, speech.held_out_voice, fails_twice, seed=3)
    assert [clip.refused for clip in studio.clips("words-short-en", 2)] == [2, 0]


def test_a_border_that_is_not_known_is_counted_and_not_judged() -> None:
    one = outcome([0.0, math.nan, math.nan, 1.0], [0.02, 0.4, 0.4, 1.04])
    assert one.distances_ms() == pytest.approx([20.0, 40.0])
    assert set_figures([one])["unknown_borders"] == 2


def test_a_missing_word_is_an_error_and_no_figure() -> None:
    with pytest.raises(ValueError, match="1 words timed, 2 said"):
        outcome([0.0, 0.5, 0.5, 1.0], [0.0, 0.5]).distances_ms()


def test_targets_pool_short_and_long_clips_and_keep_the_kept_out_voice_apart() -> None:
    good = outcome([0.0, 0.5], [0.01, 0.51])
    long = outcome([0.0, 0.5], [0.05, 0.55], set_name="words-long-en")
    bad = outcome([0.0, 0.5], [0.3, 0.8], set_name="words-held-out-en", voice="espeak:en-us+f2")
    targets = {target["name"]: target for target in language_targets([good, long, bad])}
    assert targets["median distance, English, short and long"]["figure"] == pytest.approx(30.0)
    assert targets["median distance, English, short and long"]["met"]
    assert not targets["median distance, English, kept-out voice"]["met"]
    assert distance_figures([bad])["far"] == 1.0


def test_the_card_takes_the_table_between_its_own_marks(tmp_path: Path, studio: TimedStudio) -> None:
    known = truths(studio)
    report = evaluate_aligner.evaluate(
        studio, lambda w, t, _: known[(w * 32768).astype(np.float32).tobytes(), t], SIZES, show_progress=False
    )
    machine = {"cpu": "any", "cores": 2, "system": "any"}
    report |= {"machine": machine, "versions": {"python": "3.11"}}
    section = table(json.loads(json.dumps(report)))
    assert "| words-short-en | 4 |" in section
    card = tmp_path / "CARD.md"
    begin, end = evaluate_aligner.CARD_BEGIN, evaluate_aligner.CARD_END
    card.write_text(f"# Before\n{begin}\nold\n{end}\n## After\n", encoding="utf-8")
    fill_model_card(card, section, begin, end)
    text = card.read_text(encoding="utf-8")
    assert "old" not in text
    assert text.startswith("# Before")
    assert text.endswith("## After\n")
    assert section in text
