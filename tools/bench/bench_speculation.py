"""Speculative decoding with rigged drafts: `python -m tools.bench.bench_speculation --pair TARGET DRAFT`.

The real draft runs at its true cost, encoding and prefill included, and its tokens are replaced by ones that are right
as often as wanted. Rigged and plain answers alternate. Where both take the same time is the break-even:
found between the measured points, and computed from what the engine's own start-up measurement found.

TARGET and DRAFT: `demo`; `tiny`, `small` or `large`, random weights with the demo model's tokenizer; `random:0.6b` or
`random:1.7b`, random weights at a published size; or a model's folder. Random weights know no end: every answer has
as many tokens as people say in that time.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence as Several
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from scribewire.engine.audio.mel import log_mel
from scribewire.engine.batching.forcing import NATURAL_TOKENS_PER_SECOND
from scribewire.engine.batching.sequence import Sequence
from scribewire.engine.batching.speculative.calibration import measure_pair, wide_drift
from scribewire.engine.batching.speculative.decoding import Speculator
from scribewire.engine.batching.speculative.drafting import ModelDrafter
from scribewire.engine.batching.speculative.gain import GUESS_COUNTS, Measured, SpeculationPlan, choose_plan
from scribewire.engine.batching.step import RunningBatch
from scribewire.engine.checkpoint.layouts import expected_shapes
from scribewire.engine.demo import demo_model_path
from scribewire.engine.model.config import ModelConfig
from scribewire.engine.protocol.config import SAMPLE_RATE_HZ, EngineConfig, TranscribeOptions
from scribewire.engine.resident.model import ResidentModel
from tests.fakes.rigged_draft import RiggedDrafter
from tools.bench.clips import speech
from tools.bench.measuring import machine, summary, write_result
from tools.bench.random_model import write_random_model
from tools.bench.sizes import RECIPES, SIZES

ACCEPTANCES = (0.0, 0.5, 0.8, 0.95)
# Rounds that never give up, however seldom the draft is right.
ALWAYS = Measured(1.0, 0.0, dict.fromkeys(GUESS_COUNTS, 1e-9), 0.0)

# Random weights with the demo's vocabulary: decoder hidden, layers, MLP; encoder width, layers.
OWN_SIZES = {"tiny": (64, 1, 128, 64, 1), "small": (256, 4, 768, 256, 6), "large": (512, 10, 1536, 384, 8)}


def main() -> None:
    """Measure every pair, print a table of each and write one JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pair", nargs=2, action="append", metavar=("TARGET", "DRAFT"), required=True)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the clip")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--guesses", type=int, nargs="+", default=list(GUESS_COUNTS))
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "gpu"))
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--recipe", default="8bit", choices=tuple(RECIPES), help="of random:SIZE models")
    parser.add_argument("--name", default="speculation_cpu", help="of the JSON")
    parser.add_argument("--out", type=Path, help="folder of the JSON (default: tools/bench/results)")
    arguments = parser.parse_args()
    at_start = machine()
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for target, draft in arguments.pair:
            found.append(_measure_pair(arguments, target, draft, Path(scratch)))
            _show(found[-1])
    pairs = " ".join(f"--pair {_shown(target)} {_shown(draft)}" for target, draft in arguments.pair)
    command = f"python -m tools.bench.bench_speculation {pairs} --repeats {arguments.repeats}"
    content = {"machine": at_start, "clip_seconds": arguments.seconds, "pairs": found}
    path = write_result(arguments.name, command, content, *([] if arguments.out is None else [arguments.out]))
    print(path.name)


