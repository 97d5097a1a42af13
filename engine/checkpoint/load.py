"""A checkpoint folder to a resident model: strict, safetensors only.

Takes the original layout, the `-hf` layout and MLX's, sharded or not, 16 or 32 bits or quantized. Every
tensor must have its place and its shape, every place its tensor. Pickles are never opened.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from scribewire.engine.checkpoint.integrity import REMEDY, check_whole_file, read_config, weight_files
from scribewire.engine.checkpoint.layouts import (
    canonical_name,
    declared_quantization,
    expected_shapes,
    infer_quantization,
    is_convolution_kernel,
    kernel_needs_transposing,
)
from scribewire.engine.model.aligner import AlignerModel
from scribewire.engine.model.asr import SpeechModel
from scribewire.engine.model.config import ConfigError, ModelConfig
from scribewire.engine.model.projection import Placement, QuantizedTensor, Weights
from scribewire.engine.protocol.errors import CheckpointMismatch, ModelIncomplete

Tensors = dict[str, mx.array | QuantizedTensor]

_FLOAT_TYPES = (mx.float32, mx.float16, mx.bfloat16)
_MODES_BY_BITS = {4: "mxfp4", 8: "mxfp8"}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder's configuration and tensors under canonical names, checked, still lazy (memory-mapped)."""

    config: ModelConfig
    tensors: Tensors

    @property
    def parameter_count(self) -> int:
        """Weights that the model has, a tied head counted once."""
        return sum(_element_count(shape) for shape in expected_shapes(self.config).values())

    @property
    def decoder_bits(self) -> int:
        """Bits of the decoder's first matrix, 16 or 32 when it is not quantized."""
        tensor = self.tensors["model.layers.0.mlp.down_proj.weight"]
        return tensor.bits if isinstance(tensor, QuantizedTensor) else tensor.dtype.size * 8


def load_checkpoint(folder: Path, *, dtype: mx.Dtype, device: mx.Device | None = None) -> SpeechModel:
    """Load a speech recognizer into memory.

    dtype: compute type of every float tensor. device: where it will run; default MLX's default device.
    raises: ModelNotFound, ModelIncomplete, CheckpointMismatch; each names the file or key and what to do.
    """
    return build_model(read_checkpoint(folder), dtype=dtype, device=device)


def build_model(
    checkpoint: Checkpoint,
    *,
    dtype: mx.Dtype,
    device: mx.Device | None = None,
    placement: Placement | None = None,
) -> SpeechModel:
    """Place a checkpoint's tensors for a device and evaluate them: the model is resident on return.

    placement: instead of the one that suits the device, in `dtype`.
    """
    if checkpoint.config.class_count is not None:
        raise CheckpointMismatch(
            "this is a forced aligner, not a speech recognizer; choose a Qwen3-ASR model"
        )
    placement = placement or Placement.for_device(device or mx.default_device(), dtype)
    model = SpeechModel(checkpoint.config, Weights(checkpoint.tensors, placement))
    mx.eval(resident_arrays(model))
    return model


def build_aligner(
    checkpoint: Checkpoint,
    *,
    dtype: mx.Dtype,
    device: mx.Device | None = None,
    placement: Placement | None = None,
) -> AlignerModel:
    """`build_model` for a forced aligner."""
    if checkpoint.config.class_count is None:
        raise CheckpointMismatch(
            "this is a speech recognizer, not a forced aligner; choose a Qwen3-ForcedAligner model"
        )
    placement = placement or Placement.for_device(device or mx.default_device(), dtype)
    model = AlignerModel(checkpoint.config, Weights(checkpoint.tensors, placement))
    mx.eval(resident_arrays(model))
    return model


