"""Quantized checkpoints as the hub has them, 16-bit scales and all, compute what numpy says that they stand for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from scribewire.engine.batching.sequence import Sequence, SpecialTokens
from scribewire.engine.batching.step import generate
from scribewire.engine.checkpoint.load import build_model, read_checkpoint, resident_arrays
from scribewire.engine.model.asr import SpeechModel
from scribewire.engine.model.projection import Placement, QuantizedTensor, Weights
from tests.fakes.clips import uniform
from tests.fakes.loading import cpu_profile, load_checkpoint
from tests.fakes.quantized import Packing, write_quantized
from tests.fakes.random_model import (
    TRUE_WINDOWS,
    in_layout,
    prompt_ids,
    rounded,
    target_ids,
    write_safetensors,
)

SIZES = replace(
    TRUE_WINDOWS, name="packed", hidden_size=128, intermediate_size=256, encoder_ffn_dim=256, vocab_size=320
)
"""Every matrix of a width that groups of 128 divide."""

LOGITS_BOUND = 3e-5
"""Largest error of a row of logits against the same numbers unpacked, as a part of the row's length."""

PACKED_BOUND = 1e-4
"""The same where products are made of packed matrices, which sum in another order."""

PACKED = Placement(mx.float32)

AFFINE = [Packing(bits, group) for bits in (2, 3, 4, 5, 6, 8) for group in (32, 64, 128)]
OTHER_MODES = [Packing(4, 32, "mxfp4"), Packing(8, 32, "mxfp8"), Packing(4, 16, "nvfp4")]
Layout = Callable[[str], Packing | None]


def in_text(packing: Packing) -> Layout:
    return lambda module: None if module.startswith("audio_tower.") else packing


def in_tower(packing: Packing) -> Layout:
    return lambda module: packing if module.startswith("audio_tower.") else None


def mixed(rule: Callable[[str], bool], bits: int, otherwise: int) -> Layout:
    """Matrices of one rule in some bits, all others of the decoder in other bits."""

    def packing_of(module: str) -> Packing | None:
        if rule(module):
            return Packing(bits, 64)
        return None if module.startswith("audio_tower.") else Packing(otherwise, 64)

    return packing_of


def name_of(packing: Packing) -> str:
    return f"{packing.mode}-{packing.bits}-{packing.group_size}"


LAYOUTS: dict[str, Layout] = {
    **{f"text-{name_of(one)}": in_text(one) for one in (*AFFINE, *OTHER_MODES)},
    **{f"tower-{name_of(one)}": in_tower(one) for one in (Packing(4, 64), Packing(8, 64), *OTHER_MODES)},
    "all-8": lambda module: Packing(8, 64),
    "audio8-text4": mixed(lambda module: module.startswith("audio_tower."), 8, 4),
    "attn8-mlp4": mixed(lambda module: module.startswith("model.") and "self_attn" in module, 8, 4),
    "embed8-text4": mixed(lambda module: module == "model.embed_tokens", 8, 4),
    "values-apart": mixed(lambda module: module.endswith("v_proj"), 6, 4),
}


@pytest.fixture(autouse=True, scope="module")
def one_blas_thread() -> Iterator[None]:
    """As in the engine: on busy cores its threads wait for each other."""
    with cpu_profile().on_one_thread():
        yield


# ---- one matrix ----------------------------------------------------------------------------------------------


def spread(name: str, shape: tuple[int, int]) -> NDArray[np.float32]:
    return rounded(0.3 * uniform(name, shape[0] * shape[1]).reshape(shape).astype(np.float32), "BF16")


def stored(
    packing: Packing, matrix: NDArray[np.float32], folder: Path
) -> tuple[QuantizedTensor, NDArray[np.float32]]:
    """The matrix as a file of the hub brings it, and what it stands for."""
    parts = packing.packed(matrix)
    write_safetensors(folder / "matrix.safetensors", parts, "BF16")
    loaded = mx.load(str(folder / "matrix.safetensors"))
    assert isinstance(loaded, dict)
    tensor = QuantizedTensor(
        loaded["weight"],
        loaded["scales"],
        loaded.get("biases"),
        packing.bits,
        packing.group_size,
        packing.mode,
    )
    return tensor, packing.unpacked(parts)


