"""Small models with random weights, written as checkpoint folders in each published layout.

The numbers depend on a name alone (`clips.uniform`), so neither weights nor a random generator's version are stored.
Norm weights and every bias are random too: a model whose norms are one and biases zero hides half of all porting
mistakes. Shapes follow the published tensor tables; sizes are as small as the structure allows. Writes safetensors
with code of its own, so that nothing under test reads back what it wrote. Needs numpy only.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tests.fakes.clips import uniform

Layout = Literal["thinker", "hf", "mlx"]
StoredType = Literal["F32", "F16", "BF16"]
LAYOUTS: tuple[Layout, ...] = ("thinker", "hf", "mlx")

MEL_BINS = 128
_INTEGERS = {np.dtype(np.uint32): "U32", np.dtype(np.uint8): "U8"}


@dataclass(frozen=True)
class Sizes:
    """Sizes of one random model. Fields are named as in config.json."""

    name: str
    d_model: int = 128
    encoder_layers: int = 2
    encoder_attention_heads: int = 2
    encoder_ffn_dim: int = 160
    downsample_hidden_size: int = 8
    n_window_infer: int = 800
    hidden_size: int = 64
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 128
    intermediate_size: int = 96
    vocab_size: int = 640
    rope_theta: float = 1000000.0
    mrope_section: tuple[int, int, int] = (24, 20, 20)
    tied: bool = True
    classify_num: int | None = None  # of a forced aligner's head; None is a recognizer


# The true windows, head widths and rope; and one whose every free choice differs, so that nothing can be hard-coded.
TRUE_WINDOWS = Sizes("true-windows")
OTHER_CHOICES = Sizes(
    "other-choices",
    d_model=96,
    encoder_attention_heads=3,
    encoder_ffn_dim=112,
    downsample_hidden_size=6,
    n_window_infer=400,
    hidden_size=48,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=64,
    intermediate_size=80,
    vocab_size=320,
    rope_theta=10000.0,
    mrope_section=(12, 10, 10),
    tied=False,
)
ALL_SIZES = {sizes.name: sizes for sizes in (TRUE_WINDOWS, OTHER_CHOICES)}
# The same two as forced aligners.
ALIGNER = replace(TRUE_WINDOWS, name="aligner", tied=False, classify_num=375)
OTHER_ALIGNER = replace(OTHER_CHOICES, name="other-aligner", tied=False, classify_num=125)
ALL_ALIGNERS = {sizes.name: sizes for sizes in (ALIGNER, OTHER_ALIGNER)}

# The roles of the special tokens, at ids of our own below every vocabulary size.
TOKEN_IDS = {
    "<|endoftext|>": 290,
    "<|im_start|>": 291,
    "<|im_end|>": 292,
    "<|audio_start|>": 293,
    "<|audio_end|>": 294,
    "<|audio_pad|>": 295,
    "<timestamp>": 297,
}
_SYSTEM, _NEWLINE, _USER, _ASSISTANT = 17, 5, 23, 31


def prompt_ids(audio_tokens: int) -> list[int]:
    """The prompt without context: 9 ids, one audio pad for each audio token, 6 ids."""
    start, end = TOKEN_IDS["<|im_start|>"], TOKEN_IDS["<|im_end|>"]
    before = [start, _SYSTEM, _NEWLINE, end, _NEWLINE, start, _USER, _NEWLINE, TOKEN_IDS["<|audio_start|>"]]
    after = [TOKEN_IDS["<|audio_end|>"], end, _NEWLINE, start, _ASSISTANT, _NEWLINE]
    return [*before, *[TOKEN_IDS["<|audio_pad|>"]] * audio_tokens, *after]


def target_ids(sizes: Sizes, clip_name: str, count: int = 64) -> list[int]:
    """Random ids to be scored after the prompt; none of them is the audio pad."""
    draws = (uniform(f"targets/{sizes.name}/{clip_name}", count) + 1.0) / 2.0 * TOKEN_IDS["<|endoftext|>"]
    return [int(draw) for draw in draws]


def aligner_ids(sizes: Sizes, clip_name: str, audio_tokens: int) -> list[int]:
    """An aligner's prompt: the audio, then words of one to three random ids, each followed by two timestamp tokens.

    About three words a second of audio, and at least two.
    """
    timestamp = TOKEN_IDS["<timestamp>"]
    count = max(2, 3 * audio_tokens // 13)
    draws = (uniform(f"words/{sizes.name}/{clip_name}", 4 * count) + 1.0) / 2.0
    ids = [
        TOKEN_IDS["<|audio_start|>"],
        *[TOKEN_IDS["<|audio_pad|>"]] * audio_tokens,
        TOKEN_IDS["<|audio_end|>"],
    ]
    for word in draws.reshape(count, 4):
        length = 1 + int(3 * word[0])
        ids += [int(draw * TOKEN_IDS["<|endoftext|>"]) for draw in word[1 : 1 + length]] + [
            timestamp,
            timestamp,
        ]
    return ids


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor's MLX name, its shape, and the spread of its random values."""

    name: str
    shape: tuple[int, ...]
    mean: float
    deviation: float


