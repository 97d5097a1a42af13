"""Figures of the benchmark: medians and intervals, what a step needs, and how a graph is counted."""

import json
from pathlib import Path

import mlx.core as mx
import pytest

from engine.bench.component_parts import shares
from engine.bench.launches import counted_evaluations, graph_primitives, started_kernels
from engine.bench.limits import StepNeeds, measured_bandwidth, measured_products
from engine.bench.measuring import machine, quantile, ratio, summary, versions
from engine.checkpoint.load import read_checkpoint
from engine.demo import demo_model_path
from engine.model.projection import Placement


def test_summary_keeps_every_value_and_judges_the_median() -> None:
    found = summary([3.0, 1.0, 2.0], target=2.0)
    assert (found["median"], found["min"], found["max"], found["count"]) == (2.0, 1.0, 3.0, 3)
    assert found["values"] == [3.0, 1.0, 2.0]
    assert found["met"]
    assert not summary([3.0, 1.0, 2.5], target=2.0)["met"]


@pytest.mark.parametrize("values", [[2.0], [1.0, 5.0], [5.0, 1.0, 2.0, 4.0, 3.0]])
def test_quartiles_never_lie_outside_what_was_measured(values: list[float]) -> None:
    found = summary(values)
    low, high = found["quartiles"]
    assert found["min"] <= low <= found["median"] <= high <= found["max"]


def test_quantiles_lie_between_neighbors() -> None:
    assert quantile([5.0], 0.95) == 5.0
    assert quantile([1.0, 2.0, 3.0, 4.0, 5.0], 0.5) == 3.0
    assert quantile([0.0, 10.0], 0.95) == pytest.approx(9.5)


def test_a_ratio_of_few_values_has_no_interval() -> None:
    assert ratio([1.0, 2.0], [4.0, 4.0, 4.0]) == {"ratio": 0.375, "interval_95": None}


def test_the_interval_of_a_ratio_holds_it_and_widens_with_the_spread() -> None:
    steady = ratio([1.0, 1.01, 0.99, 1.0, 1.0], [2.0, 2.01, 1.99, 2.0, 2.0])
    spread = ratio([0.5, 1.0, 1.5, 1.0, 2.0], [1.0, 2.0, 3.0, 2.0, 1.5])
    for found in (steady, spread):
        low, high = found["interval_95"]
        assert low <= found["ratio"] <= high
    assert spread["interval_95"][1] - spread["interval_95"][0] > 0.2
    assert steady["interval_95"][1] - steady["interval_95"][0] < 0.05


def test_machine_and_versions_name_no_host_and_no_path() -> None:
    told = json.dumps([machine(), versions()])
    assert "/" not in told.replace("GNU/Linux", "")
    assert Path.home().name not in told.split()
    assert machine()["cores"] >= 1
    assert "mlx" in versions()


def test_a_step_reads_all_of_the_decoder_and_its_head_once() -> None:
    checkpoint = read_checkpoint(demo_model_path())
    text = checkpoint.config.text
    hidden, middle = text.hidden_size, text.intermediate_size
    queries, keys = text.head_count * text.head_dim, text.kv_head_count * text.head_dim
    products = text.layer_count * (hidden * (queries + 2 * keys) + queries * hidden + 3 * hidden * middle) + (
        text.vocab_size * hidden
    )
    vectors = text.layer_count * (2 * text.head_dim + 2 * hidden) + hidden
    plain = StepNeeds.of_checkpoint(checkpoint, Placement(mx.float32, True, False))
    assert plain.product_operations_per_row == 2 * products
    assert plain.weight_bytes == 4 * (products + vectors)
    packed = StepNeeds.of_checkpoint(checkpoint, Placement(mx.bfloat16, False, False))
    # 8 bits and two 16-bit numbers for every 64 weights.
    assert products * 1.05 < packed.weight_bytes - 2 * vectors < products * 1.14
    assert packed.kv_bytes_per_token == 2 * text.layer_count * keys * 2
    assert plain.read_bytes(10) - plain.weight_bytes == 10 * plain.kv_bytes_per_token


def test_shares_compare_a_step_with_what_the_machine_can_do() -> None:
    found = {"step": {"median": 0.01}, "read_bytes": 10**7, "operations": 10**9, "estimated_launches": 320}
    limits = {"bandwidth": {"bytes_per_second": 10**10}, "products": {"operations_per_second": 10**12}}
    told = shares(found, 8, limits)
    assert told["share_of_bandwidth"] == pytest.approx(0.1)
    assert told["share_of_products"] == pytest.approx(0.1)
    assert told["tokens_per_second"] == pytest.approx(800.0)
    assert told["tokens_per_second_at_full_bandwidth"] == pytest.approx(8000.0)
    assert told["launches_per_token"] == pytest.approx(40.0)
    assert shares(found | {"estimated_launches": None}, 8, limits)["launches_per_token"] is None


def test_limits_are_measured() -> None:
    assert measured_bandwidth(1 << 20, on_host_too=True)["bytes_per_second"] > 1e6
    products = measured_products(64, mx.float32, on_host_too=True)
    assert products["operations_per_second"] >= products["mlx_operations_per_second"] > 1e5


def test_views_are_told_from_work() -> None:
    with mx.stream(mx.cpu):
        x, y = mx.ones((4, 8)), mx.ones((8, 8))
        mx.eval(x, y)
        primitives = graph_primitives([mx.softmax((x @ y).reshape(8, 4).T, axis=-1)])
    assert primitives == {"Matmul": 1, "Reshape": 1, "Transpose": 1, "Softmax": 1}
    assert started_kernels(primitives) == 2


def test_evaluations_are_counted_and_still_happen() -> None:
    with mx.stream(mx.cpu):
        x = mx.ones(8)
        mx.eval(x)
        before = mx.eval, mx.async_eval
        with counted_evaluations() as counted:
            y = mx.sin(x)
            mx.async_eval([y])
            mx.eval({"again": mx.cos(y)}, None)
        assert (mx.eval, mx.async_eval) == before
        assert counted["Sin"] + counted["Cos"] == 2
        assert mx.allclose(y, mx.sin(x)).item()
