"""Token counts that a benchmark forces: natural on average, varied, and the same for all programs."""

import statistics

from scribewire.engine.batching.forcing import SPREAD, forced_token_count


def test_the_rate_is_met_on_average_and_each_chunk_stays_within_the_spread() -> None:
    counts = [forced_token_count(30.0, seed) for seed in range(2000)]
    assert abs(statistics.mean(counts) - 105.0) < 1.5
    assert min(counts) >= 105 * (1 - SPREAD) - 1
    assert max(counts) <= 105 * (1 + SPREAD) + 1
    assert len(set(counts)) > 50


def test_the_same_chunk_always_gets_the_same_count() -> None:
    # Pinned: results of different days are compared.
    chunks = [(10.0, 0), (10.0, 480_000), (5.0, 0), (30.0, 0)]
    assert [forced_token_count(*chunk) for chunk in chunks] == [26, 40, 22, 87]


def test_recordings_of_slightly_different_length_end_at_different_steps() -> None:
    counts = {forced_token_count(10.0 - index / 1000, 0) for index in range(32)}
    assert len(counts) > 8


def test_every_chunk_gets_a_token() -> None:
    assert forced_token_count(0.02, 0) == 1
    assert forced_token_count(10.0, 3, tokens_per_second=0.001) == 1


def test_neighboring_seeds_are_not_alike() -> None:
    rising = sum(forced_token_count(30.0, seed) < forced_token_count(30.0, seed + 1) for seed in range(500))
    assert 200 < rising < 300