def _measure_pair(
    arguments: argparse.Namespace, target_name: str, draft_name: str, scratch: Path
) -> dict[str, Any]:
    folders = [_folder(name, scratch, arguments.recipe) for name in (target_name, draft_name)]
    resident = ResidentModel(
        EngineConfig(
            model=str(folders[0]),
            draft_model=str(folders[1]),
            device=arguments.device,
            dtype=arguments.dtype,
        )
    )
    assert resident.draft is not None
    with resident.host_products.on_one_thread():
        bench = _Bench(resident, arguments.seconds)
        measured = measure_pair(resident.network, resident.draft)
        drifts = {width: wide_drift(resident.network, width) for width in arguments.guesses}
        plan = choose_plan(measured, lambda width: drifts.get(width, math.inf))
        rigged = bench.compare(arguments.guesses, arguments.repeats)
    tokens = bench.token_count - 1
    return {
        "target": _shown(target_name),
        "draft": _shown(draft_name),
        "device": resident.info.device,
        "dtype": resident.info.dtype,
        "parameters": resident.info.parameter_count,
        "tokens_per_answer": bench.token_count,
        "measured_at_start": asdict(measured),
        "drift_of_wide_steps": drifts,
        "chosen_at_start": None
        if plan is None
        else {"guesses": plan.width, "doubt": plan.doubt, "gain": plan.gain},
        "rigged": rigged,
        "break_even": {
            str(width): {
                "interpolated": _interpolated(
                    [(one["acceptance"], one["speedup"]) for one in rigged if one["guesses"] == width]
                ),
                "from_formula": _finite(measured.break_even(width, tokens=tokens)),
                "from_formula_without_preparation": _finite(measured.break_even(width)),
            }
            for width in arguments.guesses
        },
    }


class _Bench:
    """One clip, decoded again and again from the end of its prefill."""

    def __init__(self, resident: ResidentModel, seconds: float) -> None:
        self._resident = resident
        samples = speech(seconds)
        self._mel = log_mel(mx.array(samples).astype(mx.float32))
        self._audio = resident.network.encode([self._mel])[0]
        decoding = resident.decoding(TranscribeOptions())
        self._prompt_ids = resident.prompt_ids(decoding, samples.size)
        self.token_count = round(NATURAL_TOKENS_PER_SECOND * samples.size / SAMPLE_RATE_HZ)
        mx.eval(self._mel, self._audio)

    def compare(self, guess_counts: Several[int], repeats: int) -> list[dict[str, Any]]:
        """Every acceptance and number of draft tokens; each rigged answer follows a plain one."""
        self._plain()
        known, _ = self._plain()
        settings = [(acceptance, width) for width in guess_counts for acceptance in ACCEPTANCES]
        plain: dict[tuple[float, int], list[float]] = {one: [] for one in settings}
        rigged: dict[tuple[float, int], list[float]] = {one: [] for one in settings}
        per_round: dict[tuple[float, int], list[float]] = {one: [] for one in settings}
        different = dict.fromkeys(settings, 0)
        for setting in settings:
            self._rigged(known, *setting, seed=0)  # kernels of this width
        for repeat in range(repeats):
            random.Random(repeat).shuffle(settings)
            for setting in settings:
                plain[setting].append(self._plain()[1])
                tokens, taken, speculator = self._rigged(known, *setting, seed=repeat)
                rigged[setting].append(taken)
                per_round[setting].append(speculator.tally.tokens / speculator.tally.rounds)
                different[setting] += tokens != known
        return [
            {
                "acceptance": acceptance,
                "guesses": width,
                "speedup": round(
                    statistics.median(
                        one / other
                        for one, other in zip(
                            plain[acceptance, width], rigged[acceptance, width], strict=True
                        )
                    ),
                    4,
                ),
                "tokens_per_round": round(statistics.mean(per_round[acceptance, width]), 3),
                "answers_that_differ": different[acceptance, width],
                "plain": summary(plain[acceptance, width]),
                "speculative": summary(rigged[acceptance, width]),
            }
            for width in guess_counts
            for acceptance in ACCEPTANCES
        ]

    def _plain(self) -> tuple[list[int], float]:
        return self._decoded(None)

    def _rigged(
        self, known: list[int], acceptance: float, width: int, seed: int
    ) -> tuple[list[int], float, Speculator]:
        draft = self._resident.draft
        assert draft is not None

        def make(sequence: Sequence) -> RiggedDrafter:
            real = ModelDrafter(draft, sequence)
            return RiggedDrafter(real, known[len(sequence.tokens) :], acceptance, seed)

        plan = SpeculationPlan(width, 0.0, replace(ALWAYS, round_seconds={width: 1e-9}))
        speculator = Speculator(self._resident.network, self._resident.special_tokens, plan, make)
        return *self._decoded(speculator), speculator

    def _decoded(self, speculator: Speculator | None) -> tuple[list[int], float]:
        """Tokens, and seconds from the first token, already waiting, to the last one."""
        sequence = Sequence(
            self._prompt_ids,
            self._audio,
            self.token_count,
            forced_count=self.token_count,
            mel=self._mel,
        )
        batch = RunningBatch(self._resident.network, self._resident.special_tokens)
        batch.join([sequence])
        mx.synchronize()
        started = time.perf_counter()
        while batch.row_count:
            batch.step(speculator)
        mx.synchronize()
        return sequence.tokens, time.perf_counter() - started


