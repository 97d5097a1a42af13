"""Decoding together gives what decoding alone gives: ids, log-probabilities, random draws and endings."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from scribewire.engine.audio.mel import log_mel, log_mel_batch
from scribewire.engine.batching.sequence import FinishReason, Sequence, SpecialTokens
from scribewire.engine.batching.step import Prefill, RunningBatch, generate, prefill
from scribewire.engine.model.asr import SpeechModel
from scribewire.engine.protocol.config import TranscribeOptions
from scribewire.engine.protocol.errors import AudioTooShort
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
    waveforms = [mx.array(0.3 * uniform(f"batched/{n}", n).astype(np.float32)) for n in LENGTHS]
    return model.encode(log_mel_batch(waveforms))


def sequence(audio: mx.array, **options: object) -> Sequence:
    settings: dict[str, object] = {"token_budget": 24} | options
    return Sequence(prompt_ids=prompt_ids(audio.shape[0]), audio=audio, **settings)  # type: ignore[arg-type]  # options by name


def run(model: SpeechModel, sequences: list[Sequence], marks: SpecialTokens = NEVER) -> list[Sequence]:
    for _ in generate(model, sequences, marks):
        pass
    return sequences


def test_clips_encoded_together_equal_clips_encoded_alone(model: SpeechModel, audio: list[mx.array]) -> None:
    for length, together in zip(LENGTHS, audio, strict=True):
        waveform = mx.array(0.3 * uniform(f"batched/{length}", length).astype(np.float32))
        alone = model.encode([log_mel(waveform)])[0]
        assert alone.shape == together.shape
        assert mx.abs(alone - together).max().item() <= 1e-4 * mx.abs(alone).max().item()


def test_batched_prefill_gives_the_logits_of_each_prompt_alone(
    model: SpeechModel, audio: list[mx.array]
) -> None:
    _, together = prefill(model, [sequence(clip) for clip in audio])
    for row, clip in enumerate(audio):
        _, alone = prefill(model, [sequence(clip)])
        assert mx.abs(alone[0] - together[row]).max().item() <= 1e-4


def test_batched_greedy_ids_and_logprobs_equal_single_ones(model: SpeechModel, audio: list[mx.array]) -> None:
    # Different budgets, so that rows leave the batch one after another.
    batch = [sequence(clip, token_budget=10 + 7 * i, wants_logprobs=True) for i, clip in enumerate(audio)]
    together = run(model, batch)
    for index, clip in enumerate(audio):
        [alone] = run(model, [sequence(clip, token_budget=10 + 7 * index, wants_logprobs=True)])
        assert together[index].tokens == alone.tokens
        np.testing.assert_allclose(together[index].logprobs, alone.logprobs, rtol=0, atol=1e-4)


def test_generated_ids_are_the_argmax_of_teacher_forced_logits(
    model: SpeechModel, audio: list[mx.array]
) -> None:
    [generated] = run(model, [sequence(audio[2], wants_logprobs=True)])
    logits = model.score(prompt_ids(audio[2].shape[0]), audio[2], generated.tokens)
    assert mx.argmax(logits, axis=-1).tolist() == generated.tokens
    chosen = mx.take_along_axis(logits, mx.array(generated.tokens)[:, None], axis=-1)[:, 0]
    expected = chosen - mx.logsumexp(logits, axis=-1)
    np.testing.assert_allclose(generated.logprobs, np.array(expected), rtol=0, atol=1e-4)


def test_sampled_row_does_not_depend_on_its_neighbors(model: SpeechModel, audio: list[mx.array]) -> None:
    [alone] = run(model, [sequence(audio[1], options=TranscribeOptions(temperature=0.9), seed=11)])
    mixed = run(
        model,
        [
            sequence(audio[0]),
            sequence(audio[1], options=TranscribeOptions(temperature=0.9), seed=11),
            sequence(audio[3], options=TranscribeOptions(temperature=0.9)),
        ],
    )
    assert mixed[1].tokens == alone.tokens
    assert mixed[0].tokens == run(model, [sequence(audio[0])])[0].tokens


def test_seed_decides_what_is_sampled(model: SpeechModel, audio: list[mx.array]) -> None:
    first, again, other = (
        run(model, [sequence(audio[1], options=TranscribeOptions(temperature=1.0), seed=seed)])[0].tokens
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_end_mark_ends_a_row_and_is_not_part_of_it(model: SpeechModel, audio: list[mx.array]) -> None:
    [free] = run(model, [sequence(audio[4], wants_logprobs=True)])
    end = free.tokens[5]
    first = free.tokens.index(end)
    [ended] = run(model, [sequence(audio[4], wants_logprobs=True)], SpecialTokens(frozenset({end})))
    assert ended.tokens == free.tokens[:first]
    assert ended.finish_reason is FinishReason.END_TOKEN
    assert len(ended.logprobs) == first + 1
    assert free.finish_reason is FinishReason.BUDGET
    assert len(free.tokens) == 24


def test_probability_of_no_speech_is_read_after_exactly_its_prefix(
    model: SpeechModel, audio: list[mx.array]
) -> None:
    [free] = run(model, [sequence(audio[2])])
    prefix = tuple(free.tokens[:2])
    marks = SpecialTokens(frozenset(), none_prefix=prefix, none_token=77)
    [watched, other] = run(model, [sequence(audio[2], wants_logprobs=True), sequence(audio[0])], marks)
    logits = model.score(prompt_ids(audio[2].shape[0]), audio[2], [*prefix, 77])
    assert watched.no_speech_prob == pytest.approx(mx.softmax(logits[2])[77].item(), rel=1e-3)
    assert other.no_speech_prob is None


@pytest.mark.parametrize("slice_tokens", [0, 12])
def test_probability_of_no_speech_is_read_in_a_prompt_that_names_the_language(
    model: SpeechModel, audio: list[mx.array], slice_tokens: int
) -> None:
    """It is what the model would have said in place of the name that was written for it."""
    marks = SpecialTokens(frozenset(), none_prefix=(11, 12), none_token=77)
    prompts = [prompt_ids(clip.shape[0]) for clip in audio]
    sequences = [
        Sequence(
            [*prompts[index], 11, 12, 13, 14, 15][: None if named else -5],
            audio[index],
            token_budget=3,
            wants_logprobs=wants,
            prompt_after_prefix=3 if named else None,
        )
        for index, (named, wants) in enumerate([(True, True), (False, True), (True, False), (True, True)])
    ]
    prompts_fed = Prefill(model, sequences, slice_tokens=slice_tokens * len(sequences))
    while not prompts_fed.is_fed:
        prompts_fed.feed()
    batch = RunningBatch(model, marks)
    batch.adopt(prompts_fed)
    while batch.row_count:
        batch.step()
    for index in (0, 3):
        logits = model.score(prompts[index], audio[index], [11, 12, 77])
        expected = mx.softmax(logits[2])[77].item()
        assert sequences[index].no_speech_prob == pytest.approx(expected, rel=1e-3)
    assert sequences[1].no_speech_prob is None
    assert sequences[2].no_speech_prob is None


def test_prompt_and_audio_must_agree_in_length(model: SpeechModel, audio: list[mx.array]) -> None:
    with pytest.raises(ValueError, match="audio positions"):
        model.score(prompt_ids(3), audio[0], [1])


def test_clip_below_201_samples_has_no_mel() -> None:
    assert log_mel(mx.zeros(201)).shape == (1, 128)
    with pytest.raises(AudioTooShort, match="200 samples"):
        log_mel(mx.zeros(200))


def test_digital_silence_is_a_constant() -> None:
    assert set(np.unique(np.array(log_mel(mx.zeros(16_000))))) == {-1.5}
