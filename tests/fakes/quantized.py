"""MLX's quantized matrices worked out in numpy: packed and unpacked without the code that is under test.

Source: the table of quantization modes in MLX's documentation; codes of a row are one bit stream, lowest bit first.
Scales and biases of affine matrices are bfloat16, as on the hub. Needs numpy only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.fakes.random_model import Sizes, in_layout, make_config, make_weights, rounded, write_safetensors

Floats = NDArray[np.float32]

_E2M1 = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
_LARGEST_E2M1, _LARGEST_E4M3 = 6.0, 448.0


def _e4m3() -> NDArray[np.float64]:
    """Values of the 127 codes of an 8-bit float with 4 exponent and 3 fraction bits, from 0 up; the 128th is NaN."""
    codes = np.arange(127)
    exponent, fraction = codes >> 3, codes & 7
    return np.where(exponent == 0, fraction * 2.0**-9, (8 + fraction) * 2.0 ** (exponent - 10.0))


_MAGNITUDES = {"mxfp4": _E2M1, "nvfp4": _E2M1, "mxfp8": _e4m3()}


@dataclass(frozen=True)
class Packing:
    """One way to store a matrix."""

    bits: int
    group_size: int
    mode: str = "affine"

    def packed(self, matrix: Floats) -> dict[str, NDArray[Any]]:
        """`weight`, `scales` and, of affine ones, `biases` of a matrix (out, in)."""
        groups = matrix.reshape(matrix.shape[0], -1, self.group_size).astype(np.float64)
        if self.mode == "affine":
            low, high = groups.min(axis=-1), groups.max(axis=-1)
            scales = rounded(((high - low) / (2**self.bits - 1)).astype(np.float32), "BF16")
            biases = rounded(low.astype(np.float32), "BF16")
            codes = np.rint((groups - biases[..., None]) / scales[..., None])
            codes = np.clip(codes, 0, 2**self.bits - 1).astype(np.uint8)
            return {"weight": _bit_stream(codes, self.bits), "scales": scales, "biases": biases}
        magnitudes = _MAGNITUDES[self.mode]
        wanted = np.abs(groups).max(axis=-1) / magnitudes[-1]
        stored = (
            np.maximum(_nearest(_e4m3(), wanted), 1)
            if self.mode == "nvfp4"
            else np.ceil(np.log2(wanted)).astype(np.int64) + 127
        )
        scaled = groups / self._scales(stored)[..., None]
        sign = np.where(scaled < 0, 1 << (self.bits - 1), 0)
        codes = (_nearest(magnitudes, np.abs(scaled)) | sign).astype(np.uint8)
        return {"weight": _bit_stream(codes, self.bits), "scales": stored.astype(np.uint8)}

    def unpacked(self, parts: Mapping[str, NDArray[Any]]) -> Floats:
        """The matrix (out, in) that stored parts stand for, worked out in float64."""
        codes = _codes(parts["weight"], self.bits)
        groups = codes.reshape(codes.shape[0], -1, self.group_size)
        if self.mode == "affine":
            scales, biases = parts["scales"].astype(np.float64), parts["biases"].astype(np.float64)
            values = scales[..., None] * groups + biases[..., None]
        else:
            sign_bit = 1 << (self.bits - 1)
            sign = np.where(groups & sign_bit, -1.0, 1.0)
            values = (
                sign
                * _MAGNITUDES[self.mode][groups & (sign_bit - 1)]
                * self._scales(parts["scales"])[..., None]
            )
        return values.reshape(codes.shape).astype(np.float32)

    def _scales(self, stored: NDArray[Any]) -> NDArray[np.float64]:
        return _e4m3()[stored] if self.mode == "nvfp4" else 2.0 ** (stored.astype(np.float64) - 127.0)

    @property
    def declared(self) -> dict[str, Any]:
        """The same as config.json has it."""
        return {"bits": self.bits, "group_size": self.group_size, "mode": self.mode}


def _nearest(ascending: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.searchsorted((ascending[1:] + ascending[:-1]) / 2, wanted).astype(np.int64)


def _bit_stream(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint32]:
    ones = np.unpackbits(codes.reshape(codes.shape[0], -1, 1), axis=-1, bitorder="little")[..., :bits]
    return np.packbits(ones.reshape(codes.shape[0], -1), axis=-1, bitorder="little").view("<u4")


def _codes(stream: NDArray[np.uint32], bits: int) -> NDArray[np.int64]:
    ones = np.unpackbits(np.ascontiguousarray(stream).view(np.uint8), axis=-1, bitorder="little")
    weights = 1 << np.arange(bits)
    return ones.reshape(stream.shape[0], -1, bits).astype(np.int64) @ weights


def write_quantized(
    folder: Path, sizes: Sizes, packing_of: Callable[[str], Packing | None]
) -> dict[str, Floats]:
    """A checkpoint in the MLX layout, 16-bit but for quantized matrices; returns the numbers that it stands for.

    packing_of: of a module, by its name; None keeps it 16-bit, and so does a width that groups do not divide.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stored: dict[str, NDArray[Any]] = {}
    meant: dict[str, Floats] = {}
    declared: dict[str, Any] = {}
    for name, values in make_weights(sizes).items():
        module = name.removesuffix(".weight")
        packing = packing_of(module) if values.ndim == 2 else None
        if packing is None or values.shape[1] % packing.group_size:
            stored[name] = meant[name] = rounded(values, "BF16")
            continue
        parts = packing.packed(rounded(values, "BF16"))
        stored |= {f"{module}.{part}": array for part, array in parts.items()}
        meant[name] = packing.unpacked(parts)
        declared[module] = packing.declared
    config = make_config(sizes, "mlx")
    # The general declaration is any module's; every module has its own.
    config["quantization"] = next(iter(declared.values())) | declared
    (folder / "config.json").write_text(json.dumps(config))
    write_safetensors(folder / "model.safetensors", in_layout(stored, "mlx"), "BF16")
    return meant
