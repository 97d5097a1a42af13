"""The evaluation's clips: which sentence is spoken by which voice, and with what context.

Everything follows from a seed: the same seed, sentences and synthesizers give the same samples. Speech keeps the level
that the synthesizer chose; only digital silence is added, 0.05 to 0.4 s at both ends and 0.15 to 0.7 s between joined
sentences. No clip is drawn again because it is hard, only because it is too long for its set.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tools.demo_model.speech import Voice
from tools.eval.noise import noise_clip

SAMPLE_RATE = 16_000
LANGUAGES = {"en": "English", "es": "Spanish"}
SHORT_LONGEST_SECONDS = 8.0
LONG_SHORTEST_SECONDS, LONG_LONGEST_SECONDS = 15.0, 30.0
LONG_FEWEST, LONG_MOST = 3, 6  # sentences joined
SHORT_LINES = 300  # the lines of the short clips; the long ones start after them
PADDING_SECONDS = (0.05, 0.4)
PAUSE_SECONDS = (0.15, 0.7)
_VOICE_DRAWS = 40

Sound = NDArray[np.int16]


DrawVoice = Callable[[str, random.Random], Voice]
Speak = Callable[[str, Voice], Sound]


class NoFittingVoice(RuntimeError):
    """A sentence is too long for its set in every voice that was tried."""

    code = "no_fitting_voice"


@dataclass(frozen=True)
class Clip:
    """One recording with its truth. `language` and `text` are None and empty for noise.

    samples: (n,) int16, mono 16 kHz; forced_language and context are passed to the engine.
    """

    set_name: str
    language: str | None
    text: str
    voice: str
    samples: Sound
    forced_language: str | None = None
    context: str = ""

    @property
    def seconds(self) -> float:
        """Duration of the recording."""
        return len(self.samples) / SAMPLE_RATE


@dataclass(frozen=True)
class Studio:
    """The source of clips: sentences per language code, voices, a synthesizer, and the seed of it all."""

    sentences: dict[str, list[str]]
    training_voice: DrawVoice
    held_out_voice: DrawVoice
    speak: Speak
    seed: int

    def short(self, code: str, count: int) -> Iterator[Clip]:
        """The first `count` sentences, one each, by the voices of training, at most 8 s."""
        for index, text in enumerate(self.sentences[code][:count]):
            yield self._one_sentence(f"short-{code}", code, text, self.training_voice, index)

    def held_out(self, code: str, count: int) -> Iterator[Clip]:
        """Sentences of the second part of the list by the voice that training never used, at most 8 s."""
        for index, text in enumerate(self.sentences[code][SHORT_LINES : SHORT_LINES + count]):
            yield self._one_sentence(f"held-out-{code}", code, text, self.held_out_voice, index)

    def forced(self, code: str, count: int) -> Iterator[Clip]:
        """Short clips with a forced language."""
        for clip in self.short(code, count):
            yield replace(clip, set_name=f"forced-{code}", forced_language=LANGUAGES[code])

    def with_context(self, code: str, count: int) -> Iterator[Clip]:
        """Short clips under a context of words, every second of which names some words of the clip too."""
        for index, clip in enumerate(self.short(code, count)):
            rng = self._rng("context", code, index)
            words = self._words(code, rng, 5, 30)
            if index % 2:
                words += rng.sample(sorted(set(_bare_words(clip.text))), 2)
                rng.shuffle(words)
            yield replace(clip, set_name=f"context-{code}", context=_as_context(words, rng))

    def long(self, code: str, count: int) -> Iterator[Clip]:
        """Three to six sentences in one voice, 15 to 30 s: consecutive ones first, new combinations after that."""
        lines = self.sentences[code]
        queue = [*lines[SHORT_LINES:], *lines[:SHORT_LINES]]
        refill = self._rng("refill", code, 0)
        for index in range(count):
            while len(queue) < LONG_MOST:
                queue += refill.sample(lines, len(lines))
            clip, used = self._joined(code, queue[:LONG_MOST], index)
            del queue[:used]
            yield clip

    def noise(self, count: int) -> Iterator[Clip]:
        """Silence, room tone, hum, white and pink noise; see noise.py."""
        for index in range(count):
            kind, _, samples = noise_clip(index, self.seed)
            yield Clip("noise", None, "", f"noise:{kind}", samples)

    def noise_with_context(self, count: int) -> Iterator[Clip]:
        """Other clips of the same kinds, each under a context of 10 to 60 words, English and Spanish in turn."""
        for index in range(count):
            kind, _, samples = noise_clip(index, self.seed + 1)
            rng = self._rng("noise-context", "", index)
            # Turns of two against noise.py's turns of five: every kind meets both languages.
            words = self._words("es" if index % 2 else "en", rng, 10, 60)
            yield Clip("noise-context", None, "", f"noise:{kind}", samples, None, _as_context(words, rng))

    def _one_sentence(self, set_name: str, code: str, text: str, draw: DrawVoice, index: int) -> Clip:
        rng = self._rng(set_name, code, index)
        for _ in range(_VOICE_DRAWS):
            voice = draw(LANGUAGES[code], rng)
            samples = _pad(self.speak(text, voice), rng)
            if len(samples) <= SHORT_LONGEST_SECONDS * SAMPLE_RATE:
                return Clip(set_name, LANGUAGES[code], text, voice.label, samples)
        raise NoFittingVoice(f"over {SHORT_LONGEST_SECONDS} s in {_VOICE_DRAWS} voices: {text!r}")

    def _joined(self, code: str, lines: list[str], index: int) -> tuple[Clip, int]:
        """A long clip of the first few `lines`, as many as a drawn length asks for, and how many were used."""
        rng = self._rng("long", code, index)
        for _ in range(_VOICE_DRAWS):
            voice = self.training_voice(LANGUAGES[code], rng)
            wanted_samples = rng.uniform(LONG_SHORTEST_SECONDS, LONG_LONGEST_SECONDS - 3.0) * SAMPLE_RATE
            joined = self.speak(lines[0], voice)
            used = 1
            while used < LONG_MOST and (used < LONG_FEWEST or len(joined) < wanted_samples):
                longer = np.concatenate(
                    [joined, _silence(rng, PAUSE_SECONDS), self.speak(lines[used], voice)]
                )
                if len(longer) > (LONG_LONGEST_SECONDS - 2 * PADDING_SECONDS[1]) * SAMPLE_RATE:
                    break
                joined, used = longer, used + 1
            samples = _pad(joined, rng)
            if used >= LONG_FEWEST and len(samples) >= LONG_SHORTEST_SECONDS * SAMPLE_RATE:
                text = " ".join(lines[:used])
                return Clip(f"long-{code}", LANGUAGES[code], text, voice.label, samples), used
        raise NoFittingVoice(f"no 15 to 30 s clip in {_VOICE_DRAWS} voices from: {lines[0]!r}")

    def _words(self, code: str, rng: random.Random, fewest: int, most: int) -> list[str]:
        pool = sorted({word for line in self.sentences[code] for word in _bare_words(line)})
        return rng.sample(pool, min(len(pool), rng.randint(fewest, most)))

    def _rng(self, purpose: str, code: str, index: int) -> random.Random:
        return random.Random(f"{self.seed}/{purpose}/{code}/{index}")


def read_sentences(folder: Path) -> dict[str, list[str]]:
    """The hand-written sentences by language code, one a line."""
    return {
        code: (folder / f"sentences_{code}.txt").read_text(encoding="utf-8").splitlines()
        for code in LANGUAGES
    }


def remembered(speak: Callable[[str, Voice], Sound], folder: Path, versions: str) -> Speak:
    """`speak`, keeping each sound as a file in `folder` under a name made of text, voice and program versions."""
    folder.mkdir(parents=True, exist_ok=True)

    def speak_once(text: str, voice: Voice) -> Sound:
        name = hashlib.sha256(f"{versions}\n{voice!r}\n{text}".encode()).hexdigest()[:32]
        kept = folder / f"{name}.npy"
        if kept.exists():
            stored: Sound = np.load(kept)
            return stored
        samples = speak(text, voice)
        unfinished = folder / f"{name}.part.npy"
        np.save(unfinished, samples)
        unfinished.replace(kept)
        return samples

    return speak_once


def _bare_words(line: str) -> list[str]:
    return [word for word in (raw.strip(",.?!¿¡") for raw in line.split()) if len(word) >= 4]


def _as_context(words: list[str], rng: random.Random) -> str:
    """Words as people give them: a list with commas, or just spaces."""
    return (", " if rng.random() < 0.5 else " ").join(words)


def _silence(rng: random.Random, seconds_range: tuple[float, float]) -> Sound:
    return np.zeros(round(rng.uniform(*seconds_range) * SAMPLE_RATE), dtype=np.int16)


def _pad(samples: Sound, rng: random.Random) -> Sound:
    return np.concatenate([_silence(rng, PADDING_SECONDS), samples, _silence(rng, PADDING_SECONDS)])
