"""Synthetic speech for the demo model: drives the programs flite and espeak-ng.

Both are small formant or unit synthesizers from Debian (packages `flite` and `espeak-ng`). flite speaks English only,
so Spanish is espeak-ng's alone. Output is always mono 16 kHz int16 at the level the synthesizer chose: nothing here
normalizes a peak, and the same text, voice and program version give the same samples.

One espeak-ng voice variant per language is kept out of training (`HELD_OUT_VARIANTS`), in both languages, so that the
evaluation can report a voice that the model never heard. Freak variants (robots, whispers, echoes) are not used.
"""

from __future__ import annotations

import io
import os
import random
import shutil
import subprocess
import wave
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000
LANGUAGES = ("English", "Spanish")

FLITE_VOICES = ("kal16", "awb", "rms", "slt")
FLITE_STRETCH_RANGE = (0.8, 1.25)
FLITE_PITCH_RANGE_HZ = (80.0, 230.0)

ESPEAK_ACCENTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "English": (
            "en-us",
            "en-gb",
            "en-gb-scotland",
            "en-gb-x-gbclan",
            "en-gb-x-rp",
            "en-gb-x-gbcwmd",
            "en-029",
            "en-us-nyc",
        ),
        "Spanish": ("es", "es-419"),
    }
)
# The first accents are the ones people get by default, so they are drawn more often.
ESPEAK_ACCENT_WEIGHTS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {"English": (6, 6, 2, 2, 3, 2, 2, 2), "Spanish": (1, 1)}
)
ESPEAK_SPEED_RANGE_WPM = (120, 200)
ESPEAK_PITCH_RANGE = (20, 80)
ESPEAK_VARIANTS = (
    *("m1", "m2", "m3", "m5", "m6", "m7", "m8", "f1", "f3", "f4", "f5"),
    *(
        "Alex",
        "Andrea",
        "Andy",
        "Annie",
        "Denis",
        "Diogo",
        "Gene",
        "Gene2",
        "Henrique",
        "Hugo",
        "Jacky",
        "Lee",
    ),
    *(
        "Marco",
        "Mario",
        "Michael",
        "Mike",
        "Nguyen",
        "Storm",
        "anika",
        "antonio",
        "aunty",
        "belinda",
        "boris",
    ),
    *("ed", "gustave", "iven2", "iven3", "linda", "marcelo", "max", "michel", "miguel", "paul", "pedro"),
    *("quincy", "rob", "robert", "shelby", "steph", "steph3", "travis", "victor", "john", "norbert", "pablo"),
    *("adam", "benjamin", "david", "edward", "klatt2", "klatt4"),
)
HELD_OUT_VARIANTS: Mapping[str, str] = MappingProxyType({"English": "f2", "Spanish": "m4"})

_PLAIN_VARIANT_SHARE = 0.2
_DEFAULT_SETTING_SHARE = 0.15
_PROGRAM_TIMEOUT_SECONDS = 60.0
_EDGE_LEVEL = 48  # int16 steps; below it a sample at either end counts as silence
_EDGE_KEPT_SAMPLES = 160


class SynthesizerMissing(RuntimeError):
    """A program this recipe needs was not found."""

    code = "synthesizer_missing"


class SynthesisFailed(RuntimeError):
    """A synthesizer ended badly or wrote something that is not the sound expected."""

    code = "synthesis_failed"


@dataclass(frozen=True)
class Programs:
    """Paths of the two synthesizers, and the environment they run in."""

    flite: str
    espeak: str
    environment: Mapping[str, str]

    @staticmethod
    def installed() -> Programs:
        """The programs on PATH; raises SynthesizerMissing and names the Debian packages."""
        found = {name: shutil.which(name) for name in ("flite", "espeak-ng")}
        missing = [name for name, path in found.items() if path is None]
        if missing:
            raise SynthesizerMissing(
                f"not on PATH: {', '.join(missing)}. On Debian or Ubuntu: apt-get install flite espeak-ng"
                " wamerican wamerican-small wspanish"
            )
        return Programs(str(found["flite"]), str(found["espeak-ng"]), dict(os.environ))

    @staticmethod
    def unpacked(folder: Path) -> Programs:
        """The programs of an archive that archive.py made, unpacked in `folder`.

        Its shared libraries are offered to the synthesizers only, never to this process.
        """
        flite, espeak = folder / "bin" / "flite", folder / "bin" / "espeak-ng"
        if not (flite.exists() and espeak.exists()):
            raise SynthesizerMissing(f"no bin/flite and bin/espeak-ng under {folder}")
        environment = dict(os.environ)
        environment["LD_LIBRARY_PATH"] = str(folder / "lib")
        environment["ESPEAK_DATA_PATH"] = str(folder)  # the folder that holds espeak-ng-data
        return Programs(str(flite), str(espeak), environment)