def _linear(
    name: str, rows: int, columns: int, *, gain: float = 1.0, bias: float | None = 0.2
) -> list[PlannedTensor]:
    made = [PlannedTensor(f"{name}.weight", (rows, columns), 0.0, gain / math.sqrt(columns))]
    if bias is not None:
        made.append(PlannedTensor(f"{name}.bias", (rows,), 0.0, bias))
    return made


def _layer_norm(name: str, width: int) -> list[PlannedTensor]:
    return [
        PlannedTensor(f"{name}.weight", (width,), 1.0, 0.3),
        PlannedTensor(f"{name}.bias", (width,), 0.0, 0.2),
    ]


def plan_tensors(sizes: Sizes) -> list[PlannedTensor]:
    """Every tensor in the order of the published tables, under the MLX names, convolutions as [out, in, 3, 3].

    Spreads are chosen so that mistakes show: query and key projections are small, so that the epsilon of their norms
    matters; their norms are wide, so that attention is selective; the residual stream of the decoder is small, so that
    its layers, not the last token's own embedding, decide what comes next.
    """
    width, channels, hidden = sizes.d_model, sizes.downsample_hidden_size, sizes.hidden_size
    plan: list[PlannedTensor] = []
    for index, inputs in ((1, 1), (2, channels), (3, channels)):
        name = f"audio_tower.conv2d{index}"
        plan.append(
            PlannedTensor(f"{name}.weight", (channels, inputs, 3, 3), 0.0, 1.5 / math.sqrt(9 * inputs))
        )
        plan.append(PlannedTensor(f"{name}.bias", (channels,), 0.1, 0.4))
    plan += _linear("audio_tower.conv_out", width, 16 * channels, bias=None)
    for index in range(sizes.encoder_layers):
        layer = f"audio_tower.layers.{index}"
        for part, gain in (("q", 2.0), ("k", 2.0), ("v", 1.0), ("out", 1.0)):
            plan += _linear(f"{layer}.self_attn.{part}_proj", width, width, gain=gain)
        plan += _layer_norm(f"{layer}.self_attn_layer_norm", width)
        plan += _layer_norm(f"{layer}.final_layer_norm", width)
        plan += _linear(f"{layer}.fc1", sizes.encoder_ffn_dim, width)
        plan += _linear(f"{layer}.fc2", width, sizes.encoder_ffn_dim)
    plan += _layer_norm("audio_tower.ln_post", width)
    plan += _linear("audio_tower.proj1", width, width)
    plan += _linear("audio_tower.proj2", hidden, width, gain=0.05, bias=0.01)

    plan.append(PlannedTensor("model.embed_tokens.weight", (sizes.vocab_size, hidden), 0.0, 0.03))
    query, key = sizes.num_attention_heads * sizes.head_dim, sizes.num_key_value_heads * sizes.head_dim
    for index in range(sizes.num_hidden_layers):
        layer = f"model.layers.{index}"
        plan += _linear(f"{layer}.self_attn.q_proj", query, hidden, gain=0.004, bias=None)
        plan += _linear(f"{layer}.self_attn.k_proj", key, hidden, gain=0.004, bias=None)
        plan += _linear(f"{layer}.self_attn.v_proj", key, hidden, bias=None)
        plan += _linear(f"{layer}.self_attn.o_proj", hidden, query, gain=0.3, bias=None)
        for part in ("q_norm", "k_norm"):
            plan.append(PlannedTensor(f"{layer}.self_attn.{part}.weight", (sizes.head_dim,), 3.0, 0.8))
        plan += _linear(f"{layer}.mlp.gate_proj", sizes.intermediate_size, hidden, gain=1.5, bias=None)
        plan += _linear(f"{layer}.mlp.up_proj", sizes.intermediate_size, hidden, gain=1.5, bias=None)
        plan += _linear(f"{layer}.mlp.down_proj", hidden, sizes.intermediate_size, gain=0.15, bias=None)
        for part in ("input_layernorm", "post_attention_layernorm"):
            plan.append(PlannedTensor(f"{layer}.{part}.weight", (hidden,), 1.0, 0.3))
    plan.append(PlannedTensor("model.norm.weight", (hidden,), 1.0, 0.3))
    if sizes.classify_num is not None or not sizes.tied:
        rows = sizes.classify_num or sizes.vocab_size
        plan.append(PlannedTensor("lm_head.weight", (rows, hidden), 0.0, 0.05))
    return plan


