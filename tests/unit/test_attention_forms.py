"""Every form of attention gives what the plain one gives, and compiled steps what plain steps give."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from scribewire.engine.audio.mel import log_mel_batch
from scribewire.engine.batching.sequence import Sequence, SpecialTokens
from scribewire.engine.batching.step import Prefill, RunningBatch
from scribewire.engine.bench.audio import speech
from scribewire.engine.checkpoint.load import build_model, read_checkpoint
from scribewire.engine.demo import demo_model_path
from scribewire.engine.model.asr import SpeechModel
from scribewire.engine.model.attention import (
    PLAIN_ATTENTION,
    AttentionForm,
)
from scribewire.engine.model.cache import KVCache
from scribewire.engine.model.decoder import Decoder, DecoderLayer
from scribewire.engine.model.host import attention
from scribewire.engine.model.host.attention import HOST_ATTENTION, host_attention
from scribewire.engine.model.projection import Placement
from scribewire.engine.resident.profile import METAL_ATTENTION, PLANNED_ATTENTION, profile_of
from tests.fakes.tiny_decoder import PLAIN, decoder

GROUPED = AttentionForm(adds_mask=True, groups_queries=True, column_step=64)
ON_CUDA = Placement(
    dtype=mx.float32,
    dequantizes=True,
    compiles=True,
    attention=PLANNED_ATTENTION,
    plans_by_shape=True,
)
"""What a CUDA device is given, in a type that shows every difference."""


def hidden_states(network: Decoder, lengths: list[int], steps: int) -> list[np.ndarray]:
    """Final states of a prefill of these lengths and of the steps behind it; rows that are padding are left out."""
    cache = network.new_cache()
    width = cache.start_rows(lengths)
    key = mx.random.key(5)

    def fed(inputs: mx.array) -> np.ndarray:
        return np.array(network(inputs.astype(network.dtype), cache)[:, -1].astype(mx.float32))

    found = [fed(mx.random.normal((len(lengths), width, 32), key=key))]
    for step in range(steps):
        inputs = mx.random.normal((len(lengths), 1, 32), key=mx.random.key(step))
        found.append(fed(inputs))
    return found


# The last case passes from one step of columns, and from one capacity, to the next.
@pytest.mark.parametrize(("lengths", "steps"), [([7], 5), ([9, 9, 9], 5), ([12, 5, 9], 70), ([250, 190], 12)])
@pytest.mark.parametrize(
    ("form", "compiles"),
    [
        (GROUPED, False),
        (GROUPED, True),
        (PLAIN_ATTENTION, True),
        (METAL_ATTENTION, True),
        (HOST_ATTENTION, False),
    ],
    ids=["grouped", "grouped-compiled", "plain-compiled", "metal-compiled", "host"],
)
def test_each_form_gives_the_states_of_the_plain_one(
    form: AttentionForm, compiles: bool, lengths: list[int], steps: int
) -> None:
    wanted = hidden_states(decoder(), lengths, steps)
    found = hidden_states(decoder(replace(PLAIN, attention=form, compiles=compiles)), lengths, steps)
    for one, other in zip(wanted, found, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lengths", [[7], [9, 9, 9], [12, 5, 9]], ids=str)
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16], ids=str)
@pytest.mark.parametrize("is_quantized", [False, True])
def test_metal_s_form_gives_the_states_of_the_plain_one(
    dtype: mx.Dtype, is_quantized: bool, lengths: list[int]
) -> None:
    """Compiled, plain attention, queries and keys apart, weights kept quantized; held to 32 bits and dequantized."""
    wanted = hidden_states(decoder(is_quantized=is_quantized), lengths, steps=6)
    ours = profile_of("metal", mx.Device(mx.cpu), dtype).placement
    found = hidden_states(decoder(ours, is_quantized=is_quantized), lengths, steps=6)
    close = {mx.float32: 1e-4, mx.float16: 0.02, mx.bfloat16: 0.15}[dtype]
    for one, other in zip(wanted, found, strict=True):
        np.testing.assert_allclose(other, one, rtol=close, atol=close)


def test_all_layers_are_given_one_mask_that_lies_in_memory_for_every_head() -> None:
    given: list[mx.array | str | None] = []

    def noting(
        queries: mx.array, keys: mx.array, values: mx.array, mask: mx.array | str | None, scale: float
    ) -> mx.array:
        given.append(mask)
        mixed = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)
        return mixed.swapaxes(1, 2).reshape(-1, mixed.shape[1] * mixed.shape[3])

    network = decoder(replace(PLAIN, attention=replace(METAL_ATTENTION, own=noting)))
    hidden_states(network, [12, 5, 9], steps=1)
    *of_prefill, first, second, third = given
    assert first is second is third
    assert isinstance(first, mx.array)
    assert first.shape == (3, 4, 1, 13)
    assert memoryview(first).c_contiguous
    # Of many queries no kernel wants it so.
    assert {one.shape for one in of_prefill if isinstance(one, mx.array)} == {(3, 1, 12, 12)}


@pytest.mark.parametrize("rows", [1, 3])
def test_queries_and_keys_of_a_step_lie_in_memory_as_attention_reads_them(rows: int) -> None:
    rotated: list[bool] = []

    class NotingLayer(DecoderLayer):
        def _rotate(self, x: mx.array, offsets: int | mx.array) -> mx.array:
            mx.eval(x)
            rotated.append(memoryview(x).c_contiguous)
            return super()._rotate(x, offsets)

    ours, plain = decoder(replace(PLAIN, turns_apart=True)).layers[0], decoder().layers[0]
    ours.__class__ = NotingLayer
    x = mx.random.normal((rows, 32), key=mx.random.key(1))
    offsets = mx.arange(rows) + 5
    found, wanted = (one.before_attention(x, offsets, 1) for one in (ours, plain))
    mx.eval(found, wanted)
    assert all(rotated)
    assert all(memoryview(one).c_contiguous for one in found[:2])
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(np.array(one), np.array(other))


def test_a_row_that_joins_late_is_masked_in_whole_steps_of_columns() -> None:
    cache = KVCache(1, 2, 16, mx.float32, GROUPED)
    cache.start_rows([70, 3])
    cache.reserve(70)
    mask = cache.attention_mask(70)
    assert isinstance(mask, mx.array)
    assert mask.shape == (2, 1, 70, 128)
    seen = np.array(mask) == 0
    assert seen[1, 0, 69].nonzero()[0].tolist() == [67, 68, 69]
    assert seen[0, 0, 69].sum() == 70


def test_a_stretch_of_hidden_keys_never_turns_a_row_into_nan_in_16_bits() -> None:
    mask = GROUPED.mask(np.zeros((1, 1, 1, 64), dtype=bool), mx.float16)
    keys = mx.random.normal((1, 2, 64, 16)).astype(mx.float16)
    mixed = GROUPED.attend(mx.random.normal((1, 4, 1, 16)).astype(mx.float16), keys, keys, mask)
    assert mixed.shape == (1, 64)
    assert bool(mx.isfinite(mixed).all())


def test_columns_that_do_not_fill_the_capacity_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fill"):
        KVCache(1, 1, 16, mx.float32, AttentionForm(column_step=96))


class EncodedOnce:
    """A model, and the embeddings of every set of clips that it has been given."""

    def __init__(self, model: SpeechModel) -> None:
        self.model = model
        self._embeddings: dict[tuple[float, ...], list[mx.array]] = {}

    def embeddings(self, seconds: tuple[float, ...]) -> list[mx.array]:
        if seconds not in self._embeddings:
            self._embeddings[seconds] = self.model.encode(mels_of(*seconds))
        return self._embeddings[seconds]


@pytest.fixture(scope="module")
def plain_and_planned() -> tuple[EncodedOnce, EncodedOnce]:
    plain = Placement(dtype=mx.float32, dequantizes=True)

    def built(placement: Placement) -> EncodedOnce:
        return EncodedOnce(build_model(read_checkpoint(demo_model_path()), placement))

    return built(plain), built(ON_CUDA)


def mels_of(*seconds: float) -> list[mx.array]:
    clips = [speech(one, skip_seconds=1.3 * place) for place, one in enumerate(seconds)]
    return log_mel_batch([mx.array(clip) for clip in clips])


# Less than a second, less than a window, a window to the frame, one and a bit; the last are five windows in six rows.
@pytest.mark.parametrize("seconds", [(0.7,), (5.0,), (8.0, 2.0), (8.1, 3.0, 9.0)], ids=str)
def test_few_shapes_give_every_clip_its_own_embeddings(
    plain_and_planned: tuple[EncodedOnce, EncodedOnce], seconds: tuple[float, ...]
) -> None:
    plain, planned = plain_and_planned
    for wanted, found in zip(plain.embeddings(seconds), planned.embeddings(seconds), strict=True):
        assert found.shape == wanted.shape
        np.testing.assert_allclose(np.array(found), np.array(wanted), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("slice_tokens", [0, 100])
@pytest.mark.parametrize("seconds", [(4.0,), (3.0, 3.0), (2.0, 5.6)], ids=str)
def test_prompts_in_steps_of_width_begin_the_same_answers(
    plain_and_planned: tuple[EncodedOnce, EncodedOnce], seconds: tuple[float, ...], slice_tokens: int
) -> None:
    wanted, found = (answers(one, seconds, slice_tokens) for one in plain_and_planned)
    assert found == wanted


def test_rows_that_join_and_leave_say_the_same_in_every_form(
    plain_and_planned: tuple[EncodedOnce, EncodedOnce],
) -> None:
    said = []
    for encoded in plain_and_planned:
        first, second = sequences(encoded, (2.0, 5.6)), sequences(encoded, (4.0,))
        batch = RunningBatch(encoded.model, SpecialTokens(end_ids=frozenset()))
        batch.join(first)
        for _ in range(7):
            batch.step()
        batch.join(second)
        for _ in range(5):
            batch.step()
        # The one that is left began later than the buffer.
        batch.remove([first[1], second[0]])
        for _ in range(70):
            batch.step()
        said.append([one.tokens for one in (*first, *second)])
    assert said[0] == said[1]


def sequences(encoded: EncodedOnce, seconds: tuple[float, ...]) -> list[Sequence]:
    pad = encoded.model.audio_token_id
    return [
        Sequence(prompt_ids=[5, 6, *[pad] * audio.shape[0], 7, 8, 9], audio=audio, token_budget=1 << 20)
        for audio in encoded.embeddings(seconds)
    ]


def answers(encoded: EncodedOnce, seconds: tuple[float, ...], slice_tokens: int) -> list[list[int]]:
    prompts = Prefill(encoded.model, sequences(encoded, seconds), slice_tokens=slice_tokens)
    while not prompts.is_fed:
        prompts.feed()
    batch = RunningBatch(encoded.model, SpecialTokens(end_ids=frozenset()))
    batch.adopt(prompts)
    for _ in range(12):
        batch.step()
    return [one.tokens for one in prompts.sequences]


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize(("width", "columns"), [(1, 1), (1, 40), (5, 5), (3, 40)])
@pytest.mark.parametrize("kind", ["none", "causal", "booleans"])
@pytest.mark.parametrize("at_once", [1, 2 * 4 * 5 * 5, 1 << 20])
def test_numpy_attends_as_mlx_does(
    kv_heads: int, width: int, columns: int, kind: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_SCORES_AT_ONCE", at_once)
    keys = mx.random.split(mx.random.key(columns), 3)
    queries = mx.random.normal((3, 4, width, 16), key=keys[0])
    # As the cache gives them: a part of longer buffers.
    shape = (3, kv_heads, columns + 7, 16)
    held, values = (mx.random.normal(shape, key=key)[:, :, 4 : columns + 4] for key in keys[1:])
    mask: mx.array | str | None = None if kind == "none" else kind
    if kind == "booleans":
        seen = np.random.default_rng(columns).random((3, 1, width, columns)) < 0.6
        seen[..., 0] = True
        mask = mx.array(seen)
    wanted = PLAIN_ATTENTION.attend(queries, held, values, mask)
    found = HOST_ATTENTION.attend(queries, held, values, mask)
    assert found.shape == (3 * width, 64)
    np.testing.assert_allclose(np.array(found), np.array(wanted), rtol=1e-5, atol=2e-6)


def test_a_row_that_sees_nothing_is_no_nan_and_what_is_hidden_leaves_no_trace() -> None:
    chance = np.random.default_rng(4)
    queries, keys, values = (chance.normal(size=(2, 2, 3, 8)).astype(np.float32) for _ in range(3))
    mask = np.ones((2, 1, 1, 3), dtype=np.bool_)
    mask[0] = False
    mask[1, ..., 2] = False
    found = host_attention(queries, keys, values, mask, 0.3)
    assert np.isfinite(found).all()
    keys[1, :, 2], values[1, :, 2] = 50.0, 1e30
    np.testing.assert_array_equal(host_attention(queries, keys, values, mask, 0.3)[3:], found[3:])
