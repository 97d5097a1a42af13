"""Speculative decoding gives plain decoding's text, whatever the draft proposes and whatever else joins or leaves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from scribewire.engine.batching import speculation
from scribewire.engine.batching.sequence import FinishReason, LoopGuard, Sequence, SpecialTokens
from scribewire.engine.batching.speculation import DOUBT_PER_DRIFT
from scribewire.engine.batching.step import RunningBatch
from scribewire.engine.batching.verify import drift
from scribewire.engine.model.asr import SpeechModel
from scribewire.engine.model.projection import Projection
from tests.fakes.loading import cpu_profile, load_checkpoint
from tests.fakes.random_model import prompt_ids
from tests.unit.speculation_setting import (
    NEVER,
    Setting,
    assert_same,
    load_setting,
    run,
    write_pair,
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def setting(pair: tuple[Path, Path]) -> Iterator[Setting]:
    with cpu_profile().on_one_thread():
        yield load_setting(*pair)


class Insistent:
    """A head that always prefers one token."""

    def __init__(self, head: Projection, token: int) -> None:
        self._head, self._token = head, token

    def __call__(self, x: mx.array) -> mx.array:
        logits = self._head(x)
        return mx.where(mx.arange(logits.shape[-1]) == self._token, 100.0, logits)


@pytest.mark.parametrize("acceptance", [0.0, 0.5, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("width", [1, 3, 6])
def test_answer_is_the_plain_one_however_often_the_draft_is_right(
    setting: Setting, acceptance: float, width: int
) -> None:
    expected = setting.plain()
    speculator = setting.rigged(acceptance, width, known=expected)
    found = setting.sequence()
    steps = setting.ahead(speculator, found)
    assert_same(found, expected)
    assert speculator.starts == 1
    # The first token is the prefill's.
    assert speculator.tokens == len(expected.tokens) - 1
    if acceptance == 1.0:
        assert speculator.rounds == -(-(len(expected.tokens) - 1) // (width + 1))
        assert steps == speculator.rounds + 1
    if acceptance == 0.0:
        assert speculator.rounds == speculator.tokens


def test_second_model_as_draft_changes_no_token(setting: Setting) -> None:
    expected = setting.plain()
    for width in (2, 5):
        speculator = setting.drafted(setting.draft, width)
        found = setting.sequence()
        setting.ahead(speculator, found)
        assert_same(found, expected)
        assert speculator.rounds > 0


def test_model_that_is_its_own_draft_is_always_right(setting: Setting) -> None:
    expected = setting.plain(61)
    for width in (1, 2, 5):
        speculator = setting.drafted(setting.target, width)
        found = setting.sequence(61)
        setting.ahead(speculator, found)
        assert_same(found, expected)
        # The draft's own cache followed every round, or its tokens would have gone astray.
        assert speculator.rounds == 60 // (width + 1)


def test_answer_that_outgrows_its_buffers_is_the_plain_one(setting: Setting) -> None:
    length = len(prompt_ids(setting.audio.shape[0]))
    budget = 2 * 256 - length + 20
    assert length < 256 < length + budget
    expected = setting.plain(budget)
    found = setting.sequence(budget)
    speculator = setting.rigged(0.8, 5, known=expected)
    setting.ahead(speculator, found)
    assert_same(found, expected)
    assert speculator.tokens > 256


def test_budget_ends_an_answer_at_every_place_of_a_round(setting: Setting) -> None:
    longest = setting.plain(20)
    for budget in range(10, 17):
        found = setting.sequence(budget)
        setting.ahead(setting.rigged(1.0, 6, known=longest), found)
        assert found.tokens == longest.tokens[:budget]
        assert found.finish_reason is FinishReason.BUDGET


def test_end_mark_inside_a_round_ends_it_there(setting: Setting) -> None:
    free = setting.plain(40)
    late = [place for place in range(8, 40) if free.tokens[place] not in free.tokens[:place]][:5]
    assert len({(place - 1) % 5 for place in late}) > 2
    for place in late:
        special_tokens = SpecialTokens(frozenset({free.tokens[place]}))
        expected = setting.plain(40, special_tokens)
        assert expected.finish_reason is FinishReason.END_TOKEN
        assert len(expected.tokens) == place
        found = setting.sequence(40)
        setting.ahead(
            setting.rigged(1.0, 4, known=expected, special_tokens=special_tokens), found, special_tokens
        )
        assert_same(found, expected)


def test_loop_inside_a_round_is_seen_where_plain_decoding_sees_it(
    setting: Setting, pair: tuple[Path, Path]
) -> None:
    looping = load_checkpoint(pair[0], dtype=mx.float32)
    looping.decoder.head = Insistent(looping.decoder.head, token=77)
    rigged = setting.with_target(looping)
    expected = rigged.plain(200, guard=LoopGuard(40))
    assert expected.finish_reason is FinishReason.LOOP
    for width in (3, 5):
        found = rigged.sequence(200, guard=LoopGuard(40))
        rigged.ahead(rigged.rigged(1.0, width, known=expected), found)
        assert_same(found, expected)
        assert found.guard is not None
        assert expected.guard is not None
        assert found.guard.loop == expected.guard.loop


def test_forced_count_is_reached_in_rounds(setting: Setting) -> None:
    expected = setting.plain(1, forced_count=33)
    found = setting.sequence(1, forced_count=33)
    # The budget plays no part where the count is forced; what remains is reckoned from the count.
    found.token_budget = expected.token_budget = 33
    setting.ahead(setting.rigged(0.8, known=expected), found)
    assert_same(found, expected)


def test_chance_of_silence_is_read_inside_a_round(setting: Setting) -> None:
    free = setting.plain(8)
    special_tokens = SpecialTokens(frozenset(), none_prefix=tuple(free.tokens[:3]), none_token=free.tokens[3])
    expected = setting.plain(30, special_tokens)
    assert expected.no_speech_prob is not None
    found = setting.sequence(30)
    setting.ahead(setting.rigged(1.0, known=expected, special_tokens=special_tokens), found, special_tokens)
    assert_same(found, expected)


def test_others_join_between_rounds_and_leave_and_rounds_begin_again(setting: Setting) -> None:
    expected, short = setting.plain(54), setting.plain(4)
    speculator = setting.rigged(0.5, 3, known=expected)
    batch = RunningBatch(setting.target, NEVER)
    found, guest = setting.sequence(54), setting.sequence(4, mel=None)
    batch.join([found])
    for _ in range(4):
        batch.step(speculator)
    assert 4 <= len(found.tokens) < 18
    batch.join([guest])
    assert batch.row_count == 2
    # The scheduler gives no speculator while others wait; here it must not matter.
    while guest.finish_reason is None:
        batch.step(speculator)
    assert speculator.starts == 1
    run(batch, speculator)
    assert speculator.starts == 2
    assert found.tokens == expected.tokens
    np.testing.assert_allclose(found.logprobs, expected.logprobs, rtol=0, atol=1e-4)
    assert guest.tokens == short.tokens


def test_sequence_removed_between_rounds_leaves_an_empty_batch_that_works(setting: Setting) -> None:
    expected = setting.plain(30)
    speculator = setting.rigged(1.0, known=expected)
    batch = RunningBatch(setting.target, NEVER)
    leaving = setting.sequence(30)
    batch.join([leaving])
    for _ in range(3):
        batch.step(speculator)
    batch.remove([leaving])
    assert (batch.row_count, batch.slot_count, leaving.finish_reason) == (0, 0, None)
    again = setting.sequence(30)
    batch.join([again])
    run(batch)
    assert_same(again, expected)


def test_step_tells_how_many_tokens_it_brought(setting: Setting) -> None:
    expected = setting.plain(21)
    batch = RunningBatch(setting.target, NEVER)
    batch.join([setting.sequence(21)])
    brought = []
    while batch.row_count:
        batch.step(setting.rigged(1.0, 4, known=expected))
        brought.append(batch.tokens_of_last_step)
    assert brought == [1, 5, 5, 5, 5]


# ---- where wide passes drift -------------------------------------------------------------------------------------


class DriftingWhenWide:
    """A head that, for several rows at once, gives the best logit `drift` too low, as another kernel might."""

    def __init__(self, head: Projection, drift: float) -> None:
        self._head, self._drift = head, drift

    def __call__(self, x: mx.array) -> mx.array:
        logits = self._head(x)
        if logits.size == logits.shape[-1]:
            return logits
        is_best = logits == mx.max(logits, axis=-1, keepdims=True)
        return mx.where(is_best, logits - self._drift, logits)


def drifting(setting: Setting, folder: Path, drift: float) -> Setting:
    model = load_checkpoint(folder, dtype=mx.float32)
    model.decoder.head = DriftingWhenWide(model.decoder.head, drift)
    return setting.with_target(model)


def margins(target: SpeechModel, audio: mx.array, tokens: list[int]) -> np.ndarray:
    ordered = np.sort(np.array(target.score(prompt_ids(audio.shape[0]), audio, tokens)), axis=-1)
    difference: np.ndarray = ordered[:, -1] - ordered[:, -2]
    return difference


def near_ties(setting: Setting, expected: Sequence, count: int) -> float:
    """A margin that so many places behind the first stay below."""
    return float(np.sort(margins(setting.target, setting.audio, expected.tokens)[1:])[count])


def test_near_ties_are_decided_by_plain_steps_where_wide_ones_drift(
    setting: Setting, pair: tuple[Path, Path]
) -> None:
    expected = setting.plain(50)
    drift = 1.01 * near_ties(setting, expected, 2)
    rigged = drifting(setting, pair[0], drift)
    # Trusting blindly goes wrong here, so the rig is a true one.
    trusting = rigged.sequence(50)
    rigged.ahead(rigged.rigged(1.0, known=expected), trusting)
    assert trusting.tokens != expected.tokens

    speculator = rigged.rigged(0.8, known=expected, doubt=DOUBT_PER_DRIFT * drift)
    found = rigged.sequence(50, guard=LoopGuard(10_000))
    rigged.ahead(speculator, found)
    assert found.tokens == expected.tokens
    np.testing.assert_allclose(found.logprobs, expected.logprobs, rtol=0, atol=2 * drift)
    # Speculation goes on behind a plain decision.
    assert 3 <= speculator.doubts < speculator.rounds
    assert speculator.starts == 1


@pytest.mark.parametrize("acceptance", [0.0, 0.7, 1.0])
def test_answer_is_the_plain_one_where_every_place_is_in_doubt(setting: Setting, acceptance: float) -> None:
    expected = setting.plain(30)
    speculator = setting.rigged(acceptance, known=expected, doubt=1e9)
    found = setting.sequence(30)
    setting.ahead(speculator, found)
    assert_same(found, expected)
    # Plain steps alone decided, one token a round.
    assert speculator.doubts == speculator.rounds == speculator.tokens == 29


def test_others_may_join_after_a_doubt(setting: Setting) -> None:
    expected, short = setting.plain(40), setting.plain(9)
    speculator = setting.rigged(1.0, known=expected, doubt=near_ties(setting, expected, 5))
    batch = RunningBatch(setting.target, NEVER)
    found, guest = setting.sequence(40), setting.sequence(9, mel=None)
    batch.join([found])
    while not speculator.doubts:
        batch.step(speculator)
    batch.join([guest])
    run(batch)
    assert found.tokens == expected.tokens
    assert guest.tokens == short.tokens


def test_full_draft_leaves_the_cache_to_plain_steps_as_they_would_have_it(
    setting: Setting, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speculation, "DRAFT_TOKENS", len(prompt_ids(setting.audio.shape[0])) + 20)
    expected = setting.plain(50)
    drift = 1.01 * near_ties(setting, expected, 2)
    rigged = drifting(setting, pair[0], drift)
    speculator = rigged.rigged(1.0, known=expected, doubt=DOUBT_PER_DRIFT * drift)
    found = rigged.sequence(50)
    rigged.ahead(speculator, found)
    assert found.tokens == expected.tokens
    assert (speculator.starts, speculator.tokens) == (1, pytest.approx(16, abs=4))


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_sixteen_bits_give_the_plain_answer_too(pair: tuple[Path, Path], dtype: mx.Dtype) -> None:
    in_16_bits = Setting(load_checkpoint(pair[0], dtype=dtype), load_checkpoint(pair[1], dtype=dtype))
    doubt = DOUBT_PER_DRIFT * drift(in_16_bits.target, 5, lengths=(64, 300))
    for acceptance in (0.5, 0.9, 1.0):
        expected = in_16_bits.plain(60)
        found = in_16_bits.sequence(60)
        in_16_bits.ahead(in_16_bits.rigged(acceptance, known=expected, doubt=doubt), found)
        assert found.tokens == expected.tokens


def test_probe_sees_drift_and_measures_it(setting: Setting, pair: tuple[Path, Path]) -> None:
    found = drift(drifting(setting, pair[0], drift=0.5).target, 4, lengths=(16, 40))
    assert found == pytest.approx(0.5, abs=1e-3)
    assert 0.0 <= drift(setting.target, 4, lengths=(16, 40)) < 1e-3


def test_probe_takes_no_answer_for_the_worst(pair: tuple[Path, Path]) -> None:
    broken = load_checkpoint(pair[0], dtype=mx.float32)
    broken.decoder.head = DriftingWhenWide(broken.decoder.head, float("nan"))
    assert drift(broken, 3, lengths=(16,)) == float("inf")
