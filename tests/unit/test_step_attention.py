"""The kernel of a step's attention gives what separate kernels give: its source compiled for the CPU, and on a GPU.

On the CPU the threads of a block take turns, so that what lanes and warps hand to each other is tried as it is; only
the hardware's arithmetic is not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from scribewire.engine.model.cache import KVCache
from scribewire.engine.model.config import TextConfig
from scribewire.engine.model.cuda import step_attention
from scribewire.engine.model.decoder import Decoder
from scribewire.engine.model.projection import DenseProjection, Placement
from scribewire.engine.model.step_attention import trusted
from scribewire.engine.resident.profile import profile_of
from tests.fakes import tiny_decoder
from tests.fakes.cuda_on_cpu import CpuKernel
from tests.fakes.tiny_decoder import PLAIN

CONFIG = replace(tiny_decoder.CONFIG, layer_count=2, head_dim=64)
Attention = Callable[[mx.array, mx.array, mx.array, mx.array, mx.array], mx.array]


class OnCpu:
    """The kernel's source run by the CPU; writes into MLX's memory as the kernel does."""

    def __init__(self, config: TextConfig, folder: Path, warps: int) -> None:
        kinds = ("const float*",) * 4 + ("const int*", "const float*", "float*")
        self._kernel = CpuKernel(
            step_attention.SOURCE,
            list(zip(kinds, (*step_attention.INPUTS, "mixed"), strict=True)),
            folder,
            macros=step_attention.header(config),
            T="float",
            HEADS=config.head_count,
            KV_HEADS=config.kv_head_count,
            HEAD_DIM=config.head_dim,
            WARPS=warps,
        )
        self._config = config
        self._frequencies = step_attention.frequencies(config)

    def __call__(
        self, heads: mx.array, scales: mx.array, keys: mx.array, values: mx.array, marks: mx.array
    ) -> mx.array:
        mx.eval(heads, scales, keys, values, marks)
        rows = heads.shape[0]
        mixed = np.zeros((rows, self._config.head_count * self._config.head_dim), dtype=np.float32)
        given = [np.asarray(one) for one in (heads, scales, keys, values, marks)]
        self._kernel([*given, self._frequencies, mixed], (self._config.kv_head_count, rows))
        return mx.array(mixed)


@pytest.fixture(scope="module", params=[1, 4])
def on_cpu(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Attention:
    return OnCpu(CONFIG, tmp_path_factory.mktemp("kernel"), request.param)


def decoder(placement: Placement, config: TextConfig = CONFIG) -> Decoder:
    return tiny_decoder.decoder(placement, config)


def _inputs(network: Decoder, rows: int, width: int, seed: int) -> mx.array:
    return mx.random.normal((rows, width, 32), key=mx.random.key(seed)).astype(network.dtype)


def filled(network: Decoder, lengths: list[int], seed: int) -> KVCache:
    cache = network.new_cache()
    width = cache.start_rows(lengths)
    network(_inputs(network, len(lengths), width, seed), cache)
    cache.rewind(cache.trailing)
    return cache


def step(network: Decoder, cache: KVCache, seed: int, width: int = 1) -> list[np.ndarray]:
    """States of the rows that there are."""
    states = np.array(network(_inputs(network, cache.slot_count, width, seed), cache).astype(mx.float32))
    return [states[slot] for slot, length in enumerate(cache.lengths) if length]


def a_life(network: Decoder, lengths: list[int]) -> list[np.ndarray]:
    """Steps of a batch that rows join and leave, that grows beyond its first buffers, and whose end moves back."""
    cache = filled(network, lengths, seed=5)
    found = [state for seed in range(3) for state in step(network, cache, seed)]
    cache.rewind(2)
    found += [state for seed in range(3, 6) for state in step(network, cache, seed)]
    cache.adopt(filled(network, [31, 6], seed=6))
    found += [state for seed in range(6, 9) for state in step(network, cache, seed)]
    alive = [slot for slot, length in enumerate(cache.lengths) if length]
    cache.free_slots(alive[:-2])
    found += [state for seed in range(9, 12) for state in step(network, cache, seed)]
    # Several tokens at once behind what the kernel wrote, as draft tokens are checked, and one again.
    return [*found, *step(network, cache, 40, width=3), *step(network, cache, 41)]


@pytest.mark.parametrize("lengths", [[1], [9], [9, 9, 9], [140, 5, 70], [250, 190]], ids=str)
def test_steps_with_the_kernel_are_the_plain_ones(on_cpu: Attention, lengths: list[int]) -> None:
    with mx.stream(mx.cpu):
        wanted = a_life(decoder(PLAIN), lengths)
        found = a_life(decoder(replace(PLAIN, step_attention=lambda config: on_cpu)), lengths)
    assert len(found) == len(wanted)
    for one, other in zip(wanted, found, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=2e-5)


def test_what_lies_behind_a_row_s_end_or_before_its_start_is_never_seen(on_cpu: Attention) -> None:
    network = decoder(replace(PLAIN, step_attention=lambda config: on_cpu))
    with mx.stream(mx.cpu):
        clean, cache = (filled(network, [40, 7], seed=5) for _ in range(2))
        for one in (clean, cache):
            step(network, one, seed=0)
        wanted = step(network, clean, seed=1)
        assert cache.capacity > cache.end
        for buffer in cache.state():
            buffer[:, :, cache.end :] = mx.nan
            buffer[1, :, : cache.end - 8] = mx.nan
        for found, one in zip(step(network, cache, seed=1), wanted, strict=True):
            np.testing.assert_array_equal(found, one)


def test_heads_that_a_warp_cannot_share_go_without_the_kernel() -> None:
    odd = replace(CONFIG, head_dim=48)
    assert not step_attention.suits_heads(odd)
    with pytest.raises(ValueError, match="no kernel for 4 heads of 48"):
        step_attention.StepAttentionKernel(odd)
    network = decoder(replace(PLAIN, step_attention=step_attention.step_attention), odd)
    assert len(step(network, filled(network, [5, 3], seed=1), seed=2)) == 2


def test_a_kernel_is_trusted_when_it_gives_what_the_formula_gives(on_cpu: Attention) -> None:
    with mx.stream(mx.cpu):
        assert trusted(on_cpu, CONFIG, mx.float32) is on_cpu
        assert trusted(None, CONFIG, mx.float32) is None


def _forgets_to_write(on_cpu: Attention, *given: mx.array) -> mx.array:
    heads, scales, keys, values, layout = given
    return on_cpu(heads, scales, mx.array(np.array(keys)), mx.array(np.array(values)), layout)


def _sees_a_column_too_many(on_cpu: Attention, *given: mx.array) -> mx.array:
    *others, layout = given
    return on_cpu(*others, layout - mx.array([0, 0, 0, 1], dtype=mx.int32))


def _is_nan(on_cpu: Attention, *given: mx.array) -> mx.array:
    return on_cpu(*given) * mx.nan


def _does_not_run(on_cpu: Attention, *given: mx.array) -> mx.array:
    raise RuntimeError("Failed to compile kernel")


@pytest.mark.parametrize("wrong", [_forgets_to_write, _sees_a_column_too_many, _is_nan, _does_not_run])
def test_a_kernel_that_is_not_right_is_left_out_and_said_to_be(
    on_cpu: Attention, wrong: Callable[..., mx.array], caplog: pytest.LogCaptureFixture
) -> None:
    with mx.stream(mx.cpu):
        wanted = a_life(decoder(PLAIN), [9, 4])
        network = decoder(replace(PLAIN, step_attention=lambda config: partial(wrong, on_cpu)))
        assert "steps attend by MLX" in caplog.text
        for one, other in zip(wanted, a_life(network, [9, 4]), strict=True):
            np.testing.assert_array_equal(other, one)


@pytest.mark.gpu
@pytest.mark.skipif(not mx.cuda.is_available(), reason="Metal, the other GPU, goes without these kernels")
@pytest.mark.parametrize(
    # MLX multiplies float32 on CUDA in ten bits of fraction, unless set otherwise.
    ("dtype", "close"), [(mx.float32, 0.01), (mx.float16, 0.03), (mx.bfloat16, 0.2)], ids=str
)  # fmt: skip
def test_on_a_gpu_steps_with_the_kernels_are_the_plain_ones(dtype: mx.Dtype, close: float) -> None:
    mx.set_default_device(mx.Device(mx.gpu))
    ours = profile_of("cuda", mx.Device(mx.gpu), dtype).placement
    assert ours.step_attention is not None
    plain = replace(ours, step_attention=None, dense=DenseProjection, compiles=False)
    for head_dim in (64, 128):
        config = replace(CONFIG, head_dim=head_dim)
        for lengths in ([1 + 2], [9, 9, 9], [140, 5, 70], [250, 190], [30 + 7 * i for i in range(24)]):
            wanted = a_life(decoder(plain, config), lengths)
            found = a_life(decoder(ours, config), lengths)
            for one, other in zip(wanted, found, strict=True):
                np.testing.assert_allclose(
                    other, one, rtol=close, atol=close, err_msg=f"{head_dim} {lengths}"
                )
