"""The same weights unpacked, for peers that cannot read a checkpoint as it is: `python -m tools.bench.plain_copy`.

Numbers are those that the quantized matrices stand for, so that every peer computes with the same weights.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import mlx.core as mx

from scribewire.engine.checkpoint.load import read_checkpoint
from scribewire.engine.model.projection import QuantizedTensor

_COPIED = (
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "tokenizer.json",
    "preprocessor_config.json",
    "generation_config.json",
)


def write_plain_copy(source: Path, folder: Path, dtype: mx.Dtype) -> Path:
    """A folder in the published MLX layout without quantization."""
    folder.mkdir(parents=True)
    tensors = {
        name: tensor.dequantized(dtype) if isinstance(tensor, QuantizedTensor) else tensor.astype(dtype)
        for name, tensor in read_checkpoint(source).tensors.items()
    }
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, metadata={"format": "mlx"})
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    for name in ("quantization", "quantization_config"):
        config.pop(name, None)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name in _COPIED:
        if (source / name).is_file():
            shutil.copy(source / name, folder / name)
    return folder


if __name__ == "__main__":
    write_plain_copy(Path(sys.argv[1]), Path(sys.argv[2]), getattr(mx, sys.argv[3]))
