"""What a loaded model holds, each weight once, and how little more while it is loaded."""

from __future__ import annotations

import gc

import mlx.core as mx
import numpy as np
import pytest

from scribewire.engine.checkpoint.load import build_model, read_checkpoint, resident_arrays
from scribewire.engine.demo import demo_model_path
from scribewire.engine.model.asr import SpeechModel
from scribewire.engine.model.host.projection import HostConvolution, HostProjection
from scribewire.engine.model.projection import Placement, Weights
from tests.fakes.clips import uniform
from tests.fakes.random_model import TRUE_WINDOWS, make_weights

MOST_PEAK = 1.2
IN_PLACE = {
    "dequantized": Placement(mx.float32, dequantizes=True),
    "on the host": Placement(mx.float32, dequantizes=True, dense=HostProjection, convolution=HostConvolution),
    "in 16 bits": Placement(mx.bfloat16, dequantizes=True),
    "packed": Placement(mx.bfloat16),
}


def held_bytes(model: SpeechModel) -> int:
    return sum(array.nbytes for array in resident_arrays(model))


@pytest.mark.parametrize("placed", IN_PLACE)
def test_loading_holds_little_more_than_what_stays(placed: str) -> None:
    placement = IN_PLACE[placed]
    gc.collect()  # an earlier model, let go in the middle, would make room
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    model = build_model(read_checkpoint(demo_model_path()), placement)
    assert mx.get_peak_memory() - before <= MOST_PEAK * held_bytes(model)


@pytest.mark.parametrize("placed", ["dequantized", "on the host", "in 16 bits"])
def test_every_weight_is_held_once_the_tied_table_too(placed: str) -> None:
    placement = IN_PLACE[placed]
    checkpoint = read_checkpoint(demo_model_path())
    gc.collect()
    before = mx.get_active_memory()
    model = build_model(checkpoint, placement)
    # Beside the weights: positions of the encoder, and the norms' scales for every head.
    wanted = checkpoint.parameter_count * placement.dtype.size
    assert wanted <= held_bytes(model) <= 1.01 * wanted
    assert mx.get_active_memory() - before <= 1.01 * wanted


@pytest.mark.parametrize("placed", ["dequantized", "on the host"])
def test_rows_of_a_tied_table_are_those_of_the_checkpoint_and_the_head_multiplies_with_them(
    placed: str,
) -> None:
    table = make_weights(TRUE_WINDOWS)["model.embed_tokens.weight"]
    weights = Weights({"table.weight": mx.array(table)}, IN_PLACE[placed])
    embedding = weights.embedding("table")
    ids = np.array([[3, 0], [639, 3]])
    assert (np.array(embedding(mx.array(ids))) == table[ids]).all()
    head = embedding.as_head()
    assert (np.array(embedding(mx.array(ids))) == table[ids]).all()
    x = uniform("hidden", 5 * 64).reshape(5, 64).astype(np.float32)
    np.testing.assert_allclose(np.array(head(mx.array(x))), x @ table.T, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(128, 3), (384, 64), (1, 5), (127, 16), (130, 128)])
def test_a_matrix_on_the_host_is_the_transposed_one_row_behind_row(shape: tuple[int, int]) -> None:
    """Of numbers of outputs that blocks divide, and of others."""
    stored = uniform("matrix", shape[0] * shape[1]).reshape(shape).astype(np.float32)
    held = np.asarray(HostProjection(mx.array(stored), None).matrix)
    assert held.flags.c_contiguous
    assert (held == stored.T).all()
