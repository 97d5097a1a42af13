"""Word times of the aligner's training speech: they follow the sound through every cut, and are never guessed."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from scribewire.engine.demo import demo_model_path
from tests.fakes.waiting import PATIENCE_SECONDS
from tools.demo_model import checkpoint_files, corpus, export, speech
from tools.demo_model.alignment.corpus import LONGEST_SECONDS, timed_clips, write_timed_shard
from tools.demo_model.alignment.espeak_library import word_starts
from tools.demo_model.alignment.timed_speech import (
    TimedSpeaker,
    TimedSpeech,
    TimedWord,
    joined,
    match_tokens,
    spoken_form,
    surrounded,
    trimmed,
)

SECOND = speech.SAMPLE_RATE
HAS_SYNTHESIZERS = bool(shutil.which("flite") and shutil.which("espeak-ng"))
speaks = pytest.mark.skipif(not HAS_SYNTHESIZERS, reason="flite and espeak-ng are not installed")


def tone(seconds: float) -> np.ndarray:
    return np.full(round(seconds * SECOND), 5000, dtype=np.int16)


class TestWords:
    @pytest.mark.parametrize(
        ("token", "word"),
        [("GPT-4o,", "GPT4o"), ("don't", "don't"), ("¿Qué", "Qué"), ("—", ""), ("well-known.", "wellknown")],
    )
    def test_marks_are_dropped_as_the_official_rule_drops_them(self, token: str, word: str) -> None:
        assert spoken_form(token) == word

    def test_a_word_takes_all_the_tokens_that_spell_it(self) -> None:
        tokens = [("half", 0.1, 0.4), ("-", 0.0, 0.0), ("baked", 0.4, 0.8), ("bread", 0.9, 1.3)]
        assert match_tokens(["halfbaked", "bread"], tokens) == [
            TimedWord("halfbaked", 0.1, 0.8),
            TimedWord("bread", 0.9, 1.3),
        ]

    @pytest.mark.parametrize(
        "tokens",
        [
            [("ten", 0.0, 0.3), ("men", 0.3, 0.6)],  # other letters
            [("two", 0.0, 0.3)],  # a word too few
            [("two", 0.0, 0.3), ("men", 0.3, 0.6), ("more", 0.6, 0.9)],  # one too many
            [("two", 0.0, 0.3), ("men", 0.0, 0.0)],  # a word without a sound
        ],
    )
    def test_tokens_that_do_not_spell_the_words_are_refused(
        self, tokens: list[tuple[str, float, float]]
    ) -> None:
        with pytest.raises(speech.SynthesisFailed):
            match_tokens(["two", "men"], tokens)


class TestEspeakEvents:
    def test_a_word_without_an_event_has_no_start(self) -> None:
        # "of the king": one event for the pair
        assert word_starts([(10, 0), (40, 900)], ends=[12, 27, 44]) == [0, None, 900]

    def test_a_second_event_on_one_word_is_the_next_word(self) -> None:
        # "it is what": the pair's second event names the place beside the first
        assert word_starts([(10, 0), (11, 500), (40, 900)], ends=[12, 27, 44]) == [0, 500, 900]

    def test_a_second_event_on_one_word_is_a_part_of_it_when_the_next_has_its_own(self) -> None:
        assert word_starts([(10, 0), (15, 300), (25, 500)], ends=[20, 27]) == [0, 500]

    def test_an_event_between_two_words_is_the_later_one(self) -> None:
        # After "Mr." the next word's event names the place right behind it.
        assert word_starts([(10, 0), (13, 400)], ends=[13, 30]) == [0, 400]


class TestCuts:
    def test_times_move_with_the_trimmed_silence_and_stay_inside(self) -> None:
        samples = np.concatenate([np.zeros(SECOND, np.int16), tone(1.0), np.zeros(SECOND, np.int16)])
        sound = trimmed(samples, [TimedWord("a", 0.98, 1.5), TimedWord("b", math.nan, 2.5)])
        first, second = sound.words
        assert len(sound.samples) == round(1.02 * SECOND)
        assert first.start_seconds == 0.0
        assert first.end_seconds == pytest.approx(0.51, abs=1e-4)
        assert math.isnan(second.start_seconds)
        assert second.end_seconds == pytest.approx(1.02, abs=1e-4)

    def test_joined_pieces_keep_their_words_where_they_are_heard(self) -> None:
        piece = TimedSpeech(tone(0.5), (TimedWord("a", 0.1, 0.4),))
        both = joined([piece, piece], [0.25])
        assert len(both.samples) == round(1.25 * SECOND)
        assert [w.start_seconds for w in both.words] == pytest.approx([0.1, 0.85])

    def test_silence_before_delays_and_a_cut_hastens(self) -> None:
        piece = TimedSpeech(tone(0.5), (TimedWord("a", 0.005, 0.4),))
        later = surrounded(piece, SECOND // 2, SECOND)
        assert len(later.samples) == 2 * SECOND
        assert later.words[0].start_seconds == pytest.approx(0.505)
        sooner = surrounded(piece, -SECOND // 100, 0)
        assert len(sooner.samples) == round(0.49 * SECOND)
        assert sooner.words[0].start_seconds == 0.0
        assert sooner.words[0].end_seconds == pytest.approx(0.39)


def active_share(sound: TimedSpeech, start: float, end: float) -> float:
    piece = np.abs(sound.samples[round(start * SECOND) : round(end * SECOND)].astype(np.int32))
    return float((piece > 300).mean())


@pytest.fixture(scope="module")
def speaker() -> Iterator[TimedSpeaker]:
    with TimedSpeaker(speech.Programs.installed()) as made:
        yield made


@speaks
@pytest.mark.process
class TestSynthesizers:
    VOICES = (
        speech.Voice("English", "flite", "kal16", "", 1.0, 0.0),
        speech.Voice("English", "flite", "slt", "", 1.2, 150.0),
        speech.Voice("English", "espeak", "en-gb", "f1", 150, 60),
        speech.Voice("English", "espeak", "en-us", "", 175, 50),
    )

    @pytest.mark.parametrize("voice", VOICES, ids=lambda voice: voice.label)
    def test_words_lie_on_sound_and_the_pause_between_them_on_silence(
        self, speaker: TimedSpeaker, voice: speech.Voice
    ) -> None:
        sound = speaker.speak("Seven old men, and one with two dogs.", voice)
        words = sound.words
        assert [w.text for w in words] == ["Seven", "old", "men", "and", "one", "with", "two", "dogs"]
        for before, after in pairwise(words):
            assert before.start_seconds < before.end_seconds <= after.start_seconds + 1e-6
        assert active_share(sound, words[0].start_seconds, words[2].end_seconds) > 0.6
        assert active_share(sound, words[2].end_seconds + 0.03, words[3].start_seconds - 0.01) < 0.2

    def test_abbreviations_pairs_and_hyphens_keep_every_word(self, speaker: TimedSpeaker) -> None:
        voice = speech.Voice("English", "espeak", "en-us", "f2", 150, 60)
        text = (
            "Hello there, Mr. well-known friend of the king; don't go, it is what it is. I am here at a time."
        )
        sound = speaker.speak(text, voice)
        assert [w.text for w in sound.words] == [spoken_form(token) for token in text.split()]
        starts = [w.start_seconds for w in sound.words]
        assert starts == sorted(starts)

    def test_spanish_words_have_times(self, speaker: TimedSpeaker) -> None:
        sound = speaker.speak(
            "¿Cómo está usted, señor?", speech.Voice("Spanish", "espeak", "es", "", 160, 50)
        )
        assert [w.text for w in sound.words] == ["Cómo", "está", "usted", "señor"]
        assert sound.words[-1].end_seconds <= len(sound.samples) / SECOND

    def test_the_sound_is_the_programs_own(self, speaker: TimedSpeaker) -> None:
        voice = self.VOICES[0]
        programs = speech.Programs.installed()
        alone = speech.synthesize("The boat is gone.", voice, programs)
        assert np.array_equal(speaker.speak("The boat is gone.", voice).samples, alone)

    def test_a_child_that_died_is_started_again(self, speaker: TimedSpeaker) -> None:
        voice = self.VOICES[0]
        speaker.speak("One.", voice)
        child = speaker._child
        assert child is not None
        child.kill()
        child.wait(PATIENCE_SECONDS)
        assert speaker.speak("Two.", voice).words[0].text == "Two"

    def test_a_voice_that_is_not_there_is_refused(self, speaker: TimedSpeaker) -> None:
        with pytest.raises(speech.SynthesisFailed, match="no voice"):
            speaker.speak("One.", speech.Voice("English", "espeak", "xx-nowhere", "", 175, 50))

    @pytest.mark.skipif(
        not all(
            path.exists()
            for path in map(Path, ("/usr/share/dict/american-english", "/usr/share/dict/spanish"))
        ),
        reason="Debian's word lists are not installed",
    )
    def test_shards_tell_the_times_of_their_clips(
        self, speaker: TimedSpeaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clip = next(timed_clips("Spanish", 5, speaker))
        assert 0 < clip.seconds <= LONGEST_SECONDS
        monkeypatch.setattr("tools.demo_model.alignment.corpus.SHARD_SECONDS", 8.0)
        write_timed_shard(tmp_path, 0, 3, speech.Programs.installed())
        samples, content = corpus.read_shard(tmp_path / "shard-00000.json")
        assert sum(content["lengths"]) == len(samples)
        for length, words in zip(content["lengths"], content["words"], strict=True):
            ends = [end for _, _, end in words if end is not None]
            assert ends == sorted(ends)
            assert ends[-1] <= length / SECOND + 1e-3


class TestExport:
    def test_an_aligners_config_is_the_published_ones(self) -> None:
        sizes = checkpoint_files.read_sizes(demo_model_path())
        ids = {"<|audio_pad|>": 7, "<|audio_start|>": 5, "<|audio_end|>": 6, "<timestamp>": 9}
        config = checkpoint_files.checkpoint_config(sizes, ids, "float16", True, class_count=448)
        thinker = config["thinker_config"]
        assert thinker["model_type"] == "qwen3_forced_aligner"
        assert thinker["classify_num"] == 448
        assert thinker["text_config"]["tie_word_embeddings"] is False
        assert (config["timestamp_token_id"], config["timestamp_segment_time"]) == (9, 80)
        assert json.loads(json.dumps(config)) == config

    def test_a_head_of_classes_is_kept_and_quantized(self, tmp_path: Path) -> None:
        mx = pytest.importorskip("mlx.core", reason="mlx does the quantizing")
        master = tmp_path / "master"
        export.export(demo_model_path(), master, layout="thinker", dtype="float16")
        mx.save_safetensors(str(master / "head.safetensors"), {export.HEAD: mx.ones((448, 256))})
        export.export(master, tmp_path / "out")
        written = mx.load(str(tmp_path / "out" / "model.safetensors"))
        assert written["lm_head.weight"].shape == (448, 64)
        assert written["lm_head.scales"].shape == (448, 4)
