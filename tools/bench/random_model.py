"""A model with random weights at a published size, in the published MLX layout: `python -m tools.bench.random_model`.

Speed does not depend on what weights are, only on their shapes and types, so it can be measured without a download.
The numbers follow from each tensor's name alone. Runs in a process of its own, because it needs MLX.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import zlib
from pathlib import Path

import mlx.core as mx

from scribewire.engine.checkpoint.layouts import expected_shapes
from scribewire.engine.model.config import ModelConfig
from tools.bench.sizes import (
    ALIGNER_SIZES,
    GENERATION,
    PREPROCESSOR,
    RANDOM_MARK,
    RECIPES,
    SIZES,
    ModelSizes,
    Recipe,
    published_config,
)
from tools.bench.tokenizer_files import write_tokenizer

_DTYPES = {"bfloat16": mx.bfloat16, "float16": mx.float16, "float32": mx.float32}


def write_random_model(folder: Path, sizes: ModelSizes, recipe: Recipe) -> Path:
    """A whole model folder. One that is already there and was made the same way is left as it is.

    raises: FileExistsError when the folder holds anything else
    """
    if folder.is_dir() and any(folder.iterdir()):
        if is_random_model(folder, sizes, recipe):
            return folder
        raise FileExistsError(f"{folder.name} holds something else; give another folder, or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # A folder under its final name is always whole, whenever this was broken off.
    draft = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    tensors, quantized_audio = random_tensors(sizes, recipe)
    mx.save_safetensors(str(draft / "model.safetensors"), tensors, metadata={"format": "mlx"})
    config = published_config(sizes, recipe, quantized_audio)
    for name, content in (
        ("config.json", config),
        ("preprocessor_config.json", PREPROCESSOR),
        ("generation_config.json", GENERATION),
    ):
        (draft / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
    write_tokenizer(draft)
    if folder.is_dir():
        folder.rmdir()
    draft.rename(folder)
    return folder


def is_random_model(folder: Path, sizes: ModelSizes, recipe: Recipe) -> bool:
    """True when `write_random_model` made the folder from these."""
    try:
        mark = json.loads((folder / "config.json").read_text(encoding="utf-8")).get(RANDOM_MARK)
    except (OSError, ValueError):
        return False
    return bool(mark == {"sizes": sizes.name, "recipe": recipe.name})


def random_tensors(sizes: ModelSizes, recipe: Recipe) -> tuple[dict[str, mx.array], list[str]]:
    """Every tensor under its published MLX name, and the names of the audio tower's quantized modules."""
    config = ModelConfig.from_dict(published_config(sizes, recipe, []))
    dtype = _DTYPES[recipe.dtype]
    tensors: dict[str, mx.array] = {}
    quantized_audio: list[str] = []
    for name, shape in expected_shapes(config).items():
        values = _random_values(name, shape).astype(dtype)
        module = name.removesuffix(".weight")
        bits = recipe.bits_of(module) if len(shape) == 2 else None
        if bits is None:
            tensors[name] = values
            mx.eval(values)
            continue
        packed, scales, biases = mx.quantize(values, group_size=recipe.group_size, bits=bits)
        mx.eval(packed, scales, biases)
        tensors |= {name: packed, f"{module}.scales": scales, f"{module}.biases": biases}
        if module.startswith("audio_tower."):
            quantized_audio.append(module)
    return tensors, quantized_audio


def _random_values(name: str, shape: tuple[int, ...]) -> mx.array:
    """Norms are ones, biases small, matrices as wide as keeps activations near one."""
    is_norm = "norm" in name or ".ln_post." in name
    if is_norm and name.endswith(".weight"):
        return mx.ones(shape)
    if name.endswith(".bias"):
        deviation = 0.01
    elif name == "model.embed_tokens.weight":
        deviation = 0.02
    else:
        deviation = 1.0 / math.sqrt(math.prod(shape[1:]))
    limit = math.sqrt(3.0) * deviation
    return mx.random.uniform(-limit, limit, shape, key=mx.random.key(zlib.crc32(name.encode())))


if __name__ == "__main__":
    write_random_model(Path(sys.argv[1]), (SIZES | ALIGNER_SIZES)[sys.argv[2]], RECIPES[sys.argv[3]])
