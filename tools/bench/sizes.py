"""The published models' sizes and the recipes they are published in, for models with random weights.

Sizes follow the published config.json files. `tiny` has their structure and vocabulary, but is small enough for any
machine: it is for trying the benchmark itself, and no figure of it means anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

VOCABULARY_SIZE = 151_936
ALIGNER_VOCABULARY_SIZE = 152_064
AUDIO_START_ID, AUDIO_END_ID, AUDIO_PAD_ID = 151_669, 151_670, 151_676
TIMESTAMP_ID = 151_705
END_IDS = (151_643, 151_645)
RANDOM_MARK = "scribewire_random"
"""Key in config.json of a folder that was made here: its sizes and recipe. No published folder has it."""


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """Differences between the published sizes; all else is the same in every one."""

    name: str
    d_model: int
    encoder_layers: int
    encoder_heads: int
    encoder_ffn: int
    stem_channels: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    classes: int | None = None  # of a forced aligner's head; None is a recognizer


SIZES = {
    one.name: one
    for one in (
        ModelSizes("0.6b", 896, 18, 14, 3584, 480, 1024, 28, 16, 8, 3072),
        ModelSizes("1.7b", 1024, 24, 16, 4096, 480, 2048, 28, 16, 8, 6144),
        ModelSizes("tiny", 128, 2, 2, 256, 16, 128, 2, 2, 1, 192),
    )
}


ALIGNER_SIZES = {
    one.name: one
    for one in (
        ModelSizes("aligner-0.6b", 1024, 24, 16, 4096, 480, 1024, 28, 16, 8, 3072, classes=5000),
        ModelSizes("aligner-tiny", 128, 2, 2, 256, 16, 128, 2, 2, 1, 192, classes=5000),
    )
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """Storage of weights. text_bits, audio_bits: None keeps 16 or 32 bits; quantized ones are affine."""

    name: str
    dtype: str = "bfloat16"
    text_bits: int | None = None
    audio_bits: int | None = None
    group_size: int = 64

    def bits_of(self, module: str) -> int | None:
        """Bits of a Linear's or an embedding's matrix, by the module's canonical name."""
        return self.audio_bits if module.startswith("audio_tower.") else self.text_bits


RECIPES = {
    one.name: one
    for one in (
        Recipe("bf16"),
        Recipe("fp16", "float16"),
        Recipe("fp32", "float32"),
        *(Recipe(f"{bits}bit", text_bits=bits) for bits in (8, 6, 5, 4)),
        Recipe("audio8-text4", text_bits=4, audio_bits=8),
    )
}


def published_config(sizes: ModelSizes, recipe: Recipe, quantized_audio: list[str]) -> dict[str, Any]:
    """config.json as the mlx-community repositories publish it.

    quantized_audio: canonical names of the audio tower's quantized modules, which get entries of their own.
    """
    config: dict[str, Any] = {
        "architectures": ["Qwen3ASRForConditionalGeneration"],
        "model_type": "qwen3_asr",
        "support_languages": ["Chinese", "English", "Spanish", "German", "French"],
        "thinker_config": {
            "model_type": "qwen3_asr" if sizes.classes is None else "qwen3_forced_aligner",
            "architectures": ["Qwen3ASRForConditionalGeneration"],
            "audio_config": _audio_config(sizes),
            "text_config": _text_config(sizes),
            "audio_start_token_id": AUDIO_START_ID,
            "audio_end_token_id": AUDIO_END_ID,
            "audio_token_id": AUDIO_PAD_ID,
            "dtype": "bfloat16",
        },
        RANDOM_MARK: {"sizes": sizes.name, "recipe": recipe.name},
    }
    if sizes.classes is not None:
        config["thinker_config"]["classify_num"] = sizes.classes
        config |= {"timestamp_token_id": TIMESTAMP_ID, "timestamp_segment_time": 80}
    if recipe.text_bits is not None:
        general: dict[str, Any] = {
            "group_size": recipe.group_size,
            "bits": recipe.text_bits,
            "mode": "affine",
        }
        own = {"group_size": recipe.group_size, "bits": recipe.audio_bits}
        config["quantization"] = general | dict.fromkeys(quantized_audio, own)
        config["quantization_config"] = config["quantization"]
    return config


def _audio_config(sizes: ModelSizes) -> dict[str, Any]:
    return {
        "model_type": "qwen3_asr_audio_encoder",
        "num_mel_bins": 128,
        "d_model": sizes.d_model,
        "encoder_layers": sizes.encoder_layers,
        "encoder_attention_heads": sizes.encoder_heads,
        "encoder_ffn_dim": sizes.encoder_ffn,
        "downsample_hidden_size": sizes.stem_channels,
        "output_dim": sizes.hidden,
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


def _text_config(sizes: ModelSizes) -> dict[str, Any]:
    return {
        "model_type": "qwen3",
        "vocab_size": VOCABULARY_SIZE if sizes.classes is None else ALIGNER_VOCABULARY_SIZE,
        "hidden_size": sizes.hidden,
        "num_hidden_layers": sizes.layers,
        "intermediate_size": sizes.intermediate,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "head_dim": 128,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000,
        "rope_scaling": {
            "rope_type": "default",
            "type": "default",
            "mrope_section": [24, 20, 20],
            "interleaved": True,
            "mrope_interleaved": True,
        },
        "max_position_embeddings": 65_536 if sizes.classes is None else 8192,
        "tie_word_embeddings": sizes.classes is None,
    }


PREPROCESSOR = {
    "feature_extractor_type": "WhisperFeatureExtractor",
    "feature_size": 128,
    "sampling_rate": 16_000,
    "n_fft": 400,
    "hop_length": 160,
    "chunk_length": 30,
    "n_samples": 480_000,
    "nb_max_frames": 3000,
    "padding_side": "right",
    "padding_value": 0.0,
    "dither": 0.0,
    "return_attention_mask": True,
}

GENERATION = {"do_sample": False, "eos_token_id": list(END_IDS), "pad_token_id": END_IDS[0]}
