"""Names and shapes of every published layout, and how quantized tensors are recognized.

Canonical names are those of the mlx-community repositories: no `thinker.`, convolution kernels (out, mel,
time, in), projector maps inside the audio tower. Knows no files and reads no tensor, only names and shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scribewire.engine.model.config import ModelConfig

AFFINE = "affine"
QUANTIZED_BITS = (2, 3, 4, 5, 6, 8)
GROUP_SIZES = (32, 64, 128)
FLOATING_MODES = {"mxfp4": (4, 32), "mxfp8": (8, 32), "nvfp4": (4, 16)}
"""(bits, group size) of the modes whose codes are floating-point numbers: 8-bit scales and no biases.
Source: the table of quantization modes in MLX's documentation."""

_RENAMED_PREFIXES = (
    # Longest first: the first that fits is applied, once.
    ("thinker.", ""),
    ("model.audio_tower.", "audio_tower."),
    ("model.multi_modal_projector.linear_1.", "audio_tower.proj1."),
    ("model.multi_modal_projector.linear_2.", "audio_tower.proj2."),
    ("model.language_model.", "model."),
    ("score.", "lm_head."),
)


def canonical_name(name: str) -> str:
    """The name a tensor of any published layout has here."""
    for published, canonical in _RENAMED_PREFIXES:
        if name.startswith(published):
            return canonical + name[len(published) :]
    return name


def is_convolution_kernel(name: str) -> bool:
    """True when this canonical name is one of the three 3 x 3 kernels."""
    return name.startswith("audio_tower.conv2d") and name.endswith(".weight")


def kernel_needs_transposing(shape: tuple[int, ...]) -> bool:
    """True when a kernel is stored (out, in, 3, 3), as PyTorch does, rather than (out, 3, 3, in).

    A kernel with three channels would fit both, but none exists.
    """
    return len(shape) == 4 and shape[2:] == (3, 3) and shape[1:3] != (3, 3)


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Canonical name -> float shape of every tensor this model must have.

    The tied head (`lm_head.weight` of a recognizer with tied embeddings) is not listed; a stored copy is
    accepted.
    Source: the tensor tables of the published checkpoints.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    audio, text = config.audio, config.text
    tower = "audio_tower"
    for index, channels_in in enumerate((1, audio.stem_channels, audio.stem_channels), start=1):
        shapes[f"{tower}.conv2d{index}.weight"] = (audio.stem_channels, 3, 3, channels_in)
        shapes[f"{tower}.conv2d{index}.bias"] = (audio.stem_channels,)
    shapes[f"{tower}.conv_out.weight"] = (audio.d_model, audio.stem_features)
    for layer in range(audio.layer_count):
        prefix = f"{tower}.layers.{layer}"
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            _linear(shapes, f"{prefix}.self_attn.{projection}", audio.d_model, audio.d_model)
        _linear(shapes, f"{prefix}.fc1", audio.ffn_dim, audio.d_model)
        _linear(shapes, f"{prefix}.fc2", audio.d_model, audio.ffn_dim)
        for norm in ("self_attn_layer_norm", "final_layer_norm"):
            shapes[f"{prefix}.{norm}.weight"] = (audio.d_model,)
            shapes[f"{prefix}.{norm}.bias"] = (audio.d_model,)
    shapes[f"{tower}.ln_post.weight"] = (audio.d_model,)
    shapes[f"{tower}.ln_post.bias"] = (audio.d_model,)
    _linear(shapes, f"{tower}.proj1", audio.d_model, audio.d_model)
    _linear(shapes, f"{tower}.proj2", audio.output_dim, audio.d_model)

    shapes["model.embed_tokens.weight"] = (text.vocab_size, text.hidden_size)
    queries = text.head_count * text.head_dim
    keys = text.kv_head_count * text.head_dim
    for layer in range(text.layer_count):
        prefix = f"model.layers.{layer}"
        shapes[f"{prefix}.self_attn.q_proj.weight"] = (queries, text.hidden_size)
        shapes[f"{prefix}.self_attn.k_proj.weight"] = (keys, text.hidden_size)
        shapes[f"{prefix}.self_attn.v_proj.weight"] = (keys, text.hidden_size)
        shapes[f"{prefix}.self_attn.o_proj.weight"] = (text.hidden_size, queries)
        shapes[f"{prefix}.self_attn.q_norm.weight"] = (text.head_dim,)
        shapes[f"{prefix}.self_attn.k_norm.weight"] = (text.head_dim,)
        shapes[f"{prefix}.mlp.gate_proj.weight"] = (text.intermediate_size, text.hidden_size)
        shapes[f"{prefix}.mlp.up_proj.weight"] = (text.intermediate_size, text.hidden_size)
        shapes[f"{prefix}.mlp.down_proj.weight"] = (text.hidden_size, text.intermediate_size)
        shapes[f"{prefix}.input_layernorm.weight"] = (text.hidden_size,)
        shapes[f"{prefix}.post_attention_layernorm.weight"] = (text.hidden_size,)
    shapes["model.norm.weight"] = (text.hidden_size,)
    if config.class_count is not None:
        shapes["lm_head.weight"] = (config.class_count, text.hidden_size)
    elif not text.ties_embeddings:
        shapes["lm_head.weight"] = (text.vocab_size, text.hidden_size)
    return shapes


