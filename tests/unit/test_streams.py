"""Work shared out over streams gives the same numbers as work done in one piece."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from engine.model.streams import RowStreams


def streams(count: int) -> RowStreams:
    return RowStreams(tuple(mx.new_stream(mx.cpu) for _ in range(count - 1)))


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("rows", [1, 15, 16, 17, 103])
def test_product_in_parts_is_the_product(count: int, rows: int) -> None:
    x, matrix = mx.random.normal((rows, 32)), mx.random.normal((32, 48))
    whole = x @ matrix
    parts = streams(count).map(lambda some: some @ matrix, x)
    np.testing.assert_array_equal(np.array(parts), np.array(whole))


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("kv_heads", [1, 2, 3, 8])
def test_grouped_attention_in_parts_keeps_each_query_head_with_its_keys(count: int, kv_heads: int) -> None:
    queries = mx.random.normal((2, 2 * kv_heads, 9, 16))
    keys = mx.random.normal((2, kv_heads, 9, 16))
    values = mx.random.normal((2, kv_heads, 9, 16))

    def attend(queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
        return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=0.25, mask="causal")

    whole = attend(queries, keys, values)
    parts = streams(count).map(attend, queries, keys, values, axis=1, at_least=2)
    np.testing.assert_allclose(np.array(parts), np.array(whole), rtol=0, atol=1e-6)


def test_function_is_called_once_where_sharing_is_not_worth_it() -> None:
    calls: list[int] = []

    def count_rows(some: mx.array) -> mx.array:
        calls.append(some.shape[0])
        return some

    streams(2).map(count_rows, mx.zeros((15, 2)))
    streams(2).map(count_rows, mx.zeros((16, 2)))
    RowStreams().map(count_rows, mx.zeros((99, 2)))
    assert sorted(calls) == [8, 8, 15, 99]


def test_a_gpu_gets_no_extra_streams() -> None:
    calls: list[int] = []

    def count_rows(some: mx.array) -> mx.array:
        calls.append(some.shape[0])
        return some

    RowStreams.for_device(mx.Device(mx.gpu)).map(count_rows, mx.zeros((99, 2)))
    assert calls == [99]
