"""Sequences that join and leave a running batch at any step say what they say alone."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from scribewire.engine.audio.mel import log_mel_batch
from scribewire.engine.batching.sequence import FinishReason, Sequence, SpecialTokens
from scribewire.engine.batching.step import Prefill, RunningBatch
from scribewire.engine.model.asr import SpeechModel
from scribewire.engine.protocol.config import TranscribeOptions
from tests.fakes.clips import uniform
from tests.fakes.loading import load_checkpoint
from tests.fakes.random_model import TRUE_WINDOWS, prompt_ids, write_checkpoint

NEVER = SpecialTokens(end_ids=frozenset())
LENGTHS = (4_800, 16_000, 40_117, 130_000, 250_000)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SpeechModel:
    folder = write_checkpoint(tmp_path_factory.mktemp("model"), TRUE_WINDOWS, "mlx")
    return load_checkpoint(folder, dtype=mx.float32)


@pytest.fixture(scope="module")
def audio(model: SpeechModel) -> list[mx.array]:
    waveforms = [mx.array(0.3 * uniform(f"running/{n}", n).astype(np.float32)) for n in LENGTHS]
    return model.encode(log_mel_batch(waveforms))


def sequence(audio: mx.array, budget: int = 24, **options: object) -> Sequence:
    settings: dict[str, object] = {"token_budget": budget, "wants_logprobs": True} | options
    return Sequence(prompt_ids=prompt_ids(audio.shape[0]), audio=audio, **settings)  # type: ignore[arg-type]  # options by name


def run(batch: RunningBatch) -> None:
    while batch.row_count:
        batch.step()


def alone(model: SpeechModel, audio: mx.array, budget: int = 24, **options: object) -> Sequence:
    one = sequence(audio, budget, **options)
    batch = RunningBatch(model, NEVER)
    batch.join([one])
    run(batch)
    return one


def assert_same(found: Sequence, expected: Sequence) -> None:
    assert found.tokens == expected.tokens
    np.testing.assert_allclose(found.logprobs, expected.logprobs, rtol=0, atol=1e-4)


def test_sequences_that_join_at_different_steps_equal_those_decoded_alone(
    model: SpeechModel, audio: list[mx.array]
) -> None:
    batch = RunningBatch(model, NEVER)
    budgets = [30, 9, 24, 40, 17, 12, 33, 8]
    joined = [sequence(audio[i % len(audio)], budget) for i, budget in enumerate(budgets)]
    # Short prompts into a long row's batch, long ones into a short row's, two at once, and after others have left.
    for place, steps in ((0, 3), (1, 7), (2, 0), (3, 5), (4, 11)):
        batch.join([joined[place]])
        for _ in range(steps):
            batch.step()
    batch.join(joined[5:])
    run(batch)
    for place, found in enumerate(joined):
        assert_same(found, alone(model, audio[place % len(audio)], budgets[place]))
        assert found.finish_reason is FinishReason.BUDGET


def test_sampled_row_draws_the_same_wherever_it_joins(model: SpeechModel, audio: list[mx.array]) -> None:
    expected = alone(model, audio[1], options=TranscribeOptions(temperature=0.9), seed=11)
    batch = RunningBatch(model, NEVER)
    batch.join(
        [sequence(audio[3], 40), sequence(audio[4], options=TranscribeOptions(temperature=0.8), seed=2)]
    )
    for _ in range(5):
        batch.step()
    late = sequence(audio[1], options=TranscribeOptions(temperature=0.9), seed=11)
    batch.join([late])
    run(batch)
    assert_same(late, expected)


def test_prompt_fed_in_slices_gives_what_it_gives_at_once(model: SpeechModel, audio: list[mx.array]) -> None:
    for slice_tokens in (5, 64, 1000):
        group = [sequence(audio[0]), sequence(audio[4]), sequence(audio[2])]
        prefill = Prefill(model, group, slice_tokens=slice_tokens)
        slices = 0
        while not prefill.is_fed:
            prefill.feed()
            slices += 1
        batch = RunningBatch(model, NEVER)
        batch.adopt(prefill)
        run(batch)
        for found, clip in zip(group, (audio[0], audio[4], audio[2]), strict=True):
            assert_same(found, alone(model, clip))
        width = max(len(one.prompt_ids) for one in group)
        assert slices == -(-width // max(1, slice_tokens // 3))


def test_running_rows_step_while_another_prompt_is_being_fed(
    model: SpeechModel, audio: list[mx.array]
) -> None:
    batch = RunningBatch(model, NEVER)
    running, coming = sequence(audio[1], 40), sequence(audio[4])
    batch.join([running])
    prefill = Prefill(model, [coming], slice_tokens=32)
    while not prefill.is_fed:
        prefill.feed()
        batch.step()
    before = len(running.tokens)
    assert before > 3
    batch.adopt(prefill)
    run(batch)
    assert_same(running, alone(model, audio[1], 40))
    assert_same(coming, alone(model, audio[4]))


def test_removed_sequence_stops_where_it_stands_and_disturbs_nobody(
    model: SpeechModel, audio: list[mx.array]
) -> None:
    batch = RunningBatch(model, NEVER)
    kept = [sequence(audio[0]), sequence(audio[3])]
    leaving = [sequence(audio[2], 500), sequence(audio[4], 500)]
    batch.join([kept[0], *leaving, kept[1]])
    for _ in range(6):
        batch.step()
    lengths = [len(one.tokens) for one in leaving]
    batch.remove(leaving)
    batch.remove(leaving)
    assert batch.row_count == 2
    run(batch)
    assert [len(one.tokens) for one in leaving] == lengths
    assert [one.finish_reason for one in leaving] == [None, None]
    assert_same(kept[0], alone(model, audio[0]))
    assert_same(kept[1], alone(model, audio[3]))


def test_batch_that_has_emptied_takes_up_again(model: SpeechModel, audio: list[mx.array]) -> None:
    batch = RunningBatch(model, NEVER)
    for clip in (audio[2], audio[0]):
        one = sequence(clip)
        batch.join([one])
        run(batch)
        assert_same(one, alone(model, clip))
        assert batch.slot_count == 0


def test_log_probabilities_of_one_row_do_not_need_those_of_another(
    model: SpeechModel, audio: list[mx.array]
) -> None:
    batch = RunningBatch(model, NEVER)
    plain = sequence(audio[1], 30, wants_logprobs=False)
    batch.join([plain])
    for _ in range(4):
        batch.step()
    asking = sequence(audio[3], 10)
    batch.join([asking])
    run(batch)
    assert plain.logprobs == []
    assert_same(asking, alone(model, audio[3], 10))


def test_repetition_penalty_makes_said_tokens_less_likely_and_touches_no_neighbor(
    model: SpeechModel, audio: list[mx.array]
) -> None:
    free = alone(model, audio[2], 60)
    penalized = alone(model, audio[2], 60, options=TranscribeOptions(repetition_penalty=1.8))
    assert len(set(penalized.tokens)) > len(set(free.tokens))
    batch = RunningBatch(model, NEVER)
    together = [
        sequence(audio[2], 60),
        sequence(audio[2], 60, options=TranscribeOptions(repetition_penalty=1.8)),
    ]
    batch.join(together)
    run(batch)
    assert together[0].tokens == free.tokens
    assert together[1].tokens == penalized.tokens


def test_penalty_is_the_published_one_and_log_probabilities_are_the_models_own(
    model: SpeechModel, audio: list[mx.array]
) -> None:
    found = alone(model, audio[2], 12, options=TranscribeOptions(repetition_penalty=1.8))
    logits = np.array(model.score(prompt_ids(audio[2].shape[0]), audio[2], found.tokens))
    for place, token in enumerate(found.tokens):
        row = logits[place].copy()
        for said in set(found.tokens[:place]):
            row[said] = row[said] / 1.8 if row[said] > 0 else row[said] * 1.8
        assert int(row.argmax()) == token
        raw = logits[place]
        own = raw[token] - np.log(np.exp(raw - raw.max()).sum()) - raw.max()
        assert found.logprobs[place] == pytest.approx(own, abs=1e-3)


def test_choice_behind_the_head_is_restricted_only_there(model: SpeechModel, audio: list[mx.array]) -> None:
    free = alone(model, audio[3])
    special_tokens = SpecialTokens(frozenset(), none_prefix=tuple(free.tokens[:1]))
    choices = (free.tokens[1] + 1, free.tokens[1] + 2)
    one = sequence(audio[3], head_choices=choices)
    batch = RunningBatch(model, special_tokens)
    batch.join([one, sequence(audio[0])])
    run(batch)
    assert one.tokens[0] == free.tokens[0]
    assert one.tokens[1] in choices
    logits = model.score(prompt_ids(audio[3].shape[0]), audio[3], one.tokens)
    assert mx.argmax(logits[2:], axis=-1).tolist() == one.tokens[2:]
    elsewhere = sequence(audio[3], head_choices=choices)
    batch = RunningBatch(model, SpecialTokens(frozenset(), none_prefix=(free.tokens[0] + 1,)))
    batch.join([elsewhere])
    run(batch)
    assert elsewhere.tokens == free.tokens


def test_forced_count_is_reached_whatever_the_tokens_are(model: SpeechModel, audio: list[mx.array]) -> None:
    free = alone(model, audio[1], 10)
    special_tokens = SpecialTokens(frozenset(free.tokens))
    forced = sequence(audio[1], forced_count=10)
    batch = RunningBatch(model, special_tokens)
    batch.join([forced])
    run(batch)
    assert forced.tokens == free.tokens
    assert forced.finish_reason is FinishReason.END_TOKEN
