"""Right-aligned keys and values in slots: lengths, masks, growth, rows that leave and rows that join."""

from __future__ import annotations

import random

import mlx.core as mx
import numpy as np
import pytest

from scribewire.engine.model.cache import CAPACITY_STEP, KVCache, slot_bucket


def new_cache() -> KVCache:
    return KVCache(1, 2, 4, mx.float32)


def column(cache: KVCache, width: int, value: float) -> mx.array:
    return mx.full((cache.slot_count, 2, width, 4), value)


def write(cache: KVCache, rows: list[list[float]]) -> np.ndarray:
    """Feed (slots, width) values as keys and their negatives as values; the first head's keys in use."""
    width = len(rows[0])
    cache.reserve(width)
    keys = mx.broadcast_to(mx.array(rows)[:, None, :, None], (len(rows), 2, width, 4))
    found, negated = cache.append(0, keys, -keys)
    cache.advance(width)
    assert mx.array_equal(found, -negated)
    return np.array(found)[:, 0, :, 0]


def prefilled(rows: list[list[float]]) -> KVCache:
    cache = new_cache()
    width = cache.start_rows([len(row) for row in rows])
    write(cache, [[0.0] * (width - len(row)) + row for row in rows])
    return cache


def contents(cache: KVCache) -> dict[int, list[float]]:
    """Contents of each used slot, oldest first."""
    [keys, _] = cache.state()
    held = np.array(keys)[:, 0, :, 0]
    return {
        slot: held[slot, cache.end - length : cache.end].tolist()
        for slot, length in enumerate(cache.lengths)
        if length
    }


def test_rows_of_different_length_end_at_the_same_column() -> None:
    cache = new_cache()
    assert cache.start_rows([3, 5]) == 5
    cache.reserve(5)
    cache.append(0, column(cache, 5, 1.0), column(cache, 5, 2.0))
    cache.advance(5)
    assert cache.lengths == [3, 5]
    offsets = cache.rope_offsets()
    assert isinstance(offsets, mx.array)
    assert offsets.tolist() == [3, 5]


def test_mask_hides_padding_and_the_future_but_no_query_is_blind() -> None:
    cache = new_cache()
    cache.start_rows([1, 3])
    mask = cache.attention_mask(3)
    assert isinstance(mask, mx.array)
    short, long = np.array(mask)[:, 0]
    assert short.tolist() == [[True, False, False], [False, True, False], [False, False, True]]
    assert long.tolist() == [[True, False, False], [True, True, False], [True, True, True]]


def test_aligned_rows_need_no_mask_array_and_one_offset() -> None:
    cache = new_cache()
    cache.start_rows([4, 4])
    assert cache.attention_mask(4) == "causal"
    cache.advance(4)
    assert cache.attention_mask(1) is None
    assert cache.rope_offsets() == 4


def test_growth_keeps_what_was_written() -> None:
    cache = prefilled([[1.0, 2.0]])
    cache.reserve(CAPACITY_STEP)
    assert cache.capacity == 2 * CAPACITY_STEP
    assert write(cache, [[5.0]]).tolist() == [[1.0, 2.0, 5.0]]


