"""Writes trained weights as a checkpoint: the original float layout, or MLX's quantized one, which is shipped.

In the shipped layout every Linear of the audio tower is quantized like the decoder's, to fit 12 MB; convolutions,
norms and biases stay float16. Needs mlx (for its quantizer), not torch. Weights come from a folder that train left
(the original names, float16, in one or more safetensors files), or from a shipped folder, whose 8-bit weights are
then written as the floats they stand for: that is how training can go on from what is in the repository.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx

from tools.demo_model.checkpoint_files import (
    BITS,
    GROUP_SIZE,
    SIZES_FILE,
    checkpoint_config,
    preprocessor_config,
    read_sizes,
)
from tools.demo_model.vocabulary import TOKENIZER_FILES

LARGEST_BYTES = 12_000_000
HEAD, EMBEDDING = "thinker.lm_head.weight", "thinker.model.embed_tokens.weight"


class ExportTooLarge(RuntimeError):
    """The written folder is larger than what may be shipped."""

    code = "export_too_large"


def read_master(folder: Path) -> dict[str, mx.array]:
    """All tensors of the safetensors files in `folder`, float32, original names; quantized ones dequantized."""
    tensors: dict[str, mx.array] = {}
    for path in sorted(folder.glob("*.safetensors")):
        loaded = mx.load(str(path))
        assert isinstance(loaded, dict)
        if any(name.endswith(".scales") for name in loaded):
            loaded = dequantized(loaded)
        tensors.update({name: tensor.astype(mx.float32) for name, tensor in loaded.items()})
    if not tensors:
        raise FileNotFoundError(f"no .safetensors file in {folder}")
    return tensors


def mlx_layout(
    tensors: Mapping[str, mx.array], quantize: bool, keep_head: bool = False
) -> dict[str, mx.array]:
    """Original names to MLX's: no `thinker.`, convolutions OHWI; Linears packed if `quantize`.

    keep_head: for an aligner; a recognizer's head is its embedding and is left out
    """
    out: dict[str, mx.array] = {}
    for full, tensor in tensors.items():
        name = full.removeprefix("thinker.")
        if name.startswith("lm_head") and not keep_head:
            continue
        if tensor.ndim == 4:
            out[name] = tensor.transpose(0, 2, 3, 1).astype(mx.float16)
        elif tensor.ndim == 2 and quantize:
            packed, scales, biases = mx.quantize(tensor, group_size=GROUP_SIZE, bits=BITS)
            base = name.removesuffix(".weight")
            out[name] = packed
            out[f"{base}.scales"], out[f"{base}.biases"] = (
                scales.astype(mx.float16),
                biases.astype(mx.float16),
            )
        else:
            out[name] = tensor.astype(mx.float16)
    return out


def dequantized(tensors: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """The float32 weights that a quantized MLX layout stands for, under the original names."""
    out: dict[str, mx.array] = {}
    for name, tensor in tensors.items():
        base = name.removesuffix(".weight")
        if name.endswith((".scales", ".biases")):
            continue
        if f"{base}.scales" in tensors:
            scales, biases = tensors[f"{base}.scales"], tensors[f"{base}.biases"]
            tensor = mx.dequantize(
                tensor, scales.astype(mx.float32), biases.astype(mx.float32), group_size=GROUP_SIZE, bits=BITS
            )
        elif tensor.ndim == 4:
            tensor = tensor.transpose(0, 3, 1, 2)
        out[f"thinker.{name}"] = tensor.astype(mx.float32)
    return out


def export(master: Path, out: Path, layout: str = "mlx", dtype: str = "float16") -> int:
    """Write a complete checkpoint folder; returns its size in bytes.

    master: folder with the float weights, the tokenizer's files and sizes.json
    layout: "mlx" (8-bit, what is shipped) or "thinker" (original names, `dtype` float32, float16 or bfloat16)
    A recognizer whose master has no head of its own, or an aligner, whose master has one.
    raises: ExportTooLarge when the shipped layout passes 12 MB
    """
    tensors = read_master(master)
    is_aligner = HEAD in tensors and tensors[HEAD].shape != tensors[EMBEDDING].shape
    class_count = int(tensors[HEAD].shape[0]) if is_aligner else None
    sizes = read_sizes(master)
    added = json.loads((master / "tokenizer_config.json").read_text(encoding="utf-8"))["added_tokens_decoder"]
    token_ids = {entry["content"]: int(number) for number, entry in added.items()}
    out.mkdir(parents=True, exist_ok=True)
    if layout == "mlx":
        written = mlx_layout(tensors, quantize=True, keep_head=is_aligner)
    else:
        kind: mx.Dtype = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}[dtype]
        written = {name: tensor.astype(kind) for name, tensor in tensors.items()}
    mx.save_safetensors(
        str(out / "model.safetensors"), written, metadata={"format": "mlx" if layout == "mlx" else "pt"}
    )
    files = {
        "config.json": checkpoint_config(sizes, token_ids, dtype, layout == "mlx", class_count),
        "preprocessor_config.json": preprocessor_config(),
        "generation_config.json": {
            "do_sample": False,
            "eos_token_id": [token_ids["<|endoftext|>"], token_ids["<|im_end|>"]],
            "pad_token_id": token_ids["<|endoftext|>"],
            "max_new_tokens": 512,
        },
    }
    for name, content in files.items():
        (out / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for name in TOKENIZER_FILES:
        shutil.copy(master / name, out / name)
    if layout == "thinker":
        # What --start-from wants beside the weights.
        (out / SIZES_FILE).write_text(json.dumps(sizes, indent=2) + "\n", encoding="utf-8")
    size_bytes = sum(path.stat().st_size for path in out.iterdir() if path.is_file())
    if layout == "mlx" and size_bytes > LARGEST_BYTES:
        raise ExportTooLarge(f"{size_bytes} bytes, more than {LARGEST_BYTES}")
    return size_bytes
