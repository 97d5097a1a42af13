"""Trains the demo aligner for a given number of minutes on speech with word times, while it is still being made.

A time between two classes belongs to both by its distance, so the network learns where inside a class a border lies
and picks the nearer one; a hard class would teach it less. The weights of the demo model are where it begins: they hear
already which word is said, and what is left to learn is when. A decoder without positions of its own must learn to read
a clock, too: at every piece of audio the lower layers are asked what time it is, so that the upper ones find it there
when they look for a word. In a first run only the last layer was asked, and only at first: it was as good as classes
can be in the first two seconds of a clip and hundreds of milliseconds off after eight, whole stretches by the same.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
import torch.nn.functional as F
from torch import Tensor

from tools.demo_model import network
from tools.demo_model.alignment.batches import (
    CLASS_COUNT,
    SEGMENT_SECONDS,
    AlignerPrompt,
    TimedBatch,
    TimedPool,
    prepare_with,
)
from tools.demo_model.alignment.corpus import LONGEST_SECONDS
from tools.demo_model.alignment.heard_clips import HeardBatch, HeardPool
from tools.demo_model.batches import mask_mel
from tools.demo_model.feeding import ShardFeeder
from tools.demo_model.optimization import Optimization, TrainingPlan, averaged_weights, hardness_at, rate_at
from tools.demo_model.weights_file import read_weights

HEAD = "thinker.lm_head.weight"
TOWER = "thinker.audio_tower."
AUDIO_START = 1  # position of the first audio token
# Layers of the decoder (from 1) at whose audio tokens the time is asked, each with a head that only training has.
CLOCK_LAYERS = (1, 2)
CLOCK_WEIGHT = 0.3


def clock_name(layer: int) -> str:
    """The head that asks for the time after a layer; it is not kept."""
    return f"clock{layer}.weight"


def aligner_shapes(size: network.Size) -> dict[str, tuple[int, ...]]:
    """The network of the demo model, and a head of time classes."""
    return {**network.parameter_shapes(size), HEAD: (CLASS_COUNT, size.width)}


def training_shapes(size: network.Size, decoder_only: bool = False) -> dict[str, tuple[int, ...]]:
    """The same and the clock's heads, in the order of training; decoder_only: without the encoder."""
    clocks = {clock_name(layer): (CLASS_COUNT, size.width) for layer in CLOCK_LAYERS if layer <= size.layers}
    shapes = {**aligner_shapes(size), **clocks}
    return {name: shape for name, shape in shapes.items() if not (decoder_only and name.startswith(TOWER))}


@dataclass(frozen=True)
class Heard:
    """Decoder states of a batch, and how many audio tokens each row has."""

    hidden: Tensor  # (batch, length, width)
    after_layers: list[Tensor]  # the same before each next layer
    audio_counts: Tensor  # (batch,)


def listen(
    parameters: network.Parameters, size: network.Size, mel: Tensor, frames: Tensor, token_ids: Tensor
) -> Heard:
    """Audio first, from position 1, then the words."""
    return attend(parameters, size, *network.encode(parameters, size, mel, frames), token_ids)


def attend(
    parameters: network.Parameters, size: network.Size, audio: Tensor, counts: Tensor, token_ids: Tensor
) -> Heard:
    """The same of what the encoder has made: (batch, tokens, width), and how many of them count."""
    starts = torch.full_like(counts, AUDIO_START)
    embedded = network.embed(parameters, token_ids)
    x = network.place_audio(embedded, audio.to(embedded.dtype), starts, counts)
    after_layers: list[Tensor] = []
    hidden = network.decode(parameters, size, x, after_layers=after_layers)
    return Heard(hidden, after_layers, counts)


def time_scores(parameters: network.Parameters, heard: Heard, places: Tensor) -> Tensor:
    """(batch, timestamps, classes) scores at the positions `places`, (batch, timestamps)."""
    index = places[:, :, None].expand(-1, -1, heard.hidden.shape[2])
    return F.linear(heard.hidden.gather(1, index), parameters[HEAD])


