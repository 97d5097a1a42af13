"""What is sampled with min_p is what numpy says may be, as often as numpy says, and the best token always."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from scribewire.engine.batching.sequence import Sampler, Sequence, SpecialTokens
from scribewire.engine.protocol.config import TranscribeOptions
from tests.fakes.clips import uniform

DRAWS = 400
LOGITS = (4.0 * uniform("min_p", 12)).astype(np.float32)


def drawn(**options: float) -> np.ndarray:
    """(DRAWS,) tokens, each by a sequence with a seed of its own."""
    wanted = TranscribeOptions(**options)  # type: ignore[arg-type]  # options by name
    rows = [Sequence([0], None, 1, options=wanted, seed=seed) for seed in range(DRAWS)]
    sampler = Sampler(SpecialTokens(end_ids=frozenset()))
    return np.array(sampler.choose(rows, mx.broadcast_to(mx.array(LOGITS), (DRAWS, LOGITS.size))))


def probabilities(temperature: float, min_p: float) -> np.ndarray:
    """(vocab,) float64 by the definition: below min_p times the largest nothing, the others in proportion."""
    powers = np.exp(LOGITS.astype(np.float64) / temperature)
    shares = powers / powers.sum()
    kept = np.where(shares < min_p * shares.max(), 0.0, shares)
    return np.asarray(kept / kept.sum())


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("min_p", [0.05, 0.3, 0.8])
def test_tokens_are_drawn_as_often_as_the_definition_says(temperature: float, min_p: float) -> None:
    expected = probabilities(temperature, min_p)
    counts = np.bincount(drawn(temperature=temperature, min_p=min_p), minlength=LOGITS.size)
    assert 0 < np.count_nonzero(expected) < LOGITS.size
    assert not counts[expected == 0.0].any()
    # Four standard deviations of a count; the seeds are fixed, so that this passes always or never.
    assert np.all(np.abs(counts - DRAWS * expected) <= 4 * np.sqrt(DRAWS * expected * (1 - expected)) + 1e-6)


def test_zero_leaves_every_draw_as_it_was_and_one_leaves_the_likeliest() -> None:
    free = drawn(temperature=1.0)
    assert len(set(free)) > LOGITS.size // 2
    assert (drawn(temperature=1.0, min_p=0.0) == free).all()
    assert set(drawn(temperature=1.0, min_p=1.0)) == {int(LOGITS.argmax())}


def test_without_a_temperature_the_likeliest_is_chosen_as_ever() -> None:
    assert set(drawn(min_p=0.5)) == {int(LOGITS.argmax())}
