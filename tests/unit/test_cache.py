"""Right-aligned keys and values: lengths, masks, growth and rows that leave."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from engine.model.cache import CAPACITY_STEP, KVCache


def column(cache: KVCache, width: int, value: float) -> mx.array:
    return mx.full((cache.row_count, 2, width, 4), value)


def test_rows_of_different_length_end_at_the_same_column() -> None:
    cache = KVCache(1, 2, 4, mx.float32)
    assert cache.start_rows([3, 5]) == 5
    cache.reserve(5)
    cache.append(0, column(cache, 5, 1.0), column(cache, 5, 2.0))
    cache.advance(5)
    assert cache.lengths == [3, 5]
    offsets = cache.rope_offsets()
    assert isinstance(offsets, mx.array)
    assert offsets.tolist() == [3, 5]


def test_mask_hides_padding_and_the_future_but_no_query_is_blind() -> None:
    cache = KVCache(1, 2, 4, mx.float32)
    cache.start_rows([1, 3])
    mask = cache.attention_mask(3)
    assert isinstance(mask, mx.array)
    short, long = np.array(mask)[:, 0]
    assert short.tolist() == [[True, False, False], [False, True, False], [False, False, True]]
    assert long.tolist() == [[True, False, False], [True, True, False], [True, True, True]]


def test_aligned_rows_need_no_mask_array_and_one_offset() -> None:
    cache = KVCache(1, 2, 4, mx.float32)
    cache.start_rows([4, 4])
    assert cache.attention_mask(4) == "causal"
    cache.advance(4)
    assert cache.attention_mask(1) is None
    assert cache.rope_offsets() == 4


def test_growth_keeps_what_was_written() -> None:
    cache = KVCache(1, 2, 4, mx.float32)
    cache.start_rows([2])
    cache.reserve(2)
    cache.append(0, column(cache, 2, 1.0), column(cache, 2, -1.0))
    cache.advance(2)
    cache.reserve(CAPACITY_STEP)
    keys, values = cache.append(0, column(cache, 1, 5.0), column(cache, 1, -5.0))
    assert np.array(keys)[0, 0, :, 0].tolist() == [1.0, 1.0, 5.0]
    assert np.array(values)[0, 0, :, 0].tolist() == [-1.0, -1.0, -5.0]


def test_leaving_rows_give_back_the_columns_that_only_they_used() -> None:
    cache = KVCache(1, 2, 4, mx.float32)
    cache.start_rows([2, 6, 4])
    cache.reserve(6)
    keys = mx.broadcast_to(mx.arange(6, dtype=mx.float32)[None, None, :, None], (3, 2, 6, 4))
    cache.append(0, keys, keys)
    cache.advance(6)
    cache.keep_rows([0, 2])
    assert cache.lengths == [2, 4]
    cache.reserve(1)
    after, _ = cache.append(0, column(cache, 1, 9.0), column(cache, 1, 9.0))
    assert np.array(after)[1, 0, :, 0].tolist() == [2.0, 3.0, 4.0, 5.0, 9.0]


def test_a_cache_in_use_cannot_be_started_again() -> None:
    cache = KVCache(1, 2, 4, mx.float32)
    cache.start_rows([1])
    cache.advance(1)
    with pytest.raises(ValueError, match="already holds rows"):
        cache.start_rows([1])
