"""Products of a few rows with quantized matrices: the kernel's source run by the CPU; projections use it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from scribewire.engine.model.cuda import few_rows
from scribewire.engine.model.cuda.few_rows import QuantizedMatrix
from scribewire.engine.model.cuda.projection import quantized_by
from scribewire.engine.model.projection import QuantizedTensor, Weights
from tests.fakes.cuda_on_cpu import CpuKernel
from tests.fakes.tiny_decoder import PLAIN

IN_16_BITS = replace(PLAIN, dtype=mx.float16, dequantizes=False)


class OnCpu:
    """The kernel by the CPU, for each number of bits; counts what it is asked."""

    def __init__(self, folder: Path, warps: int) -> None:
        kinds = ("const unsigned*", *("const T*",) * 4, "const int*", "T*")
        parameters = list(zip(kinds, (*few_rows.QUANTIZED_INPUTS, "y"), strict=True))
        self._kernels: dict[int, CpuKernel] = {}
        for bits in few_rows.BITS:
            (folder / str(bits)).mkdir()
            self._kernels[bits] = CpuKernel(
                few_rows.QUANTIZED_SOURCE,
                parameters,
                folder / str(bits),
                T="_Float16",
                WARPS=warps,
                BITS=bits,
            )
        self.calls = 0

    def __call__(self, matrix: QuantizedMatrix, x: mx.array, residual: mx.array | None) -> mx.array:
        codes, scales, biases, bits = matrix
        self.calls += 1
        rows, columns = x.shape[0], codes.shape[0]
        size = few_rows.sizes(rows, x.shape[1], columns, residual is not None)
        given = [
            mx.contiguous(one)
            for one in (codes, scales, biases, x, x if residual is None else residual, size)
        ]
        mx.eval(given)
        y = np.full((rows, columns), np.nan, dtype=np.float16)
        blocks = -(-columns // few_rows.COLUMNS)
        self._kernels[bits]([*(np.asarray(one) for one in given), y], (blocks, 1))
        return mx.array(y)


@pytest.fixture(scope="module", params=[1, 4])
def on_cpu(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OnCpu:
    return OnCpu(tmp_path_factory.mktemp("kernel"), request.param)


def quantized(columns: int, length: int, bits: int, seed: int = 0) -> QuantizedTensor:
    plain = mx.random.normal((columns, length), key=mx.random.key(seed)).astype(mx.float16)
    packed, scales, biases = mx.quantize(plain, group_size=64, bits=bits)
    return QuantizedTensor(packed, scales, biases, bits, 64, "affine")


# One group, an odd number of them, as many as the warps read at once, more; columns that do and do not fill blocks.
@pytest.mark.parametrize(("length", "columns"), [(64, 1), (192, 7), (512, 16), (1088, 57)])
@pytest.mark.parametrize("rows", [2, 3, 8])
@pytest.mark.parametrize("bits", few_rows.BITS)
@pytest.mark.parametrize("adds", [False, True])
def test_the_kernel_multiplies(
    on_cpu: OnCpu, rows: int, length: int, columns: int, bits: int, adds: bool
) -> None:
    matrix = quantized(columns, length, bits, seed=length)
    chance = np.random.default_rng(rows * length)
    # An offset, so that a bias that counts wrongly often shows.
    x = (chance.normal(size=(rows, length)) + 0.5).astype(np.float16)
    residual = chance.normal(size=(rows, columns)).astype(np.float16)
    exact = matrix.dequantized(mx.float32)
    wanted = x.astype(np.float64) @ np.array(exact).T.astype(np.float64) + (residual if adds else 0.0)
    assert matrix.biases is not None
    whole = QuantizedMatrix(matrix.packed, matrix.scales, matrix.biases, bits)
    found = on_cpu(whole, mx.array(x), mx.array(residual) if adds else None)
    # Codes and their products are exact; sums are kept in 32 bits, and the result is rounded to 16.
    np.testing.assert_allclose(np.array(found), wanted, rtol=1e-3, atol=4e-3)


@pytest.mark.parametrize("bits", few_rows.BITS)
def test_projections_hand_over_few_rows_and_no_others(on_cpu: OnCpu, bits: int) -> None:
    tensors = {"one.weight": quantized(24, 64, bits, seed=1), "two.weight": quantized(8, 64, bits, seed=2)}
    ours = Weights(tensors, replace(IN_16_BITS, quantized=quantized_by(on_cpu))).projection("one", "two")
    plain = Weights(tensors, IN_16_BITS).projection("one", "two")
    for shape, is_ours in (((1, 64), 0), ((2, 64), 1), ((8, 64), 1), ((9, 64), 0), ((2, 3, 64), 0)):
        x = mx.random.normal(shape).astype(mx.float16)
        residual = mx.random.normal((*shape[:-1], 32)).astype(mx.float16)
        before = on_cpu.calls
        np.testing.assert_allclose(np.array(ours(x)), np.array(plain(x)), rtol=0.01, atol=0.05)
        np.testing.assert_allclose(
            np.array(ours.added_to(residual, x)), np.array(plain.added_to(residual, x)), rtol=0.01, atol=0.05
        )
        assert on_cpu.calls - before == 2 * is_ours, shape


@pytest.mark.parametrize("what", ["bias", "32-bit model", "groups of 32", "3 bits", "float32 rows"])
def test_what_the_kernel_does_not_know_goes_the_usual_way(on_cpu: OnCpu, what: str) -> None:
    plain = mx.random.normal((8, 64)).astype(mx.float16)
    group_size, bits = (32 if what == "groups of 32" else 64), (3 if what == "3 bits" else 8)
    packed, scales, biases = mx.quantize(plain, group_size=group_size, bits=bits)
    tensors: dict[str, mx.array | QuantizedTensor] = {
        "one.weight": QuantizedTensor(packed, scales, biases, bits, group_size, "affine")
    }
    if what == "bias":
        tensors["one.bias"] = mx.ones((8,))
    placement = replace(IN_16_BITS, quantized=quantized_by(on_cpu))
    if what == "32-bit model":
        placement = replace(placement, dtype=mx.float32)
    projection = Weights(tensors, placement).projection("one")
    x = mx.random.normal((2, 64)).astype(mx.float32 if what == "float32 rows" else mx.float16)
    before = on_cpu.calls
    assert projection(x).shape == (2, 8)
    assert on_cpu.calls == before


@pytest.mark.parametrize("stored", [mx.bfloat16, mx.float32], ids=str)
def test_scales_of_another_type_are_cast_and_the_kernel_takes_them(on_cpu: OnCpu, stored: mx.Dtype) -> None:
    matrix = quantized(8, 64, 8).scaled_in(stored)
    projection = Weights(
        {"one.weight": matrix}, replace(IN_16_BITS, quantized=quantized_by(on_cpu))
    ).projection("one")
    before = on_cpu.calls
    assert projection(mx.random.normal((2, 64)).astype(mx.float16)).dtype == mx.float16
    assert on_cpu.calls == before + 1


def test_a_kernel_is_trusted_when_it_multiplies_right(
    on_cpu: OnCpu, caplog: pytest.LogCaptureFixture
) -> None:
    assert few_rows.trusted_quantized(on_cpu, mx.float16) is on_cpu
    assert few_rows.trusted_quantized(on_cpu, mx.float32) is None

    def forgets_the_biases(matrix: QuantizedMatrix, x: mx.array, residual: mx.array | None) -> mx.array:
        return on_cpu(matrix._replace(biases=mx.zeros_like(matrix.biases)), x, residual)

    assert few_rows.trusted_quantized(forgets_the_biases, mx.float16) is None
    assert "few rows are multiplied by MLX" in caplog.text


@pytest.mark.gpu
@pytest.mark.skipif(not mx.cuda.is_available(), reason="Metal, the other GPU, goes without this kernel")
@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
@pytest.mark.parametrize("bits", few_rows.BITS)
def test_on_a_gpu_products_are_as_near_as_their_type_allows(bits: int, dtype: mx.Dtype) -> None:
    mx.set_default_device(mx.Device(mx.gpu))
    product = few_rows.FewRowsQuantizedKernel()
    for length, columns in ((1024, 4096), (2048, 1024), (3072, 1000), (64, 17)):
        keys = mx.random.split(mx.random.key(length), 3)
        plain = mx.random.normal((columns, length), key=keys[0]).astype(dtype)
        codes, scales, biases = mx.quantize(plain, group_size=64, bits=bits)
        exact = np.array(
            mx.dequantize(
                codes, scales.astype(mx.float32), biases.astype(mx.float32), group_size=64, bits=bits
            )
        ).astype(np.float64)
        for rows in (2, 5, 8):
            x = (mx.random.normal((rows, length), key=keys[1]) + 0.5).astype(dtype)
            residual = mx.random.normal((rows, columns), key=keys[2]).astype(dtype)
            wanted = np.array(x.astype(mx.float32)).astype(np.float64) @ exact.T
            wanted += np.array(residual.astype(mx.float32))
            found = np.array(
                product(QuantizedMatrix(codes, scales, biases, bits), x, residual).astype(mx.float32)
            )
            close = 2e-3 if dtype == mx.float16 else 8e-3
            np.testing.assert_allclose(found, wanted, rtol=close, atol=close * np.sqrt(length))
