"""Measures the bundled demo aligner: how far its word times are from the true ones, on speech it never heard.

Speaks the hand-written sentences beside this file with the recipe's synthesizers (Debian: flite, espeak-ng), which say
themselves when each word begins and ends, gives the shipped engine the recording and its true text, and writes the
distances as JSON. Times go through everything that a user's go through: the repair of times that run backward and of
words without length. No clip is left out, and no figure is written when a clip could not be aligned.

Exit code: 0 when every target of the sets that ran is met, 1 when one is missed, 2 when it cannot run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from scribewire.engine import demo
from scribewire.engine.align.aligner import Aligner, AlignmentPromptBuilder, AlignmentTask
from scribewire.engine.checkpoint.load import read_checkpoint
from scribewire.engine.protocol.config import EngineConfig
from scribewire.engine.protocol.errors import EngineError
from scribewire.engine.resident.profile import choose_profile
from tools.demo_model import speech
from tools.demo_model.alignment.timed_speech import TimedSpeaker
from tools.eval import provenance
from tools.eval.borders import TimedOutcome, language_targets, set_figures, table
from tools.eval.clips import NoFittingVoice, read_sentences
from tools.eval.options import add_report_options, add_set_options
from tools.eval.report import fill_model_card
from tools.eval.timed_clips import TimedClip, TimedStudio

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "demo_aligner.json"
CARD_BEGIN = "<!-- word times: begin; written by tools/eval/evaluate_aligner.py, not by hand -->"
CARD_END = "<!-- word times: end -->"
SEED = 21
SET_SIZES = {
    "words-short-en": 60,
    "words-short-es": 60,
    "words-long-en": 12,
    "words-long-es": 12,
    "words-held-out-en": 30,
    "words-held-out-es": 30,
}

# samples (n,) float32 in [-1, 1] at 16 kHz, text, language -> (start, end) in seconds of each word
Align = Callable[[NDArray[np.float32], str, str], list[tuple[float, float]]]

_REASONS_NOT_TO_RUN = (EngineError, NoFittingVoice, OSError, ValueError, speech.SynthesizerMissing)


def align_clip(clip: TimedClip, align: Align) -> TimedOutcome:
    """Align one clip, timed, beside the truth."""
    waveform = clip.sound.samples.astype(np.float32) / np.float32(32768.0)
    started = time.perf_counter()
    found = align(waveform, clip.text, clip.language)
    wall_seconds = time.perf_counter() - started
    return TimedOutcome(
        clip.set_name,
        clip.language,
        clip.voice,
        tuple((word.start_seconds, word.end_seconds) for word in clip.sound.words),
        tuple(found),
        clip.seconds,
        wall_seconds,
        clip.refused,
    )


def evaluate(
    studio: TimedStudio, align: Align, sizes: dict[str, int], show_progress: bool = True
) -> dict[str, Any]:
    """Figures and targets of the sets in `sizes`."""
    outcomes: list[TimedOutcome] = []
    sets: dict[str, Any] = {}
    for name, count in sizes.items():
        bar = tqdm(studio.clips(name, count), name, total=count, disable=not show_progress, mininterval=2.0)
        of_set = [align_clip(clip, align) for clip in bar]
        sets[name] = set_figures(of_set)
        outcomes += of_set
    wall_seconds = sum(one.wall_seconds for one in outcomes)
    return {
        "complete": sizes == SET_SIZES,
        "seed": studio.seed,
        "real_time_factor": round(wall_seconds / sum(one.audio_seconds for one in outcomes), 4),
        "targets": language_targets(outcomes),
        "sets": sets,
    }


def shipped_aligner(folder: Path) -> Align:
    """The engine's aligner with the weights in `folder`, warmed up, float32 on the CPU or float16 on a GPU."""
    profile = choose_profile(EngineConfig(dtype="float16" if mx.is_available(mx.gpu) else "float32"))
    planner = AlignmentPromptBuilder(folder)
    aligner = Aligner(read_checkpoint(folder), planner, profile.placement)
    aligner.warm_up()

    def align(waveform: NDArray[np.float32], text: str, language: str) -> list[tuple[float, float]]:
        plan = planner.plan(text, language, waveform.size)
        task = AlignmentTask(plan, waveform, 0.0, waveform.size / speech.SAMPLE_RATE)
        return [(word.start_seconds, word.end_seconds) for word in aligner.align([task])[0]]

    return align


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see --help."""
    parser = _parser()
    options = parser.parse_args(arguments)
    sizes = {name: size for name, size in SET_SIZES.items() if not options.sets or name in options.sets}
    if options.limit is not None:
        sizes = {name: min(size, options.limit) for name, size in sizes.items()}
    is_whole = sizes == SET_SIZES and options.seed == SEED and options.aligner == demo.demo_aligner_path()
    if options.output == RESULTS and not (is_whole or options.report_only):
        parser.error("the committed results are of the whole evaluation: name another file with --output")
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
                raise ValueError("the model card takes only the figures of a whole evaluation")
            fill_model_card(demo.model_card_path(), table(report), CARD_BEGIN, CARD_END)
    except _REASONS_NOT_TO_RUN as problem:
        print(f"evaluate_aligner: {problem}", file=sys.stderr)
        return 2
    return 0 if all(target["met"] for target in report["targets"]) else 1


def _measure(options: argparse.Namespace, sizes: dict[str, int]) -> dict[str, Any]:
    programs = speech.Programs.installed()
    model = {"name": options.aligner.name, **provenance.weight_files(options.aligner)}
    align = shipped_aligner(options.aligner)
    with TimedSpeaker(programs) as speaker:
        studio = TimedStudio(
            read_sentences(HERE),
            speech.training_voice,
            speech.held_out_voice,
            speaker.speak,
            options.seed,
        )
        report = evaluate(studio, align, sizes)
    circumstances = {"machine": provenance.machine(), "versions": provenance.versions(programs)}
    return {"model": model, **circumstances, **report}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evaluate_aligner",
        description=(__doc__ or "").strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""\
sets:
  words-short-en, -es       60 clips each of one sentence, voices of training
  words-long-en, -es        12 clips each of four to six sentences joined, up to 30 s
  words-held-out-en, -es    30 clips each by the espeak-ng variant that training never used

examples:
  python -m tools.eval.evaluate_aligner                                    everything; a few minutes on 2 cores
  python -m tools.eval.evaluate_aligner --limit 20 --output quick.json     a quick run
  python -m tools.eval.evaluate_aligner --aligner ./new --output new.json  other weights
  python -m tools.eval.evaluate_aligner --report-only --fill-model-card    no run: the last results into the card
""",
    )
    parser.add_argument(
        "--aligner",
        type=Path,
        default=demo.demo_aligner_path(),
        metavar="DIR",
        help="folder of the aligner (default: the bundled one)",
    )
    add_set_options(parser, SET_SIZES)
    parser.add_argument("--seed", type=int, default=SEED, help=f"draws voices and pauses (default: {SEED})")
    add_report_options(parser, RESULTS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
