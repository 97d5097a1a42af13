"""Measures the bundled demo model on synthetic speech that its training never saw.

Speaks the hand-written sentences beside this file with the recipe's synthesizers (Debian: flite, espeak-ng),
transcribes every clip through the shipped engine, one clip a call, and writes the figures as JSON.
Nothing is normalized on the way, no clip is left out, and no figure is written when a clip could not be made.

Exit code: 0 when every target of the sets that ran is met, 1 when one is missed, 2 when it cannot run.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import scribewire
from scribewire.engine import demo
from scribewire.engine.protocol.config import ModelInfo
from scribewire.engine.protocol.errors import EngineError
from tools.demo_model import speech, text
from tools.eval import provenance
from tools.eval.clips import LANGUAGES, SAMPLE_RATE, Clip, NoFittingVoice, Studio, read_sentences, remembered
from tools.eval.options import add_report_options, add_set_options
from tools.eval.report import (
    TRAINING_SAMPLE_SENTENCES,
    Outcome,
    TrainingWords,
    fill_model_card,
    set_figures,
    table,
    target_entries,
    targets_of,
)
from tools.eval.scoring import compare, fold

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "demo_model.json"
MODEL_CARD = demo.model_card_path()
SEED = 20
# Clips per set. The forced and context sets are the first clips of the short set, with other options.
SET_SIZES = {
    "short-en": 300,
    "short-es": 300,
    "long-en": 100,
    "long-es": 100,
    "held-out-en": 100,
    "held-out-es": 100,
    "noise": 200,
    "noise-context": 100,
    "forced-en": 50,
    "forced-es": 50,
    "context-en": 50,
    "context-es": 50,
}


@dataclass(frozen=True)
class Heard:
    """The engine's answer for one clip."""

    text: str
    language: str | None


# samples (n,) float32 in [-1, 1] at 16 kHz, forced language or None, context -> what was heard
Recognize = Callable[[NDArray[np.float32], str | None, str], Heard]


class ResultsPartial(RuntimeError):
    """The model card was to be filled from a run that left clips or sets out."""

    code = "results_partial"


# What a user can set right: a program, a word list, the weights or a file that is missing or broken.
_REASONS_NOT_TO_RUN = (
    EngineError,
    NoFittingVoice,
    OSError,
    ResultsPartial,
    ValueError,
    speech.SynthesisFailed,
    speech.SynthesizerMissing,
    text.WordListMissing,
)


def clips_of(studio: Studio, set_name: str, count: int) -> Iterator[Clip]:
    """The first `count` clips of one set."""
    kind, _, code = set_name.rpartition("-")
    makers = {
        "short": studio.short,
        "long": studio.long,
        "held-out": studio.held_out,
        "forced": studio.forced,
        "context": studio.with_context,
    }
    if set_name == "noise":
        return studio.noise(count)
    if set_name == "noise-context":
        return studio.noise_with_context(count)
    return makers[kind](code, count)


def recognize_clip(clip: Clip, recognize: Recognize) -> Outcome:
    """Transcribe one clip, timed, and compare with what was said."""
    waveform = clip.samples.astype(np.float32) / np.float32(32768.0)
    started = time.perf_counter()
    heard = recognize(waveform, clip.forced_language, clip.context)
    wall_seconds = time.perf_counter() - started
    errors = None if clip.language is None else compare(clip.text, heard.text)
    return Outcome(
        clip.set_name,
        clip.language,
        clip.voice,
        clip.text,
        heard.text,
        heard.language,
        clip.seconds,
        wall_seconds,
        errors,
    )


def evaluate(
    studio: Studio,
    recognize: Recognize,
    sizes: dict[str, int],
    trained: dict[str, TrainingWords],
    show_progress: bool = True,
) -> dict[str, Any]:
    """Figures and targets of the sets in `sizes`; `trained` by language code, where known."""
    sets: dict[str, dict[str, Any]] = {}
    audio_seconds = wall_seconds = 0.0
    for name, count in sizes.items():
        bar = tqdm(
            clips_of(studio, name, count), name, total=count, disable=not show_progress, mininterval=2.0
        )
        outcomes = [recognize_clip(clip, recognize) for clip in bar]
        sets[name] = set_figures(outcomes, trained.get(name.rpartition("-")[2]))
        audio_seconds += sum(outcome.audio_seconds for outcome in outcomes)
        wall_seconds += sum(outcome.wall_seconds for outcome in outcomes)
    return {
        "complete": sizes == SET_SIZES,
        "seed": studio.seed,
        "real_time_factor": round(wall_seconds / audio_seconds, 4),
        "targets": target_entries(targets_of(sets)),
        "sets": sets,
    }


