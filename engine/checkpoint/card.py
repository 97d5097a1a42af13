"""The model card of a quantized checkpoint: recipe, sizes, error of the weights, and quality where it was measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scribewire.engine.checkpoint.hub import is_hub_id
from scribewire.engine.checkpoint.recipes import Recipe, Scheme

CARD_FILE = "README.md"
_PARTS: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("audio tower", lambda module: module.startswith("audio_tower.")),
    ("embeddings", lambda module: module == "model.embed_tokens"),
    ("attention", lambda module: ".self_attn." in module),
    ("MLP", lambda module: ".mlp." in module),
    ("head", lambda module: True),
)


@dataclass(frozen=True, slots=True)
class Measured:
    """A matrix as it was written.

    error_squares, weight_squares: sums over its weights; 0 where it was left as it is.
    """

    module: str
    count: int
    scheme: Scheme | None
    error_squares: float
    weight_squares: float


@dataclass(frozen=True, slots=True)
class Summary:
    """A finished quantization. is_of_quantized: the source had quantized matrices already."""

    source_id: str
    source_bytes: int
    recipe: Recipe
    written_bytes: int
    weight_count: int
    is_of_quantized: bool
    measured: tuple[Measured, ...]
    quality: str = ""

    @property
    def bits_per_weight(self) -> float:
        """Of the whole model, scales and unquantized parts with it."""
        return 8 * self.written_bytes / self.weight_count


def relative_error(measured: Sequence[Measured]) -> float | None:
    """Root of the error's squares over the weights' squares, of quantized matrices; None without any."""
    weights = sum(one.weight_squares for one in measured)
    return math.sqrt(sum(one.error_squares for one in measured) / weights) if weights else None


def model_card(summary: Summary) -> str:
    """README.md as the hub reads it."""
    source, recipe = summary.source_id, summary.recipe.name
    lines = ["---", "library_name: mlx", "pipeline_tag: automatic-speech-recognition"]
    if is_hub_id(source):
        lines += [f"base_model: {source}", "base_model_relation: quantized"]
    lines += ["tags:", "- mlx", "- qwen3_asr", "---", "", f"# {source.rpartition('/')[2]}, {recipe}", ""]
    lines += [f"Made from `{source}` by `scribewire quantize` with the recipe `{recipe}`.", ""]
    if summary.is_of_quantized:
        lines += ["The source was quantized already: its errors are in these weights too.", ""]
    lines += ["## Recipe", "", "| Modules | Stored as |", "|---|---|"]
    lines += [f"| `{rule.modules}` | {_shown(rule.scheme)} |" for rule in summary.recipe.rules]
    lines += ["", "The first rule that fits a module holds for it. What none fits is as in the source.", ""]
    lines += ["## Size and error", ""]
    lines += [
        f"{summary.written_bytes / 1e6:,.0f} MB instead of {summary.source_bytes / 1e6:,.0f} MB, "
        f"{summary.bits_per_weight:.2f} bits a weight in all. The error is that of the quantized weights against the "
        "source's: root mean square, relative.",
        "",
    ]
    lines += ["| Part | Matrices | Weights | Stored as | Error |", "|---|---|---|---|---|"]
    lines += [_row(name, part) for name, part in _by_part(summary.measured)]
    lines += [_row("all", summary.measured)]
    if summary.quality:
        lines += ["", "## Quality", "", "```", summary.quality.strip().replace("```", "'''"), "```"]
    return "\n".join([*lines, ""])


def _by_part(measured: Sequence[Measured]) -> list[tuple[str, list[Measured]]]:
    parts: dict[str, list[Measured]] = {name: [] for name, _ in _PARTS}
    for one in measured:
        parts[next(name for name, fits in _PARTS if fits(one.module))].append(one)
    return [(name, part) for name, part in parts.items() if part]


def _row(name: str, part: Sequence[Measured]) -> str:
    error = relative_error(part)
    schemes = "; ".join(dict.fromkeys(_shown(one.scheme) for one in part))
    shown = "-" if error is None else f"{error:.4f}"
    return f"| {name} | {len(part)} | {sum(one.count for one in part):,} | {schemes} | {shown} |"


def _shown(scheme: Scheme | None) -> str:
    return "as in the source" if scheme is None else str(scheme)
