"""Products of a few rows: the kernel's source run by the CPU gives what numpy gives; projections use it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from scribewire.engine.model.cuda import few_rows
from scribewire.engine.model.cuda.projection import dense_by
from scribewire.engine.model.projection import Weights
from tests.fakes.cuda_on_cpu import CpuKernel
from tests.fakes.tiny_decoder import PLAIN

IN_16_BITS = replace(PLAIN, dtype=mx.float16)


class OnCpu:
    """The kernel by the CPU; counts what it is asked."""

    def __init__(self, folder: Path, warps: int) -> None:
        kinds = ("const T*",) * 3 + ("const int*", "T*")
        parameters = list(zip(kinds, (*few_rows.INPUTS, "y"), strict=True))
        self._kernel = CpuKernel(few_rows.SOURCE, parameters, folder, T="_Float16", WARPS=warps)
        self.calls = 0

    def __call__(self, matrix: mx.array, x: mx.array, residual: mx.array | None) -> mx.array:
        self.calls += 1
        rows, columns = x.shape[0], matrix.shape[0]
        size = few_rows.sizes(rows, x.shape[1], columns, residual is not None)
        given = [mx.contiguous(one) for one in (matrix, x, x if residual is None else residual, size)]
        mx.eval(given)
        y = np.full((rows, columns), np.nan, dtype=np.float16)
        self._kernel([*(np.asarray(one) for one in given), y], (-(-columns // few_rows.COLUMNS), 1))
        return mx.array(y)


@pytest.fixture(scope="module", params=[1, 4])
def on_cpu(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OnCpu:
    return OnCpu(tmp_path_factory.mktemp("kernel"), request.param)


# One read of each lane, a part of what the warps read at once, all of it, more; columns that do and do not fill blocks.
@pytest.mark.parametrize(("length", "columns"), [(32, 1), (96, 7), (512, 16), (1120, 57)])
@pytest.mark.parametrize("rows", [2, 3, 8])
@pytest.mark.parametrize("adds", [False, True])
def test_the_kernel_multiplies(on_cpu: OnCpu, rows: int, length: int, columns: int, adds: bool) -> None:
    chance = np.random.default_rng(rows * length)
    matrix, x, residual = (
        chance.normal(size=shape).astype(np.float16)
        for shape in ((columns, length), (rows, length), (rows, columns))
    )
    wanted = x.astype(np.float64) @ matrix.T.astype(np.float64) + (residual if adds else 0.0)
    found = on_cpu(mx.array(matrix), mx.array(x), mx.array(residual) if adds else None)
    # Products of 16-bit numbers are exact in 32 bits; what is left is the rounding of the result.
    np.testing.assert_allclose(np.array(found), wanted, rtol=1e-3, atol=1e-3)


def test_projections_hand_over_few_rows_and_no_others(on_cpu: OnCpu) -> None:
    tensors = {"one.weight": mx.random.normal((24, 32)), "two.weight": mx.random.normal((8, 32))}
    ours = Weights(tensors, replace(IN_16_BITS, dense=dense_by(on_cpu))).projection("one", "two")
    plain = Weights(tensors, IN_16_BITS).projection("one", "two")
    for shape, is_ours in (((1, 32), 0), ((2, 32), 1), ((8, 32), 1), ((9, 32), 0), ((2, 3, 32), 0)):
        x = mx.random.normal(shape).astype(mx.float16)
        residual = mx.random.normal((*shape[:-1], 32)).astype(mx.float16)
        before = on_cpu.calls
        np.testing.assert_allclose(np.array(ours(x)), np.array(plain(x)), rtol=0.01, atol=0.02)
        np.testing.assert_allclose(
            np.array(ours.added_to(residual, x)), np.array(plain.added_to(residual, x)), rtol=0.01, atol=0.02
        )
        assert on_cpu.calls - before == 2 * is_ours, shape


@pytest.mark.parametrize(("length", "dtype"), [(48, mx.float16), (32, mx.float32)], ids=str)
def test_rows_that_the_kernel_cannot_read_go_the_usual_way(
    on_cpu: OnCpu, length: int, dtype: mx.Dtype
) -> None:
    weights = Weights(
        {"one.weight": mx.random.normal((8, length))}, replace(PLAIN, dtype=dtype, dense=dense_by(on_cpu))
    )
    before = on_cpu.calls
    assert weights.projection("one")(mx.random.normal((2, length)).astype(dtype)).shape == (2, 8)
    assert on_cpu.calls == before


def test_a_kernel_is_trusted_when_it_multiplies_right(on_cpu: OnCpu) -> None:
    assert few_rows.trusted(on_cpu, mx.float16) is on_cpu
    assert few_rows.trusted(on_cpu, mx.float32) is None


def _is_wrong(matrix: mx.array, x: mx.array, residual: mx.array | None) -> mx.array:
    product = x @ matrix.T + (0 if residual is None else residual)
    product[0, 3] = product[0, 4]
    return product


def _is_nan(matrix: mx.array, x: mx.array, residual: mx.array | None) -> mx.array:
    return x @ matrix.T * mx.nan


def _does_not_run(matrix: mx.array, x: mx.array, residual: mx.array | None) -> mx.array:
    raise RuntimeError("Failed to compile kernel")


@pytest.mark.parametrize("product", [_is_wrong, _is_nan, _does_not_run])
def test_a_kernel_that_is_not_right_is_left_out_and_said_to_be(
    product: few_rows.FewRowsProduct[mx.array], caplog: pytest.LogCaptureFixture
) -> None:
    assert few_rows.trusted(product, mx.float16) is None
    assert "few rows are multiplied by MLX" in caplog.text


def test_a_map_with_a_bias_goes_the_usual_way(on_cpu: OnCpu) -> None:
    tensors = {"one.weight": mx.random.normal((8, 32)), "one.bias": mx.random.normal((8,))}
    projection = Weights(tensors, replace(IN_16_BITS, dense=dense_by(on_cpu))).projection("one")
    before = on_cpu.calls
    assert projection(mx.zeros((2, 32), dtype=mx.float16)).shape == (2, 8)
    assert on_cpu.calls == before