def _interpolated(points: list[tuple[float, float]]) -> float | str:
    """The acceptance at which the speed-up is 1, linear between the two points around it."""
    if points[0][1] >= 1.0:
        return "below 0"
    for (low, slow), (high, fast) in itertools.pairwise(points):
        if slow < 1.0 <= fast:
            return round(low + (high - low) * (1.0 - slow) / (fast - slow), 3)
    return f"above {points[-1][0]:g}"


def _finite(value: float) -> float | str:
    return round(value, 3) if math.isfinite(value) else "none"


def _folder(name: str, scratch: Path, recipe: str) -> Path:
    if name == "demo":
        return demo_model_path()
    if name in OWN_SIZES:
        return _written(scratch / name, *OWN_SIZES[name])
    if name.startswith("random:"):
        size = name.removeprefix("random:")
        return write_random_model(scratch / f"{size}-{recipe}", SIZES[size], RECIPES[recipe])
    return Path(name)


def _written(folder: Path, hidden: int, layers: int, mlp: int, width: int, encoder_layers: int) -> Path:
    """A random model of these sizes that speaks the demo model's tokens."""
    if folder.is_dir():
        return folder
    shutil.copytree(demo_model_path(), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for name in ("quantization", "quantization_config"):
        config.pop(name, None)
    thinker = config["thinker_config"]
    thinker["text_config"] |= {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "intermediate_size": mlp,
    }
    thinker["audio_config"] |= {
        "d_model": width,
        "encoder_layers": encoder_layers,
        "encoder_ffn_dim": 4 * width,
        "output_dim": hidden,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tensors = {}
    for place, (name, shape) in enumerate(expected_shapes(ModelConfig.from_dict(config)).items()):
        is_norm = "norm" in name or ".ln_post." in name
        if is_norm and name.endswith(".weight"):
            tensors[name] = mx.ones(shape)
        else:
            scale = 1.0 / math.sqrt(math.prod(shape[1:]) or 1)
            tensors[name] = scale * mx.random.normal(shape, key=mx.random.key(place))
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, metadata={"format": "mlx"})
    return folder


def _shown(name: str) -> str:
    """Without the folders that a path leads through."""
    return name if name.startswith("random:") else Path(name).name


def _show(pair: dict[str, Any]) -> None:
    measured = pair["measured_at_start"]
    print(
        f"\n{pair['target']} with {pair['draft']} on {pair['device']} in {pair['dtype']}: plain step "
        f"{1e3 * measured['step_seconds']:.2f} ms, one guess {1e3 * measured['draft_step_seconds']:.2f} ms, "
        f"preparation {1e3 * measured['prepare_seconds']:.1f} ms; at start-up: {pair['chosen_at_start'] or 'off'}"
    )
    print(f"{'guesses':>7} {'round ms':>9} {'drift':>9} ", end="")
    print(*(f"x at {100 * acceptance:.0f} %".rjust(10) for acceptance in ACCEPTANCES), end="")
    print(f" {'break-even: found':>18} {'formula':>8} {'prepared':>9}")
    for width, even in pair["break_even"].items():
        speedups = [one["speedup"] for one in pair["rigged"] if one["guesses"] == int(width)]
        print(
            f"{width:>7} {1e3 * measured['round_seconds'][int(width)]:>9.2f} "
            f"{pair['drift_of_wide_steps'][int(width)]:>9.2g} ",
            *(f"{one:>9.3f}" for one in speedups),
            f"{even['interpolated']!s:>18} {even['from_formula']!s:>8} "
            f"{even['from_formula_without_preparation']!s:>9}",
        )
    differing = sum(one["answers_that_differ"] for one in pair["rigged"])
    print(f"answers that differ from the plain one: {differing}")


if __name__ == "__main__":
    main()
