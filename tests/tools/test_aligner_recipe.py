"""The aligner's training data and first weights; needs torch, which the product does not install."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the recipe needs torch, which the product does not install")

from scribewire.engine.demo import demo_model_path
from tools.demo_model import (
    corpus,
    network,
    speech,
    vocabulary,
)
from tools.demo_model.alignment import (
    batches,
    heard_clips,
    train,
)
from tools.demo_model.optimization import TrainingPlan
from tools.demo_model.weights_file import read_weights, write_weights

pytestmark = pytest.mark.torch

SECOND = speech.SAMPLE_RATE
CPU = torch.device("cpu")
SMALL = network.Size(audio_width=64, audio_layers=1, audio_heads=2, audio_ffn=64, stem_channels=4, width=64, layers=1,
                     heads=2, kv_heads=1, head_dim=32, ffn=64)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return vocabulary.read_tokenizer(demo_model_path())


@pytest.fixture(scope="module")
def prompt(tokenizer: Any) -> batches.AlignerPrompt:
    return batches.AlignerPrompt.of(tokenizer)


def write_beeps(folder: Path, count: int) -> None:
    """Clips of one word that is a beep between two moments."""
    rng = np.random.default_rng(2)
    samples, words = [], []
    for _ in range(count):
        clip = rng.integers(-20, 20, int(1.6 * SECOND)).astype(np.int16)
        start, end = sorted(rng.uniform(0.1, 1.4, 2).round(4))
        time = np.arange(len(clip)) / SECOND
        beep = (time >= start) & (time < end)
        samples.append(clip + (9000 * np.sin(2 * np.pi * 600 * time) * beep).astype(np.int16))
        words.append([["beep", float(start), float(end)]])
    listing = {"language": "English", "lengths": [len(one) for one in samples], "texts": ["beep"] * count,
               "voices": ["tone"] * count, "words": words}  # fmt: skip
    corpus.save_shard(folder, 0, samples, listing)


def test_batches_put_timestamps_where_the_prompt_has_them(tokenizer: Any, prompt: Any) -> None:
    words = [([5, 6], 0.25, 0.5), ([7], math.nan, 1.0)]
    text = batches.timed_tokens(words, prompt)
    assert text.ids == [5, 6, prompt.timestamp, prompt.timestamp, 7, prompt.timestamp, prompt.timestamp]
    pool = batches.TimedPool(prompt, CPU, 0.02)
    lengths = [int(1.3 * SECOND)] * 8
    assert pool.add(np.full(sum(lengths), 900, np.int16), lengths, [text] * 8)
    batch = pool.draw(np.random.default_rng(0), 16.0, 30.0)
    for row in range(len(batch.token_ids)):
        frames = int(batch.sample_counts[row]) // network.HOP
        count = int(network.audio_token_counts(torch.tensor([frames]))[0])
        assert batch.token_ids[row, : count + 2].tolist() == [
            prompt.audio_start, *[prompt.audio_pad] * count, prompt.audio_end]  # fmt: skip
        assert batch.token_ids[row, count + 2 : count + 2 + len(text.ids)].tolist() == text.ids
        assert (batch.token_ids[row, batch.places[row]] == prompt.timestamp).all()
        delay = (int(batch.sample_counts[row]) - lengths[0]) / SECOND
        wanted = batch.seconds_wanted[row].tolist()
        assert wanted[:2] == pytest.approx([0.25 + delay, 0.5 + delay], abs=1e-4)
        assert math.isnan(wanted[2])
        silent, last = int(delay * SECOND), int(batch.sample_counts[row])
        # Noise may lie over the delay, speech never.
        loudness = batch.waveforms[row].abs()
        assert silent == 0 or loudness[:silent].mean() <= loudness[silent:last].mean()


def test_a_transcripts_faults_leave_other_words_their_times() -> None:
    words = [(f"w{number}", number * 1.0, number + 0.5) for number in range(200)]
    made = batches.with_faults(words, ["other"], random.Random(3))
    kept = {word: (start, end) for word, start, end in made if word != "other"}
    assert all(kept[word] == (start, end) for word, start, end in words if word in kept)
    assert 0 < len(words) - len(kept) < 60
    assert any(word == "other" and math.isnan(start) for word, start, _ in made)


def test_classes_that_are_all_alike_cost_the_logarithm_of_their_number(prompt: Any) -> None:
    size = SMALL
    parameters = network.initial_parameters(size, 1)
    parameters[train.HEAD] = torch.zeros(batches.CLASS_COUNT, size.width)
    text = batches.timed_tokens([([5], 0.22, 0.40)], prompt)
    pool = batches.TimedPool(prompt, CPU, 0.02)
    pool.add(np.full(8 * SECOND, 900, np.int16), [SECOND] * 8, [text] * 8)
    batch = pool.draw(np.random.default_rng(0), 8.0, 30.0)
    entropy = train.losses(parameters, size, batch, network.mel_filterbank()).entropy
    assert float(entropy) == pytest.approx(math.log(batches.CLASS_COUNT), rel=1e-4)


def test_training_finds_beeps_and_goes_on_where_it_stopped(tmp_path: Path, tokenizer: Any) -> None:
    write_beeps(tmp_path / "shards", 400)
    torch.manual_seed(0)
    # The clock decides how long it trains; a few steps are enough to see that it learns, however slow the machine.
    plan = TrainingPlan(
        minutes=0.5, batch_seconds=40.0, peak_rate=2e-3, warmup_steps=10, pool_hours=0.3, seed=5
    )
    first = train.train(
        tmp_path / "shards", tmp_path / "run", tokenizer, SMALL, plan, CPU, stop_after_minutes=0.12
    )
    again = train.train(tmp_path / "shards", tmp_path / "run", tokenizer, SMALL, plan, CPU, resume=True)
    assert again["steps"] > first["steps"] > 0
    assert again["training_seconds"] >= 29
    untrained = dict(network.initial_parameters(SMALL, 5))
    untrained[train.HEAD] = torch.randn(batches.CLASS_COUNT, SMALL.width) * 0.04
    trained = train.trained_parameters(tmp_path / "run", SMALL, CPU)
    assert set(trained) == set(untrained)
    pool = batches.TimedPool(batches.AlignerPrompt.of(tokenizer), CPU, 0.3)
    prepare = batches.prepare_with(tokenizer, batches.AlignerPrompt.of(tokenizer), 1)
    pool.add(*prepare(*corpus.read_shard(tmp_path / "shards" / "shard-00000.json")))
    batch = pool.draw(np.random.default_rng(0), 60.0, 30.0)
    with torch.no_grad():
        before = train.losses(untrained, SMALL, batch, network.mel_filterbank())
        after = train.losses(trained, SMALL, batch, network.mel_filterbank())
    assert float(after.entropy) < float(before.entropy) - 1.0


def beeping_pool(folder: Path, tokenizer: Any, count: int) -> batches.TimedPool:
    write_beeps(folder, count)
    prompt = batches.AlignerPrompt.of(tokenizer)
    pool = batches.TimedPool(prompt, CPU, 0.3)
    pool.add(*batches.prepare_with(tokenizer, prompt, 1)(*corpus.read_shard(folder / "shard-00000.json")))
    return pool


def test_every_clip_is_heard_as_often_as_asked(tmp_path: Path, tokenizer: Any) -> None:
    pool = beeping_pool(tmp_path, tokenizer, 50)
    rng = np.random.default_rng(4)
    assert sum(len(batch.token_ids) for batch in pool.everything(rng)) == 50
    parameters = network.initial_parameters(SMALL, 1)
    heard = heard_clips.HeardPool.hear(pool, parameters, SMALL, network.mel_filterbank(), rng, 3, 0)
    # 1.6 s each, and a delay of up to 0.4 s before seven of ten: the rest of their bucket.
    assert 150 * 1.6 < heard.hours * 3600 < 150 * 2.0


def test_what_was_heard_before_costs_what_it_costs_when_heard_now(tmp_path: Path, tokenizer: Any) -> None:
    pool = beeping_pool(tmp_path, tokenizer, 40)
    parameters = network.initial_parameters(SMALL, 1)
    generator = torch.Generator().manual_seed(2)
    parameters[train.HEAD] = torch.randn(batches.CLASS_COUNT, SMALL.width, generator=generator)
    filterbank = network.mel_filterbank()
    torch.manual_seed(7)
    with torch.no_grad():
        now = [
            train.losses(parameters, SMALL, batch, filterbank, heard_clips.HEARD_HARDNESS)
            for batch in pool.everything(np.random.default_rng(5), heard_clips.HEARD_HARDNESS)
        ]
        torch.manual_seed(7)
        before = heard_clips.HeardPool.hear(
            pool, parameters, SMALL, filterbank, np.random.default_rng(5), 1, 0
        )
        batch = before.everything()
        states = train.attend(parameters, SMALL, batch.audio, batch.audio_counts, batch.token_ids)
        found = train.losses_of(parameters, SMALL, states, batch)
    assert len(now) == 1
    assert float(found.entropy) == pytest.approx(float(now[0].entropy), rel=1e-5)
    assert float(found.error_ms) == pytest.approx(float(now[0].error_ms), rel=1e-5)


def test_decoder_alone_is_trained_and_the_encoder_stays(tmp_path: Path, tokenizer: Any) -> None:
    write_beeps(tmp_path / "shards", 200)
    start = tmp_path / "start"
    start.mkdir()
    begun = dict(network.initial_parameters(SMALL, 5))
    begun[train.HEAD] = torch.randn(batches.CLASS_COUNT, SMALL.width) * 0.04
    write_weights(start / "model.safetensors", begun)
    plan = TrainingPlan(
        minutes=0.1, batch_seconds=40.0, peak_rate=2e-3, warmup_steps=5, pool_hours=0.3, start_from=str(start)
    )
    record = train.train(tmp_path / "shards", tmp_path / "run", tokenizer, SMALL, plan, CPU, hearings=1)
    trained = train.trained_parameters(tmp_path / "run", SMALL, CPU, encoder_from=start)
    assert record["steps"] > 0
    for name, weight in begun.items():
        assert torch.equal(trained[name], weight) == (train.TOWER in name), name


def test_shipped_layout_is_read_as_the_floats_it_stands_for(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(0, 256, (3, 128)).astype(np.uint8)
    scales = np.array([[0.5, 0.25], [1.0, 2.0], [0.125, 1.0]], dtype=np.float16)
    biases = np.array([[-8.0, 0.0], [1.0, -2.0], [0.5, 4.0]], dtype=np.float16)
    kernel = np.arange(2 * 3 * 3 * 4, dtype=np.float16).reshape(2, 3, 3, 4)  # out, height, width, in
    parts = {
        "model.a.weight": ("U32", (3, 32), codes),
        "model.a.scales": ("F16", (3, 2), scales),
        "model.a.biases": ("F16", (3, 2), biases),
        "audio_tower.conv2d2.weight": ("F16", (2, 3, 3, 4), kernel),
    }
    header, body = {}, b""
    for name, (kind, shape, values) in parts.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(body), len(body) + values.nbytes]}
        body += values.tobytes()
    encoded = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(len(encoded).to_bytes(8, "little") + encoded + body)
    found = read_weights(tmp_path)
    assert set(found) == {"thinker.model.a.weight", "thinker.audio_tower.conv2d2.weight"}
    by_group = codes.reshape(3, 2, 64).astype(np.float32) * scales[:, :, None] + biases[:, :, None]
    assert np.array_equal(found["thinker.model.a.weight"].numpy(), by_group.reshape(3, 128))
    assert found["thinker.audio_tower.conv2d2.weight"].shape == (2, 4, 3, 3)
    assert found["thinker.audio_tower.conv2d2.weight"][1, 2, 0, 1] == kernel[1, 0, 1, 2]


def test_written_weights_are_read_again(tmp_path: Path) -> None:
    tensors = {"thinker.a": torch.randn(3, 4).half(), "thinker.b": torch.randn(5)}
    write_weights(tmp_path / "a.safetensors", tensors)
    found = read_weights(tmp_path)
    assert all(torch.equal(found[name], tensor.float()) for name, tensor in tensors.items())
