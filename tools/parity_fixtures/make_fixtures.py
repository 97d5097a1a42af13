"""Make the reference figures of the parity tests with PyTorch; the tests themselves need neither it nor this file.

Three commands, each in a virtual environment of its own, run from the repository's root:

    python -m venv native && native/bin/pip install torch==2.13.0 transformers==5.17.0
    native/bin/python -m tools.parity_fixtures.make_fixtures native

    python -m venv official && official/bin/pip install torch==2.13.0 transformers==4.57.6 accelerate
    official/bin/pip install --no-deps qwen-asr==0.0.6 dashscope
    official/bin/python -m tools.parity_fixtures.make_fixtures official
    official/bin/python -m tools.parity_fixtures.make_fixtures text

`native` runs transformers' own qwen3_asr on the -hf layout. It pads clips under a second, so it is asked only about
the longer ones. `official` runs Qwen's package on the original layout, one clip per call and with the encoder's
attention windows applied (that package computes their bounds and then passes no mask); it is asked about every clip.
`text` records what the official parser and the reference tokenizer make of some texts, and cuts Qwen's vocabulary (as
the package dashscope ships it) down to what those texts need.

Weights and clips are made from their names (random_model.py, clips.py), so only a sample of each result is stored.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import types
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.fakes import clips, random_model
from tests.fakes.clips import CLIPS_BY_NAME, SHORTEST_CLIP, Clip
from tests.fakes.random_model import ALL_SIZES, OTHER_CHOICES, TRUE_WINDOWS, Sizes
from tools.parity_fixtures import text_fixtures

FIXTURES = Path(__file__).resolve().parents[2] / "tests" / "parity" / "fixtures"
NEW_TOKENS = 64
STORED_COLUMNS = 64
STORED_FRAMES = 40
STORED_ROWS = 40

# Which clips go through which model. The second model's task is to differ, not to be long.
CLIPS_OF = {
    TRUE_WINDOWS.name: tuple(CLIPS_BY_NAME),
    OTHER_CHOICES.name: ("0.3s", "2.5s-odd", "8.1s"),
}

Array = NDArray[Any]


@dataclass(frozen=True)
class Reference:
    """One PyTorch implementation, as functions of numpy arrays. Mel is (frames, 128), float32."""

    mel: Callable[[Array], Array]
    encode: Callable[[Array], Array]  # mel -> (tokens, hidden)
    logits: Callable[[list[int], Array], Array]  # ids with audio pads, mel -> (ids, vocabulary)
    greedy: Callable[
        [list[int], Array, int], list[int]
    ]  # prompt ids, mel, count -> new ids, never stopping early


def sample_indices(seed: str, count: int, wanted: int, always: list[int]) -> Array:
    """Indices below `count`: those in `always` that exist, and random ones up to about `wanted`."""
    draws = (clips.uniform(seed, wanted) + 1.0) / 2.0 * count
    chosen = {index for index in always if 0 <= index < count} | {int(draw) for draw in draws}
    return np.array(sorted(chosen), dtype=np.int32)


def _record_mel(clip: Clip, mel: Array) -> dict[str, Array]:
    frames = len(mel)
    edges = [0, 1, 2, 3, 97, 98, 99, 100, 101, frames - 4, frames - 3, frames - 2, frames - 1]
    index = sample_indices(f"frames/{clip.name}", frames, STORED_FRAMES, edges)
    return {
        "frame_count": np.int32(frames),
        "frame_index": index,
        "frames": mel[index].astype(np.float32),
        "bin_mean": mel.mean(axis=0, dtype=np.float64),
        "bin_maximum": mel.max(axis=0),
        "floor": mel.min(),
        "floor_share": np.float64((mel <= mel.min() + 1e-6).mean()),
    }


def _record_network(reference: Reference, sizes: Sizes, clip: Clip, mel: Array) -> dict[str, Array]:
    encoded = reference.encode(mel)
    tokens = len(encoded)
    window = 13 * (sizes.n_window_infer // 100)
    borders = [bound + step for bound in range(0, tokens, window) for step in (-2, -1, 0, 1)]
    edges = [0, 1, 12, 13, 14, *borders, tokens - 14, tokens - 13, tokens - 3, tokens - 2, tokens - 1]
    rows = sample_indices(f"rows/{clip.name}", tokens, STORED_ROWS, edges)

    prompt = random_model.prompt_ids(tokens)
    targets = random_model.target_ids(sizes, clip.name)
    scored = reference.logits(prompt + targets, mel)[len(prompt) - 1 : -1].astype(np.float64)
    columns = sample_indices(f"columns/{sizes.name}", sizes.vocab_size, STORED_COLUMNS, [])

    greedy = reference.greedy(prompt, mel, NEW_TOKENS)
    if random_model.TOKEN_IDS["<|audio_pad|>"] in greedy:
        raise SystemExit(
            f"{clip.name}: the greedy path holds the audio pad and cannot be scored; draw another clip"
        )
    decided = np.sort(reference.logits(prompt + greedy, mel)[len(prompt) - 1 : -1], axis=-1)
    margins = (decided[:, -1] - decided[:, -2]) / np.linalg.norm(decided, axis=-1)
    print(
        f"  {sizes.name:14} {clip.name:9} {tokens:5} tokens, {len(set(targets))} distinct targets, "
        f"{len(set(greedy))} distinct greedy ids, smallest relative margin {margins.min():.1e}",
        flush=True,
    )
    return {
        "row_index": rows,
        "rows": encoded[rows].astype(np.float32),
        "row_mean": encoded.mean(axis=0, dtype=np.float64),
        "token_count": np.int32(tokens),
        "column_index": columns,
        "logits": scored[:, columns].astype(np.float32),
        "log_sum_exp": np.log(np.exp(scored).sum(axis=-1)),
        "logit_norm": np.linalg.norm(scored, axis=-1),
        "best_id": scored.argmax(axis=-1).astype(np.int32),
        "greedy": np.array(greedy, dtype=np.int32),
        "margin": margins.astype(np.float32),
    }


def _record(
    reference_of: Callable[[Sizes], Reference],
    wanted: Callable[[Clip], bool],
    target: Path,
    packages: list[str],
) -> None:
    arrays: dict[str, Array] = {}
    checksums: dict[str, int] = {}
    for sizes in ALL_SIZES.values():
        reference = reference_of(sizes)
        if sizes is TRUE_WINDOWS and wanted(SHORTEST_CLIP):
            shortest = _record_mel(SHORTEST_CLIP, reference.mel(clips.make_clip(SHORTEST_CLIP)))
            arrays |= {f"mel/{SHORTEST_CLIP.name}/{key}": value for key, value in shortest.items()}
        checksums[sizes.name] = random_model.checksum(random_model.make_weights(sizes))
        for name in CLIPS_OF[sizes.name]:
            clip = CLIPS_BY_NAME[name]
            if not wanted(clip):
                continue
            samples = clips.make_clip(clip)
            checksums[clip.name] = clips.checksum(samples)
            mel = reference.mel(samples)
            if sizes is TRUE_WINDOWS:
                arrays |= {f"mel/{name}/{key}": value for key, value in _record_mel(clip, mel).items()}
            recorded = _record_network(reference, sizes, clip, mel)
            arrays |= {f"{sizes.name}/{name}/{key}": value for key, value in recorded.items()}
    about = {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        **{package: version(package) for package in ("numpy", *packages)},
        "checksums": checksums,
    }
    arrays["about"] = np.array(json.dumps(about))
    target.parent.mkdir(exist_ok=True)
    np.savez_compressed(target, **arrays)
    print(f"{target.name}: {target.stat().st_size / 1e6:.2f} MB")


def check_complete(report: dict[str, Any]) -> None:
    """Refuse a reference that did not take exactly the tensors of the checkpoint."""
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[kind]:
            raise SystemExit(f"the reference did not load the checkpoint: {kind} {sorted(report[kind])}")


def make_native() -> None:
    """Figures of transformers 5.17's qwen3_asr, on the -hf layout, for clips of a second and more."""
    import torch
    from transformers import Qwen3ASRFeatureExtractor, Qwen3ASRForConditionalGeneration

    extractor = Qwen3ASRFeatureExtractor()

    def features(samples: Array) -> Any:
        return extractor(
            samples,
            sampling_rate=clips.SAMPLE_RATE,
            padding=True,
            truncation=False,
            return_attention_mask=True,
        )

    def mel(samples: Array) -> Array:
        made = features(samples)
        frames = int(made["attention_mask"].sum())
        return made["input_features"][0, :, :frames].T.numpy()

    def reference_of(sizes: Sizes) -> Reference:
        with tempfile.TemporaryDirectory() as folder:
            path = random_model.write_checkpoint(Path(folder), sizes, "hf")
            model, report = Qwen3ASRForConditionalGeneration.from_pretrained(
                path, dtype=torch.float32, output_loading_info=True
            )
        check_complete(report)
        model.eval()

        def inputs(frames: Array) -> dict[str, Any]:
            # The mel axis is padded to whole chunks, as the extractor does; the mask says what is real.
            width = -(-len(frames) // 100) * 100
            padded = np.zeros((1, 128, width), dtype=np.float32)
            padded[0, :, : len(frames)] = frames.T
            mask = np.zeros((1, width), dtype=np.int64)
            mask[0, : len(frames)] = 1
            return {"input_features": torch.from_numpy(padded), "input_features_mask": torch.from_numpy(mask)}

        @torch.no_grad()
        def encode(frames: Array) -> Array:
            return model.get_audio_features(**inputs(frames)).pooler_output.numpy()

        @torch.no_grad()
        def logits(ids: list[int], frames: Array) -> Array:
            return model(input_ids=torch.tensor([ids]), **inputs(frames)).logits[0].numpy()

        @torch.no_grad()
        def greedy(ids: list[int], frames: Array, count: int) -> list[int]:
            made = model.generate(
                input_ids=torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                **inputs(frames),
                max_new_tokens=count,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
            return made[0, len(ids) :].tolist()

        return Reference(mel, encode, logits, greedy)

    _record(
        reference_of, lambda clip: clip.frame_count >= 100, FIXTURES / "native.npz", ["torch", "transformers"]
    )


def import_official() -> Any:
    """Qwen's package without its media, aligner and demo packages, none of which is used here."""
    import transformers  # noqa: F401  # looks for these packages when first imported, and must not find a stand-in

    for name in ("librosa", "soundfile", "nagisa", "soynlp", "soynlp.tokenizer", "qwen_omni_utils"):
        try:
            __import__(name)
        except ImportError:
            stand_in = types.ModuleType(name)
            stand_in.LTokenizer = None  # the one name imported from any of them
            sys.modules[name] = stand_in
    import qwen_asr

    return qwen_asr


def apply_windows(modeling: Any) -> None:
    """Give the encoder's attention the block mask that its window bounds (cu_seqlens) stand for."""
    import torch

    plain = modeling.Qwen3ASRAudioAttention.forward

    def forward(
        self: Any, hidden_states: Any, cu_seqlens: Any = None, attention_mask: Any = None, **rest: Any
    ) -> Any:
        count = hidden_states.shape[0]
        window = torch.searchsorted(cu_seqlens[1:], torch.arange(count), right=True)
        allowed = window[:, None] == window[None, :]
        mask = torch.zeros(1, 1, count, count).masked_fill(~allowed, torch.finfo(torch.float32).min)
        return plain(self, hidden_states, cu_seqlens=cu_seqlens, attention_mask=mask, **rest)

    modeling.Qwen3ASRAudioAttention.forward = forward


def make_official() -> None:
    """Gold: figures of qwen_asr 0.0.6 with windows applied, on the original layout, for every clip."""
    import torch
    from transformers import WhisperFeatureExtractor

    import_official()
    from qwen_asr.core.transformers_backend import Qwen3ASRForConditionalGeneration, modeling_qwen3_asr

    apply_windows(modeling_qwen3_asr)
    extractor = WhisperFeatureExtractor(feature_size=128, return_attention_mask=True)

    def mel(samples: Array) -> Array:
        made = extractor(
            samples,
            sampling_rate=clips.SAMPLE_RATE,
            padding=True,
            truncation=False,
            return_attention_mask=True,
            return_tensors="np",
        )
        return made["input_features"][0][:, : int(made["attention_mask"].sum())].T

    def reference_of(sizes: Sizes) -> Reference:
        with tempfile.TemporaryDirectory() as folder:
            path = random_model.write_checkpoint(Path(folder), sizes, "thinker")
            whole, report = Qwen3ASRForConditionalGeneration.from_pretrained(
                path, dtype=torch.float32, output_loading_info=True
            )
        check_complete(report)
        model = whole.eval().thinker

        def inputs(ids: list[int], frames: Array) -> dict[str, Any]:
            return {
                "input_ids": torch.tensor([ids]),
                "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
                "input_features": torch.from_numpy(np.ascontiguousarray(frames.T[None])),
                "feature_attention_mask": torch.ones(1, len(frames), dtype=torch.long),
            }

        @torch.no_grad()
        def encode(frames: Array) -> Array:
            made = inputs([0], frames)
            return model.get_audio_features(made["input_features"], made["feature_attention_mask"]).numpy()

        @torch.no_grad()
        def logits(ids: list[int], frames: Array) -> Array:
            model.rope_deltas = None
            return model(**inputs(ids, frames)).logits[0].numpy()

        @torch.no_grad()
        def greedy(ids: list[int], frames: Array, count: int) -> list[int]:
            model.rope_deltas = None
            made = model.generate(
                **inputs(ids, frames),
                max_new_tokens=count,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
            return made[0, len(ids) :].tolist()

        return Reference(mel, encode, logits, greedy)

    _record(reference_of, lambda clip: True, FIXTURES / "official.npz", ["torch", "transformers", "qwen-asr"])


def make_text() -> None:
    """Outputs as the official parser reads them, and texts as the reference tokenizer splits them."""
    official = import_official()
    text_fixtures.record_outputs(official.parse_asr_output, FIXTURES / "outputs.json")
    text_fixtures.record_tokens(FIXTURES / "tokenizer", FIXTURES / "texts.json")


def main() -> None:
    """Parse the command line and make one set of fixtures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands: dict[str, Callable[[], None]] = {
        "native": make_native,
        "official": make_official,
        "text": make_text,
    }
    parser.add_argument(
        "reference",
        choices=commands,
        help="native: torch and transformers 5.17; official: torch, transformers 4.57.6 and qwen-asr 0.0.6; "
        "text: the latter and dashscope",
    )
    commands[parser.parse_args().reference]()


if __name__ == "__main__":
    main()
