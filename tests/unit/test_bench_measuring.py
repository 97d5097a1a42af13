"""Figures of the benchmark: medians, what a step needs, and its shares of what the machine can do."""

import json
from pathlib import Path

import mlx.core as mx
import pytest

from scribewire.engine.bench.limits import StepNeeds, measured_bandwidth, measured_products
from scribewire.engine.bench.measured import shares
from scribewire.engine.bench.measuring import machine, quantile, summary, versions
from scribewire.engine.checkpoint.load import read_checkpoint
from scribewire.engine.demo import demo_model_path
from scribewire.engine.model.projection import Placement


def test_summary_keeps_every_value() -> None:
    found = summary([3.0, 1.0, 2.0])
    assert (found["median"], found["min"], found["max"], found["count"]) == (2.0, 1.0, 3.0, 3)
    assert found["values"] == [3.0, 1.0, 2.0]


@pytest.mark.parametrize("values", [[2.0], [1.0, 5.0], [5.0, 1.0, 2.0, 4.0, 3.0]])
def test_quartiles_never_lie_outside_what_was_measured(values: list[float]) -> None:
    found = summary(values)
    low, high = found["quartiles"]
    assert found["min"] <= low <= found["median"] <= high <= found["max"]


def test_quantiles_lie_between_neighbors() -> None:
    assert quantile([5.0], 0.95) == 5.0
    assert quantile([1.0, 2.0, 3.0, 4.0, 5.0], 0.5) == 3.0
    assert quantile([0.0, 10.0], 0.95) == pytest.approx(9.5)


def test_machine_and_versions_name_no_host_and_no_path() -> None:
    text = json.dumps([machine(), versions()])
    assert "/" not in text.replace("GNU/Linux", "")
    assert Path.home().name not in text.split()
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
    plain = StepNeeds.of_checkpoint(checkpoint, Placement(mx.float32, dequantizes=True))
    assert plain.product_operations_per_row == 2 * products
    assert plain.weight_bytes == 4 * (products + vectors)
    packed = StepNeeds.of_checkpoint(checkpoint, Placement(mx.bfloat16))
    # 8 bits and two 16-bit numbers for every 64 weights.
    assert products * 1.05 < packed.weight_bytes - 2 * vectors < products * 1.14
    assert packed.kv_bytes_per_token == 2 * text.layer_count * keys * 2
    assert plain.read_bytes(10) - plain.weight_bytes == 10 * plain.kv_bytes_per_token


def test_shares_compare_a_step_with_what_the_machine_can_do() -> None:
    found = {"step": {"median": 0.01}, "read_bytes": 10**7, "operations": 10**9}
    limits = {"bandwidth": {"bytes_per_second": 10**10}, "products": {"operations_per_second": 10**12}}
    limited = shares(found, 8, limits)
    assert limited["share_of_bandwidth"] == pytest.approx(0.1)
    assert limited["share_of_products"] == pytest.approx(0.1)
    assert limited["tokens_per_second"] == pytest.approx(800.0)
    assert limited["tokens_per_second_at_full_bandwidth"] == pytest.approx(8000.0)


def test_limits_are_measured() -> None:
    assert measured_bandwidth(1 << 20, on_host_too=True)["bytes_per_second"] > 1e6
    products = measured_products(64, mx.float32, on_host_too=True)
    assert products["operations_per_second"] >= products["mlx_operations_per_second"] > 1e5