def make_weights(sizes: Sizes) -> dict[str, NDArray[np.float32]]:
    """Every tensor under the MLX names, float32; convolutions still as [out, in, 3, 3]."""
    weights = {}
    for tensor in plan_tensors(sizes):
        draws = uniform(f"{sizes.name}/{tensor.name}", math.prod(tensor.shape))
        values = tensor.mean + math.sqrt(3.0) * tensor.deviation * draws
        weights[tensor.name] = values.reshape(tensor.shape).astype(np.float32)
    return weights


def checksum(weights: dict[str, NDArray[np.float32]]) -> int:
    """CRC-32 over names and values, in order."""
    total = 0
    for name, values in weights.items():
        total = zlib.crc32(values.astype("<f4").tobytes(), zlib.crc32(name.encode(), total))
    return total


def published_name(name: str, layout: Layout, *, is_aligner: bool = False) -> str:
    """A tensor's name in one published layout, from its MLX name."""
    if layout == "mlx":
        return name
    if layout == "thinker":
        return f"thinker.{name}"
    if is_aligner and name == "lm_head.weight":
        return "score.weight"
    if name.startswith("audio_tower.proj"):
        index = name[len("audio_tower.proj")]
        return f"model.multi_modal_projector.linear_{index}.{name.rpartition('.')[2]}"
    if name.startswith("audio_tower."):
        return f"model.{name}"
    return name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else name


def in_layout(
    weights: Mapping[str, NDArray[Any]], layout: Layout, *, is_aligner: bool = False
) -> dict[str, NDArray[Any]]:
    """The same numbers under the names (and convolution axes) of one published layout.

    The original and the native layout store a tied head once more, as the published files do; the MLX one drops it.
    """
    stored = dict(weights)
    if layout == "mlx":
        stored = {name: v.transpose(0, 2, 3, 1) if v.ndim == 4 else v for name, v in stored.items()}
    else:
        stored.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])
    return {published_name(name, layout, is_aligner=is_aligner): values for name, values in stored.items()}


def make_config(sizes: Sizes, layout: Layout) -> dict[str, Any]:
    """config.json in one layout. The original nests everything under thinker_config, as does the MLX one."""
    audio: dict[str, Any] = {
        "activation_function": "gelu",
        "d_model": sizes.d_model,
        "downsample_hidden_size": sizes.downsample_hidden_size,
        "encoder_attention_heads": sizes.encoder_attention_heads,
        "encoder_ffn_dim": sizes.encoder_ffn_dim,
        "encoder_layers": sizes.encoder_layers,
        "n_window": 50,
        "n_window_infer": sizes.n_window_infer,
        "num_mel_bins": MEL_BINS,
        "output_dim": sizes.hidden_size,
        "scale_embedding": False,
    }
    text: dict[str, Any] = {
        "attention_bias": False,
        "head_dim": sizes.head_dim,
        "hidden_act": "silu",
        "hidden_size": sizes.hidden_size,
        "intermediate_size": sizes.intermediate_size,
        "max_position_embeddings": 65536,
        "num_attention_heads": sizes.num_attention_heads,
        "num_hidden_layers": sizes.num_hidden_layers,
        "num_key_value_heads": sizes.num_key_value_heads,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": sizes.tied,
        "vocab_size": sizes.vocab_size,
    }
    is_aligner = sizes.classify_num is not None
    if layout == "hf":
        labels = {} if not is_aligner else {"num_labels": sizes.classify_num}
        kind = "TokenClassification" if is_aligner else "ConditionalGeneration"
        return {
            "architectures": [f"Qwen3ASRFor{kind}"],
            "model_type": "qwen3_asr",
            "audio_config": audio | {"model_type": "qwen3_asr_encoder", "max_position_embeddings": 13},
            "text_config": text
            | {
                "model_type": "qwen3",
                "rope_parameters": {"rope_theta": sizes.rope_theta, "rope_type": "default"},
            },
            "audio_token_id": TOKEN_IDS["<|audio_pad|>"],
            "pad_token_id": TOKEN_IDS["<|im_end|>"],
            "eos_token_id": [TOKEN_IDS["<|endoftext|>"], TOKEN_IDS["<|im_end|>"]],
            "tie_word_embeddings": sizes.tied,
            "timestamp_token_id": TOKEN_IDS["<timestamp>"],
            **labels,
        }
    rope = {
        "rope_type": "default",
        "type": "default",
        "interleaved": True,
        "mrope_interleaved": True,
        "mrope_section": list(sizes.mrope_section),
    }
    thinker = {
        "model_type": "qwen3_forced_aligner" if is_aligner else "qwen3_asr",
        "audio_config": audio
        | {"model_type": "qwen3_asr_audio_encoder", "conv_chunksize": 500, "max_source_positions": 1500},
        "text_config": text | {"rope_theta": sizes.rope_theta, "rope_scaling": rope},
        "audio_start_token_id": TOKEN_IDS["<|audio_start|>"],
        "audio_end_token_id": TOKEN_IDS["<|audio_end|>"],
        "audio_token_id": TOKEN_IDS["<|audio_pad|>"],
        "tie_word_embeddings": sizes.tied,
    }
    timestamps = {"timestamp_token_id": TOKEN_IDS["<timestamp>"], "timestamp_segment_time": 80}
    return {
        "architectures": ["Qwen3ASRForConditionalGeneration"],
        "model_type": "qwen3_asr",
        "support_languages": ["English", "Spanish"],
        "thinker_config": thinker | ({"classify_num": sizes.classify_num} if is_aligner else {}),
        **(timestamps if is_aligner else {}),
    }


