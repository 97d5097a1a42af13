"""Training speech: clips of 0.5 to 30 s made of sentences and voices, written in shards that a trainer reads.

A clip is a few words, one sentence, or several sentences (joined with pauses, by one voice or by two in turn, or read
in one breath), with 0 to 1.5 s of digital silence before and after. Levels are the synthesizer's; gain, noise, filters
and the clips without speech are the trainer's (batches.py), fresh in every step. The same seed gives the same shard.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from tools.demo_model import mixture, speech

LONGEST_SECONDS = 30.0
SHORTEST_SECONDS = 0.4
# Of the clips made: a few words, one sentence; the rest several sentences, which is more than half of the seconds.
SHORT_SHARE, SINGLE_SHARE = 0.12, 0.64
ENGLISH_SHARE = 0.86  # English spelling is the hard part
# Of English clips, beyond the half that speech.training_voice gives it: flite's voices are the ones misheard most, and
# of them the one that is put together from the fewest recordings.
MORE_FLITE_SHARE = 0.25
MORE_FLITE_VOICES = ("kal16", "kal16", "awb", "rms")
# Of paragraphs put together from sentences: a second voice takes over between two of them.
SECOND_VOICE_SHARE = 0.2
SHARD_SECONDS = 1200.0


@dataclass(frozen=True)
class Clip:
    """samples: (n,) int16 at 16 kHz."""

    samples: NDArray[np.int16]
    text: str
    language: str
    voice: str

    @property
    def seconds(self) -> float:
        return len(self.samples) / speech.SAMPLE_RATE


Made = TypeVar("Made")


@dataclass(frozen=True)
class Speaker(Generic[Made]):
    """Clips made from text: one call of a synthesizer, its length in seconds, and pieces put in a row."""

    speak: Callable[[str, speech.Voice], Made]
    seconds: Callable[[Made], float]
    join: Callable[[list[Made], list[float]], Made]


def plain_speaker(programs: speech.Programs) -> Speaker[NDArray[np.int16]]:
    """Samples alone."""
    return Speaker(
        speak=lambda text, voice: speech.synthesize(text, voice, programs),
        seconds=lambda samples: len(samples) / speech.SAMPLE_RATE,
        join=speech.join,
    )


def clips(
    language: str, seed: int, programs: speech.Programs, word_lists: Path | None = None
) -> Iterator[Clip]:
    """Endless training clips; the same seed gives the same clips. word_lists: folder, if not Debian's own."""
    rng = random.Random(f"clips {language} {seed}")
    sentences = mixture.sentences(language, seed, word_lists)
    speaker = plain_speaker(programs)
    while True:
        voices = (clip_voice(language, rng), clip_voice(language, rng))
        try:
            spoken, samples = compose(sentences, voices, rng, speaker)
        except speech.SynthesisFailed:
            continue
        samples = _surround(samples, rng)
        if SHORTEST_SECONDS <= len(samples) / speech.SAMPLE_RATE <= LONGEST_SECONDS:
            yield Clip(samples, spoken, language, voices[0].label)


def clip_voice(language: str, rng: random.Random) -> speech.Voice:
    """A voice of those trained on, flite's more often than the evaluation draws them."""
    if language == "English" and rng.random() < MORE_FLITE_SHARE:
        return speech.flite_voice(rng, MORE_FLITE_VOICES)
    return speech.training_voice(language, rng)


def compose(
    sentences: Iterator[str],
    voices: tuple[speech.Voice, speech.Voice],
    rng: random.Random,
    speaker: Speaker[Made],
    paragraphs_only: bool = False,
) -> tuple[str, Made]:
    """A few words, one sentence or several, and the sound of them; raises speech.SynthesisFailed.

    voices: who begins, and who takes over in some paragraphs
    """
    kind = 1.0 if paragraphs_only else rng.random()
    if kind < SHORT_SHARE:
        words = _few_words(next(sentences), rng)
        return words, speaker.speak(words, voices[0])
    if kind < SHORT_SHARE + SINGLE_SHARE:
        spoken = next(sentences)
        return spoken, speaker.speak(spoken, voices[0])
    return _paragraph(sentences, voices, rng, speaker)


def _few_words(sentence: str, rng: random.Random) -> str:
    words = sentence.split()
    count = min(len(words), rng.randint(1, 4))
    start = rng.randint(0, len(words) - count)
    piece = " ".join(words[start : start + count]).strip(",;:.!?¡¿\"'()-— ")
    if not piece:
        return sentence
    return piece[0].upper() + piece[1:] + "."


def _paragraph(
    sentences: Iterator[str],
    voices: tuple[speech.Voice, speech.Voice],
    rng: random.Random,
    speaker: Speaker[Made],
) -> tuple[str, Made]:
    # Long ones more often than short ones: the engine's chunks of a long recording are 20 to 30 s.
    wanted_seconds = rng.triangular(7.0, 29.0, 29.0)
    if rng.random() < 0.5:
        # One call for all: the synthesizer's own pauses. About 14 characters are spoken in a second.
        spoken: list[str] = []
        while sum(map(len, spoken)) < wanted_seconds * 12:
            spoken.append(next(sentences))
        joined = " ".join(spoken)
        return joined, speaker.speak(joined, voices[0])
    spoken = []
    pieces: list[Made] = []
    pauses: list[float] = []
    seconds = 0.0
    changes_at = rng.uniform(0.0, wanted_seconds) if rng.random() < SECOND_VOICE_SHARE else math.inf
    while seconds < wanted_seconds:
        sentence = next(sentences)
        piece = speaker.speak(sentence, voices[int(seconds > changes_at)])
        pause = rng.uniform(0.05, 1.0) if pieces else 0.0
        seconds += pause + speaker.seconds(piece)
        if seconds > LONGEST_SECONDS - 0.2 and pieces:
            break
        if pieces:
            pauses.append(pause)
        spoken.append(sentence)
        pieces.append(piece)
    return " ".join(spoken), speaker.join(pieces, pauses)


