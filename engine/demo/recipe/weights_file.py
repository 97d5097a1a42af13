"""Reads and writes PyTorch tensors as safetensors files, without a further package.

A file is eight bytes of header length, a JSON header, and the bytes of the tensors. It knows float16 and float32, which
is what training leaves, and refuses the rest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

_TYPES = {"F16": torch.float16, "F32": torch.float32}
_NAMES = {kind: name for name, kind in _TYPES.items()}


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
    """The tensors of every safetensors file in `folder`, as float32; raises FileNotFoundError when there is none."""
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
            tensors[name] = flat.reshape(entry["shape"]).float()
    if not tensors:
        raise FileNotFoundError(f"no .safetensors file in {folder}")
    return tensors