@dataclass(frozen=True)
class Voice:
    """One way of speaking. `speed` is a stretch for flite (1 is normal, more is slower) and words a minute for
    espeak-ng; `pitch` is Hz for flite and espeak-ng's own 0 to 99 scale."""

    language: str
    engine: str
    name: str
    variant: str
    speed: float
    pitch: float

    @property
    def label(self) -> str:
        """Engine, voice and variant without the settings: what figures are grouped by."""
        return f"{self.engine}:{self.name}" + (f"+{self.variant}" if self.variant else "")


def training_voice(language: str, rng: random.Random) -> Voice:
    """A random voice of those the model is trained on. English is half flite, half espeak-ng."""
    if language == "English" and rng.random() < 0.5:
        return flite_voice(rng)
    variant = "" if rng.random() < _PLAIN_VARIANT_SHARE else rng.choice(ESPEAK_VARIANTS)
    return _espeak_voice(language, variant, rng)


def flite_voice(rng: random.Random, among: Sequence[str] = FLITE_VOICES) -> Voice:
    """A random flite voice (English); one that is named twice is drawn twice as often."""
    plain = rng.random() < _DEFAULT_SETTING_SHARE
    stretch = 1.0 if plain else round(rng.uniform(*FLITE_STRETCH_RANGE), 3)
    pitch_hz = 0.0 if plain else round(rng.uniform(*FLITE_PITCH_RANGE_HZ), 1)
    return Voice("English", "flite", rng.choice(among), "", stretch, pitch_hz)


def espeak_voice(language: str, rng: random.Random) -> Voice:
    """A random espeak-ng voice of those the model is trained on."""
    variant = "" if rng.random() < _PLAIN_VARIANT_SHARE else rng.choice(ESPEAK_VARIANTS)
    return _espeak_voice(language, variant, rng)


def held_out_voice(language: str, rng: random.Random) -> Voice:
    """The variant kept out of training, in a random accent, speed and pitch."""
    return _espeak_voice(language, HELD_OUT_VARIANTS[language], rng)


def _espeak_voice(language: str, variant: str, rng: random.Random) -> Voice:
    accent = rng.choices(ESPEAK_ACCENTS[language], ESPEAK_ACCENT_WEIGHTS[language])[0]
    if rng.random() < _DEFAULT_SETTING_SHARE:
        return Voice(language, "espeak", accent, variant, 175, 50)
    speed, pitch = rng.randint(*ESPEAK_SPEED_RANGE_WPM), rng.randint(*ESPEAK_PITCH_RANGE)
    return Voice(language, "espeak", accent, variant, speed, pitch)


def synthesize(text: str, voice: Voice, programs: Programs) -> NDArray[np.int16]:
    """Speech of `text`, silence at both ends trimmed to 10 ms.

    returns: (samples,) int16, mono 16 kHz, at the synthesizer's own level
    raises:  SynthesisFailed
    """
    if voice.engine == "flite":
        command = [programs.flite, "-voice", voice.name, "--setf", f"duration_stretch={voice.speed}"]
        if voice.pitch > 0:
            command += ["--setf", f"int_f0_target_mean={voice.pitch}"]
        command += ["-t", text, "-o", "/dev/stdout"]
        raw = _run(command, b"", programs)
    else:
        name = voice.name + (f"+{voice.variant}" if voice.variant else "")
        command = [programs.espeak, "-v", name, "-s", str(int(voice.speed)), "-p", str(int(voice.pitch))]
        raw = _run([*command, "-b", "1", "--stdin", "--stdout"], text.encode(), programs)
    samples, rate = _read_wave(raw)
    if rate != SAMPLE_RATE:
        samples = resample(samples, rate)
    return trim_edges(samples)