def test_freed_slot_is_neither_moved_nor_read_until_half_would_do() -> None:
    cache = prefilled([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
    assert cache.free_slots([1]) is None
    assert (cache.slot_count, cache.row_count, cache.lengths) == (4, 3, [2, 0, 2, 2])
    # The rows that are left are aligned, so the free slot costs no mask.
    assert cache.attention_mask(1) is None
    assert cache.free_slots([3]) == [0, 2]
    assert contents(cache) == {0: [1.0, 2.0], 1: [5.0, 6.0]}


def test_last_row_to_leave_gives_all_memory_back() -> None:
    cache = prefilled([[1.0]])
    assert cache.free_slots([0]) == []
    assert (cache.slot_count, cache.capacity, cache.end, cache.state()) == (0, 0, 0, [])


def test_leaving_rows_give_back_the_columns_that_only_they_used() -> None:
    cache = prefilled([[1.0, 2.0], [3.0, 4.0, 5.0, 6.0, 7.0, 8.0], [9.0]])
    assert cache.free_slots([1]) is None
    # Two columns are in use; the four in front of them are neither computed with nor moved.
    assert write(cache, [[10.0], [0.0], [11.0]]).shape == (3, 3)


def test_lone_row_is_aligned_wherever_it_starts() -> None:
    cache = prefilled([[1.0] * 6, [2.0, 3.0]])
    cache.free_slots([0])
    assert cache.rope_offsets() == 2
    assert cache.attention_mask(1) is None


def test_joining_row_fills_a_free_slot_and_ends_at_the_common_column() -> None:
    cache = prefilled([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])
    cache.free_slots([1])
    assert cache.adopt(prefilled([[21.0, 22.0]])) == [1]
    assert contents(cache) == {0: [1.0, 2.0, 3.0], 1: [21.0, 22.0], 2: [7.0, 8.0, 9.0]}
    mask = cache.attention_mask(1)
    assert isinstance(mask, mx.array)
    assert np.array(mask)[1, 0].tolist() == [[False, True, True, True]]


def test_row_longer_than_all_before_it_moves_the_common_column() -> None:
    cache = prefilled([[1.0, 2.0]])
    assert cache.adopt(prefilled([[3.0, 4.0, 5.0, 6.0], [7.0]])) == [1, 2]
    assert contents(cache) == {0: [1.0, 2.0], 1: [3.0, 4.0, 5.0, 6.0], 2: [7.0]}


def test_rows_that_join_in_slots_apart_from_each_other_keep_their_order() -> None:
    cache = prefilled([[float(row)] * 3 for row in range(8)])
    cache.free_slots([1])
    assert cache.free_slots([4, 5]) is None
    assert cache.adopt(prefilled([[21.0, 22.0], [31.0, 32.0], [41.0]])) == [1, 4, 5]
    stayed = {slot: [float(slot)] * 3 for slot in (0, 2, 3, 6, 7)}
    assert contents(cache) == stayed | {1: [21.0, 22.0], 4: [31.0, 32.0], 5: [41.0]}


def test_rewound_columns_are_written_again() -> None:
    cache = prefilled([[1.0, 2.0, 3.0]])
    cache.rewind(2)
    assert write(cache, [[9.0]]).tolist() == [[1.0, 9.0]]
    with pytest.raises(ValueError, match="give 3 columns back"):
        cache.rewind(3)


def test_a_cache_in_use_cannot_be_started_again() -> None:
    cache = prefilled([[1.0]])
    with pytest.raises(ValueError, match="already holds rows"):
        cache.start_rows([1])


def test_slots_come_in_buckets_that_hold_the_rows() -> None:
    buckets = [slot_bucket(rows) for rows in range(1, 65)]
    assert sorted(set(buckets)) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
    assert all(bucket >= rows for rows, bucket in enumerate(buckets, start=1))


@pytest.mark.parametrize("seed", range(6))
def test_rows_keep_what_they_hold_through_any_order_of_joining_leaving_and_growing(seed: int) -> None:
    chance = random.Random(seed)
    cache = new_cache()
    held: dict[int, list[float]] = {}
    value = 1.0
    for _ in range(120):
        move = chance.random()
        if move < 0.2 and len(held) < 9:
            rows = []
            for _ in range(chance.randint(1, 3)):
                length = chance.choice([1, 3, 40, 200])
                rows.append([value + i for i in range(length)])
                value += length
            for slot, row in zip(cache.adopt(prefilled(rows)), rows, strict=True):
                assert slot not in held
                held[slot] = row
        elif move < 0.35 and held:
            leaving = chance.sample(sorted(held), chance.randint(1, min(2, len(held))))
            moved = cache.free_slots(leaving)
            for slot in leaving:
                del held[slot]
            if moved is not None:
                held = {new: held[old] for new, old in enumerate(moved) if old in held and new < len(held)}
        elif held:
            width = chance.choice([1, 1, 1, 60])
            step = [[value + slot * width + i for i in range(width)] for slot in range(cache.slot_count)]
            value += width * cache.slot_count
            write(cache, step)
            for slot, row in held.items():
                row.extend(step[slot])
        assert cache.row_count == len(held)
        if held:
            assert contents(cache) == held


@pytest.mark.parametrize("slices", [1, 2])
def test_a_prompt_is_kept_in_the_cache_s_type_however_it_is_fed(slices: int) -> None:
    cache = KVCache(1, 2, 16, mx.float16)
    width = cache.start_rows([8, 5])
    for _ in range(slices):
        cache.reserve(width // slices)
        new = mx.random.normal((2, 2, width // slices, 16))
        assert all(kept.dtype == mx.float16 for kept in cache.append(0, new, new))
        cache.advance(width // slices)
    cache.reserve(1)
    assert cache.capacity > cache.end
    assert [(one.shape, one.dtype) for one in cache.state()] == [((2, 2, cache.capacity, 16), mx.float16)] * 2


def test_slots_come_in_the_numbers_that_are_given_and_beyond_them_in_the_usual_ones() -> None:
    cache = KVCache(1, 2, 4, mx.float32, slot_counts=(1, 2, 5))
    cache.start_rows([1])
    write(cache, [[7.0]])
    found = []
    for _ in range(5):
        cache.adopt(prefilled([[1.0]]))
        found.append((cache.row_count, cache.slot_count))
    assert found == [(2, 2), (3, 5), (4, 5), (5, 5), (6, 6)]
    cache.free_slots([slot for slot, length in enumerate(cache.lengths) if length][:4])
    assert (cache.row_count, cache.slot_count) == (2, 2)