def time_entropy(scores: Tensor, seconds: Tensor) -> Tensor:
    """Mean cross entropy over the known times; `seconds` (batch, timestamps) is NaN where nothing is known."""
    known = seconds.isfinite()
    wanted = torch.where(known, seconds, 0.0) / SEGMENT_SECONDS
    below = wanted.floor().long().clamp(0, CLASS_COUNT - 2)
    share_above = (wanted - below).clamp(0.0, 1.0)
    logarithms = scores.float().log_softmax(-1)
    at_below = logarithms.gather(2, below[:, :, None])[:, :, 0]
    at_above = logarithms.gather(2, below[:, :, None] + 1)[:, :, 0]
    entropy = -(at_below * (1 - share_above) + at_above * share_above)
    return (entropy * known).sum() / known.sum().clamp(min=1)


def audio_times(token_count: int, device: torch.device) -> Tensor:
    """(tokens,) seconds in the middle of each audio token: 13 to a second, 8 frames each but for the 13th."""
    number = torch.arange(token_count, device=device)
    inside = (number % network.CHUNK_TOKENS) * 8 + 4
    return number // network.CHUNK_TOKENS + inside / network.CHUNK_FRAMES


@dataclass(frozen=True)
class Losses:
    """The losses of a step, and the mean distance of the best class from the known times in milliseconds."""

    entropy: Tensor
    clock: Tensor
    error_ms: Tensor


def losses(
    parameters: network.Parameters,
    size: network.Size,
    batch: TimedBatch,
    filterbank: Tensor,
    hardness: float = 1.0,
    with_clock: bool = False,
) -> Losses:
    """with_clock: ask at the audio tokens too; else that loss is 0."""
    with torch.no_grad():
        mel, frames = network.log_mel(batch.waveforms, batch.sample_counts, filterbank, batch.equalizer)
        mel = mask_mel(mel, frames, hardness, hide_stretches=False)
    return losses_of(
        parameters, size, listen(parameters, size, mel, frames, batch.token_ids), batch, with_clock
    )


def losses_of(
    parameters: network.Parameters,
    size: network.Size,
    heard: Heard,
    batch: TimedBatch | HeardBatch,
    with_clock: bool = False,
) -> Losses:
    """The losses of a batch that went through the network already."""
    scores = time_scores(parameters, heard, batch.places)
    entropy = time_entropy(scores, batch.seconds_wanted)
    clock = torch.zeros_like(entropy)
    if with_clock:
        total = batch.token_ids.shape[1] - AUDIO_START
        place = torch.arange(total, device=scores.device)[None, :]
        times = audio_times(total, scores.device)[None, :].expand(len(scores), -1)
        own = times.masked_fill(place >= heard.audio_counts[:, None], math.nan)
        layers = [layer for layer in CLOCK_LAYERS if layer <= size.layers]
        for layer in layers:
            at_audio = F.rms_norm(heard.after_layers[layer - 1][:, AUDIO_START:], (size.width,))
            clock = clock + time_entropy(F.linear(at_audio, parameters[clock_name(layer)]), own) / len(layers)
    with torch.no_grad():
        known = batch.seconds_wanted.isfinite()
        distance = (scores.argmax(-1) * SEGMENT_SECONDS - batch.seconds_wanted).abs().nan_to_num(0.0)
        error = distance.sum() / known.sum().clamp(min=1) * 1000
    return Losses(entropy, clock, error)


