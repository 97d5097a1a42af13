"""A checkpoint folder to a resident model: strict, safetensors only.

Takes the original layout, the `-hf` layout and MLX's, sharded or not, 16 or 32 bits or quantized. Every
tensor must have its place and its shape, every place its tensor. Pickles are never opened.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from scribewire.engine.checkpoint.integrity import check_whole_file, read_config, weight_files
from scribewire.engine.checkpoint.layouts import (
    canonical_name,
    declared_quantization,
    expected_shapes,
    infer_quantization,
    is_convolution_kernel,
    kernel_needs_transposing,
    quantization_mode,
)
from scribewire.engine.model.aligner import AlignerModel
from scribewire.engine.model.asr import AudioPromptedModel, SpeechModel
from scribewire.engine.model.config import ConfigError, ModelConfig
from scribewire.engine.model.projection import Placement, QuantizedTensor, Weights
from scribewire.engine.protocol.errors import CheckpointMismatch
from scribewire.engine.text.tokenizer import AUDIO_PAD, RECOGNIZER_TOKENS, TIMESTAMP, Tokenizer

Tensors = dict[str, mx.array | QuantizedTensor]

_FLOAT_TYPES = (mx.float32, mx.float16, mx.bfloat16)
_NOT_A_NUMBER = {"mxfp4": 0xFF, "mxfp8": 0xFF, "nvfp4": 0x7F}
"""Bits that are all set in a scale that is none. Source: OCP's MX formats (E8M0), and NVIDIA's E4M3 with its sign."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder's configuration and tensors under canonical names, checked, still lazy: nothing is read yet.

    tensors: emptied by building a model of it, so that no stored form stays beside the resident one.
    decoder_bits: of the decoder's first matrix, 16 or 32 when it is not quantized.
    """

    config: ModelConfig
    tensors: Tensors
    decoder_bits: int

    @property
    def parameter_count(self) -> int:
        """Weights that the model has, a tied head counted once."""
        return sum(math.prod(shape) for shape in expected_shapes(self.config).values())


def build_model(
    checkpoint: Checkpoint,
    placement: Placement,
) -> SpeechModel:
    """Place a checkpoint's tensors for a device and evaluate them: the model is resident on return.

    The checkpoint is used up.
    raises: CheckpointMismatch
    """
    if checkpoint.config.class_count is not None:
        raise CheckpointMismatch(
            "this is a forced aligner, not a speech recognizer; choose a Qwen3-ASR model"
        )
    model = SpeechModel(checkpoint.config, Weights(checkpoint.tensors, placement))
    _make_resident(model, checkpoint.tensors)
    return model


def build_aligner(
    checkpoint: Checkpoint,
    placement: Placement,
) -> AlignerModel:
    """`build_model` for a forced aligner."""
    if checkpoint.config.class_count is None:
        raise CheckpointMismatch(
            "this is a speech recognizer, not a forced aligner; choose a Qwen3-ForcedAligner model"
        )
    model = AlignerModel(checkpoint.config, Weights(checkpoint.tensors, placement))
    _make_resident(model, checkpoint.tensors)
    return model


def _make_resident(model: AudioPromptedModel, tensors: Tensors) -> None:
    """Evaluate a model part by part, the largest first, and let go of what is stored of each when it is done.

    raises: CheckpointMismatch naming a tensor that is not finite
    """
    parts: dict[str, object] = {"model.embed_tokens.": [model.decoder.embed, model.decoder.head]}
    parts |= {f"model.layers.{index}.": layer for index, layer in enumerate(model.decoder.layers)}
    parts |= {f"audio_tower.layers.{index}.": layer for index, layer in enumerate(model.encoder.layers)}
    parts[""] = model
    for prefix, part in parts.items():
        for array in resident_arrays(part):
            mx.eval(array)  # one by one: together they would hold what all of them are made of at once
        stored = {name: tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}
        if not _are_finite(list(stored.values())):
            broken = next(name for name, tensor in stored.items() if not _are_finite([tensor]))
            raise CheckpointMismatch(f"{broken} holds NaN or infinity: the weights are broken")
    if model.dtype == mx.float16 and not _are_finite(list(resident_arrays(model))):
        raise CheckpointMismatch("some weights are too large for float16; take bfloat16 or float32")
    # What was freed on the way is of no size that will be asked for again.
    mx.clear_cache()


def _are_finite(tensors: list[mx.array | QuantizedTensor]) -> bool:
    """True without a NaN or an infinity in any float array or scale, for these outlast a sum."""
    floats = [one for one in resident_arrays(tensors) if one.dtype in _FLOAT_TYPES]
    sums = [mx.sum(one).astype(mx.float32) for one in floats]
    for tensor in tensors:
        if isinstance(tensor, QuantizedTensor) and tensor.mode in _NOT_A_NUMBER:
            broken = (tensor.scales & _NOT_A_NUMBER[tensor.mode]) == _NOT_A_NUMBER[tensor.mode]
            sums.append(mx.where(mx.any(broken), math.nan, 0.0))
    return not sums or bool(mx.all(mx.isfinite(mx.stack(sums))).item())


def read_tokenizer(
    folder: Path, config: ModelConfig, *, required: tuple[str, ...] = RECOGNIZER_TOKENS
) -> Tokenizer:
    """The folder's tokenizer, held against its configuration. required: control tokens that it must know.

    raises: ModelIncomplete, CheckpointMismatch where the two are not of one model
    """
    tokenizer = Tokenizer.from_folder(folder, required=required)
    rows, pad = config.text.vocab_size, tokenizer.token_id(AUDIO_PAD)
    if tokenizer.largest_id >= rows:
        raise CheckpointMismatch(
            f"{folder.name}: the tokenizer knows id {tokenizer.largest_id}, the weights only {rows} rows: "
            "they are not of one model"
        )
    if pad != config.audio_token_id:
        raise CheckpointMismatch(
            f"{folder.name}: {AUDIO_PAD} is {pad} to the tokenizer, and audio_token_id {config.audio_token_id} in "
            "config.json: they are not of one model"
        )
    time_id = config.timestamp_token_id
    if time_id is not None and TIMESTAMP in required and time_id != tokenizer.token_id(TIMESTAMP):
        raise CheckpointMismatch(
            f"{folder.name}: {TIMESTAMP} is {tokenizer.token_id(TIMESTAMP)} to the tokenizer, and timestamp_token_id "
            f"{time_id} in config.json: they are not of one model"
        )
    return tokenizer


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

    raises: ModelNotFound, ModelIncomplete, CheckpointMismatch; each names the file or key and what to do.
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
            # It is whole, so a second download would bring the same.
            raise CheckpointMismatch(f"{path} cannot be read: {' '.join(str(error).split())}") from error
        assert isinstance(arrays, dict)
        for name, array in arrays.items():
            if canonical_name(name) in loaded:
                raise CheckpointMismatch(f"{path.name} holds {name}, which another tensor has given already")
            loaded[canonical_name(name)] = array
    tensors = _assembled(loaded, raw_config, config)
    first = tensors["model.layers.0.mlp.down_proj.weight"]
    bits = first.bits if isinstance(first, QuantizedTensor) else first.dtype.size * 8
    return Checkpoint(config=config, tensors=tensors, decoder_bits=bits)


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
    if len(shape) != 2 or packed.dtype != mx.uint32 or packed.shape[0] != shape[0]:
        raise CheckpointMismatch(
            f"{name} has scales but is {packed.dtype} {tuple(packed.shape)}, wanted packed rows of {shape}"
        )
    try:
        declared = declared_quantization(raw_config, name.removesuffix(".weight"))
        bits, group_size = infer_quantization(tuple(packed.shape), tuple(scales.shape), shape[1], declared)
        mode = quantization_mode(
            declared,
            bits,
            group_size,
            has_biases=biases is not None,
            has_byte_scales=scales.dtype == mx.uint8,
        )
    except ValueError as error:
        raise CheckpointMismatch(f"{name} (wanted {shape}): {error}") from error
    floats = [one for one in (scales, biases) if biases is not None and one is not None]
    if any(one.dtype not in _FLOAT_TYPES or one.shape != scales.shape for one in floats):
        raise CheckpointMismatch(f"{name} has scales and biases that do not match each other")
    return QuantizedTensor(packed, scales, biases, bits, group_size, mode)
