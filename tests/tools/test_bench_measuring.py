"""Figures that only developers need: targets, ratios with an interval, and how many kernels a graph starts."""

import mlx.core as mx

from tools.bench.launches import counted_evaluations, graph_primitives, started_kernels
from tools.bench.measuring import ratio, summary


def test_a_target_judges_the_median() -> None:
    assert summary([3.0, 1.0, 2.0], target=2.0)["met"]
    assert not summary([3.0, 1.0, 2.5], target=2.0)["met"]
    assert "met" not in summary([3.0])


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
