"""Reads and writes PyTorch tensors as safetensors files, without a further package.

A file is eight bytes of header length, a JSON header, and the bytes of the tensors. It knows float16 and float32, which
is what training leaves, and the 8-bit layout that is shipped, which it reads as the floats that it stands for; it
refuses the rest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

_TYPES = {"F16": torch.float16, "F32": torch.float32, "U32": torch.int32}
_NAMES = {torch.float16: "F16", torch.float32: "F32"}


def write_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """All tensors in one file; raises KeyError for a type other than float16 and float32."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    pieces: list[bytes] = []
    end = 0
    for name, tensor in tensors.items():
        piece = tensor.detach().cpu().contiguous().numpy().tobytes()
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [end, end + len(piece)],
        }
        pieces.append(piece)
        end += len(piece)
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + b"".join(pieces))


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of every safetensors file in `folder`, float32, under the original names.

    raises: FileNotFoundError when there is none, KeyError for a type it does not know
    """
    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        raw = path.read_bytes()
        start = 8 + int.from_bytes(raw[:8], "little")
        for name, entry in json.loads(raw[8:start]).items():
            if name == "__metadata__":
                continue
            first, last = entry["data_offsets"]
            flat = torch.frombuffer(
                bytearray(raw[start + first : start + last]), dtype=_TYPES[entry["dtype"]]
            )
            tensors[name] = flat.reshape(entry["shape"])
    if not tensors:
        raise FileNotFoundError(f"no .safetensors file in {folder}")
    if any(name.endswith(".scales") for name in tensors):
        return _dequantized(tensors)
    return {name: tensor.float() for name, tensor in tensors.items()}


def _dequantized(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """MLX's affine 8-bit layout: four values a word, lowest byte first; a group shares a scale and a bias."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith((".scales", ".biases")):
            continue
        base = name.removesuffix(".weight")
        if tensor.dtype == torch.int32:
            scales, biases = tensors[f"{base}.scales"].float(), tensors[f"{base}.biases"].float()
            values = tensor.contiguous().view(torch.uint8).float()
            groups = values.reshape(*scales.shape, -1)
            tensor = (groups * scales[:, :, None] + biases[:, :, None]).reshape(values.shape)
        elif tensor.ndim == 4:
            tensor = tensor.permute(0, 3, 1, 2).contiguous()
        found[f"thinker.{name}"] = tensor.float()
    return found