def resident_arrays(part: object) -> list[mx.array]:
    """Every array reachable from a network's attributes, for evaluation and for counting bytes."""
    found: dict[int, mx.array] = {}
    seen: set[int] = set()
    stack: list[object] = [part]
    while stack:
        item = stack.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, mx.array):
            found[id(item)] = item
        elif isinstance(item, QuantizedTensor):
            stack += [item.packed, item.scales, item.biases]
        elif isinstance(item, (list, tuple)):
            stack += item
        elif type(item).__module__.startswith("scribewire.engine.model"):
            stack += vars(item).values() if hasattr(item, "__dict__") else []
    return list(found.values())


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read config.json and every safetensors file, rename, regroup and check; nothing is evaluated yet.

    raises: as load_checkpoint.
    """
    raw_config = read_config(folder)
    try:
        config = ModelConfig.from_dict(raw_config)
    except ConfigError as error:
        raise CheckpointMismatch(f"{folder.name}: {error}") from error
    loaded: dict[str, mx.array] = {}
    for path in weight_files(folder):
        check_whole_file(path)
        try:
            arrays = mx.load(str(path))
        except RuntimeError as error:
            raise ModelIncomplete(f"{path} cannot be read ({error}); {REMEDY}") from error
        assert isinstance(arrays, dict)
        for name, array in arrays.items():
            if canonical_name(name) in loaded:
                raise CheckpointMismatch(f"{path.name} holds {name}, which another tensor has given already")
            loaded[canonical_name(name)] = array
    tensors = _assembled(loaded, raw_config, config)
    return Checkpoint(config=config, tensors=tensors)


def _assembled(loaded: dict[str, mx.array], raw_config: dict[str, Any], config: ModelConfig) -> Tensors:
    """Regroup quantized triples, bring kernels into our order, hold everything against the expected list."""
    expected = expected_shapes(config)
    tensors: Tensors = {}
    left = dict(loaded)
    if "lm_head.weight" in left and "lm_head.weight" not in expected:
        if _is_tied_copy(left):
            for suffix in ("weight", "scales", "biases"):
                left.pop(f"lm_head.{suffix}", None)
        else:
            # The weights know better than a configuration that declares the head tied.
            expected["lm_head.weight"] = expected["model.embed_tokens.weight"]
    for name, shape in expected.items():
        if name not in left:
            raise CheckpointMismatch(f"the checkpoint has no {name} (wanted shape {shape})")
        array = left.pop(name)
        module = name.removesuffix(".weight")
        scales = left.pop(f"{module}.scales", None) if name.endswith(".weight") else None
        if scales is not None:
            biases = left.pop(f"{module}.biases", None)
            tensors[name] = _quantized(name, shape, array, scales, biases, raw_config)
            continue
        if is_convolution_kernel(name) and kernel_needs_transposing(tuple(array.shape)):
            array = array.transpose(0, 2, 3, 1)
        if tuple(array.shape) != shape:
            raise CheckpointMismatch(f"{name} has shape {tuple(array.shape)}, wanted {shape}")
        if array.dtype not in _FLOAT_TYPES:
            raise CheckpointMismatch(f"{name} is {array.dtype}, wanted a float type or a quantized matrix")
        tensors[name] = array
    if left:
        examples = ", ".join(f"{name} {tuple(array.shape)}" for name, array in sorted(left.items())[:3])
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        raise CheckpointMismatch(
            f"the checkpoint holds tensors without a place in this model: {examples}{more}"
        )
    return tensors


def _is_tied_copy(loaded: dict[str, mx.array]) -> bool:
    """True when the stored head is the embedding table once more; some published files hold such a copy."""
    for suffix in ("weight", "scales", "biases"):
        head, table = loaded.get(f"lm_head.{suffix}"), loaded.get(f"model.embed_tokens.{suffix}")
        if (head is None) != (table is None):
            return False
        if head is not None and table is not None:
            is_same_kind = head.shape == table.shape and head.dtype == table.dtype
            if not is_same_kind or not mx.array_equal(head, table).item():
                return False
    return True


def _quantized(
    name: str,
    shape: tuple[int, ...],
    packed: mx.array,
    scales: mx.array,
    biases: mx.array | None,
    raw_config: dict[str, Any],
) -> QuantizedTensor:
    declared = declared_quantization(raw_config, name.removesuffix(".weight"))
    if len(shape) != 2 or packed.dtype != mx.uint32 or packed.shape[0] != shape[0]:
        raise CheckpointMismatch(
            f"{name} has scales but is {packed.dtype} {tuple(packed.shape)}, wanted packed rows of {shape}"
        )
    try:
        bits, group_size = infer_quantization(tuple(packed.shape), tuple(scales.shape), shape[1], declared)
    except ValueError as error:
        raise CheckpointMismatch(f"{name} (wanted {shape}): {error}") from error
    mode = declared.mode
    if scales.dtype == mx.uint8 and biases is None and mode == "affine":
        # Floating-point modes keep 8-bit scales and no biases; affine ones never do.
        mode = "nvfp4" if group_size == 16 else _MODES_BY_BITS.get(bits, "")
    if mode == "affine" and (biases is None or biases.shape != scales.shape):
        raise CheckpointMismatch(f"{name} has scales without matching biases")
    return QuantizedTensor(packed, scales, biases, bits, group_size, mode)


def _element_count(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