def _linear(shapes: dict[str, tuple[int, ...]], name: str, out_size: int, in_size: int) -> None:
    shapes[f"{name}.weight"] = (out_size, in_size)
    shapes[f"{name}.bias"] = (out_size,)


def nested_config(raw: Mapping[str, Any], config: ModelConfig) -> dict[str, Any]:
    """config.json in the form of the mlx-community repositories, sizes under `thinker_config`, from either form.

    What the flat form does not say is left out: its rotary sections are the same as none, for audio and text count
    their positions alike.
    """
    if "thinker_config" in raw:
        return dict(raw)
    audio = raw["audio_config"] | {
        "model_type": "qwen3_asr_audio_encoder",
        "d_model": config.audio.d_model,
        "encoder_layers": config.audio.layer_count,
        "encoder_attention_heads": config.audio.head_count,
        "encoder_ffn_dim": config.audio.ffn_dim,
        "output_dim": config.audio.output_dim,
    }
    text = raw["text_config"] | {
        "rope_theta": config.text.rope_theta,
        "tie_word_embeddings": config.text.ties_embeddings,
    }
    is_aligner = config.class_count is not None
    thinker = {
        **{name: value for name, value in raw.items() if name.endswith("_token_id")},
        "model_type": "qwen3_forced_aligner" if is_aligner else "qwen3_asr",
        "audio_config": audio,
        "text_config": text,
        **({"classify_num": config.class_count} if is_aligner else {}),
    }
    kept = {name: raw[name] for name in ("support_languages", "timestamp_token_id") if name in raw}
    return {
        "architectures": ["Qwen3ASRForConditionalGeneration"],
        "model_type": "qwen3_asr",
        "thinker_config": thinker,
        **kept,
        **({"timestamp_segment_time": config.milliseconds_per_class} if is_aligner else {}),
    }


@dataclass(frozen=True, slots=True)
class DeclaredQuantization:
    """config.json's declaration for one module; None where it has none."""

    bits: int | None = None
    mode: str = AFFINE


def declared_quantization(config: Mapping[str, Any], module: str) -> DeclaredQuantization:
    """config.json's declaration for a module: its own entry before the general one.

    `quantization` and its mirror `quantization_config` are read; module names are canonical.
    raises: ValueError for a mode that is not known
    """
    section = config.get("quantization") or config.get("quantization_config") or {}
    if not isinstance(section, Mapping):
        return DeclaredQuantization()
    own = next(
        (
            value
            for key, value in section.items()
            if isinstance(value, Mapping) and canonical_name(key) == module
        ),
        {},
    )
    bits, mode = own.get("bits", section.get("bits")), own.get("mode", section.get("mode")) or AFFINE
    if mode != AFFINE and mode not in FLOATING_MODES:
        known = ", ".join((AFFINE, *FLOATING_MODES))
        raise ValueError(f"config.json declares quantization mode {mode!r}; known are {known}")
    return DeclaredQuantization(bits=bits if isinstance(bits, int) else None, mode=mode)


def infer_quantization(
    packed_shape: tuple[int, ...],
    scales_shape: tuple[int, ...],
    in_features: int,
    declared: DeclaredQuantization | None = None,
) -> tuple[int, int]:
    """(bits, group_size) of a quantized matrix, from its shapes.

    packed_shape: (out, in * bits / 32). scales_shape: (out, in / group_size).
    A declaration that contradicts the shapes is overruled by them: published files have been wrong.
    raises: ValueError saying what does not fit.
    """
    if len(packed_shape) != 2 or len(scales_shape) != 2 or packed_shape[0] != scales_shape[0]:
        raise ValueError(f"packed {packed_shape} and scales {scales_shape} are not one quantized matrix")
    bits, rest = divmod(packed_shape[1] * 32, in_features)
    group_size, left = divmod(in_features, scales_shape[1]) if scales_shape[1] else (0, 1)
    if rest or bits not in QUANTIZED_BITS:
        raise ValueError(f"{packed_shape[1]} packed words for {in_features} inputs is no supported width")
    if left or group_size not in (*GROUP_SIZES, 16):
        raise ValueError(f"{scales_shape[1]} scales for {in_features} inputs is no supported group size")
    if declared is not None and declared.mode != AFFINE and declared.bits not in (None, bits):
        raise ValueError(f"mode {declared.mode} declares {declared.bits} bits, the shapes say {bits}")
    return bits, group_size


def quantization_mode(
    declared: DeclaredQuantization, bits: int, group_size: int, *, has_biases: bool, has_byte_scales: bool
) -> str:
    """The mode of a quantized matrix: the declared one, or a floating-point one known by its 8-bit scales.

    raises: ValueError saying what contradicts the mode.
    """
    floating = {shape: mode for mode, shape in FLOATING_MODES.items()}
    mode = declared.mode
    if has_byte_scales and not has_biases and mode == AFFINE:
        mode = floating.get((bits, group_size), AFFINE)
    if mode == AFFINE and (has_byte_scales or not has_biases or group_size not in GROUP_SIZES):
        raise ValueError("affine matrices have float scales and biases, and groups of 32, 64 or 128")
    if mode != AFFINE and (has_biases or not has_byte_scales or FLOATING_MODES[mode] != (bits, group_size)):
        wanted_bits, wanted_group = FLOATING_MODES[mode]
        raise ValueError(
            f"mode {mode} has {wanted_bits} bits in groups of {wanted_group}, 8-bit scales and no biases, "
            f"but this has {bits} bits in groups of {group_size}"
        )
    return mode
