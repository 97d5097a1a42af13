"""CUDA kernels of our own, from sources that lie beside the modules that use them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import mlx.core as mx


def cuda_kernel(
    source_path: Path, inputs: Sequence[str], output: str, *, macros: str = "", writes_inputs: bool = False
) -> Callable[..., list[mx.array]]:
    """The kernel whose body is in this file, as `mx.fast.cuda_kernel` gives it; compiled when it first runs.

    writes_inputs: then all inputs must be contiguous and are handed over as they lie in memory, since a copy of what is
    to be written would be written instead. Otherwise those that are not contiguous are copied first.
    """
    source = source_path.read_text(encoding="utf-8")
    # MLX keeps compiled kernels on disk by name alone, so the name must change with the source.
    digest = hashlib.sha256((macros + source).encode()).hexdigest()[:12]
    kernel = mx.fast.cuda_kernel(
        name=f"scribewire_{source_path.stem}_{digest}",
        input_names=list(inputs),
        output_names=[output],
        source=source,
        header=macros,
        ensure_row_contiguous=not writes_inputs,
    )
    return cast("Callable[..., list[mx.array]]", kernel)
