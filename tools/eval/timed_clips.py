"""Clips whose word times are known, for judging the aligner: the sentences and voices of clips.py, with times.

Everything follows from a seed. Speech keeps the level that the synthesizer chose; digital silence of 0.05 to 0.4 s is
added at both ends and 0.15 to 0.7 s between joined sentences. No clip is drawn again because it is hard; one that a
synthesizer cannot time is drawn in another voice, and counted.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tools.demo_model.alignment.timed_speech import TimedSpeech, joined, surrounded
from tools.demo_model.speech import SAMPLE_RATE, SynthesisFailed, Voice
from tools.eval.clips import LANGUAGES, PADDING_SECONDS, PAUSE_SECONDS, SHORT_LINES, DrawVoice, NoFittingVoice

LONG_LINES = (4, 6)
LONGEST_SECONDS = 30.0
_VOICE_DRAWS = 40

SpeakTimed = Callable[[str, Voice], TimedSpeech]


@dataclass(frozen=True)
class TimedClip:
    """One recording, what is said in it, and when. `refused`: voices that could not be timed before this one."""

    set_name: str
    language: str
    text: str
    voice: str
    sound: TimedSpeech
    refused: int

    @property
    def seconds(self) -> float:
        """Duration of the recording."""
        return len(self.sound.samples) / SAMPLE_RATE


@dataclass(frozen=True)
class TimedStudio:
    """The source of timed clips: sentences per language code, voices, a synthesizer that gives times, and a seed."""

    sentences: dict[str, list[str]]
    training_voice: DrawVoice
    held_out_voice: DrawVoice
    speak: SpeakTimed
    seed: int

    def clips(self, set_name: str, count: int) -> Iterator[TimedClip]:
        """The first `count` clips of `words-short-en` and the like."""
        kind, _, code = set_name.removeprefix("words-").rpartition("-")
        lines = self.sentences[code]
        for index in range(count):
            rng = random.Random(f"{self.seed}/{set_name}/{index}")
            if kind == "long":
                chosen = rng.sample(lines, rng.randint(*LONG_LINES))
                yield self._clip(set_name, code, chosen, self.training_voice, rng)
            elif kind == "held-out":
                line = lines[(SHORT_LINES + index) % len(lines)]
                yield self._clip(set_name, code, [line], self.held_out_voice, rng)
            else:
                yield self._clip(set_name, code, [lines[index % SHORT_LINES]], self.training_voice, rng)

    def _clip(
        self, set_name: str, code: str, lines: list[str], draw: DrawVoice, rng: random.Random
    ) -> TimedClip:
        refused = 0
        for _ in range(_VOICE_DRAWS):
            voice = draw(LANGUAGES[code], rng)
            try:
                pieces = [self.speak(line, voice) for line in lines]
            except SynthesisFailed:
                refused += 1
                continue
            while True:
                pauses = [rng.uniform(*PAUSE_SECONDS) for _ in pieces[1:]]
                edges = [round(rng.uniform(*PADDING_SECONDS) * SAMPLE_RATE) for _ in range(2)]
                sound = surrounded(joined(pieces, pauses), edges[0], edges[1])
                if len(sound.samples) <= LONGEST_SECONDS * SAMPLE_RATE:
                    text = " ".join(lines[: len(pieces)])
                    return TimedClip(set_name, LANGUAGES[code], text, voice.label, sound, refused)
                if len(pieces) == 1:
                    break
                pieces.pop()
        raise NoFittingVoice(f"no clip in {_VOICE_DRAWS} voices from: {lines[0]!r}")