def exit_code(report: dict[str, Any]) -> int:
    """1 when a target of the report is missed."""
    return 0 if all(target["met"] for target in report["targets"]) else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see --help."""
    parser = _parser()
    options = parser.parse_args(arguments)
    sizes = {name: size for name, size in SET_SIZES.items() if not options.sets or name in options.sets}
    if options.limit is not None:
        sizes = {name: min(size, options.limit) for name, size in sizes.items()}
    is_whole = sizes == SET_SIZES and all(
        getattr(options, name) == parser.get_default(name) for name in ("seed", "model", "sentences")
    )
    if options.output == RESULTS and not (is_whole or options.report_only):
        parser.error("the committed results are of the whole evaluation: name another file with --output")
    if options.fill_model_card and not (is_whole or options.report_only):
        parser.error("the model card takes only the figures of the whole evaluation of the bundled model")
    try:
        if options.report_only:
            report = json.loads(options.output.read_text(encoding="utf-8"))
        else:
            report = _measure(options, sizes)
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(
                json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
            )
        print(table(report))
        if options.fill_model_card:
            if not report["complete"]:
                raise ResultsPartial("the model card takes only the figures of a whole evaluation")
            fill_model_card(MODEL_CARD, table(report))
    except _REASONS_NOT_TO_RUN as problem:
        print(f"evaluate_demo: {problem}", file=sys.stderr)
        return 2
    return exit_code(report)


def _measure(options: argparse.Namespace, sizes: dict[str, int]) -> dict[str, Any]:
    """Find the synthesizers and the model, then run."""
    programs = speech.Programs.installed()
    versions = provenance.versions(programs)
    studio = Studio(
        sentences=read_sentences(options.sentences),
        training_voice=speech.training_voice,
        held_out_voice=speech.held_out_voice,
        speak=remembered(
            lambda words, voice: speech.synthesize(words, voice, programs),
            options.clips,
            f"flite {versions['flite']}, espeak-ng {versions['espeak-ng']}",
        ),
        seed=options.seed,
    )
    trained = {code: _training_words(language) for code, language in LANGUAGES.items()}
    with scribewire.Transcriber(options.model) as transcriber:
        recognize = _recognizer(transcriber)
        # Now, not after the run: a file replaced meanwhile is not what was measured.
        model = _model_entry(options.model, transcriber.info)
        report = evaluate(studio, recognize, sizes, trained)
    sample = {"training_sample_sentences": TRAINING_SAMPLE_SENTENCES}
    return {"model": model, "machine": provenance.machine(), "versions": versions} | sample | report


def _training_words(language: str) -> TrainingWords:
    sample = islice(text.sentences(language, SEED), TRAINING_SAMPLE_SENTENCES)
    return TrainingWords(
        possible=frozenset(word for known in text.vocabulary(language) for word in fold(known).split()),
        sampled=frozenset(word for sentence in sample for word in fold(sentence).split()),
    )


def _recognizer(transcriber: scribewire.Transcriber) -> Recognize:
    """The shipped engine, warmed by one second of silence that is not counted."""

    def recognize(waveform: NDArray[np.float32], language: str | None, context: str) -> Heard:
        transcript = transcriber.transcribe(
            (waveform, SAMPLE_RATE), language=language, prompt=context or None
        )
        return Heard(transcript.text, transcript.language)

    recognize(np.zeros(SAMPLE_RATE, dtype=np.float32), None, "")
    return recognize


def _model_entry(model: str, info: ModelInfo) -> dict[str, Any]:
    """Identity of the weights by content; a folder is named without its place."""
    folder = demo.demo_model_path() if model == "demo" else Path(model)
    return {
        "name": Path(info.model_id).name,
        "parameters": info.parameter_count,
        "weight_bits": info.weight_bits,
        "dtype": info.dtype,
        "device": info.device,
        **provenance.weight_files(folder),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evaluate_demo",
        description=(__doc__ or "").strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""\
sets:
  short-en, short-es        300 sentences each, at most 8 s, voices of training
  long-en, long-es          100 clips each of 15 to 30 s, three to six sentences joined
  held-out-en, held-out-es  100 clips each by the espeak-ng variant that training never used
  noise                     200 clips of silence, room tone, hum, white and pink noise; the text must be empty
  noise-context             100 more of them under a context full of words
  forced-*, context-*       50 short clips each with the language forced, with a context of words

examples:
  python tools/eval/evaluate_demo.py                                        everything; a good half hour on 2 cores
  python tools/eval/evaluate_demo.py --limit 20 --output quick.json         a quick run
  python tools/eval/evaluate_demo.py --sets noise noise-context --output noise.json
  python tools/eval/evaluate_demo.py --model ./new-weights --output new.json
  python tools/eval/evaluate_demo.py --report-only --fill-model-card        no run: the last results into the card
""",
    )
    parser.add_argument(
        "--model", default="demo", help="what Transcriber takes: demo, a folder, an id (default: demo)"
    )
    add_set_options(parser, SET_SIZES)
    parser.add_argument(
        "--seed", type=int, default=SEED, help=f"draws voices, pauses and noise (default: {SEED})"
    )
    parser.add_argument(
        "--sentences",
        type=Path,
        default=HERE,
        metavar="DIR",
        help="other text: a folder with sentences_en.txt and sentences_es.txt, one a line (at least 300 for the "
        "short sets); to choose between weights by what the figures are not of",
    )
    parser.add_argument(
        "--clips",
        type=Path,
        default=Path(tempfile.gettempdir()) / "scribewire-eval-clips",
        metavar="DIR",
        help="where spoken sentences are kept from run to run (default: a folder among the temporary files)",
    )
    add_report_options(parser, RESULTS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
