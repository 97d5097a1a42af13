"""`scribewire quantize`: a smaller copy of a model, by a recipe. MLX is loaded only when it begins."""

from __future__ import annotations

import argparse
from pathlib import Path

from scribewire.engine.checkpoint.card import Summary, relative_error
from scribewire.engine.checkpoint.fetch import HubAccess, resolve_model
from scribewire.engine.checkpoint.recipes import EMBED8, RECIPES, RULES_SUFFIX, find_recipe
from scribewire.engine.cli.arguments import UsageError
from scribewire.engine.processes.console import Console, shown_bytes
from scribewire.engine.protocol.errors import OptionInvalid

_LONGEST_QUALITY = 50_000


def add_quantize_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `quantize`."""
    parser.add_argument("source", metavar="SOURCE", help="a folder, a Hugging Face id, or demo")
    parser.add_argument(
        "destination", type=Path, metavar="DEST", help="a new folder, or one that was begun before"
    )
    parser.add_argument(
        "--recipe",
        required=True,
        metavar="RECIPE",
        help=f"{', '.join(RECIPES)}, each also with +{EMBED8}; or a file of rules (*{RULES_SUFFIX})",
    )
    parser.add_argument(
        "--quality", type=Path, metavar="FILE", help="a text for the model card: what was measured of DEST"
    )


def run_quantize(arguments: argparse.Namespace, console: Console, hub: HubAccess | None) -> int:
    """Write DEST, or what is missing of it; returns 0.

    raises: UsageError (recipe or DEST), EngineError, OSError
    """
    try:
        return _run(arguments, console, hub)
    except OptionInvalid as error:
        raise UsageError("quantize", str(error)) from None


def _run(arguments: argparse.Namespace, console: Console, hub: HubAccess | None) -> int:
    recipe = find_recipe(arguments.recipe)
    quality = None
    if arguments.quality is not None:
        quality = arguments.quality.read_text(encoding="utf-8", errors="replace")[:_LONGEST_QUALITY]
    with console.bar(f"fetching {arguments.source}", "bytes") as bar:
        source = resolve_model(arguments.source, download=True, progress=bar.advance, hub=hub)
    # MLX takes half a second, which the help of a command need not wait for.
    from scribewire.engine.checkpoint.quantize import quantize

    try:
        with console.bar(f"quantizing to {recipe.name}", "bytes") as bar:
            summary = quantize(
                source.folder,
                arguments.destination,
                recipe,
                source_id=source.model_id,
                quality=quality,
                progress=bar.advance,
            )
    except KeyboardInterrupt:
        console.warn("what is written is kept: the same command goes on from there")
        raise
    console.say(f"{arguments.destination} is complete: {_shown(summary)}")
    if summary.is_of_quantized:
        console.warn(f"{arguments.source} was quantized already: its errors are in these weights too")
    return 0


def _shown(summary: Summary) -> str:
    error = relative_error(summary.measured)
    return (
        f"{shown_bytes(summary.written_bytes)} instead of {shown_bytes(summary.source_bytes)}, "
        f"{summary.bits_per_weight:.2f} bits a weight, relative error of quantized weights {error or 0.0:.4f}"
    )


QUANTIZE_HELP = """\
Write a copy of a model whose matrices take fewer bits, with config.json and model card, for this program and for other
MLX loaders.

4bit to 8bit, mxfp4, mxfp8 and nvfp4 quantize embeddings and decoder and leave the audio tower as it is; audio8-text4
quantizes the audio tower to 8 bits besides; attn8-mlp4 gives attention 8 bits and the rest of each layer 4, embeddings
as they are. +embed8 gives embeddings 8 bits. A file of rules has tables such as

  [[rule]]
  modules = "model.layers.*.mlp.*"
  bits = 4

with `bits` 2, 3, 4, 5, 6, 8 or 16 (as it is), `group_size` 32, 64 or 128, or `mode` mxfp4, mxfp8 or nvfp4. The first
rule that fits a module holds for it. A run that was broken off goes on with the same command; on a folder that is
complete it writes the card anew."""

QUANTIZE_EXAMPLES = """\
examples:
  scribewire quantize Qwen/Qwen3-ASR-1.7B qwen3-asr-1.7b-4bit --recipe 4bit
  scribewire quantize Qwen/Qwen3-ASR-0.6B small --recipe audio8-text4+embed8
  scribewire quantize ./tuned mine --recipe rules.toml"""