@pytest.mark.parametrize("dequantizes", [True, False], ids=["dequantized", "packed"])
@pytest.mark.parametrize("packing", [*AFFINE, *OTHER_MODES], ids=name_of)
def test_rows_and_products_are_those_of_the_matrix_that_is_meant(
    packing: Packing, dequantizes: bool, tmp_path: Path
) -> None:
    tensor, meant = stored(packing, spread("matrix", (48, 256)), tmp_path)
    weights = Weights({"one.weight": tensor}, Placement(mx.float32, dequantizes))
    ids = [5, 0, 47]
    np.testing.assert_allclose(
        np.array(weights.embedding("one")(mx.array(ids))), meant[ids], rtol=0, atol=2e-7
    )
    x = spread("input", (3, 256))
    wanted = x.astype(np.float64) @ meant.astype(np.float64).T
    for product in (weights.projection("one"), weights.embedding("one").as_head()):
        np.testing.assert_allclose(np.array(product(mx.array(x))), wanted, rtol=0, atol=3e-6)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
@pytest.mark.parametrize("dequantizes", [True, False], ids=["dequantized", "packed"])
def test_a_16_bit_type_is_that_type_from_the_scales_to_the_product(
    dtype: mx.Dtype, dequantizes: bool, tmp_path: Path
) -> None:
    tensor, _ = stored(Packing(8, 64), spread("matrix", (48, 256)), tmp_path)
    weights = Weights({"one.weight": tensor}, Placement(dtype, dequantizes))
    x = mx.array(spread("input", (3, 256))).astype(dtype)
    assert weights.projection("one")(x).dtype == dtype
    assert weights.embedding("one").as_head()(x).dtype == dtype
    assert weights.embedding("one")(mx.array([1])).dtype == dtype


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
def test_a_matrix_in_16_bits_is_the_one_that_is_meant_rounded_once(dtype: mx.Dtype, tmp_path: Path) -> None:
    tensor, meant = stored(Packing(8, 64), spread("matrix", (48, 256)), tmp_path)
    assert mx.array_equal(tensor.dequantized(dtype), mx.array(meant).astype(dtype)).item()


# ---- whole models --------------------------------------------------------------------------------------------


@cache
def mel() -> mx.array:
    return mx.array(uniform("mel", 130 * 128).reshape(130, 128).astype(np.float32))


def logits_of(model: SpeechModel) -> NDArray[np.float32]:
    audio = model.encode([mel()])[0]
    targets = target_ids(SIZES, "packed")[:16]
    return np.array(model.score(prompt_ids(audio.shape[0]), audio, targets).astype(mx.float32))


def greedy(model: SpeechModel) -> list[int]:
    audio = model.encode([mel()])[0]
    [sequence] = [Sequence(prompt_ids(audio.shape[0]), audio, token_budget=16)]
    for _ in generate(model, [sequence], SpecialTokens(end_ids=frozenset())):
        pass
    return sequence.tokens


def worst_row_error(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    return float((np.linalg.norm(ours - theirs, axis=-1) / np.linalg.norm(theirs, axis=-1)).max())


def unpacked_model(folder: Path, meant: dict[str, NDArray[np.float32]]) -> SpeechModel:
    """The model of a folder with its numbers unpacked by numpy and stored in 32 bits."""
    write_safetensors(folder / "model.safetensors", in_layout(meant, "mlx"))
    return load_checkpoint(folder, dtype=mx.float32)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_quantized_model_says_what_its_numbers_unpacked_say(layout: str, tmp_path: Path) -> None:
    meant = write_quantized(tmp_path, SIZES, LAYOUTS[layout])
    quantized = load_checkpoint(tmp_path, dtype=mx.float32)
    assert {array.dtype for array in resident_arrays(quantized)} == {mx.float32}
    packed = build_model(read_checkpoint(tmp_path), PACKED)
    plain = unpacked_model(tmp_path, meant)
    for model, bound in ((quantized, LOGITS_BOUND), (packed, PACKED_BOUND)):
        assert worst_row_error(logits_of(model), logits_of(plain)) <= bound
        assert greedy(model) == greedy(plain)


@pytest.mark.parametrize(
    ("dtype", "bound"), [(mx.float16, 3e-2), (mx.bfloat16, 3e-1)], ids=["float16", "bfloat16"]
)
def test_16_bit_logits_stay_within_a_bound_of_32_bit_ones(
    dtype: mx.Dtype, bound: float, tmp_path: Path
) -> None:
    """Measured 1.2e-2 and 1.1e-1; bounds are those of weights stored in 16 bits, for sharp attention enlarges both."""
    meant = write_quantized(tmp_path, SIZES, lambda module: Packing(8, 64))
    short = load_checkpoint(tmp_path, dtype=dtype)
    assert {array.dtype for array in resident_arrays(short)} == {dtype}
    assert worst_row_error(logits_of(short), logits_of(unpacked_model(tmp_path, meant))) <= bound