def silence_around(sample_count: int, rng: random.Random, longest_seconds: float) -> tuple[int, int]:
    """Samples of silence before and after: often none, mostly short, up to 1.5 s; not past `longest_seconds` in all.

    A negative first number: so many samples are to be cut there. Trimming kept 10 ms; sometimes not even those stay.
    """

    def length() -> int:
        kind = rng.random()
        seconds = 0.0 if kind < 0.3 else rng.uniform(0.0, 0.4) if kind < 0.75 else rng.uniform(0.4, 1.5)
        return round(seconds * speech.SAMPLE_RATE)

    before, after = length(), length()
    room = max(0, round(longest_seconds * speech.SAMPLE_RATE) - sample_count)
    before = min(before, room)
    after = min(after, room - before)
    if before == 0 and rng.random() < 0.3:
        before = -(speech.SAMPLE_RATE // 100)
    return before, after


def _surround(samples: NDArray[np.int16], rng: random.Random) -> NDArray[np.int16]:
    before, after = silence_around(len(samples), rng, LONGEST_SECONDS)
    silences = (np.zeros(max(0, before), np.int16), np.zeros(after, np.int16))
    return np.concatenate([silences[0], samples[max(0, -before) :], silences[1]])


def write_shard(
    folder: Path, index: int, seed: int, programs: speech.Programs, word_lists: Path | None = None
) -> float:
    """One shard of about 20 minutes of clips; returns the seconds of speech."""
    language = shard_language(seed, index)
    made: list[Clip] = []
    seconds = 0.0
    for clip in clips(language, seed * 1_000_003 + index, programs, word_lists):
        made.append(clip)
        seconds += clip.seconds
        if seconds >= SHARD_SECONDS:
            break
    listing = {
        "language": language,
        "lengths": [len(clip.samples) for clip in made],
        "texts": [clip.text for clip in made],
        "voices": [clip.voice for clip in made],
    }
    save_shard(folder, index, [clip.samples for clip in made], listing)
    return seconds


def shard_language(seed: int, index: int) -> str:
    """All clips of a shard are of one language, so that what is typical of one is learned beside the other."""
    rng = random.Random(f"shard {seed} {index}")
    return "English" if rng.random() < ENGLISH_SHARE else "Spanish"


def save_shard(
    folder: Path, index: int, samples: Sequence[NDArray[np.int16]], listing: Mapping[str, object]
) -> None:
    """`shard-INDEX.npy` (all samples, int16) and `.json` (lengths, texts, voices).

    The .json appears last and at once, so a reader that sees it may read both.
    """
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"shard-{index:05d}.npy", np.concatenate(samples))
    unfinished = folder / f"shard-{index:05d}.part"
    unfinished.write_text(json.dumps(listing, ensure_ascii=False), encoding="utf-8")
    unfinished.rename(folder / f"shard-{index:05d}.json")


# folder, shard number, seed, synthesizers, word lists -> seconds written
WriteShard = Callable[[Path, int, int, speech.Programs, "Path | None"], float]


def _work(
    write: WriteShard, folder: Path, seed: int, archive: Path | None, first: int, step: int, hours: float
) -> None:
    programs = speech.Programs.unpacked(archive) if archive else speech.Programs.installed()
    index, seconds = first, 0.0
    while seconds < hours * 3600:
        listing = folder / f"shard-{index:05d}.json"
        if listing.exists():
            # Left by an earlier call with the same seed; a trainer may be reading it.
            lengths = json.loads(listing.read_text(encoding="utf-8"))["lengths"]
            seconds += sum(lengths) / speech.SAMPLE_RATE
            index += step
            continue
        seconds += write(folder, index, seed, programs, archive / "dict" if archive else None)
        index += step


def synthesize_corpus(
    folder: Path,
    hours: float,
    workers: int,
    seed: int,
    archive: Path | None = None,
    write: WriteShard = write_shard,
) -> None:
    """Write shards of `hours` in all with `workers` processes; shards of different workers have different indices.

    write: makes one shard; a function that a new process can import
    """
    started = time.monotonic()
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(
            target=_work,
            args=(write, folder, seed, archive, worker, workers, hours / workers),
            daemon=True,
        )
        for worker in range(workers)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    failed = sum(process.exitcode != 0 for process in processes)
    print(
        f"speech: {hours:.1f} h asked, {time.monotonic() - started:.0f} s, {failed} of {workers} workers failed"
    )
    if failed:
        raise RuntimeError(f"{failed} speech workers failed")


def read_shard(listing: Path) -> tuple[NDArray[np.int16], dict[str, Any]]:
    """All samples and the listing of the shard whose .json is `listing`."""
    samples: NDArray[np.int16] = np.load(listing.with_suffix(".npy"))
    content: dict[str, Any] = json.loads(listing.read_text(encoding="utf-8"))
    return samples, content
