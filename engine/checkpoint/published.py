"""The published Qwen3-ASR and Qwen3-ForcedAligner checkpoints that this loader takes, with approximate sizes.

A list to choose from, not a gate: any other repository or folder of a published layout loads as well.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

# Weights of the encoder (kept in 16 bits) and of the text model, which alone is quantized.
# Source: counted over the tensor tables of the published checkpoints.
_ENCODER_PARAMETERS = {"0.6B": 186_376_192, "1.7B": 317_477_504}
_TEXT_PARAMETERS = {"0.6B": 596_049_920, "1.7B": 1_720_574_976}
_HEAD_PARAMETERS = {"0.6B": 151_936 * 1024, "1.7B": 151_936 * 2048}
_ALIGNER_ENCODER_PARAMETERS = 316_427_904
_ALIGNER_TEXT_PARAMETERS = 601_300_992  # its head of 5,000 classes with it

_SCALE_AND_BIAS_BITS = 0.5  # two 16-bit numbers for each group of 64 weights


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """One repository of the hub.

    size_bytes: computed from the parameter count, within a few percent of what a download takes.
    """

    model_id: str
    size_bytes: int
    remark: str


def _mlx(size: str, bits: int) -> PublishedModel:
    name = "bf16" if bits == 16 else f"{bits}bit"
    bits_per_weight = 16.0 if bits == 16 else bits + _SCALE_AND_BIAS_BITS
    return PublishedModel(
        model_id=f"mlx-community/Qwen3-ASR-{size}-{name}",
        size_bytes=2 * _ENCODER_PARAMETERS[size] + round(_TEXT_PARAMETERS[size] * bits_per_weight / 8),
        remark="16-bit" if bits == 16 else f"{bits}-bit text model, 16-bit encoder",
    )


def _original(size: str) -> PublishedModel:
    count = _ENCODER_PARAMETERS[size] + _TEXT_PARAMETERS[size] + _HEAD_PARAMETERS[size]
    return PublishedModel(f"Qwen/Qwen3-ASR-{size}", 2 * count, "original, 16-bit, the tied head stored twice")


def _native(size: str) -> PublishedModel:
    count = _ENCODER_PARAMETERS[size] + _TEXT_PARAMETERS[size]
    return PublishedModel(f"Qwen/Qwen3-ASR-{size}-hf", 2 * count, "transformers' own layout, 16-bit")


def _aligner(bits: int) -> PublishedModel:
    bits_per_weight = 16.0 if bits == 16 else bits + _SCALE_AND_BIAS_BITS
    return PublishedModel(
        model_id=f"mlx-community/Qwen3-ForcedAligner-0.6B-{'bf16' if bits == 16 else f'{bits}bit'}",
        size_bytes=2 * _ALIGNER_ENCODER_PARAMETERS + round(_ALIGNER_TEXT_PARAMETERS * bits_per_weight / 8),
        remark="aligner, for word times, " + ("16-bit" if bits == 16 else f"{bits}-bit"),
    )


def _aligner_of_qwen(suffix: str, remark: str) -> PublishedModel:
    count = _ALIGNER_ENCODER_PARAMETERS + _ALIGNER_TEXT_PARAMETERS
    name = f"Qwen/Qwen3-ForcedAligner-0.6B{suffix}"
    return PublishedModel(name, 2 * count, f"aligner, for word times, {remark}")


PUBLISHED_RECOGNIZERS: tuple[PublishedModel, ...] = tuple(
    model
    for size in ("0.6B", "1.7B")
    for model in (*(_mlx(size, bits) for bits in (4, 5, 6, 8, 16)), _original(size), _native(size))
)
PUBLISHED_ALIGNERS: tuple[PublishedModel, ...] = (
    *(_aligner(bits) for bits in (4, 5, 6, 8, 16)),
    _aligner_of_qwen("", "original, 16-bit"),
    _aligner_of_qwen("-hf", "transformers' own layout, 16-bit"),
)
PUBLISHED_MODELS = PUBLISHED_RECOGNIZERS + PUBLISHED_ALIGNERS


def nearest_published_ids(text: str) -> list[str]:
    """Up to two published ids that the user may have meant, nearest first."""
    by_name = {model.model_id.partition("/")[2].lower(): model.model_id for model in PUBLISHED_MODELS}
    wanted = text.rpartition("/")[2].lower()
    return [by_name[name] for name in difflib.get_close_matches(wanted, by_name, n=2, cutoff=0.75)]
