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
from typing import Any

import mlx.core as mx

GROUP_SIZE = 64
BITS = 8
LARGEST_BYTES = 12_000_000
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "tokenizer.json")
SIZES_FILE = "sizes.json"
_AUDIO_FIELDS = {
    "audio_width": "d_model",
    "audio_layers": "encoder_layers",
    "audio_heads": "encoder_attention_heads",
    "audio_ffn": "encoder_ffn_dim",
    "stem_channels": "downsample_hidden_size",
    "width": "output_dim",
}
_TEXT_FIELDS = {
    "vocabulary": "vocab_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "ffn": "intermediate_size",
    "rope_theta": "rope_theta",
}
SUPPORTED_LANGUAGES = ("English", "Spanish")


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


def read_sizes(folder: Path) -> dict[str, Any]:
    """network.Size's fields, from sizes.json or from a checkpoint's config.json."""
    if (folder / SIZES_FILE).exists():
        sizes: dict[str, Any] = json.loads((folder / SIZES_FILE).read_text(encoding="utf-8"))
        return sizes
    thinker = json.loads((folder / "config.json").read_text(encoding="utf-8"))["thinker_config"]
    return {
        name: thinker[part][field]
        for part, fields in (("audio_config", _AUDIO_FIELDS), ("text_config", _TEXT_FIELDS))
        for name, field in fields.items()
    }


def checkpoint_config(
    sizes: Mapping[str, float], token_ids: Mapping[str, int], dtype: str, quantized: bool
) -> dict[str, Any]:
    """config.json in the official shape. `sizes` are network.Size's fields; `token_ids` map added tokens to ids."""
    audio = {
        "model_type": "qwen3_asr_audio_encoder",
        "num_mel_bins": 128,
        **{field: sizes[name] for name, field in _AUDIO_FIELDS.items()},
        "n_window": 50,
        "n_window_infer": 800,
        "conv_chunksize": 500,
        "max_source_positions": 1500,
        "activation_function": "gelu",
        "scale_embedding": False,
        "dropout": 0,
        "attention_dropout": 0,
        "activation_dropout": 0,
    }
    text = {
        "model_type": "qwen3",
        **{field: sizes[name] for name, field in _TEXT_FIELDS.items() if name != "rope_theta"},
        "hidden_size": sizes["width"],
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "rms_norm_eps": 1e-06,
        "rope_theta": int(sizes["rope_theta"]),
        "rope_scaling": {
            "rope_type": "default",
            "type": "default",
            "mrope_section": [24, 20, 20],
            "interleaved": True,
            "mrope_interleaved": True,
        },
        "max_position_embeddings": 65536,
        "tie_word_embeddings": True,
        "use_cache": True,
    }
    config: dict[str, Any] = {
        "architectures": ["Qwen3ASRForConditionalGeneration"],
        "model_type": "qwen3_asr",
        "support_languages": list(SUPPORTED_LANGUAGES),
        "thinker_config": {
            "model_type": "qwen3_asr",
            "architectures": ["Qwen3ASRForConditionalGeneration"],
            "audio_config": audio,
            "text_config": text,
            "audio_token_id": token_ids["<|audio_pad|>"],
            "audio_start_token_id": token_ids["<|audio_start|>"],
            "audio_end_token_id": token_ids["<|audio_end|>"],
            "dtype": dtype,
        },
    }
    if quantized:
        scheme = {"group_size": GROUP_SIZE, "bits": BITS, "mode": "affine"}
        config["quantization"] = scheme
        config["quantization_config"] = dict(scheme)
    return config


def preprocessor_config() -> dict[str, Any]:
    """preprocessor_config.json of the official repositories."""
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "processor_class": "Qwen3ASRProcessor",
        "feature_size": 128,
        "sampling_rate": 16000,
        "n_fft": 400,
        "hop_length": 160,
        "chunk_length": 30,
        "n_samples": 480000,
        "nb_max_frames": 3000,
        "padding_side": "right",
        "padding_value": 0.0,
        "dither": 0.0,
        "return_attention_mask": True,
    }


def mlx_layout(tensors: Mapping[str, mx.array], quantize: bool) -> dict[str, mx.array]:
    """Original names to MLX's: no `thinker.`, convolutions OHWI, no head; Linears packed if `quantize`."""
    out: dict[str, mx.array] = {}
    for full, tensor in tensors.items():
        name = full.removeprefix("thinker.")
        if name.startswith("lm_head"):
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
    raises: ExportTooLarge when the shipped layout passes 12 MB
    """
    tensors = read_master(master)
    sizes = read_sizes(master)
    added = json.loads((master / "tokenizer_config.json").read_text(encoding="utf-8"))["added_tokens_decoder"]
    token_ids = {entry["content"]: int(number) for number, entry in added.items()}
    out.mkdir(parents=True, exist_ok=True)
    if layout == "mlx":
        written = mlx_layout(tensors, quantize=True)
    else:
        kind: mx.Dtype = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}[dtype]
        written = {name: tensor.astype(kind) for name, tensor in tensors.items()}
    mx.save_safetensors(
        str(out / "model.safetensors"), written, metadata={"format": "mlx" if layout == "mlx" else "pt"}
    )
    files = {
        "config.json": checkpoint_config(sizes, token_ids, dtype, quantized=layout == "mlx"),
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
