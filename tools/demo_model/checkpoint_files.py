"""The JSON files of a checkpoint folder: sizes in, config out. Needs neither mlx nor torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

GROUP_SIZE = 64
BITS = 8
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
SEGMENT_MILLISECONDS = 80


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
    sizes: Mapping[str, float],
    token_ids: Mapping[str, int],
    dtype: str,
    quantized: bool,
    class_count: int | None = None,
) -> dict[str, Any]:
    """config.json in the official shape. `sizes` are network.Size's fields; `token_ids` map added tokens to ids.

    class_count: time classes of an aligner's head; None for a recognizer, whose head is its embedding
    """
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
        "tie_word_embeddings": class_count is None,
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
    if class_count is not None:
        thinker = config["thinker_config"]
        thinker |= {"model_type": "qwen3_forced_aligner", "classify_num": class_count}
        config |= {
            "timestamp_token_id": token_ids["<timestamp>"],
            "timestamp_segment_time": SEGMENT_MILLISECONDS,
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
