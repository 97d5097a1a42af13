"""Training speech with word times: the clips of the demo model's recipe, spoken so that the times are known.

Clips are up to 33 s: the engine aligns chunks of up to 30 s, and a cut may come a little later. In the listing of a
shard, `words` holds [text, start, end] per word, in seconds; null where a border is not known.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.demo_model import corpus, mixture, speech
from tools.demo_model.alignment.timed_speech import TimedSpeaker, TimedSpeech, joined, surrounded

LONGEST_SECONDS = 33.0
SHARD_SECONDS = 600.0


@dataclass(frozen=True)
class TimedClip:
    """A clip, the label of its voice, and its word times."""

    sound: TimedSpeech
    text: str
    voice: str

    @property
    def seconds(self) -> float:
        return len(self.sound.samples) / speech.SAMPLE_RATE


def timed_clips(
    language: str,
    seed: int,
    speaker: TimedSpeaker,
    word_lists: Path | None = None,
    paragraphs_only: bool = False,
) -> Iterator[TimedClip]:
    """Endless training clips. word_lists: folder, if not Debian's own."""
    rng = random.Random(f"timed clips {language} {seed}")
    sentences = mixture.sentences(language, seed, word_lists)
    makes = corpus.Speaker(
        speak=speaker.speak,
        seconds=lambda sound: len(sound.samples) / speech.SAMPLE_RATE,
        join=joined,
    )
    while True:
        voices = (speech.training_voice(language, rng), speech.training_voice(language, rng))
        try:
            spoken, sound = corpus.compose(sentences, voices, rng, makes, paragraphs_only)
        except speech.SynthesisFailed:
            continue
        sound = surrounded(sound, *corpus.silence_around(len(sound.samples), rng, LONGEST_SECONDS))
        clip = TimedClip(sound, spoken, voices[0].label)
        if corpus.SHORTEST_SECONDS <= clip.seconds <= LONGEST_SECONDS and sound.words:
            yield clip


def write_timed_shard(
    folder: Path,
    index: int,
    seed: int,
    programs: speech.Programs,
    word_lists: Path | None = None,
    paragraphs_only: bool = False,
) -> float:
    """One shard of about 10 minutes of clips; returns the seconds of speech."""
    language = corpus.shard_language(seed, index)
    made: list[TimedClip] = []
    seconds = 0.0
    with TimedSpeaker(programs) as speaker:
        for clip in timed_clips(language, seed * 1_000_003 + index, speaker, word_lists, paragraphs_only):
            made.append(clip)
            seconds += clip.seconds
            if seconds >= SHARD_SECONDS:
                break
    listing = {
        "language": language,
        "lengths": [len(clip.sound.samples) for clip in made],
        "texts": [clip.text for clip in made],
        "voices": [clip.voice for clip in made],
        "words": [
            [[word.text, _listed(word.start_seconds), _listed(word.end_seconds)] for word in clip.sound.words]
            for clip in made
        ],
    }
    corpus.save_shard(folder, index, [clip.sound.samples for clip in made], listing)
    return seconds


def _listed(seconds: float) -> float | None:
    return None if math.isnan(seconds) else round(seconds, 4)
