"""The cost of cutting: an hour of known sentences in one recording against the same sentences apart.

Speaks the hand-written sentences beside this file with the recipe's synthesizers, over and over in other voices, until
an hour is full: turns of one voice, 0.15 to 0.7 s between sentences and 0.7 to 3 s between turns. The shipped engine
transcribes the hour as one recording, with its own cutting, and then every sentence by itself. Word error rates are
over all words of the hour; no sentence is left out.

Exit code: 0 when the rise is within the target, 1 when it is not, 2 when it cannot run.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from scribewire.engine.audio.recording import OpenRecording
from scribewire.engine.protocol.config import AudioLimits, EngineConfig
from scribewire.engine.protocol.errors import EngineError
from scribewire.engine.transcriber import TranscribeItem, Transcriber
from tools.demo_model import speech
from tools.demo_model.speech import Voice
from tools.eval import provenance
from tools.eval.clips import LANGUAGES, SAMPLE_RATE, Sound, Speak, read_sentences, remembered
from tools.eval.scoring import compare, fold

HERE = Path(__file__).resolve().parent
SEED = 6
TARGET_POINTS = 0.3
SECONDS = 3600.0
TURN_SENTENCES = (20, 40)
PAUSE_SECONDS = (0.15, 0.7)
TURN_PAUSE_SECONDS = (0.7, 3.0)
PADDING_SECONDS = 0.2  # around a sentence by itself
SIDE_BY_SIDE = 16

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Line:
    """A sentence as it was spoken."""

    text: str
    voice: str
    samples: Samples


def turns(
    sentences: Sequence[str],
    draw_voice: Callable[[random.Random], Voice],
    speak: Speak,
    seconds: float,
    seed: int = SEED,
) -> Iterator[list[Line]]:
    """Spoken sentences in turns of one voice, shuffled anew whenever all were used, until so many seconds are full."""
    rng = random.Random(seed)
    queue: list[str] = []
    spoken = 0.0
    while spoken < seconds:
        voice = draw_voice(rng)
        lines = []
        for _ in range(rng.randint(*TURN_SENTENCES)):
            queue = queue or rng.sample(list(sentences), len(sentences))
            text = queue.pop()
            lines.append(Line(text, voice.label, _as_float(speak(text, voice))))
            spoken += len(lines[-1].samples) / SAMPLE_RATE + sum(PAUSE_SECONDS) / 2
            if spoken >= seconds:
                break
        yield lines


def recording_of(parts: Sequence[Sequence[Line]], seed: int = SEED) -> Samples:
    """All turns as one recording, (n,) float32."""
    rng = random.Random(seed)
    pieces: list[Samples] = []
    for turn in parts:
        for line in turn:
            pieces += [line.samples, _silence(rng.uniform(*PAUSE_SECONDS))]
        pieces.append(_silence(rng.uniform(*TURN_PAUSE_SECONDS)))
    return np.concatenate(pieces)


def measure(transcriber: Transcriber, code: str, parts: Sequence[Sequence[Line]]) -> dict[str, Any]:
    """Both error rates, in percent, and what they were measured on."""
    lines = [line for turn in parts for line in turn]
    reference = " ".join(line.text for line in lines)
    whole = recording_of(parts)
    config = transcriber.config
    chunks = [
        chunk
        for chunk in OpenRecording(
            whole,
            limits=AudioLimits(),
            max_chunk_seconds=config.max_chunk_seconds,
            min_chunk_seconds=config.min_chunk_seconds,
        ).chunks()
        if chunk is not None
    ]
    started = time.perf_counter()
    with tqdm(total=round(len(whole) / SAMPLE_RATE), desc=f"{code} together", mininterval=5.0) as bar:
        together = transcriber.transcribe(whole, on_progress=lambda done, _total: bar.update(done - bar.n))
    together_seconds = time.perf_counter() - started
    started = time.perf_counter()
    apart: list[str] = []
    padding = _silence(PADDING_SECONDS)
    for start in tqdm(range(0, len(lines), SIDE_BY_SIDE), f"{code} apart", mininterval=5.0):
        group = [
            TranscribeItem(np.concatenate([padding, line.samples, padding]))
            for line in lines[start : start + SIDE_BY_SIDE]
        ]
        apart += [transcript.text for transcript in transcriber.transcribe_many(group)]
    apart_seconds = time.perf_counter() - started
    words = len(fold(reference).split())
    joined_errors = compare(reference, together.text).word_errors
    apart_errors = sum(compare(line.text, text).word_errors for line, text in zip(lines, apart, strict=True))
    rise = 100.0 * (joined_errors - apart_errors) / words
    return {
        "language": LANGUAGES[code],
        "sentences": len(lines),
        "turns": len(parts),
        "words": words,
        "audio_seconds": round(len(whole) / SAMPLE_RATE, 1),
        "chunks": len(chunks),
        "decoded_seconds": round(sum(chunk.sample_count for chunk in chunks) / SAMPLE_RATE, 1),
        "words_heard_together": len(fold(together.text).split()),
        "words_heard_apart": sum(len(fold(text).split()) for text in apart),
        "together_wer_percent": round(100.0 * joined_errors / words, 3),
        "apart_wer_percent": round(100.0 * apart_errors / words, 3),
        "rise_points": round(rise, 3),
        "target_points": TARGET_POINTS,
        "met": rise <= TARGET_POINTS,
        "together_wall_seconds": round(together_seconds, 1),
        "apart_wall_seconds": round(apart_seconds, 1),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see --help."""
    parser = argparse.ArgumentParser(
        prog="evaluate_long", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("language", choices=sorted(LANGUAGES), help="whose sentences")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="length of the recording (default: an hour)"
    )
    parser.add_argument("--model", default="demo", help="what Transcriber takes (default: demo)")
    parser.add_argument(
        "--clips",
        type=Path,
        default=Path(tempfile.gettempdir()) / "scribewire-eval-clips",
        metavar="DIR",
        help="where spoken sentences are kept from run to run (default: a folder among the temporary files)",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="default: results/long_LANGUAGE.json, for an hour"
    )
    options = parser.parse_args(arguments)
    if options.output is None and options.seconds != SECONDS:
        parser.error("the committed results are of an hour: name another file with --output")
    output = options.output or HERE / "results" / f"long_{options.language}.json"
    try:
        report = _report(options)
    except (EngineError, OSError, speech.SynthesisFailed, speech.SynthesizerMissing) as problem:
        print(f"evaluate_long: {problem}", file=sys.stderr)
        return 2
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(report["figures"], indent=2))
    return 0 if report["figures"]["met"] else 1


def _report(options: argparse.Namespace) -> dict[str, Any]:
    programs = speech.Programs.installed()
    versions = provenance.versions(programs)
    code = options.language
    speak = remembered(
        lambda words, voice: speech.synthesize(words, voice, programs),
        options.clips,
        f"flite {versions['flite']}, espeak-ng {versions['espeak-ng']}",
    )
    parts = list(
        turns(
            read_sentences(HERE)[code],
            lambda rng: speech.training_voice(LANGUAGES[code], rng),
            speak,
            options.seconds,
        )
    )
    with Transcriber(config=EngineConfig(model=options.model)) as transcriber:
        figures = measure(transcriber, code, parts)
        model = Path(transcriber.info.model_id).name
    return {
        "command": f"python -m tools.eval.evaluate_long {code}",
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "model": model,
        "machine": provenance.machine(),
        "versions": versions,
        "seed": SEED,
        "figures": figures,
    }


def _as_float(samples: Sound) -> Samples:
    return samples.astype(np.float32) / np.float32(32_768.0)


def _silence(seconds: float) -> Samples:
    return np.zeros(round(seconds * SAMPLE_RATE), dtype=np.float32)


if __name__ == "__main__":
    sys.exit(main())