def _stored_bytes(values: NDArray[np.float32], stored: StoredType) -> bytes:
    if stored == "F32":
        return values.astype("<f4").tobytes()
    if stored == "F16":
        return values.astype("<f2").tobytes()
    bits = values.astype("<f4").view("<u4")
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return rounded.astype("<u2").tobytes()


def rounded(values: NDArray[np.float32], stored: StoredType) -> NDArray[np.float32]:
    """The float32 numbers that are left of `values` after storing them in that type."""
    raw = _stored_bytes(values, stored)
    if stored == "BF16":
        return (np.frombuffer(raw, "<u2").astype("<u4") << np.uint32(16)).view("<f4").reshape(values.shape)
    return np.frombuffer(raw, "<f4" if stored == "F32" else "<f2").astype("<f4").reshape(values.shape)


def write_safetensors(path: Path, tensors: Mapping[str, NDArray[Any]], stored: StoredType = "F32") -> None:
    """A safetensors file: length of the header (u64), JSON header, values. Unsigned integers are stored as they are."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    blocks: list[bytes] = []
    offset = 0
    for name, values in tensors.items():
        integers = _INTEGERS.get(values.dtype)
        block = values.tobytes() if integers else _stored_bytes(np.ascontiguousarray(values), stored)
        header[name] = {
            "dtype": integers or stored,
            "shape": list(values.shape),
            "data_offsets": [offset, offset + len(block)],
        }
        blocks.append(block)
        offset += len(block)
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        file.writelines(blocks)


def write_checkpoint(
    folder: Path,
    sizes: Sizes,
    layout: Layout,
    *,
    stored: StoredType = "F32",
    shard_count: int = 1,
    first_rounded_to: StoredType = "F32",
) -> Path:
    """A checkpoint folder as published: config.json, generation_config.json and one or more safetensors files."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: rounded(values, first_rounded_to) for name, values in make_weights(sizes).items()}
    tensors = in_layout(weights, layout, is_aligner=sizes.classify_num is not None)
    (folder / "config.json").write_text(json.dumps(make_config(sizes, layout), indent=2))
    stop = [TOKEN_IDS["<|endoftext|>"], TOKEN_IDS["<|im_end|>"]]
    generation = {"do_sample": False, "eos_token_id": stop, "pad_token_id": stop[0]}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    if shard_count == 1:
        write_safetensors(folder / "model.safetensors", tensors, stored)
        return folder
    names = list(tensors)
    weight_map: dict[str, str] = {}
    for index in range(shard_count):
        file_name = f"model-{index + 1:05d}-of-{shard_count:05d}.safetensors"
        # Dealt round robin: layers are torn apart, and the shards' order is not the tensors' order.
        shard = {name: tensors[name] for name in names[index::shard_count]}
        write_safetensors(folder / file_name, shard, stored)
        weight_map |= dict.fromkeys(shard, file_name)
    total = sum(4 * values.size for values in tensors.values())
    index_json = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index_json, indent=2))
    return folder