def _run(command: list[str], stdin: bytes, programs: Programs) -> bytes:
    done = subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        env=dict(programs.environment),
        timeout=_PROGRAM_TIMEOUT_SECONDS,
        check=False,
    )
    if done.returncode != 0 or not done.stdout.startswith(b"RIFF"):
        raise SynthesisFailed(f"{Path(command[0]).name} ended with {done.returncode}: {done.stderr[-200:]!r}")
    return done.stdout


def _read_wave(raw: bytes) -> tuple[NDArray[np.int16], int]:
    with wave.open(io.BytesIO(raw)) as sound:
        if sound.getnchannels() != 1 or sound.getsampwidth() != 2:
            raise SynthesisFailed("expected mono 16-bit sound")
        rate = sound.getframerate()
    # espeak-ng writes to a pipe before it knows the length, so the sizes in the header are not to be believed.
    start = raw.index(b"data") + 8
    body = raw[start : start + (len(raw) - start) // 2 * 2]
    return np.frombuffer(body, dtype="<i2").astype(np.int16), rate


@lru_cache(maxsize=4)
def _resampling_matrix(rate: int) -> tuple[NDArray[np.float32], int, int, int]:
    """Weights that turn a block of `taken` samples at `rate` (plus `reach` on both sides) into `made` at 16 kHz.

    Windowed sinc (Hann, 24 zero crossings), cut off at 0.94 of the lower Nyquist frequency.
    """
    divisor = int(np.gcd(rate, SAMPLE_RATE))
    taken, made = rate // divisor, SAMPLE_RATE // divisor
    cutoff = 0.94 * min(1.0, SAMPLE_RATE / rate)
    reach = int(np.ceil(24 / cutoff))
    positions = np.arange(made) * (taken / made)
    offsets = np.arange(-reach, taken + reach)[:, None] - positions[None, :]
    window = np.where(np.abs(offsets) < reach, 0.5 + 0.5 * np.cos(np.pi * offsets / reach), 0.0)
    return (cutoff * np.sinc(cutoff * offsets) * window).astype(np.float32), taken, made, reach


def resample(samples: NDArray[np.int16], rate: int) -> NDArray[np.int16]:
    """From `rate` to 16 kHz; (n,) int16 -> (floor(n * 16000 / rate),) int16."""
    matrix, taken, _, reach = _resampling_matrix(rate)
    block_count = -(-len(samples) // taken)
    padded = np.zeros(block_count * taken + 2 * reach, dtype=np.float32)
    padded[reach : reach + len(samples)] = samples
    blocks = np.lib.stride_tricks.sliding_window_view(padded, taken + 2 * reach)[::taken]
    out = (blocks @ matrix).reshape(-1)[: len(samples) * SAMPLE_RATE // rate]
    return np.clip(np.rint(out), -32768, 32767).astype(np.int16)


def trim_edges(samples: NDArray[np.int16]) -> NDArray[np.int16]:
    """Cut the silence before and after, all but 10 ms; raises SynthesisFailed when all is silent."""
    return trim_edges_and_tell(samples)[0]


def trim_edges_and_tell(samples: NDArray[np.int16]) -> tuple[NDArray[np.int16], int]:
    """The result of trim_edges, and the number of samples cut at the front."""
    loud = np.flatnonzero(np.abs(samples.astype(np.int32)) > _EDGE_LEVEL)
    if len(loud) == 0:
        raise SynthesisFailed("the synthesizer wrote silence")
    first = max(0, int(loud[0]) - _EDGE_KEPT_SAMPLES)
    return samples[first : int(loud[-1]) + 1 + _EDGE_KEPT_SAMPLES], first


def join(pieces: list[NDArray[np.int16]], pauses_seconds: list[float]) -> NDArray[np.int16]:
    """Pieces in order with digital silence between them; `pauses_seconds` has one entry fewer than `pieces`."""
    parts: list[NDArray[np.int16]] = [pieces[0]]
    for piece, pause in zip(pieces[1:], pauses_seconds, strict=True):
        parts += [np.zeros(round(pause * SAMPLE_RATE), dtype=np.int16), piece]
    return np.concatenate(parts)