def train(folder: Path, out: Path, tokenizer: tokenizers.Tokenizer, size: network.Size, plan: TrainingPlan,
          device: torch.device, resume: bool = False, stop_after_minutes: float = math.inf,
          hearings: int = 0) -> dict[str, Any]:  # fmt: skip
    """Train on the shards in `folder` and leave `state.pt` in `out`; returns figures for the training record.

    stop_after_minutes: end this call early, to be resumed; the rate follows `plan.minutes` all the same
    hearings: if not 0, the encoder stays as it is in `plan.start_from`, hears every clip that is there so often, and
              the decoder learns from that; its minutes begin when all is heard
    """
    prompt = AlignerPrompt.of(tokenizer)
    pool = TimedPool(prompt, device, plan.pool_hours)
    shard_count = len(list(folder.glob("shard-*.json"))) if hearings else 1
    feeder = ShardFeeder(folder, prepare_with(tokenizer, prompt, plan.seed))
    taken = 0
    while taken < shard_count or pool.hours < min(0.3, plan.pool_hours / 4):
        taken += feeder.take(pool, wait_seconds=5.0)
        print(f"waiting for speech: {pool.hours:.2f} h", flush=True)
    filterbank = network.mel_filterbank().to(device)
    start = network.initial_parameters(size, plan.seed)
    generator = torch.Generator().manual_seed(plan.seed)
    for name in (n for n in training_shapes(size) if n not in start):
        start[name] = torch.randn(CLASS_COUNT, size.width, generator=generator) * 0.04
    if plan.start_from:
        start.update(read_weights(Path(plan.start_from)))
    rng = np.random.default_rng(plan.seed)
    torch.manual_seed(plan.seed)
    heard_pool: HeardPool | None = None
    if hearings:
        encoder = {
            name: start.pop(name).to(device, plan.dtype_on(device))
            for name in list(start)
            if name.startswith(TOWER)
        }
        print(f"the encoder hears {pool.hours:.2f} h, {hearings} times", flush=True)
        heard_pool = HeardPool.hear(pool, encoder, size, filterbank, rng, hearings, prompt.audio_pad)
    optimization = Optimization(start, plan, device)
    seconds_heard, spent_before = 0.0, 0.0
    state = out / "state.pt"
    if resume and state.exists():
        seconds_heard, spent_before = optimization.restore(state, device)
        rng = np.random.default_rng((plan.seed, optimization.step_count))
    out.mkdir(parents=True, exist_ok=True)
    started = said = saved = time.monotonic()
    said_step = optimization.step_count
    history: list[dict[str, float]] = []
    recent: list[Tensor] = []
    while True:
        here = time.monotonic() - started
        spent = spent_before + here
        fraction = spent / (plan.minutes * 60)
        if fraction >= 1.0 or here >= stop_after_minutes * 60:
            break
        if heard_pool is not None:
            heard = heard_pool.draw(rng, plan.batch_seconds)
            parameters = optimization.parameters()
            states = attend(parameters, size, heard.audio, heard.audio_counts, heard.token_ids)
            found = losses_of(parameters, size, states, heard, with_clock=True)
            seconds_heard += heard.seconds
        else:
            if optimization.step_count % 20 == 0:
                feeder.take(pool)
            longest = plan.longest_at_first_seconds if fraction < 0.08 else LONGEST_SECONDS
            hardness = hardness_at(fraction)
            batch = pool.draw(rng, plan.batch_seconds, longest, hardness)
            found = losses(optimization.parameters(), size, batch, filterbank, hardness, True)
            seconds_heard += batch.seconds
        optimization.take_step(found.entropy + CLOCK_WEIGHT * found.clock, fraction)
        recent.append(torch.stack([found.entropy.detach(), found.clock.detach(), found.error_ms]))
        now = time.monotonic()
        if now - said > 10:
            entropy, clock, error = torch.stack(recent).mean(0).tolist()
            record = {
                "seconds": round(spent, 1), "step": optimization.step_count,
                "entropy": round(entropy, 4), "clock": round(clock, 4), "error_ms": round(error, 1),
                "rate": round(rate_at(plan, fraction, optimization.step_count), 7),
                "corpus_hours": round(pool.hours, 2),
                "steps_per_second": round((optimization.step_count - said_step) / (now - said), 2),
            }  # fmt: skip
            history.append(record)
            print(json.dumps(record), flush=True)
            recent, said, said_step = [], now, optimization.step_count
        if now - saved > 90:
            optimization.save(state, seconds_heard, spent)
            saved = now
    feeder.close()
    spent = spent_before + time.monotonic() - started
    optimization.save(state, seconds_heard, spent)
    return {
        "steps": optimization.step_count,
        "training_seconds": round(spent, 1),
        "corpus_hours": round(pool.hours, 2),
        "hours_heard": round(seconds_heard / 3600, 1),
        "parameters": sum(math.prod(shape) for shape in aligner_shapes(size).values()),
        "history": history,
    }


def trained_parameters(
    out: Path, size: network.Size, device: torch.device, encoder_from: Path | None = None
) -> dict[str, Tensor]:
    """The averaged weights in `out`/state.pt, float32, under their checkpoint names.

    encoder_from: folder of the weights that the encoder has, where only the decoder was trained
    """
    shapes = training_shapes(size, decoder_only=encoder_from is not None)
    weights = averaged_weights(out / "state.pt", shapes, device)
    if encoder_from is not None:
        weights |= {
            name: weight.to(device)
            for name, weight in read_weights(encoder_from).items()
            if name.startswith(TOWER)
        }
    return {name: weights[name] for name in aligner_shapes(size)}
